//! The plan of `down`: dependents stop before what they depend on, then everything goes.
//!
//! Data is removed only where it was asked for and only where our label says that it is ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use petgraph::graph::NodeIndex;

use super::build::PlanBuilder;
use super::cause::{asked, because};
use super::graph::{Follow, Scope};
use super::machine::{Machine, is_active};
use super::stop::StopOrder;
use super::up::orphan_warning;
use super::{
    Action, Cause, DownOptions, Observed, ObservedContainer, Plan, PlanError, RemoveImages,
    convert, labels,
};
use crate::compose::{MountKind, Project};

/// Steps that take the project, or the named services of it, off the machine.
///
/// # Errors
///
/// Unknown services, and contradictions of the options.
pub fn down(
    project: &Project,
    observed: &Observed,
    options: &DownOptions,
) -> Result<Plan, PlanError> {
    if options.remove_orphans && options.ignore_orphans {
        return Err(PlanError::OrphanOptions);
    }
    let machine = Machine::new(project, observed);
    let chosen = Scope::select(project, &options.services, Follow::Nothing)?;
    // Two named services may be ordered by a third one between them.
    let scope = Scope::select(project, &[], Follow::Nothing)?;
    let mut builder = PlanBuilder::default();
    let mut removals: HashMap<&str, NodeIndex> = HashMap::new();
    let mut order = StopOrder::new(&scope);
    for name in scope.order.iter().rev() {
        let gates = order.gates(name);
        if !chosen.contains(name) {
            order.stopped(name, Vec::new());
            continue;
        }
        let containers = machine.replicas(name).iter().chain(machine.one_offs(name));
        let cause = because(
            project,
            "the project is taken down",
            &format!("services.{name}"),
        );
        let mut stops = Vec::new();
        for container in containers {
            let (stop, removed) =
                stop_and_remove(&mut builder, container, name, options, &cause, &gates);
            stops.extend(stop);
            removals.insert(&container.name, removed);
        }
        order.stopped(name, stops);
    }
    if options.services.is_empty() {
        warn_of_disabled(project, &machine, &mut builder);
        let orphans = machine.orphans(project);
        let orphans: Vec<_> = orphans
            .into_iter()
            .filter(|o| !removals.contains_key(o.name.as_str()))
            .collect();
        if options.remove_orphans {
            for orphan in orphans {
                let service = orphan.label(labels::SERVICE);
                let cause = asked(format!("service {service} is not in the file"));
                let (_, removed) =
                    stop_and_remove(&mut builder, orphan, service, options, &cause, &[]);
                removals.insert(&orphan.name, removed);
            }
        } else if !orphans.is_empty() && !options.ignore_orphans {
            builder.warn(orphan_warning(&orphans));
        }
    }
    remove_networks(project, &machine, options, &chosen, &removals, &mut builder);
    if options.volumes {
        remove_volumes(project, &machine, options, &chosen, &removals, &mut builder);
    }
    Ok(builder.finish())
}

/// Services of inactive profiles stay, as in Compose; without a word that surprises everybody.
fn warn_of_disabled(project: &Project, machine: &Machine<'_>, builder: &mut PlanBuilder) {
    let disabled = project.disabled_services.iter();
    let names: Vec<&str> = disabled
        .flat_map(|service| machine.replicas(service))
        .map(|c| c.name.as_str())
        .collect();
    if !names.is_empty() {
        builder.warn(format!(
            "containers of services in inactive profiles stay ([{}]); name the profile with \
             --profile to take them down, too",
            names.join(" ")
        ));
    }
}

fn stop_and_remove(
    builder: &mut PlanBuilder,
    container: &ObservedContainer,
    service: &str,
    options: &DownOptions,
    cause: &Cause,
    gates: &[NodeIndex],
) -> (Option<NodeIndex>, NodeIndex) {
    let mut stop = None;
    if is_active(container) {
        let action = Action::StopContainer {
            service: service.to_owned(),
            container: container.name.clone(),
            timeout: options.timeout,
        };
        stop = Some(builder.add(action, cause.clone(), gates.iter().copied()));
    }
    let action = Action::RemoveContainer {
        service: service.to_owned(),
        container: container.name.clone(),
        volumes: options.volumes,
        force: false,
    };
    (stop, builder.add(action, cause.clone(), stop))
}

