//! Starts of an `up`: in dependency order, each behind the conditions of its service.

use std::collections::BTreeSet;
use std::mem::discriminant;

use petgraph::graph::NodeIndex;

use super::Up;
use crate::compose::{Condition, Dependency, PortBinding};
use crate::plan::cause::because;
use crate::plan::diff::{Fate, ServiceDiff};
use crate::plan::machine::known_name;
use crate::plan::{Action, Cause, Health, ObservedContainer, Phase};

impl<'a> Up<'a> {
    pub(super) fn start_containers(&mut self) {
        for name in self.scope.order.clone() {
            let diff = self.diffs.remove(name).unwrap_or_default();
            let names = self.names[name].clone();
            let exists = self.built[name].exists.clone();
            let mut starts = Vec::new();
            for ((replica, container), exists) in diff.replicas.iter().zip(names).zip(exists) {
                let (cause, after) = match (&replica.fate, replica.old) {
                    (Fate::Keep, Some(old)) if self.bounced.contains(name) => {
                        let (cause, stop) = self.bounce(name, old, exists);
                        (cause, vec![stop])
                    }
                    (Fate::Keep, _) => {
                        self.builder.running(&container);
                        continue;
                    }
                    (Fate::Start, Some(old)) => {
                        let reason = format!("it is {} and should run", old.phase.as_str());
                        let path = format!("services.{name}");
                        (because(self.project, reason, &path), Vec::new())
                    }
                    (Fate::Replace(verdict) | Fate::Remake(verdict), _) => {
                        let cause = because(self.project, verdict.reason.clone(), &verdict.path);
                        (cause, Vec::new())
                    }
                    _ => {
                        let reason = format!("service {name} should run");
                        let path = format!("services.{name}");
                        (because(self.project, reason, &path), Vec::new())
                    }
                };
                let action = Action::StartContainer {
                    service: name.to_owned(),
                    container,
                };
                starts.push(
                    self.builder
                        .add(action, cause, after.into_iter().chain(exists)),
                );
            }
            self.diffs.insert(name, diff);
            self.gate(name, &starts);
            let frees = self.ports_to_wait_for(name);
            for start in &starts {
                self.builder.after(*start, frees.iter().copied());
            }
            if let Some(built) = self.built.get_mut(name) {
                if !starts.is_empty() {
                    built.ready = starts.iter().copied().collect();
                }
                built.starts = starts;
            }
        }
    }

    pub(super) fn report_running(&mut self) {
        for name in &self.scope.order {
            for replica in &self.diffs[name].replicas {
                if let (Fate::Keep, Some(old)) = (&replica.fate, replica.old) {
                    self.builder.running(known_name(old));
                }
            }
        }
    }

    /// Stops a container that stays, before what it depends on is replaced.
    fn bounce(
        &mut self,
        name: &'a str,
        old: &ObservedContainer,
        exists: Option<NodeIndex>,
    ) -> (Cause, NodeIndex) {
        let dependencies: Vec<_> = self.scope.dependencies(name).collect();
        let fresh = dependencies
            .iter()
            .find(|(d, how)| {
                how.restart
                    && (self.bounced.contains(d)
                        || self.diffs.get(d).is_some_and(ServiceDiff::replaces_running))
            })
            .map_or("", |(d, _)| *d);
        let cause = because(
            self.project,
            format!("it depends with `restart: true` on service {fresh}, which is replaced"),
            &format!("services.{name}.depends_on.{fresh}"),
        );
        let action = Action::StopContainer {
            service: name.to_owned(),
            container: known_name(old).to_owned(),
            timeout: self.options.timeout,
        };
        let stop = self.builder.add(action, cause.clone(), exists);
        for (dependency, how) in dependencies {
            if how.restart
                && let Some(built) = self.built.get_mut(dependency)
            {
                for earlier in &built.stops {
                    self.builder.after(*earlier, [stop]);
                }
            }
        }
        if let Some(built) = self.built.get_mut(name) {
            built.stops.push(stop);
        }
        (cause, stop)
    }

    /// Makes the starts of a service wait for its dependencies, each by its condition.
    pub(super) fn gate(&mut self, name: &'a str, starts: &[NodeIndex]) {
        let dependencies: Vec<_> = self.scope.dependencies(name).collect();
        let mut gates: BTreeSet<NodeIndex> = BTreeSet::new();
        for (dependency, how) in dependencies {
            if starts.is_empty() || how.condition == Condition::ServiceStarted {
                gates.extend(&self.built[dependency].ready);
            } else {
                gates.extend(self.await_condition(name, dependency, how));
            }
        }
        for start in starts {
            self.builder.after(*start, gates.iter().copied());
        }
        if starts.is_empty()
            && let Some(built) = self.built.get_mut(name)
        {
            built.ready = gates;
        }
    }

    fn await_condition(
        &mut self,
        name: &str,
        dependency: &'a str,
        how: Dependency,
    ) -> BTreeSet<NodeIndex> {
        let built = &self.built[dependency];
        let containers = &self.names[dependency];
        // R11: nobody waits for a service without containers.
        if containers.is_empty() || (built.starts.is_empty() && self.is_met(dependency, how)) {
            return built.ready.clone();
        }
        let key = (dependency, discriminant(&how.condition), how.required);
        if let Some(node) = self.awaited.get(&key) {
            return BTreeSet::from([*node]);
        }
        let what = match how.condition {
            Condition::ServiceStarted => "running",
            Condition::ServiceHealthy => "healthy",
            Condition::ServiceCompletedSuccessfully => "completed",
        };
        let cause = because(
            self.project,
            format!("service {name} starts when service {dependency} is {what}"),
            &format!("services.{name}.depends_on.{dependency}"),
        );
        let action = Action::AwaitCondition {
            service: dependency.to_owned(),
            containers: containers.clone(),
            condition: how.condition,
            required: how.required,
            timeout: None,
        };
        let after = built.ready.clone();
        let node = self.builder.add(action, cause, after);
        self.awaited.insert(key, node);
        BTreeSet::from([node])
    }

    fn is_met(&self, service: &str, how: Dependency) -> bool {
        let mut replicas = self.diffs[service].replicas.iter();
        match how.condition {
            Condition::ServiceStarted => true,
            Condition::ServiceHealthy => replicas.all(|r| {
                r.old
                    .is_some_and(|c| c.phase == Phase::Running && c.health == Some(Health::Healthy))
            }),
            // Nothing has ended if nothing is to be started.
            Condition::ServiceCompletedSuccessfully => false,
        }
    }

    /// A port moves from one service to another only when the old holder has let go.
    fn ports_to_wait_for(&self, name: &str) -> BTreeSet<NodeIndex> {
        let wanted = &self.project.services[name].ports;
        if wanted.is_empty() {
            return BTreeSet::new();
        }
        self.freed
            .iter()
            .filter(|(holder, _)| holds_one_of(holder, wanted))
            .map(|(_, stop)| *stop)
            .collect()
    }
}

fn holds_one_of(holder: &ObservedContainer, wanted: &[PortBinding]) -> bool {
    holder.ports.iter().any(|held| {
        held.host_port.is_some_and(|port| {
            wanted.iter().any(|w| {
                w.protocol == held.protocol
                    && w.published
                        .is_some_and(|(first, last)| (first..=last).contains(&port))
            })
        })
    })
}
