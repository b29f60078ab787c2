//! The plans of `stop`, `kill` and `rm`.

use std::collections::{BTreeSet, HashMap};

use petgraph::graph::NodeIndex;

use super::build::PlanBuilder;
use super::cause::asked;
use super::graph::{Follow, Scope};
use super::machine::{Machine, is_active};
use super::{
    Action, KillOptions, Observed, Phase, Plan, PlanError, RemoveOptions, StopOptions, labels,
};
use crate::compose::Project;

/// Reverse dependency order (W6): fed from the last dependent to the first dependency, it tells
/// what a service's stops wait for. A service without stops passes on what it would wait for.
pub(super) struct StopOrder<'s, 'a> {
    scope: &'s Scope<'a>,
    gates: HashMap<&'a str, BTreeSet<NodeIndex>>,
}

impl<'s, 'a> StopOrder<'s, 'a> {
    pub fn new(scope: &'s Scope<'a>) -> Self {
        StopOrder {
            scope,
            gates: HashMap::new(),
        }
    }

    pub fn gates(&self, service: &str) -> Vec<NodeIndex> {
        self.gates
            .get(service)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    pub fn stopped(&mut self, service: &'a str, stops: Vec<NodeIndex>) {
        let passed_on = if stops.is_empty() {
            self.gates.remove(service).unwrap_or_default()
        } else {
            stops.into_iter().collect()
        };
        for (dependency, _) in self.scope.dependencies(service) {
            self.gates.entry(dependency).or_default().extend(&passed_on);
        }
    }
}

/// Steps that stop the named services, dependents first.
///
/// # Errors
///
/// Unknown services and dependency cycles.
pub fn stop(
    project: &Project,
    observed: &Observed,
    options: &StopOptions,
) -> Result<Plan, PlanError> {
    let machine = Machine::new(project, observed);
    let chosen = Scope::select(project, &options.services, Follow::Nothing)?;
    // Two named services may be ordered by a third one between them.
    let scope = Scope::select(project, &[], Follow::Nothing)?;
    let mut builder = PlanBuilder::default();
    let mut order = StopOrder::new(&scope);
    for name in scope.order.iter().rev() {
        let gates = order.gates(name);
        let mut stops = Vec::new();
        let replicas = machine.replicas(name).iter();
        for container in replicas.filter(|c| chosen.contains(name) && is_active(c)) {
            let action = Action::StopContainer {
                service: (*name).to_owned(),
                container: container.name.clone(),
                timeout: options.timeout,
            };
            let cause = asked(format!("service {name} is to be stopped"));
            stops.push(builder.add(action, cause, gates.iter().copied()));
        }
        order.stopped(name, stops);
    }
    Ok(builder.finish())
}

/// Steps that send a signal to every running container of the named services, all at once.
///
/// # Errors
///
/// Unknown services.
pub fn kill(
    project: &Project,
    observed: &Observed,
    options: &KillOptions,
) -> Result<Plan, PlanError> {
    let machine = Machine::new(project, observed);
    let scope = Scope::select(project, &options.services, Follow::Nothing)?;
    let mut builder = PlanBuilder::default();
    let own = scope.order.iter().flat_map(|name| machine.replicas(name));
    let orphans = if options.remove_orphans {
        machine.orphans(project)
    } else {
        Vec::new()
    };
    for container in own.chain(&orphans).filter(|c| is_active(c)) {
        let action = Action::KillContainer {
            service: container.label(labels::SERVICE).to_owned(),
            container: container.name.clone(),
            signal: options.signal.clone(),
        };
        builder.add(
            action,
            asked(format!("{} was asked for", options.signal)),
            [],
        );
    }
    Ok(builder.finish())
}

/// Steps that remove stopped containers of the named services.
///
/// # Errors
///
/// Unknown services and dependency cycles.
pub fn remove(
    project: &Project,
    observed: &Observed,
    options: &RemoveOptions,
) -> Result<Plan, PlanError> {
    let machine = Machine::new(project, observed);
    let chosen = Scope::select(project, &options.services, Follow::Nothing)?;
    let scope = Scope::select(project, &[], Follow::Nothing)?;
    let mut builder = PlanBuilder::default();
    let mut order = StopOrder::new(&scope);
    for name in scope.order.iter().rev() {
        let gates = order.gates(name);
        let mut stops = Vec::new();
        if !chosen.contains(name) {
            order.stopped(name, stops);
            continue;
        }
        for container in machine.replicas(name).iter().chain(machine.one_offs(name)) {
            let cause = asked(format!("removal of service {name} was asked for"));
            let mut stopped = None;
            if is_active(container) {
                if !options.stop {
                    continue;
                }
                let action = Action::StopContainer {
                    service: (*name).to_owned(),
                    container: container.name.clone(),
                    timeout: options.timeout,
                };
                stopped = Some(builder.add(action, cause.clone(), gates.iter().copied()));
                stops.extend(stopped);
            }
            if container.phase != Phase::Removing {
                let action = Action::RemoveContainer {
                    service: (*name).to_owned(),
                    container: container.name.clone(),
                    volumes: options.volumes,
                    force: false,
                };
                builder.add(action, cause, stopped);
            }
        }
        order.stopped(name, stops);
    }
    Ok(builder.finish())
}