/// Removals that free an object, or the name of a container that keeps it in use.
fn releases<'a>(
    machine: &Machine<'a>,
    users: &'a [String],
    holds: impl Fn(&ObservedContainer) -> bool,
    removals: &HashMap<&str, NodeIndex>,
) -> Result<BTreeSet<NodeIndex>, &'a str> {
    let by_state = machine.observed.containers.iter();
    let by_state = by_state.filter(|c| holds(c)).map(|c| c.name.as_str());
    let mut nodes = BTreeSet::new();
    for user in users.iter().map(String::as_str).chain(by_state) {
        nodes.insert(*removals.get(user).ok_or(user)?);
    }
    Ok(nodes)
}

fn remove_networks(
    project: &Project,
    machine: &Machine<'_>,
    options: &DownOptions,
    scope: &Scope<'_>,
    removals: &HashMap<&str, NodeIndex>,
    builder: &mut PlanBuilder,
) {
    let used: BTreeSet<&str> = scope
        .order
        .iter()
        .flat_map(|name| project.services[*name].networks.keys())
        .map(String::as_str)
        .collect();
    // By name, with the key in the file.
    let mut wanted: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, network) in &project.networks {
        if !network.external && (options.services.is_empty() || used.contains(key.as_str())) {
            wanted.insert(&network.name, key);
        }
    }
    if options.remove_orphans {
        for network in &machine.observed.networks {
            let key = network.labels.get(labels::NETWORK);
            if is_ours(project, &network.labels) && network.containers.is_empty() {
                wanted
                    .entry(&network.name)
                    .or_insert(key.map_or("", String::as_str));
            }
        }
    }
    for (name, key) in wanted {
        let Some(network) = machine.networks.get(name) else {
            continue;
        };
        if !is_ours(project, &network.labels) {
            builder.warn(format!(
                "network {name} was not created for project {} and stays",
                project.name
            ));
            continue;
        }
        let holds = |c: &ObservedContainer| c.networks.iter().any(|e| e.network == name);
        match releases(machine, &network.containers, holds, removals) {
            Ok(after) => {
                let action = Action::RemoveNetwork {
                    name: name.to_owned(),
                };
                let path = format!("networks.{key}");
                let cause = because(project, "the project is taken down", &path);
                builder.add(action, cause, after);
            }
            // With named services the others keep their network: nothing worth a word.
            Err(_) if !options.services.is_empty() => {}
            Err(user) => builder.warn(format!(
                "network {name} stays, as container {user} is still attached to it"
            )),
        }
    }
}

fn remove_volumes(
    project: &Project,
    machine: &Machine<'_>,
    options: &DownOptions,
    scope: &Scope<'_>,
    removals: &HashMap<&str, NodeIndex>,
    builder: &mut PlanBuilder,
) {
    let mounts = scope
        .order
        .iter()
        .flat_map(|name| &project.services[*name].volumes);
    let used: BTreeSet<&str> = mounts
        .filter_map(|mount| match &mount.kind {
            MountKind::Volume { source, .. } => source.as_deref(),
            _ => None,
        })
        .collect();
    for (key, volume) in &project.volumes {
        if volume.external || !(options.services.is_empty() || used.contains(key.as_str())) {
            continue;
        }
        let name = volume.name.as_str();
        let Some(exists) = machine.volumes.get(name) else {
            continue;
        };
        if !is_ours(project, &exists.labels) {
            builder.warn(format!(
                "volume {name} was not created for project {} and stays, with its data",
                project.name
            ));
            continue;
        }
        let holds = |c: &ObservedContainer| c.volumes.iter().any(|m| m.volume == name);
        match releases(machine, &exists.containers, holds, removals) {
            Ok(after) => {
                let action = Action::RemoveVolume {
                    name: name.to_owned(),
                };
                let cause = because(
                    project,
                    "removal of volumes was asked for",
                    &format!("volumes.{key}"),
                );
                builder.add(action, cause, after);
            }
            Err(user) => builder.warn(format!(
                "volume {name} stays, as container {user} still uses it"
            )),
        }
    }
}

fn is_ours(project: &Project, labels: &BTreeMap<String, String>) -> bool {
    labels.get(labels::PROJECT).map(String::as_str) == Some(project.name.as_str())
}

/// References of the images that `down --rmi` removes once the plan is carried out (Q5).
pub fn removable_images(project: &Project, which: RemoveImages) -> Vec<String> {
    let images: BTreeSet<String> = project
        .services
        .iter()
        .filter(|(_, service)| which == RemoveImages::All || service.image.is_none())
        .map(|(name, service)| convert::image_reference(project, name, service))
        .collect();
    images.into_iter().collect()
}
