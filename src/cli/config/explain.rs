//! `config --explain`: each value with what had a part in it, as lines or as JSON.
//!
//! Knows only how to write down what [`compose::explain`](crate::compose::explain) found out.

use std::fmt::Write as _;

use super::Format;
use crate::compose::explain::{Cause, ExplainError, Explanation, explain};
use crate::compose::{Loaded, Project};

/// The whole answer, or the message of why there is none.
pub fn text(
    loaded: &Loaded,
    project: &Project,
    path: &str,
    format: Format,
) -> Result<String, String> {
    let found = explain(loaded, project, path).map_err(|error| match &error {
        ExplainError::Nothing { near, .. } => match (switched_off(project, path), near) {
            (Some(name), _) => format!(
                "{error}\nhint: service {name:?} is switched off; enable one of its profiles, or name it"
            ),
            (None, Some(near)) => format!("{error}\nhint: did you mean {near}?"),
            (None, None) => error.to_string(),
        },
        ExplainError::NotLoaded => error.to_string(),
    })?;
    match format {
        Format::Json => serde_json::to_string_pretty(&found)
            .map(|text| text + "\n")
            .map_err(|error| error.to_string()),
        Format::Yaml => Ok(lines(loaded, &found)),
    }
}

/// The service that the path leads to, if profiles or a selection keep it out.
fn switched_off<'p>(project: &'p Project, path: &str) -> Option<&'p String> {
    let rest = path.strip_prefix("services.")?;
    let mut names = project.disabled_services.iter();
    names.find(|name| {
        rest.strip_prefix(name.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn lines(loaded: &Loaded, found: &[Explanation]) -> String {
    let mut text = String::new();
    for explanation in found {
        match &explanation.value {
            Some(value) => _ = writeln!(text, "{}: {value}", explanation.path),
            None => _ = writeln!(text, "{}:", explanation.path),
        }
        for cause in &explanation.causes {
            _ = writeln!(text, "    {}", line(loaded, cause));
        }
    }
    text
}

fn line(loaded: &Loaded, cause: &Cause) -> String {
    let mut text = cause.text.clone();
    if let Some(location) = &cause.location {
        if !text.is_empty() {
            text.push(' ');
        }
        let file = loaded.sources.display_path(&location.file);
        _ = write!(
            text,
            "{}:{}:{}",
            file.display(),
            location.line,
            location.column
        );
    }
    if let Some(line) = cause.line.as_deref().filter(|line| !line.is_empty()) {
        _ = write!(text, "   {line}");
    }
    text
}
