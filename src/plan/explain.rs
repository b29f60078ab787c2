//! A plan as text, for `--plan`: each step with its number, what it waits for, why, and which line.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use petgraph::Direction;
use petgraph::graph::NodeIndex;

use super::{Action, Plan};
use crate::compose::Condition;

impl Action {
    /// The kind and the name of what the action is about.
    pub fn subject(&self) -> (&'static str, &str) {
        match self {
            Action::EnsureImage { reference, .. }
            | Action::PullImage { reference, .. }
            | Action::PushImage { reference, .. } => ("image", reference),
            Action::CreateNetwork(config) => ("network", &config.name),
            Action::RemoveNetwork { name } => ("network", name),
            Action::CreateVolume(config) => ("volume", &config.name),
            Action::RemoveVolume { name } => ("volume", name),
            Action::CreateContainer { config, .. } => ("container", &config.name),
            Action::RenameContainer { from, .. } => ("container", from),
            Action::StartContainer { container, .. }
            | Action::StopContainer { container, .. }
            | Action::RestartContainer { container, .. }
            | Action::KillContainer { container, .. }
            | Action::RemoveContainer { container, .. } => ("container", container),
            Action::AwaitCondition { service, .. } => ("service", service),
        }
    }

    /// What is done, as words after the subject.
    fn verb(&self) -> String {
        match self {
            Action::EnsureImage { .. } => "make present".to_owned(),
            Action::PullImage { .. } => "pull".to_owned(),
            Action::PushImage { .. } => "push".to_owned(),
            Action::CreateNetwork(_) | Action::CreateVolume(_) => "create".to_owned(),
            Action::CreateContainer {
                replaces,
                inherit_volumes,
                ..
            } => match (replaces, inherit_volumes) {
                (None, _) => "create".to_owned(),
                (Some(old), true) => format!("create, to replace {old}"),
                (Some(old), false) => format!("create, to replace {old}, with new volumes"),
            },
            Action::RenameContainer { to, .. } => format!("rename to {to}"),
            Action::StartContainer { .. } => "start".to_owned(),
            Action::StopContainer { timeout, .. } => match timeout {
                Some(timeout) => format!("stop within {}", duration(*timeout)),
                None => "stop".to_owned(),
            },
            Action::RestartContainer { .. } => "restart".to_owned(),
            Action::KillContainer { signal, .. } => format!("send {signal}"),
            Action::RemoveNetwork { .. } => "remove".to_owned(),
            Action::RemoveVolume { .. } => "remove, with its data".to_owned(),
            Action::RemoveContainer { volumes: true, .. } => {
                "remove, with its anonymous volumes".to_owned()
            }
            Action::RemoveContainer { .. } => "remove".to_owned(),
            Action::AwaitCondition {
                condition,
                required,
                ..
            } => {
                let state = match condition {
                    Condition::ServiceStarted => "runs",
                    Condition::ServiceHealthy => "is healthy",
                    Condition::ServiceCompletedSuccessfully => "has completed",
                };
                let optional = if *required { "" } else { ", not required" };
                format!("wait until it {state}{optional}")
            }
        }
    }
}

/// Go's notation, as Compose prints it: `1m30s`, `1.5s`.
pub fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    let fraction = format!("{:09}", duration.subsec_nanos());
    let fraction = fraction.trim_end_matches('0');
    let _ = write!(text, "{}", seconds % 60);
    if !fraction.is_empty() {
        let _ = write!(text, ".{fraction}");
    }
    text.push('s');
    text
}

impl Plan {
    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.graph.node_count() == 0
    }

    /// The steps, each after all that it waits for; what comes first in the plan comes first here.
    pub fn in_order(&self) -> Vec<NodeIndex> {
        let mut waits: HashMap<NodeIndex, usize> = self
            .graph
            .node_indices()
            .map(|n| (n, self.before(n).len()))
            .collect();
        let mut ready: BTreeSet<NodeIndex> = waits
            .iter()
            .filter(|(_, n)| **n == 0)
            .map(|(node, _)| *node)
            .collect();
        let mut order = Vec::with_capacity(waits.len());
        while let Some(node) = ready.pop_first() {
            order.push(node);
            for next in self.after(node) {
                if let Some(n) = waits.get_mut(&next) {
                    *n -= 1;
                    if *n == 0 {
                        ready.insert(next);
                    }
                }
            }
        }
        order
    }

    /// What a step waits for, each once.
    pub fn before(&self, node: NodeIndex) -> BTreeSet<NodeIndex> {
        let before = self.graph.neighbors_directed(node, Direction::Incoming);
        before.collect()
    }

    /// What waits for a step, each once.
    pub fn after(&self, node: NodeIndex) -> BTreeSet<NodeIndex> {
        self.graph.neighbors(node).collect()
    }

    /// The plan for a person to read; ends with a line feed.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        if self.is_empty() {
            text.push_str("nothing to do\n");
            return text;
        }
        let order = self.in_order();
        let numbers: HashMap<NodeIndex, usize> = order
            .iter()
            .enumerate()
            .map(|(i, node)| (*node, i + 1))
            .collect();
        let width = order.len().to_string().len();
        for node in &order {
            let step = &self.graph[*node];
            let (kind, name) = step.action.subject();
            let number = numbers[node];
            let verb = step.action.verb();
            let _ = write!(text, "{number:>width$}  {kind} {name}: {verb}");
            let mut before: Vec<usize> = self.before(*node).iter().map(|n| numbers[n]).collect();
            before.sort_unstable();
            if !before.is_empty() {
                let before: Vec<String> = before.iter().map(usize::to_string).collect();
                let _ = write!(text, "  (after {})", before.join(", "));
            }
            let _ = write!(text, "\n{:width$}    because {}", "", step.cause.reason);
            if let Some(location) = &step.cause.location {
                let _ = write!(text, " ({}:{})", location.file.display(), location.line);
            }
            text.push('\n');
        }
        text
    }
}
