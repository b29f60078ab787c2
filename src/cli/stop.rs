//! `wharf stop`.

use std::time::Duration;

use clap::Args;

use super::globals::{Context, seconds};
use super::output::Failure;
use super::{command, project};
use crate::api::wire::{ExecuteOptions, StopOptions, Verb};

/// Stop containers without removing them
///
/// Dependents stop before what they depend on. A stopped service stays stopped, whatever its
/// restart policy, until `start` or `up`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf stop              stop everything\n  \
    wharf stop -t 2 web     give it two seconds")]
pub struct Stop {
    /// Services to stop; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Seconds to wait for a clean stop before SIGKILL [default: the service's stop_grace_period]
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
}

impl Stop {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let selected = project::select(context, &self.services)?;
        let options = StopOptions {
            services: self.services,
            timeout: self.timeout,
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                ..ExecuteOptions::default()
            },
        };
        command::run(context, selected, Verb::Stop(options))
    }
}
