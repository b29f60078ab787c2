//! The labels by which Compose, and every tool that lists Compose projects, finds its objects.
//!
//! The words are a public interface (`docker ps --filter label=…`, IDE plug-ins, Portainer): they
//! never change and no other module spells them.

use std::collections::BTreeMap;

use crate::compose::{Condition, Dependency};

pub const PROJECT: &str = "com.docker.compose.project";
pub const SERVICE: &str = "com.docker.compose.service";
pub const CONTAINER_NUMBER: &str = "com.docker.compose.container-number";
/// `True` for the containers of `run`, else `False`.
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
/// The random part of a one-off's name.
pub const SLUG: &str = "com.docker.compose.slug";
/// Containers without it do not belong to the project, whatever else they carry.
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
/// Id of the image that the container was made from.
pub const IMAGE: &str = "com.docker.compose.image";
/// `name:condition:restart`, comma-separated: what a project without a file is rebuilt from.
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
pub const ENVIRONMENT_FILE: &str = "com.docker.compose.project.environment_file";
pub const VERSION: &str = "com.docker.compose.version";
/// Name of the container that this one replaced.
pub const REPLACE: &str = "com.docker.compose.replace";
/// Key of a network in the file.
pub const NETWORK: &str = "com.docker.compose.network";
/// Key of a volume in the file.
pub const VOLUME: &str = "com.docker.compose.volume";

/// Value of [`VERSION`].
pub const OUR_VERSION: &str = env!("CARGO_PKG_VERSION");

fn condition_word(condition: Condition) -> &'static str {
    match condition {
        Condition::ServiceStarted => "service_started",
        Condition::ServiceHealthy => "service_healthy",
        Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
    }
}

/// The value of [`DEPENDS_ON`].
pub fn write_depends_on(dependencies: &BTreeMap<String, Dependency>) -> String {
    dependencies
        .iter()
        .map(|(name, d)| format!("{name}:{}:{}", condition_word(d.condition), d.restart))
        .collect::<Vec<_>>()
        .join(",")
}

/// Reads [`DEPENDS_ON`]; parts that other writers left out take Compose's defaults.
pub fn read_depends_on(value: &str) -> BTreeMap<String, Dependency> {
    let mut dependencies = BTreeMap::new();
    for entry in value.split(',').filter(|e| !e.is_empty()) {
        let mut parts = entry.split(':');
        let Some(name) = parts.next().filter(|n| !n.is_empty()) else {
            continue;
        };
        let condition = match parts.next() {
            Some("service_healthy") => Condition::ServiceHealthy,
            Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
            _ => Condition::ServiceStarted,
        };
        let restart = parts.next() == Some("true");
        dependencies.insert(
            name.to_owned(),
            Dependency {
                condition,
                restart,
                required: true,
            },
        );
    }
    dependencies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_survives_the_label() {
        let text = "db:service_healthy:true,job:service_completed_successfully:false";
        assert_eq!(write_depends_on(&read_depends_on(text)), text);
    }

    #[test]
    fn depends_on_of_old_writers_has_defaults() {
        let read = read_depends_on("db,,cache:service_started");
        assert_eq!(
            write_depends_on(&read),
            "cache:service_started:false,db:service_started:false"
        );
    }
}
