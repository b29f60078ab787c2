//! The plan under construction: nodes, edges and remarks.

use petgraph::graph::NodeIndex;

use super::{Action, Cause, Plan, Step};

#[derive(Debug, Default)]
pub(super) struct PlanBuilder {
    plan: Plan,
}

impl PlanBuilder {
    /// Adds a step that begins when all of `after` have ended.
    pub fn add(
        &mut self,
        action: Action,
        cause: Cause,
        after: impl IntoIterator<Item = NodeIndex>,
    ) -> NodeIndex {
        let node = self.plan.graph.add_node(Step { action, cause });
        self.after(node, after);
        node
    }

    /// Makes `node` wait for more steps. Naming one twice is harmless.
    pub fn after(&mut self, node: NodeIndex, before: impl IntoIterator<Item = NodeIndex>) {
        for earlier in before {
            self.plan.graph.add_edge(earlier, node, ());
        }
    }

    pub fn warn(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.plan.warnings.contains(&text) {
            self.plan.warnings.push(text);
        }
    }

    pub fn running(&mut self, container: &str) {
        self.plan.running.push(container.to_owned());
    }

    pub fn finish(self) -> Plan {
        debug_assert!(
            !petgraph::algo::is_cyclic_directed(&self.plan.graph),
            "a plan is a DAG"
        );
        self.plan
    }
}
