//! `wharf push`.

use clap::Args;

use super::globals::Context;
use super::output::Failure;
use super::{command, credentials, project};
use crate::api::wire::{ExecuteOptions, PushOptions, Verb};

/// Hand the images that services build to their registries
///
/// Services without a build section, and those whose image has no name, are left out. Layers that a
/// registry has already are not sent.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf push              every image that the project builds\n  \
    wharf push api          the image of one service")]
pub struct Push {
    /// Services whose images are pushed; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Go on when an image cannot be pushed
    #[arg(long)]
    pub ignore_push_failures: bool,
    /// Push the images of what the named services depend on, too
    #[arg(long)]
    pub include_deps: bool,
    /// Do not show how images are pushed
    #[arg(short, long)]
    pub quiet: bool,
}

impl Push {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let project = project::load_and_fetch(context, &self.services)?;
        let options = PushOptions {
            include_deps: self.include_deps,
            ignore_failures: self.ignore_push_failures,
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                logins: credentials::for_project(context, &project),
                ..ExecuteOptions::default()
            },
            services: self.services,
        };
        let progress = command::progress_of_images(context, self.quiet);
        command::run_showing(context, progress, project.into(), Verb::Push(options))
    }
}
