//! The order in which restart policies start containers after the machine has booted (L16).
//!
//! Who is to start is known; each that depends on others of its project waits for them, as its
//! label tells, on their views. A dependency that cannot come to be what is waited for, because it
//! was stopped on purpose or has no policy, is not waited for: the policy says that the container
//! runs.

use std::sync::Arc;

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use tokio::sync::watch;

use super::container::{Container, View};
use crate::compose::Condition;
use crate::plan::{Health, Phase, labels};

/// One thing that a container waits for.
struct Dependency {
    name: String,
    condition: Condition,
    view: watch::Receiver<Arc<View>>,
}

/// What a look at a dependency says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    NotYet,
    Never,
}

/// Starts each of `waiting` when what it depends on, among `all`, is as far as it wants. Returns at
/// once; the waiting is done by tasks.
pub(super) fn start(waiting: &[Container], all: &[Container]) {
    for (container, dependencies) in waiting.iter().zip(dependencies(waiting, all)) {
        let container = container.clone();
        tokio::spawn(async move {
            for dependency in dependencies {
                dependency.wait(&container).await;
            }
            container.start_after_boot();
        });
    }
}

/// In the order of `waiting`. Labels are as old as their containers, so they may make a circle that
/// no file ever had; within it nobody waits.
fn dependencies(waiting: &[Container], all: &[Container]) -> Vec<Vec<Dependency>> {
    let views: Vec<_> = all.iter().map(Container::view).collect();
    let at = |container: &Container| all.iter().position(|other| other.id == container.id);
    let mut edges = Vec::new();
    for (from, container) in waiting.iter().enumerate() {
        let Some(own) = at(container) else { continue };
        for (on, condition) in named_by(&views[own], &views) {
            edges.push((from, own, on, condition));
        }
    }
    let graph: DiGraphMap<usize, ()> = edges.iter().map(|(_, own, on, _)| (*own, *on)).collect();
    let circles = tarjan_scc(&graph);
    let in_one_circle =
        |a: &usize, b: &usize| circles.iter().any(|c| c.contains(a) && c.contains(b));
    let mut found: Vec<Vec<Dependency>> = waiting.iter().map(|_| Vec::new()).collect();
    for (from, own, on, condition) in edges {
        if in_one_circle(&own, &on) {
            tracing::warn!(container = %views[own].record.config.name, dependency = %views[on].record.config.name, "they depend on each other: not waiting");
            continue;
        }
        found[from].push(Dependency {
            name: views[on].record.config.name.clone(),
            condition,
            view: all[on].watch(),
        });
    }
    found
}

/// The containers of the services that a container's label names.
fn named_by(view: &View, all: &[Arc<View>]) -> Vec<(usize, Condition)> {
    let label = |view: &View, name: &str| view.record.config.labels.get(name).cloned();
    let Some(wanted) = label(view, labels::DEPENDS_ON) else {
        return Vec::new();
    };
    let project = label(view, labels::PROJECT);
    let wanted = labels::read_depends_on(&wanted);
    all.iter()
        .enumerate()
        .filter(|(_, other)| {
            label(other, labels::PROJECT) == project
                && label(other, labels::ONE_OFF).as_deref() != Some("True")
        })
        .filter_map(|(at, other)| {
            let dependency = wanted.get(&label(other, labels::SERVICE)?)?;
            Some((at, dependency.condition))
        })
        .collect()
}

impl Dependency {
    async fn wait(mut self, container: &Container) {
        let condition = self.condition;
        let seen = self
            .view
            .wait_for(|view| verdict(view, condition) != Verdict::NotYet)
            .await
            .map(|view| verdict(&view, condition));
        // A view ends with its container.
        if seen.unwrap_or(Verdict::Never) != Verdict::Met {
            let view = container.view();
            tracing::warn!(container = %view.record.config.name, dependency = %self.name, "starts without what it depends on");
        }
    }
}

fn verdict(view: &View, condition: Condition) -> Verdict {
    let exit_code = view.record.exit.as_ref().map(|exit| exit.code);
    judge(view.phase, view.health, exit_code, condition)
}

fn judge(
    phase: Phase,
    health: Option<Health>,
    exit_code: Option<i32>,
    condition: Condition,
) -> Verdict {
    match (phase, condition) {
        // Its own turn is to come, or the pause before its next try.
        (Phase::Restarting, _) => Verdict::NotYet,
        (Phase::Running | Phase::Paused, Condition::ServiceStarted) => Verdict::Met,
        (Phase::Running | Phase::Paused, Condition::ServiceHealthy) => match health {
            Some(Health::Starting) => Verdict::NotYet,
            Some(Health::Unhealthy) => Verdict::Never,
            // Without a check, running is all there is to know.
            Some(Health::Healthy) | None => Verdict::Met,
        },
        (Phase::Running | Phase::Paused, Condition::ServiceCompletedSuccessfully) => {
            Verdict::NotYet
        }
        (Phase::Exited, Condition::ServiceCompletedSuccessfully) if exit_code == Some(0) => {
            Verdict::Met
        }
        (Phase::Created | Phase::Exited | Phase::Removing | Phase::Dead, _) => Verdict::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Condition::{ServiceCompletedSuccessfully, ServiceHealthy, ServiceStarted};

    #[test]
    fn a_dependency_is_waited_for_only_while_it_may_come() {
        let judge_running = |health, condition| judge(Phase::Running, health, None, condition);
        assert_eq!(judge_running(None, ServiceStarted), Verdict::Met);
        assert_eq!(judge_running(None, ServiceHealthy), Verdict::Met);
        let health = [
            (Health::Starting, Verdict::NotYet),
            (Health::Healthy, Verdict::Met),
            (Health::Unhealthy, Verdict::Never),
        ];
        for (health, verdict) in health {
            assert_eq!(judge_running(Some(health), ServiceHealthy), verdict);
        }
        assert_eq!(
            judge_running(None, ServiceCompletedSuccessfully),
            Verdict::NotYet
        );
        let judge_exited = |code, condition| judge(Phase::Exited, None, Some(code), condition);
        assert_eq!(judge_exited(0, ServiceCompletedSuccessfully), Verdict::Met);
        assert_eq!(
            judge_exited(255, ServiceCompletedSuccessfully),
            Verdict::Never
        );
        assert_eq!(judge_exited(0, ServiceStarted), Verdict::Never);
        for condition in [ServiceStarted, ServiceHealthy, ServiceCompletedSuccessfully] {
            let waits = judge(Phase::Restarting, None, Some(1), condition);
            assert_eq!(waits, Verdict::NotYet);
        }
    }
}
