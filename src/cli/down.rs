//! `wharf down`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::globals::{Context, seconds};
use super::output::Failure;
use super::{command, project};
use crate::api::wire::{DownOptions, ExecuteOptions, RemoveImages, Verb};

/// Stop and remove containers and networks
///
/// Takes away what `up` made: containers, then the project's networks. Named volumes and images
/// stay unless you ask. External networks and volumes are never touched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf down              stop and remove the project's containers and networks\n  \
    wharf down -v           the volumes and their data, too\n  \
    wharf down web          one service only\n  \
    wharf -p demo down      a project by name, from any directory")]
pub struct Down {
    /// Services to take down; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Remove named and anonymous volumes, with their data
    #[arg(short = 'v', long)]
    pub volumes: bool,
    /// Remove containers of services that the file no longer has
    #[arg(long)]
    pub remove_orphans: bool,
    /// Seconds to wait for a clean stop before SIGKILL [default: the service's stop_grace_period]
    #[arg(short = 't', long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Remove images: all that are used, or those without a name of their own
    #[arg(long, value_name = "WHICH")]
    pub rmi: Option<Rmi>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rmi {
    All,
    Local,
}

impl Down {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let selected = project::select(context, &self.services)?;
        command::run(context, selected, Verb::Down(self.options(context)))
    }

    fn options(self, context: &Context) -> DownOptions {
        DownOptions {
            services: self.services,
            volumes: self.volumes,
            remove_orphans: self.remove_orphans || context.is_set("COMPOSE_REMOVE_ORPHANS"),
            ignore_orphans: context.is_set("COMPOSE_IGNORE_ORPHANS"),
            timeout: self.timeout,
            rmi: self.rmi.map(|rmi| match rmi {
                Rmi::All => RemoveImages::All,
                Rmi::Local => RemoveImages::Local,
            }),
            execute: ExecuteOptions {
                parallel_limit: context.parallel_limit,
                ..ExecuteOptions::default()
            },
        }
    }
}
