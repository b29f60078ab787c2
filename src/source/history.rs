//! What became of a value between its text and the tree that is printed.
//!
//! A place says where a value stands now; its history says what else had a part in it: variables,
//! aliases, the values it replaced. Phases above write their own words into it; this module knows
//! only how to keep them. Most values have no history, and then it costs a pointer.

use std::sync::Arc;

use super::Span;

/// One thing that had a part in a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It was written once and used here by `*name`.
    Alias { at: Span },
    /// It came with a mapping that was merged in by `<<`.
    MergeKey { at: Span },
    /// A variable was looked up to make it.
    Variable { name: String, from: Origin },
    /// A later phase did something, by a rule of its own.
    Rule {
        name: &'static str,
        /// The other place that had a part in it.
        at: Option<Span>,
        /// The text that the values come from which this step brought; all values below the node
        /// when absent.
        extent: Option<Span>,
    },
}

impl Step {
    /// Whether it is a rule that made a value, without any text.
    pub fn is_implied(&self) -> bool {
        matches!(self, Step::Rule { at: None, .. })
    }
}

/// Where a variable's value was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A line of an env file.
    File(Span),
    /// The process's own environment, or the loader itself.
    Process,
    /// Nowhere; the text's own default was taken, or nothing.
    Unset,
}

/// The steps of one value, in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(Option<Arc<Vec<Step>>>);

impl History {
    pub fn push(&mut self, step: Step) {
        let steps = self.0.get_or_insert_default();
        Arc::make_mut(steps).push(step);
    }

    /// Notes a rule and the other place that it brought in.
    pub fn rule(&mut self, name: &'static str, at: Span) {
        self.push(Step::Rule {
            name,
            at: Some(at),
            extent: None,
        });
    }

    /// Notes that a rule made the value, without any text.
    pub fn implied(&mut self, name: &'static str) {
        self.push(Step::Rule {
            name,
            at: None,
            extent: None,
        });
    }

    pub fn extend(&mut self, earlier: &History) {
        for step in earlier.steps() {
            self.push(step.clone());
        }
    }

    pub fn steps(&self) -> &[Step] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Whether a rule made the value, without any text.
    pub fn is_implied(&self) -> bool {
        self.steps().iter().any(Step::is_implied)
    }

    pub fn is_empty(&self) -> bool {
        self.steps().is_empty()
    }
}
