//! Networks and volumes of an `up`: which exist, which are missing, which changed (R5–R8, L7).

use std::collections::BTreeSet;

use super::cause::locate;
use super::graph::Scope;
use super::hash::{network_hash, volume_hash};
use super::machine::{Machine, is_one_off};
use super::{PlanError, UpOptions, labels};
use crate::compose::{MountKind, Project};

/// What becomes of a network or a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resource {
    Keep,
    Create {
        hash: String,
    },
    /// Remove it and make it again.
    Rebuild {
        hash: String,
    },
}

#[derive(Debug, Default)]
pub(super) struct Resources<'a> {
    /// By key, only those that the services of the command use.
    pub networks: Vec<(&'a str, Resource)>,
    pub volumes: Vec<(&'a str, Resource)>,
    pub warnings: Vec<String>,
    /// Services outside the scope whose containers hold what is made again.
    pub also: BTreeSet<String>,
}

pub(super) fn compare<'a>(
    project: &'a Project,
    machine: &Machine<'_>,
    scope: &Scope<'a>,
    options: &UpOptions,
) -> Result<Resources<'a>, PlanError> {
    let mut networks: BTreeSet<&'a str> = BTreeSet::new();
    let mut volumes: BTreeSet<&'a str> = BTreeSet::new();
    for name in &scope.order {
        let service = &project.services[*name];
        if service.network_mode.is_none() {
            networks.extend(service.networks.keys().map(String::as_str));
        }
        for mount in &service.volumes {
            if let MountKind::Volume {
                source: Some(key), ..
            } = &mount.kind
            {
                volumes.insert(key);
            }
        }
    }
    let mut found = Resources::default();
    for key in networks {
        if project.networks.contains_key(key) {
            let what = network(project, machine, scope, options, key, &mut found)?;
            found.networks.push((key, what));
        }
    }
    for key in volumes {
        if project.volumes.contains_key(key) {
            let what = volume(project, machine, scope, options, key, &mut found)?;
            found.volumes.push((key, what));
        }
    }
    Ok(found)
}

fn network(
    project: &Project,
    machine: &Machine<'_>,
    scope: &Scope<'_>,
    options: &UpOptions,
    key: &str,
    found: &mut Resources<'_>,
) -> Result<Resource, PlanError> {
    let network = &project.networks[key];
    let name = &network.name;
    let exists = machine.networks.get(name.as_str());
    if network.external {
        // These three are modes of an engine rather than networks that somebody makes.
        if exists.is_none() && !matches!(name.as_str(), "host" | "none" | "bridge") {
            return Err(PlanError::ExternalNetworkMissing {
                name: name.clone(),
                location: locate(project, &format!("networks.{key}")),
            });
        }
        return Ok(Resource::Keep);
    }
    let hash = network_hash(network);
    let Some(exists) = exists else {
        return Ok(Resource::Create { hash });
    };
    let owner = exists.labels.get(labels::PROJECT).map(String::as_str);
    if owner != Some(project.name.as_str()) {
        found.warnings.push(match owner {
            None => format!(
                "a network with name {name} exists but was not created by compose; \
                 set `external: true` to use an existing network"
            ),
            Some(_) => format!(
                "a network with name {name} exists but was not created for project {:?}; \
                 set `external: true` to use an existing network",
                project.name.as_str()
            ),
        });
        return Ok(Resource::Keep);
    }
    match exists.labels.get(labels::CONFIG_HASH) {
        Some(old) if *old != hash => {}
        _ => return Ok(Resource::Keep),
    }
    let holders = holders(project, machine, scope, options, &exists.containers);
    Ok(rebuild_or_keep(
        holders,
        hash,
        &format!("network {name}"),
        found,
    ))
}

fn volume(
    project: &Project,
    machine: &Machine<'_>,
    scope: &Scope<'_>,
    options: &UpOptions,
    key: &str,
    found: &mut Resources<'_>,
) -> Result<Resource, PlanError> {
    let volume = &project.volumes[key];
    let name = &volume.name;
    let exists = machine.volumes.get(name.as_str());
    if volume.external {
        return match exists {
            Some(_) => Ok(Resource::Keep),
            None => Err(PlanError::ExternalVolumeMissing {
                name: name.clone(),
                location: locate(project, &format!("volumes.{key}")),
            }),
        };
    }
    let hash = volume_hash(volume);
    let Some(exists) = exists else {
        return Ok(Resource::Create { hash });
    };
    let owner = exists.labels.get(labels::PROJECT).map(String::as_str);
    if owner != Some(project.name.as_str()) {
        found.warnings.push(match owner {
            None => format!(
                "volume {name:?} already exists but was not created by compose; \
                 use `external: true` to use an existing volume"
            ),
            Some(owner) => format!(
                "volume {name:?} already exists but was created for project {owner:?} \
                 (expected {:?}); use `external: true` to use an existing volume",
                project.name.as_str()
            ),
        });
        return Ok(Resource::Keep);
    }
    match exists.labels.get(labels::CONFIG_HASH) {
        Some(old) if *old != hash => {}
        _ => return Ok(Resource::Keep),
    }
    if !options.recreate_volumes {
        found.warnings.push(format!(
            "volume {name:?} exists but doesn't match the configuration in the compose file; \
             it is kept with its data, and used as it is"
        ));
        return Ok(Resource::Keep);
    }
    let holders = holders(project, machine, scope, options, &exists.containers);
    Ok(rebuild_or_keep(
        holders,
        hash,
        &format!("volume {name:?}"),
        found,
    ))
}

/// What differs from the file is made again, unless a container that must not be touched holds it.
fn rebuild_or_keep(
    holders: Result<Vec<String>, String>,
    hash: String,
    what: &str,
    found: &mut Resources<'_>,
) -> Resource {
    match holders {
        Ok(also) => {
            found.also.extend(also);
            Resource::Rebuild { hash }
        }
        Err(holder) => {
            found.warnings.push(format!(
                "{what} differs from the file, but is kept as container {holder} uses it"
            ));
            Resource::Keep
        }
    }
}

/// Services outside the scope that have to take part so that nobody holds the resource, or the
/// first holder that this command may not touch.
fn holders(
    project: &Project,
    machine: &Machine<'_>,
    scope: &Scope<'_>,
    options: &UpOptions,
    users: &[String],
) -> Result<Vec<String>, String> {
    let mut also = Vec::new();
    for user in users {
        if options.no_recreate {
            return Err(user.clone());
        }
        let container = machine
            .observed
            .containers
            .iter()
            .find(|c| c.name == *user)
            .ok_or_else(|| user.clone())?;
        let service = container.label(labels::SERVICE);
        if options.remove_orphans && machine.orphans(project).iter().any(|o| o.name == *user) {
            continue;
        }
        if is_one_off(container) || !machine.replicas(service).iter().any(|c| c.name == *user) {
            return Err(user.clone());
        }
        if scope.contains(service) {
            continue;
        }
        if options.no_deps || !project.services.contains_key(service) {
            return Err(user.clone());
        }
        also.push(service.to_owned());
    }
    Ok(also)
}
