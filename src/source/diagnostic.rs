//! What is wrong or doubtful in the user's files, and how it is shown.
//!
//! A diagnostic is data: it names a rule (`code`), places (`labels`) and a remedy (`help`).

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::json;

use super::{FileId, History, SourceMap, Span, Step, history};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
    /// Nothing is wrong; something is worth knowing.
    Note,
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

    pub fn note(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Note,
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
                    from: history::Origin::File(at),
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
    diagnostics.retain(|d| {
        // A template is wrong once, however many aliases lead to it.
        let message = match d.code {
            "required-variable" | "interpolation-format" => "",
            _ => &d.message,
        };
        seen.insert((d.labels.first().map(|l| l.span), d.code, message.to_owned()))
    });
}

/// Most diagnostics that are shown to a person.
const MAX_SHOWN: usize = 1_000;

/// The human form: one block each with file:line:column, the source line and a caret.
pub fn render(diagnostics: &[Diagnostic], sources: &SourceMap, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut out = String::new();
    let mut veiled = Veiled::default();
    let mut shown: Vec<&Diagnostic> = diagnostics.iter().collect();
    if shown.len() > MAX_SHOWN {
        // Nobody reads them all; the errors must be among those that are there.
        shown.sort_by_key(|diagnostic| !diagnostic.is_error());
        shown.truncate(MAX_SHOWN);
    }
    for diagnostic in &shown {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level
            .primary_title(&*diagnostic.message)
            .id(diagnostic.code);
        let mut group = Group::with_title(title);
        for (at, label) in diagnostic.labels.iter().enumerate() {
            let (line, text, range) = sources.excerpt(label.span);
            let (text, range, is_from_start) =
                window(veiled.line(label.span.file, line, text), range);
            let path = sources.display_path(&sources.file(label.span.file).path);
            let path = path.to_string_lossy().into_owned();
            let kind = if at == 0 {
                AnnotationKind::Primary
            } else {
                AnnotationKind::Context
            };
            let note = (!label.text.is_empty()).then_some(&*label.text);
            let mut snippet = Snippet::source(text)
                .line_start(line)
                .annotation(kind.span(range).label(note));
            if is_from_start {
                snippet = snippet.path(path);
            } else {
                // The column is the line's own, not that of the part which is shown.
                let column = sources.place(label.span).column as usize;
                group = group.element(Origin::path(path).line(line).char_column(column));
            }
            group = group.element(snippet);
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(&**help));
        }
        out.push_str(&renderer.render(&[group]));
        out.push_str("\n\n");
    }
    if diagnostics.len() > shown.len() {
        let n_more = diagnostics.len() - shown.len();
        out.push_str(&format!(
            "and {n_more} more; --format json names all of them\n"
        ));
    }
    out
}

/// The veiled line that was shown last: many mistakes may stand on one long line.
#[derive(Default)]
struct Veiled {
    at: Option<(FileId, usize)>,
    text: String,
}

impl Veiled {
    fn line(&mut self, file: FileId, number: usize, text: &str) -> &str {
        if self.at != Some((file, number)) {
            self.text = veil(text);
            self.at = Some((file, number));
        }
        &self.text
    }
}

/// Most bytes of a line that are shown before the mark, and from its beginning on.
const WINDOW: (usize, usize) = (200, 400);

/// The part of a line that holds the mark, where the mark is in it, and whether the line begins
/// with it.
fn window(line: &str, mark: Range<usize>) -> (String, Range<usize>, bool) {
    let from = line.floor_char_boundary(mark.start.saturating_sub(WINDOW.0));
    let upto = line.floor_char_boundary(mark.start + WINDOW.1);
    let end = mark.end.min(upto).max(mark.start);
    (
        line[from..upto].to_owned(),
        mark.start - from..end - from,
        from == 0,
    )
}

/// Words of a key whose value is nobody's business.
const SECRET_WORDS: [&str; 8] = [
    "password",
    "passwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "private_key",
    "credential",
];

/// Whether a key or variable of this name holds what must not be shown.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // The sections and lists of the specification hold names.
    !matches!(name.as_str(), "secret" | "secrets" | "credential_spec")
        && SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A line of the user's with what looks like a secret covered: passwords of URLs and values of
/// keys that sound like one. Every byte keeps its place, so that carets still point right.
/// Variables are no secrets, their names help.
fn veil(line: &str) -> String {
    let mut covered: Vec<Range<usize>> = Vec::new();
    for (at, _) in line.match_indices("://") {
        let start = at + 3;
        let end = line[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\''))
            .map_or(line.len(), |end| start + end);
        if let Some(user) = line[start..end].rfind('@') {
            covered.push(start..start + user);
        }
    }
    let mut upto = 0;
    for (at, _) in line.match_indices([':', '=']) {
        if at < upto {
            continue;
        }
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-');
        let head = line[..at].trim_end_matches(['"', '\'', ' ']);
        let name = head.rfind(|c| !is_name(c)).map_or(head, |before| {
            let width = head[before..].chars().next().map_or(1, char::len_utf8);
            &head[before + width..]
        });
        if !is_secret_name(name) {
            continue;
        }
        let tail = &line[at + 1..];
        let value = tail.trim_start();
        let start = line.len() - value.len();
        let (start, end) = match value.chars().next() {
            None | Some('$' | '[' | '{' | '&' | '*' | '#') => continue,
            Some(quote @ ('"' | '\'')) => {
                let body = &value[1..];
                (
                    start + 1,
                    start + 1 + body.find(quote).unwrap_or(body.len()),
                )
            }
            Some(_) => {
                let end = value
                    .find(['"', '\'', ',', '}', ']'])
                    .unwrap_or(value.len());
                (start, start + value[..end].trim_end().len())
            }
        };
        if !line[start..end].starts_with('$') {
            covered.push(start..end);
            upto = end;
        }
    }
    covered.sort_by_key(|range| range.start);
    let mut out = String::with_capacity(line.len());
    let mut shown = 0;
    for range in covered {
        // Ranges may overlap; what is covered already stays so.
        let start = range.start.max(shown);
        let end = range.end.max(start);
        out.push_str(&line[shown..start]);
        out.extend(std::iter::repeat_n('*', end - start));
        shown = end;
    }
    out.push_str(&line[shown..]);
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
                    Severity::Note => "note",
                },
                "message": d.message,
                "help": d.help,
                "labels": d.labels.iter().map(label).collect::<Vec<_>>(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_covered_where_they_stand() {
        for (line, shown) in [
            ("  PASSWORD: hunter2", "  PASSWORD: *******"),
            ("  - DB_PASSWORD=a b # x", "  - DB_PASSWORD=*******"),
            (
                "{\"api_token\": \"pät\", user: u}",
                "{\"api_token\": \"****\", user: u}",
            ),
            ("a: https://u:p@h/x", "a: https://***@h/x"),
            ("  PASSWORD: ${PASSWORD}", "  PASSWORD: ${PASSWORD}"),
            ("  secrets: [a]", "  secrets: [a]"),
            ("  image: 'i:1'", "  image: 'i:1'"),
        ] {
            let covered = veil(line);
            assert_eq!(covered, shown);
            assert_eq!(covered.len(), line.len(), "carets keep their place");
        }
    }
}
