//! `wharf logs`.

mod follower;

use clap::Args;

pub use follower::Follower;

use super::command::{Interrupts, with_engine};
use super::globals::Context;
use super::output::{Failure, Kind, LogLines, LogStyle};
use super::{clock, project};
use crate::api::wire::LogsQuery;
use crate::api::wire::frame::LogFrame;

/// Show what containers wrote
///
/// The stored output of all containers, in the order it was written; what a container wrote to
/// stderr goes to stderr.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf logs -f                  everything, and go on with what comes\n  \
    wharf logs -n 20 web db        the last 20 lines of each\n  \
    wharf logs --since 10m -t web  the last ten minutes, with times")]
pub struct Logs {
    /// Services to show; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Go on with what comes, until all containers have ended
    #[arg(short = 'f', long)]
    pub follow: bool,
    /// Show when each line was written
    #[arg(short = 't', long)]
    pub timestamps: bool,
    /// Lines from the end, for each container
    #[arg(short = 'n', long, value_name = "N|all", default_value = "all", value_parser = tail, allow_hyphen_values = true)]
    pub tail: Tail,
    /// From this time on: 2026-01-31T13:00:00Z, or an age such as 42m
    #[arg(long, value_name = "TIME", value_parser = clock::point)]
    pub since: Option<u64>,
    /// Up to this time: 2026-01-31T13:00:00Z, or an age such as 42m
    #[arg(long, value_name = "TIME", value_parser = clock::point)]
    pub until: Option<u64>,
    /// Leave the container's name away
    #[arg(long)]
    pub no_log_prefix: bool,
    /// Plain text, no colours
    #[arg(long)]
    pub no_color: bool,
    /// Only the container with this number of a scaled service
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub index: u32,
}

/// `--tail`; `None` is all.
pub type Tail = Option<usize>;

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(None),
        // Docker takes any negative number for all.
        _ if text.starts_with('-') && text[1..].parse::<u64>().is_ok() => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| "expected a number or `all`".to_owned()),
    }
}

impl Logs {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let name = project::name(context)?;
        let style = LogStyle {
            no_prefix: self.no_log_prefix,
            no_color: self.no_color,
            timestamps: self.timestamps,
        };
        let query = LogsQuery {
            follow: self.follow,
            tail: self.tail,
            since: self.since,
            until: self.until,
            index: Some(self.index).filter(|index| *index > 0),
            services: self.services.join(","),
        };
        with_engine(context, async |client| {
            if !self.services.is_empty() {
                let containers = client.containers(Some(&name), true).await?;
                for service in &self.services {
                    let has = |c: &crate::plan::ObservedContainer| {
                        c.label("com.docker.compose.service") == service
                    };
                    if !containers.iter().any(has) {
                        return Err(Failure::new(
                            Kind::Engine,
                            format!("no such service: {service}"),
                        )
                        .hint("`wharf ps -a` lists the containers of this project"));
                    }
                }
            }
            let mut frames = Follower::begin(context, &client, &name, query).await?;
            let mut lines = LogLines::new(style, context.output);
            let mut interrupts = Interrupts::new()?;
            loop {
                let frame = tokio::select! {
                    frame = frames.next() => frame,
                    () = interrupts.next() => return Err(Failure::interrupted()),
                };
                let Some(frame) = frame else { break };
                let frame = frame?;
                context.output.log(&lines.take(&frame))?;
                if let LogFrame::Failed(error) = frame {
                    context.output.warn(&error.message);
                }
            }
            context.output.log(&lines.finish())
        })
    }
}
