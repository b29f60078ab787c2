//! What `--wait` waits for (W5).

use std::collections::HashSet;

use super::graph::{Follow, Scope};
use super::machine::Machine;
use super::{Observed, PlanError};
use crate::compose::{Condition, Project};

/// Whether the dependencies of the named services count, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Dependencies,
    NamedOnly,
}

/// A service to wait for: its containers have to run, or be healthy where they have a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitTarget {
    pub service: String,
    pub containers: Vec<String>,
    /// Somebody waits for its completion, so that is what counts.
    pub completion: bool,
}

/// The targets of `--wait` for the named services and what they depend on.
pub fn wait_targets(
    project: &Project,
    observed: &Observed,
    services: &[String],
    reach: Reach,
) -> Result<Vec<WaitTarget>, PlanError> {
    let follow = match reach {
        Reach::Dependencies => Follow::Dependencies,
        Reach::NamedOnly => Follow::Nothing,
    };
    let scope = Scope::select(project, services, follow)?;
    let machine = Machine::new(project, observed);
    let mut completed: HashSet<&str> = HashSet::new();
    for name in &scope.order {
        for (dependency, how) in scope.dependencies(name) {
            if how.condition == Condition::ServiceCompletedSuccessfully {
                completed.insert(dependency);
            }
        }
    }
    let mut targets = Vec::new();
    for name in &scope.order {
        let replicas = machine.replicas(name);
        if !replicas.is_empty() {
            targets.push(WaitTarget {
                service: (*name).to_owned(),
                containers: replicas.iter().map(|c| c.name.clone()).collect(),
                completion: completed.contains(name),
            });
        }
    }
    Ok(targets)
}
