//! What one load may use at most.
//!
//! A small text can ask for a large project: bases that thousands of services copy, variables made
//! of variables, an env file that every service reads again. The limits are far above what people
//! write and far below what a machine notices.

use crate::source::{Diagnostic, Span};

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub enum Use {
    /// Bytes of files, each time that one is read through.
    Text,
    /// Values that `extends` copies.
    Copies,
    /// Bytes that variables put into values.
    Variables,
}

impl Use {
    const fn limit(self) -> usize {
        match self {
            Use::Text => 64 << 20,
            Use::Copies => 500_000,
            Use::Variables => 64 << 20,
        }
    }

    fn message(self) -> String {
        let limit = self.limit();
        match self {
            Use::Text => format!(
                "the project's files come to more than {} MiB of text",
                limit >> 20
            ),
            Use::Copies => format!("`extends` copies more than {limit} values"),
            Use::Variables => format!("variables expand to more than {} MiB", limit >> 20),
        }
    }
}

/// What a load has used so far.
#[derive(Debug, Default)]
pub struct Budget {
    used: [usize; 3],
}

impl Budget {
    /// Takes an amount; false when there is no more, which is said at the first place that asks for
    /// too much.
    pub fn spend(
        &mut self,
        what: Use,
        amount: usize,
        at: Option<Span>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> bool {
        let used = &mut self.used[what as usize];
        let was_over = *used > what.limit();
        *used = used.saturating_add(amount);
        if *used <= what.limit() {
            return true;
        }
        if !was_over {
            let diagnostic = Diagnostic::error("too-large", what.message());
            diagnostics.push(match at {
                Some(span) => diagnostic.at(span),
                None => diagnostic,
            });
        }
        false
    }
}
