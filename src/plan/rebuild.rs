//! A project rebuilt from the labels of what exists, for commands that have a name but no file (F12).

use super::machine::is_one_off;
use super::{Observed, labels};
use crate::compose::{Network, Project, ProjectName, Service, ServiceNetwork, Volume};

/// The services, dependencies, networks and volumes that the labels tell of. Good for `down`,
/// `stop`, `start`, `ps` and their like; it lacks everything that containers are made from.
pub fn project_from_labels(name: &ProjectName, observed: &Observed) -> Project {
    let mut project = Project::new(name.clone());
    let is_ours = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(labels::PROJECT).map(String::as_str) == Some(name.as_str())
    };
    for network in observed.networks.iter().filter(|n| is_ours(&n.labels)) {
        let key = network.labels.get(labels::NETWORK).unwrap_or(&network.name);
        let rebuilt = Network {
            name: network.name.clone(),
            driver: Some(network.driver.clone()),
            ..Network::default()
        };
        project.networks.insert(key.clone(), rebuilt);
    }
    for volume in observed.volumes.iter().filter(|v| is_ours(&v.labels)) {
        // Anonymous volumes belong to their containers and have no key.
        if let Some(key) = volume.labels.get(labels::VOLUME) {
            let rebuilt = Volume {
                name: volume.name.clone(),
                driver: Some(volume.driver.clone()),
                ..Volume::default()
            };
            project.volumes.insert(key.clone(), rebuilt);
        }
    }
    for container in &observed.containers {
        if !is_ours(&container.labels) || container.label(labels::CONFIG_HASH).is_empty() {
            continue;
        }
        if project.working_dir.as_os_str().is_empty() {
            project.working_dir = container.label(labels::WORKING_DIR).into();
        }
        let networks = container.networks.iter().filter_map(|endpoint| {
            let mut known = project.networks.iter();
            let (key, _) = known.find(|(_, n)| n.name == endpoint.network)?;
            Some((key.clone(), ServiceNetwork::default()))
        });
        let networks: Vec<_> = networks.collect();
        let service = project
            .services
            .entry(container.label(labels::SERVICE).to_owned())
            .or_insert_with(|| Service {
                scale: Some(0),
                ..Service::default()
            });
        service.image = Some(container.image.clone());
        service.networks.extend(networks);
        if !is_one_off(container) {
            service.scale = Some(service.n_replicas() + 1);
            service.depends_on = labels::read_depends_on(container.label(labels::DEPENDS_ON));
        }
    }
    // Labels may name services that are gone; without a file nobody can be asked for them.
    let known: Vec<String> = project.services.keys().cloned().collect();
    for service in project.services.values_mut() {
        service.depends_on.retain(|name, _| known.contains(name));
    }
    project
}
