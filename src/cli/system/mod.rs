//! `wharf system`: the engine as a whole.

mod df;

use clap::{Args, Subcommand};

use super::globals::Context;
use super::output::Failure;

/// The engine as a whole
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct System {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    Df(df::Df),
}

impl System {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            SystemCommand::Df(df) => df.run(context),
        }
    }
}
