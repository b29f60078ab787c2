//! `wharf start`.

use std::time::Duration;

use clap::Args;

use super::globals::{Context, seconds};
use super::output::Failure;
use super::{command, project};
use crate::api::wire::{ExecuteOptions, StartOptions, Verb};

/// Start existing containers
///
/// Dependencies start first. Nothing is created and no change of the file is applied: that is `up`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf start             start what was stopped\n  \
    wharf start --wait db   return when it is healthy")]
pub struct Start {
    /// Services to start; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Return only when services run or, with a health check, are healthy
    #[arg(long)]
    pub wait: bool,
    /// Give up --wait after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait_timeout: Option<Duration>,
}

impl Start {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let selected = project::select(context, &self.services)?;
        let options = StartOptions {
            services: self.services,
            wait: self.wait,
            wait_timeout: self.wait_timeout,
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                ..ExecuteOptions::default()
            },
        };
        command::run(context, selected, Verb::Start(options))
    }
}
