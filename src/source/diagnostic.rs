//! What is wrong or doubtful in the user's files, and how it is shown.
//!
//! A diagnostic is data: it names a rule (`code`), places (`labels`) and a remedy (`help`).

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::json;

use super::{History, Origin, SourceMap, Span, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// A place that matters for a diagnostic, and why. The first label is where the mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable name of the rule, as in `unknown-key`.
    pub code: &'static str,
    pub severity: Severity,
    pub message: String,
    pub labels: Vec<Label>,
    /// What the user can do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: Vec::new(),
            help: None,
        }
    }

    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(code, message)
        }
    }

    pub fn at(mut self, span: Span) -> Self {
        self.labels.push(Label {
            span,
            text: String::new(),
        });
        self
    }

    pub fn label(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label {
            span,
            text: text.into(),
        });
        self
    }

    /// The other places that had a part in a value.
    pub fn labels_of(mut self, history: &History) -> Self {
        for step in history.steps() {
            let (span, text) = match step {
                Step::Alias { at } | Step::MergeKey { at } => (*at, "used here".to_owned()),
                Step::Variable {
                    name,
                    from: Origin::File(at),
                } => (*at, format!("{name} is set here")),
                Step::Rule {
                    name, at: Some(at), ..
                } => (*at, format!("{name}: this had a part in the value")),
                Step::Variable { .. } | Step::Rule { at: None, .. } => continue,
            };
            if self.labels.iter().all(|label| label.span != span) {
                self.labels.push(Label { span, text });
            }
        }
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Orders by place and drops repetitions, which arise when one text is read twice (include,
/// extends). Diagnostics without a place come first: they are about the command as a whole.
pub fn sort(diagnostics: &mut Vec<Diagnostic>) {
    diagnostics.sort_by_key(|d| d.labels.first().map(|label| label.span));
    let mut seen = std::collections::HashSet::new();
    diagnostics.retain(|d| seen.insert((d.labels.first().map(|l| l.span), d.message.clone())));
}

/// The human form: one block each with file:line:column, the source line and a caret.
pub fn render(diagnostics: &[Diagnostic], sources: &SourceMap, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut out = String::new();
    for diagnostic in diagnostics {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level
            .primary_title(&*diagnostic.message)
            .id(diagnostic.code);
        let mut group = Group::with_title(title);
        for (at, label) in diagnostic.labels.iter().enumerate() {
            let (line, text, range) = sources.excerpt(label.span);
            let path = sources.display_path(&sources.file(label.span.file).path);
            let kind = if at == 0 {
                AnnotationKind::Primary
            } else {
                AnnotationKind::Context
            };
            let note = (!label.text.is_empty()).then_some(&*label.text);
            group = group.element(
                Snippet::source(text)
                    .line_start(line)
                    .path(path.to_string_lossy().into_owned())
                    .annotation(kind.span(range).label(note)),
            );
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(&**help));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    out
}

/// The machine form: a list of objects with `code`, `severity`, `message`, `help` and `labels`,
/// each label with `file`, 1-based `line` and `column`, and `text`.
pub fn render_json(diagnostics: &[Diagnostic], sources: &SourceMap) -> serde_json::Value {
    let label = |label: &Label| {
        let place = sources.place(label.span);
        json!({
            "file": sources.file(label.span.file).path,
            "line": place.line,
            "column": place.column,
            "text": label.text,
        })
    };
    diagnostics
        .iter()
        .map(|d| {
            json!({
                "code": d.code,
                "severity": match d.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "message": d.message,
                "help": d.help,
                "labels": d.labels.iter().map(label).collect::<Vec<_>>(),
            })
        })
        .collect()
}
