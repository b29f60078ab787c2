//! `wharf restart`.

use std::time::Duration;

use clap::Args;

use super::globals::{Context, seconds};
use super::output::Failure;
use super::{command, project};
use crate::api::wire::{ExecuteOptions, RestartOptions, Verb};

/// Stop and start containers as they are
///
/// Changes of the file or of .env are not applied: `up` does that, and restarts only what changed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf restart           everything\n  \
    wharf restart web       one service, and those that depend on it with restart: true")]
pub struct Restart {
    /// Services to restart; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Seconds to wait for a clean stop before SIGKILL [default: the service's stop_grace_period]
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Leave services alone that depend on these with restart: true
    #[arg(long)]
    pub no_deps: bool,
}

impl Restart {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        // Those that depend on the named services are part of the work, so the whole project is
        // needed; a service that only its name switches on stands alone.
        let all = project::select(context, &[])?;
        let is_whole = all.project.as_ref().is_none_or(|project| {
            let has = |name: &String| project.services.contains_key(name);
            self.services.iter().all(has)
        });
        let selected = match is_whole {
            true => all,
            false => project::select(context, &self.services)?,
        };
        let options = RestartOptions {
            services: self.services,
            no_deps: self.no_deps,
            timeout: self.timeout,
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                ..ExecuteOptions::default()
            },
        };
        command::run(context, selected, Verb::Restart(options))
    }
}
