//! The plans of `start` and `restart`: existing containers only, dependencies first.

use std::collections::{BTreeSet, HashMap};
use std::mem::{Discriminant, discriminant};

use petgraph::graph::NodeIndex;

use super::build::PlanBuilder;
use super::cause::{asked, because};
use super::graph::{Follow, Scope};
use super::machine::{Machine, is_active};
use super::{
    Action, Cause, Health, Observed, Phase, Plan, PlanError, RestartOptions, StartOptions,
};
use crate::compose::{Condition, Dependency, Project};

/// Steps that start the containers of the named services and of what they depend on.
///
/// # Errors
///
/// A named service without a container, unknown services, dependency cycles.
pub fn start(
    project: &Project,
    observed: &Observed,
    options: &StartOptions,
) -> Result<Plan, PlanError> {
    let machine = Machine::new(project, observed);
    let scope = Scope::select(project, &options.services, Follow::Dependencies)?;
    let named = options.services.iter();
    if let Some(empty) = named
        .into_iter()
        .find(|name| machine.replicas(name).is_empty() && project.services[*name].n_replicas() > 0)
    {
        return Err(PlanError::NothingToStart {
            service: empty.clone(),
        });
    }
    let mut sequence = Sequence::new(project, &machine, &scope);
    for name in scope.order.iter().copied() {
        let mut steps = Vec::new();
        for container in machine.replicas(name) {
            if is_active(container) {
                sequence.builder.running(&container.name);
                continue;
            }
            let action = Action::StartContainer {
                service: name.to_owned(),
                container: container.name.clone(),
            };
            steps.push((action, asked(format!("service {name} is to be started"))));
        }
        sequence.push(name, steps, |_| true);
    }
    Ok(sequence.builder.finish())
}

/// Steps that restart the named services and those that depend on them with `restart: true`.
/// Changes of the file are not applied (W10).
///
/// # Errors
///
/// Unknown services and dependency cycles.
pub fn restart(
    project: &Project,
    observed: &Observed,
    options: &RestartOptions,
) -> Result<Plan, PlanError> {
    let machine = Machine::new(project, observed);
    let follow = if options.no_deps {
        Follow::Nothing
    } else {
        Follow::RestartingDependents
    };
    let scope = Scope::select(project, &options.services, follow)?;
    let mut sequence = Sequence::new(project, &machine, &scope);
    for name in scope.order.iter().copied() {
        let is_named = options.services.is_empty() || options.services.iter().any(|s| s == name);
        let mut steps = Vec::new();
        for container in machine.replicas(name) {
            // A dependent that does not run has nothing to notice.
            if !is_named && !is_active(container) {
                continue;
            }
            let action = Action::RestartContainer {
                service: name.to_owned(),
                container: container.name.clone(),
                timeout: options.timeout,
            };
            let cause = if is_named {
                asked(format!("service {name} is to be restarted"))
            } else {
                because(
                    project,
                    "it depends with `restart: true` on a restarted service",
                    &format!("services.{name}.depends_on"),
                )
            };
            steps.push((action, cause));
        }
        sequence.push(name, steps, |how| how.restart);
    }
    Ok(sequence.builder.finish())
}

/// Steps in dependency order, each behind the conditions of its service.
struct Sequence<'s, 'a> {
    project: &'s Project,
    machine: &'s Machine<'s>,
    scope: &'s Scope<'a>,
    builder: PlanBuilder,
    /// What dependents wait for; passed through by services without steps.
    ready: HashMap<&'a str, BTreeSet<NodeIndex>>,
    /// Services that have steps of their own.
    moved: BTreeSet<&'a str>,
    awaited: HashMap<(&'a str, Discriminant<Condition>, bool), NodeIndex>,
}

impl<'s, 'a> Sequence<'s, 'a> {
    fn new(project: &'s Project, machine: &'s Machine<'s>, scope: &'s Scope<'a>) -> Self {
        Sequence {
            project,
            machine,
            scope,
            builder: PlanBuilder::default(),
            ready: HashMap::new(),
            moved: BTreeSet::new(),
            awaited: HashMap::new(),
        }
    }

    fn push(
        &mut self,
        name: &'a str,
        steps: Vec<(Action, Cause)>,
        counts: impl Fn(Dependency) -> bool,
    ) {
        let mut gates = BTreeSet::new();
        for (dependency, how) in self.scope.dependencies(name) {
            if !counts(how) {
                continue;
            }
            let ready = self.ready.get(dependency).cloned().unwrap_or_default();
            if steps.is_empty() || how.condition == Condition::ServiceStarted {
                gates.extend(ready);
            } else {
                gates.extend(self.await_condition(name, dependency, how, ready));
            }
        }
        let nodes: BTreeSet<NodeIndex> = steps
            .into_iter()
            .map(|(action, cause)| self.builder.add(action, cause, gates.iter().copied()))
            .collect();
        if nodes.is_empty() {
            self.ready.insert(name, gates);
        } else {
            self.moved.insert(name);
            self.ready.insert(name, nodes);
        }
    }

    fn await_condition(
        &mut self,
        name: &str,
        dependency: &'a str,
        how: Dependency,
        ready: BTreeSet<NodeIndex>,
    ) -> BTreeSet<NodeIndex> {
        let containers = self.machine.replicas(dependency);
        let is_met = !self.moved.contains(dependency)
            && match how.condition {
                Condition::ServiceStarted => true,
                Condition::ServiceHealthy => containers
                    .iter()
                    .all(|c| c.phase == Phase::Running && c.health == Some(Health::Healthy)),
                Condition::ServiceCompletedSuccessfully => false,
            };
        if containers.is_empty() || is_met {
            return ready;
        }
        let key = (dependency, discriminant(&how.condition), how.required);
        if let Some(node) = self.awaited.get(&key) {
            return BTreeSet::from([*node]);
        }
        let action = Action::AwaitCondition {
            service: dependency.to_owned(),
            containers: containers.iter().map(|c| c.name.clone()).collect(),
            condition: how.condition,
            required: how.required,
            timeout: None,
        };
        let cause = because(
            self.project,
            format!("service {name} waits for service {dependency}"),
            &format!("services.{name}.depends_on.{dependency}"),
        );
        let node = self.builder.add(action, cause, ready);
        self.awaited.insert(key, node);
        BTreeSet::from([node])
    }
}
