//! `wharf pull`.

use clap::Args;

use super::globals::Context;
use super::output::Failure;
use super::{command, credentials, project};
use crate::api::wire::{ExecuteOptions, PullOptions, Verb};

/// Fetch the images of services
///
/// Starts nothing. Layers that are there already are not fetched again; an interrupted pull goes on
/// where it was.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf pull                         all images of the project\n  \
    wharf pull web                     the image of one service\n  \
    wharf pull --policy missing        only those that are not there")]
pub struct Pull {
    /// Services whose images are fetched; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Leave services out that have a build section
    #[arg(long)]
    pub ignore_buildable: bool,
    /// Go on when an image cannot be fetched
    #[arg(long)]
    pub ignore_pull_failures: bool,
    /// Fetch the images of what the named services depend on, too
    #[arg(long)]
    pub include_deps: bool,
    /// When to fetch, in place of what the file says
    #[arg(long, value_name = "POLICY", value_parser = ["missing", "always"])]
    pub policy: Option<String>,
    /// Do not show how images are fetched
    #[arg(short, long)]
    pub quiet: bool,
    /// Without effect, as in Compose
    #[arg(long, hide = true)]
    pub parallel: bool,
    /// Without effect, as in Compose
    #[arg(long, hide = true)]
    pub no_parallel: bool,
}

impl Pull {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let project = project::load_and_fetch(context, &self.services)?;
        let options = PullOptions {
            include_deps: self.include_deps,
            ignore_buildable: self.ignore_buildable,
            ignore_failures: self.ignore_pull_failures,
            policy: self.policy,
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                logins: credentials::for_project(context, &project),
                ..ExecuteOptions::default()
            },
            services: self.services,
        };
        let progress = command::progress_of_images(context, self.quiet);
        command::run_showing(context, progress, project.into(), Verb::Pull(options))
    }
}
