//! How a command ends badly: what is printed, and the exit code.

use super::escape::visible;
use crate::api::client::ClientError;
use crate::reconcile::{BackendError, FailureKind};

/// Why a command failed. The exit codes are Compose's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line contradicts itself.
    Usage,
    /// No Compose file was found.
    NoFile,
    /// The Compose file, or a file it names, is wrong.
    File,
    /// The engine could not be reached or could not do it.
    Engine,
    /// A container's own exit code is passed on; nothing is printed when there is no error text.
    Container(i32),
    /// Ctrl-C.
    Interrupted,
    /// Whoever read our output has gone; nothing is printed.
    BrokenPipe,
    /// The terminal, a pipe or a process of our own.
    System,
}

/// A failure as the user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// The whole chain of causes in one sentence; empty when everything has been said.
    pub error: String,
    pub hints: Vec<String>,
}

impl Failure {
    pub fn new(kind: Kind, error: impl Into<String>) -> Failure {
        Failure {
            kind,
            error: error.into(),
            hints: Vec::new(),
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    /// Ends with this code, saying nothing.
    pub fn exit(code: i32) -> Failure {
        Failure::new(Kind::Container(code), "")
    }

    pub fn interrupted() -> Failure {
        Failure::new(Kind::Interrupted, "")
    }

    /// A failed system call or write, with what was being done.
    pub fn system(doing: &str, error: &std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::new(Kind::BrokenPipe, "");
        }
        Failure::new(Kind::System, format!("{doing}: {error}"))
    }

    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 16,
            Kind::NoFile => 14,
            Kind::File => 15,
            Kind::Engine | Kind::System => 1,
            // The kernel keeps eight bits, and so do we.
            Kind::Container(code) => code as u8,
            Kind::Interrupted => 130,
            Kind::BrokenPipe => 141,
        }
    }

    /// What goes to stderr, one line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.error.is_empty() {
            lines.push(format!("error: {}", visible(&self.error)));
        }
        lines.extend(
            self.hints
                .iter()
                .map(|hint| format!("hint: {}", visible(hint))),
        );
        lines
    }
}

/// The chain of causes as one sentence. Messages never repeat their source, so they can be joined.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Foreign errors do repeat their sources.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Failure {
        let kind = match error.kind {
            FailureKind::StartFailed { exit_code } => Kind::Container(exit_code),
            _ => Kind::Engine,
        };
        Failure {
            kind,
            error: error.message,
            hints: error.hints,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Engine(error) => error.into(),
            ClientError::Gone { .. } => Failure::new(Kind::Engine, chain(&error))
                .hint("`wharf engine logs` shows what it said last"),
            ClientError::Connect { .. } => Failure::new(Kind::Engine, chain(&error))
                .hint("`wharf engine status` tells whether it runs"),
            error => Failure::new(Kind::Engine, chain(&error)),
        }
    }
}
