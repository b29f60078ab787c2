//! `wharf image`: the images of the engine, one by one.

mod pull;
mod push;

use clap::{Args, Subcommand};

use super::globals::Context;
use super::output::Failure;

/// Manage images
#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Pull(pull::Pull),
    Push(push::Push),
}

impl Image {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self.verb {
            Verb::Pull(pull) => pull.run(context),
            Verb::Push(push) => push.run(context),
        }
    }
}
