//! `wharf kill`.

use clap::Args;

use super::globals::Context;
use super::output::Failure;
use super::{command, project};
use crate::api::wire::{ExecuteOptions, KillOptions, Verb};

/// Send a signal to containers
///
/// The signal goes to the first process of each running container. SIGKILL ends it at once, with no
/// chance to clean up.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf kill              end everything now\n  \
    wharf kill -s HUP web   have a server read its configuration again")]
pub struct Kill {
    /// Services to signal; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Signal, by name or number
    #[arg(short = 's', long, value_name = "SIGNAL", default_value = "SIGKILL")]
    pub signal: String,
    /// Containers of services that the file no longer has, too
    #[arg(long)]
    pub remove_orphans: bool,
}

impl Kill {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let selected = project::select(context, &self.services)?;
        let options = KillOptions {
            services: self.services,
            signal: self.signal,
            remove_orphans: self.remove_orphans || context.is_set("COMPOSE_REMOVE_ORPHANS"),
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                ..ExecuteOptions::default()
            },
        };
        command::run(context, selected, Verb::Kill(options))
    }
}
