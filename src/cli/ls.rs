//! `wharf ls`.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::command::with_engine;
use super::globals::Context;
use super::output::{Failure, Table};
use super::ps::Format;
use crate::plan::{ObservedContainer, Phase};

/// List the projects that the engine knows
///
/// Whatever directory they were started from.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf ls            projects with something running\n  \
    wharf ls -a         all of them")]
pub struct Ls {
    /// Projects with stopped containers only, too
    #[arg(short = 'a', long)]
    pub all: bool,
    /// Names only
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

impl Ls {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let containers = with_engine(context, async |client| {
            Ok(client.containers(None, true).await?)
        })?;
        context.output.out(self.render(&containers)?.as_bytes())
    }

    fn render(&self, containers: &[ObservedContainer]) -> Result<String, Failure> {
        let mut projects: BTreeMap<&str, Vec<&ObservedContainer>> = BTreeMap::new();
        for container in containers {
            let name = container.label("com.docker.compose.project");
            if !name.is_empty() && container.label("com.docker.compose.oneoff") != "True" {
                projects.entry(name).or_default().push(container);
            }
        }
        projects.retain(|_, of| self.all || of.iter().any(|c| c.phase == Phase::Running));
        if self.quiet {
            return Ok(projects.keys().map(|name| format!("{name}\n")).collect());
        }
        let rows: Vec<[String; 3]> = projects
            .iter()
            .map(|(name, of)| {
                let files = of[0].label("com.docker.compose.project.config_files");
                [(*name).to_owned(), states(of), files.to_owned()]
            })
            .collect();
        Ok(match self.format {
            Format::Json => {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|[name, status, files]| {
                        json!({ "Name": name, "Status": status, "ConfigFiles": files })
                    })
                    .collect();
                format!("{}\n", serde_json::Value::from(rows))
            }
            Format::Table => {
                let mut table = Table::new(&["NAME", "STATUS", "CONFIG FILES"]);
                rows.into_iter().for_each(|row| table.row(row));
                table.render()
            }
        })
    }
}

/// `exited(1), running(2)`.
fn states(containers: &[&ObservedContainer]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for container in containers {
        *counts.entry(container.phase.as_str()).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(state, n)| format!("{state}({n})"))
        .collect();
    counts.join(", ")
}
