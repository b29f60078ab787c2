//! `wharf images`: the images behind a project's containers, as Compose lists them.

use std::collections::HashMap;

use clap::Args;
use serde_json::json;

use super::clock::now_ns;
use super::command::with_engine;
use super::globals::Context;
use super::image::{NONE, age, short_id, split_tag};
use super::output::{Failure, Kind, Table, short_size};
use super::project;
use super::ps::Format;
use crate::api::wire::image::ImageInspect;
use crate::plan::ObservedContainer;

/// List the images of the project's containers
#[derive(Debug, Args)]
pub struct Images {
    /// Services to show; all when none is named
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// Ids only
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

impl Images {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let name = project::name(context)?;
        let (containers, images) = with_engine(context, async |client| {
            let mut containers = client.containers(Some(&name), true).await?;
            containers.retain(|container| {
                let service = container.label("com.docker.compose.service");
                self.services.is_empty() || self.services.iter().any(|wanted| wanted == service)
            });
            let mut images: HashMap<String, ImageInspect> = HashMap::new();
            for container in &containers {
                if images.contains_key(&container.image_id) {
                    continue;
                }
                // One that was removed by force is still what the container was made from.
                if let Ok(image) = client.inspect_image(&container.image_id).await {
                    images.insert(container.image_id.clone(), image);
                }
            }
            Ok((containers, images))
        })?;
        let text = self.render(containers, &images, now_ns())?;
        context.output.out(text.as_bytes())
    }

    fn render(
        &self,
        mut containers: Vec<ObservedContainer>,
        images: &HashMap<String, ImageInspect>,
        now_ns: u64,
    ) -> Result<String, Failure> {
        if self.quiet {
            let mut seen = std::collections::HashSet::new();
            let ids = containers
                .iter()
                .map(|container| container.image_id.as_str());
            return Ok(ids
                .filter(|id| seen.insert(*id))
                .map(|id| format!("{}\n", id.trim_start_matches("sha256:")))
                .collect());
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let mut table = Table::new(&[
            "CONTAINER",
            "REPOSITORY",
            "TAG",
            "PLATFORM",
            "IMAGE ID",
            "SIZE",
            "CREATED",
        ]);
        let mut rows = Vec::new();
        for container in &containers {
            let image = images.get(&container.image_id);
            let (repository, tag) = split_tag(&container.image);
            let platform = image.map_or(String::new(), |image| {
                let mut platform = format!("{}/{}", image.os, image.architecture);
                if !image.variant.is_empty() {
                    platform.push('/');
                    platform.push_str(&image.variant);
                }
                platform
            });
            let size = image.map_or(0, |image| image.size);
            let created = image.map_or("", |image| image.created.as_str());
            let at = created.parse::<jiff::Timestamp>();
            let tag = match tag {
                NONE if !container.image.contains(":/") => "latest",
                tag => tag,
            };
            rows.push(json!({
                "ID": container.image_id,
                "ContainerName": container.name,
                "Repository": repository,
                "Tag": tag,
                "Platform": platform,
                "Size": size,
                "Created": created,
            }));
            table.row([
                container.name.clone(),
                repository.to_owned(),
                tag.to_owned(),
                platform,
                short_id(&container.image_id).to_owned(),
                short_size(size),
                age(at.map_or(0, |at| at.as_second()), now_ns),
            ]);
        }
        match self.format {
            Format::Table => Ok(table.render()),
            Format::Json => serde_json::to_string(&rows)
                .map(|text| text + "\n")
                .map_err(|error| Failure::new(Kind::System, format!("cannot print: {error}"))),
        }
    }
}
