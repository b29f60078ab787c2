//! `wharf system df`.

use clap::Args;

use crate::api::wire::image::DiskUsage;
use crate::cli::clock::now_ns;
use crate::cli::command::with_engine;
use crate::cli::globals::Context;
use crate::cli::image::ls::names;
use crate::cli::image::{age, short_id};
use crate::cli::output::{Failure, Kind, Rows, long_size, short_size};

/// What takes how much of the disk
///
/// The sizes are those that `du` finds under the data root; layers that images share count once.
#[derive(Debug, Args)]
pub struct Df {
    /// Each image, container and volume
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// `table`, `json`, or a Go template for each line
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

impl Df {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        if self.verbose
            && self
                .format
                .as_deref()
                .is_some_and(|format| format != "json")
        {
            return Err(Failure::new(
                Kind::Usage,
                "with --verbose the only other format is json",
            ));
        }
        let usage = with_engine(context, async |client| Ok(client.disk_usage().await?))?;
        let text = match (self.verbose, self.format.as_deref()) {
            (true, Some(_)) => format!(
                "{}\n",
                serde_json::to_string(&usage).map_err(|error| Failure::new(
                    Kind::System,
                    format!("cannot print: {error}")
                ))?
            ),
            (true, None) => verbose(&usage, now_ns())?,
            (false, format) => summary(&usage).render(format.unwrap_or("table"))?,
        };
        context.output.out(text.as_bytes())
    }
}

/// `1.2GB (50%)`.
fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => long_size(part),
        whole => format!(
            "{} ({}%)",
            long_size(part),
            part.saturating_mul(100) / whole
        ),
    }
}

fn summary(usage: &DiskUsage) -> Rows<'static> {
    let row = |kind: &str, total: usize, active: usize, size: u64, reclaimable: String| {
        vec![
            kind.to_owned(),
            total.to_string(),
            active.to_string(),
            long_size(size),
            reclaimable,
        ]
    };
    let images = &usage.images;
    let n_active = images.iter().filter(|image| image.containers > 0).count();
    let containers = &usage.containers;
    let is_active = |state: &str| matches!(state, "running" | "paused" | "restarting");
    let n_running = containers
        .iter()
        .filter(|c| is_active(&c.summary.state))
        .count();
    let rw: u64 = containers.iter().map(|c| c.size_rw).sum();
    let idle = containers.iter().filter(|c| !is_active(&c.summary.state));
    let idle_rw: u64 = idle.map(|c| c.size_rw).sum();
    let size = |size: i64| u64::try_from(size).unwrap_or(0);
    let volumes = &usage.volumes;
    let n_used = volumes
        .iter()
        .filter(|v| v.usage_data.ref_count > 0)
        .count();
    let volume_bytes: u64 = volumes.iter().map(|v| size(v.usage_data.size)).sum();
    let unused = volumes.iter().filter(|v| v.usage_data.ref_count == 0);
    let unused_bytes: u64 = unused.map(|v| size(v.usage_data.size)).sum();
    Rows {
        columns: &[
            ("Type", "TYPE"),
            ("TotalCount", "TOTAL"),
            ("Active", "ACTIVE"),
            ("Size", "SIZE"),
            ("Reclaimable", "RECLAIMABLE"),
        ],
        shown: vec!["Type", "TotalCount", "Active", "Size", "Reclaimable"],
        rows: vec![
            row(
                "Images",
                images.len(),
                n_active,
                usage.layers_size,
                share(usage.layers_reclaimable, usage.layers_size),
            ),
            row(
                "Containers",
                containers.len(),
                n_running,
                rw,
                share(idle_rw, rw),
            ),
            row(
                "Local Volumes",
                volumes.len(),
                n_used,
                volume_bytes,
                share(unused_bytes, volume_bytes),
            ),
            row("Build Cache", usage.build_cache.len(), 0, 0, long_size(0)),
        ],
    }
}

fn verbose(usage: &DiskUsage, now_ns: u64) -> Result<String, Failure> {
    let images = Rows {
        columns: &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
        ],
        shown: vec![
            "Repository",
            "Tag",
            "ID",
            "CreatedSince",
            "Size",
            "SharedSize",
            "UniqueSize",
            "Containers",
        ],
        rows: usage
            .images
            .iter()
            .flat_map(|image| {
                let shared = u64::try_from(image.shared_size).unwrap_or(0);
                names(image, false).into_iter().map(move |name| {
                    vec![
                        name.repository,
                        name.tag,
                        short_id(&image.id).to_owned(),
                        age(image.created, now_ns),
                        short_size(image.size),
                        long_size(shared),
                        long_size(image.size.saturating_sub(shared)),
                        image.containers.to_string(),
                    ]
                })
            })
            .collect(),
    };
    let containers = Rows {
        columns: &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ],
        shown: vec![
            "ID",
            "Image",
            "Command",
            "LocalVolumes",
            "Size",
            "CreatedSince",
            "Status",
            "Names",
        ],
        rows: usage
            .containers
            .iter()
            .map(|container| {
                let summary = &container.summary;
                let command: String = match summary.command.chars().count() > 20 {
                    true => summary.command.chars().take(19).chain(['…']).collect(),
                    false => summary.command.clone(),
                };
                let names: Vec<&str> = summary
                    .names
                    .iter()
                    .map(|name| name.trim_start_matches('/'))
                    .collect();
                vec![
                    short_id(&summary.id).to_owned(),
                    summary.image.clone(),
                    format!("{command:?}"),
                    summary
                        .mounts
                        .iter()
                        .filter(|m| m.kind == "volume")
                        .count()
                        .to_string(),
                    short_size(container.size_rw),
                    age(summary.created as i64, now_ns),
                    summary.status.clone(),
                    names.join(","),
                ]
            })
            .collect(),
    };
    let volumes = Rows {
        columns: &[
            ("Name", "VOLUME NAME"),
            ("Links", "LINKS"),
            ("Size", "SIZE"),
        ],
        shown: vec!["Name", "Links", "Size"],
        rows: usage
            .volumes
            .iter()
            .map(|volume| {
                vec![
                    volume.name.clone(),
                    volume.usage_data.ref_count.to_string(),
                    match u64::try_from(volume.usage_data.size) {
                        Ok(size) => long_size(size),
                        Err(_) => "N/A".to_owned(),
                    },
                ]
            })
            .collect(),
    };
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: 0B\n",
        images.render("table")?,
        containers.render("table")?,
        volumes.render("table")?,
    ))
}
