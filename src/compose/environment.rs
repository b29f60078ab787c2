//! `env_file` and `label_file`: files read into the services that name them.

use std::io;
use std::path::Path;

use indexmap::IndexMap;

use super::Project;
use super::admit::Environment;
use super::budget::Use;
use super::find::line_span;
use super::model::Session;
use super::rule;
use crate::source::{Diagnostic, Map, Node, Span, Value, dotenv};

/// Reads the files of every service; `environment` and `labels` win over them (E7, E12). The keys
/// that named the files are removed (E10).
pub fn resolve_env_files(session: &mut Session<'_>, root: &mut Node, project: &Environment) {
    let services = root.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(Map::values_mut) {
        let Some(service) = service.as_map_mut() else {
            continue;
        };
        if let Some(files) = service.shift_remove("env_file") {
            let own = values(service, "environment");
            let around = |name: &str| project.get(name).or_else(|| own.get(name)).cloned();
            let found = read(session, &files, &Lookup::Around(&around));
            fill(service, "environment", found);
        }
    }
}

/// Reads the label files of every service. No flag switches this off: labels are what containers
/// are found by.
pub fn resolve_label_files(session: &mut Session<'_>, root: &mut Node) {
    let services = root.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(Map::values_mut) {
        let Some(service) = service.as_map_mut() else {
            continue;
        };
        if let Some(files) = service.shift_remove("label_file") {
            let found = read(session, &files, &Lookup::EarlierFiles);
            fill(service, "labels", found);
        }
    }
}

/// What a file's `${…}` and bare keys see besides its own earlier lines.
enum Lookup<'a> {
    /// These variables before the file's own lines, the files before it after them (E8).
    Around(&'a dyn Fn(&str) -> Option<String>),
    /// Only the files before it, and those first (E12).
    EarlierFiles,
}

type Values = IndexMap<String, String>;

/// Values with the line of the file that has them, and the place that names the file.
type Found = IndexMap<String, (String, Span, Span)>;

fn values(service: &Map, key: &str) -> Values {
    service
        .get(key)
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Puts what files say under what the service says itself.
fn fill(service: &mut Map, key: &str, found: Found) {
    if found.is_empty() {
        return;
    }
    let Some(span) = found.values().next().map(|(_, _, named_at)| *named_at) else {
        return;
    };
    let mut merged: Map = found
        .into_iter()
        .map(|(name, (value, span, named_at))| {
            let mut node = Node::text(span, value);
            node.history.rule(rule::ENV_FILE, named_at);
            (name, node)
        })
        .collect();
    let entry = service
        .entry(key.to_owned())
        .or_insert_with(|| Node::new(span, Value::from(Map::default())));
    if let Some(own) = entry.as_map_mut() {
        for (name, mut value) in std::mem::take(own) {
            if let Some(below) = merged.get(&name) {
                value.history.rule(rule::REPLACE, below.span);
            }
            merged.insert(name, value);
        }
        *own = merged;
    }
}

fn read(session: &mut Session<'_>, files: &Node, lookup: &Lookup<'_>) -> Found {
    let mut texts = Values::new();
    let mut found = IndexMap::new();
    for item in files.as_list().unwrap_or_default() {
        let Some(path) = item.as_str().or_else(|| item.get_str("path")) else {
            continue;
        };
        let required = item.get("required").and_then(Node::as_bool) != Some(false);
        let at = item.get("path").map_or(item.span, |p| p.span);
        let id = match session.read(Path::new(path)) {
            Ok(id) => id,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => continue,
            Err(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::NotFound => {
                        format!("env file {path} not found: stat {path}: no such file or directory")
                    }
                    io::ErrorKind::IsADirectory => format!("env file {path} is a directory"),
                    _ => format!("failed to read {path}: {error}"),
                };
                let code = match error.kind() {
                    io::ErrorKind::NotFound => "missing-env-file",
                    _ => "env-file",
                };
                session.diagnostics.push(
                    Diagnostic::error(code, reason)
                        .at(at)
                        .help("create it, or write {path: …, required: false}"),
                );
                continue;
            }
        };
        if !session.may_read(id, Some(at)) {
            continue;
        }
        let text = session.sources.shared_text(id);
        let mut unset = Vec::new();
        let parsed = match item.get_str("format").filter(|f| !f.is_empty()) {
            None => {
                let earlier = |name: &str| texts.get(name).cloned();
                let scope = match lookup {
                    Lookup::Around(around) => dotenv::Scope {
                        above: around,
                        below: &earlier,
                    },
                    Lookup::EarlierFiles => dotenv::Scope::above(&earlier),
                };
                dotenv::parse(&text, &scope, &mut |name| unset.push(name.to_owned()))
            }
            Some("raw") => match lookup {
                Lookup::Around(around) => dotenv::parse_raw(&text, around),
                Lookup::EarlierFiles => dotenv::parse_raw(&text, &|_| None),
            },
            Some(format) => {
                session.diagnostics.push(
                    Diagnostic::error(
                        "env-file",
                        format!("unsupported env_file format {format:?}"),
                    )
                    .at(item.get("format").map_or(at, |f| f.span))
                    .help("leave it out, or write `raw`"),
                );
                continue;
            }
        };
        for name in unset {
            if session.unset.insert(name.clone()) {
                session.diagnostics.push(
                    Diagnostic::warning(
                        "unset-variable",
                        format!("The {name:?} variable is not set. Defaulting to a blank string."),
                    )
                    .at(at),
                );
            }
        }
        match parsed {
            Ok(parsed) => {
                let length = parsed.values().map(|a| a.value.len()).sum();
                if !session
                    .budget
                    .spend(Use::Variables, length, Some(at), &mut session.diagnostics)
                {
                    continue;
                }
                for (name, assignment) in parsed {
                    let span = session.assigned_at(id, &assignment);
                    texts.insert(name.clone(), assignment.value.clone());
                    found.insert(name, (assignment.value, span, at));
                }
            }
            Err(error) => {
                let line = line_span(session, id, error.line());
                session.diagnostics.push(
                    Diagnostic::error("env-file", format!("failed to read {path}: {error}"))
                        .at(line)
                        .label(at, "read because of this"),
                );
            }
        }
    }
    found
}

/// A secret or config whose variable is not set (T3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {variable:?} required by {kind} {name:?} is not set")]
pub struct UnsetObject {
    pub kind: &'static str,
    pub name: String,
    pub variable: String,
}

/// Fills the content of `environment:` secrets and configs, just before the project is sent to the
/// engine. It is never called for printing. Objects of an included model take the value that the
/// include's own environment gave them (N5). All unset variables are reported at once.
pub fn resolve_environment_objects(
    project: &mut Project,
    environment: &Environment,
) -> Result<(), Vec<UnsetObject>> {
    let mut unset = Vec::new();
    let included = std::mem::take(&mut project.included_values);
    let sections = [
        ("secret", "secrets", &mut project.secrets),
        ("config", "configs", &mut project.configs),
    ];
    for (kind, section, objects) in sections {
        for (name, object) in objects.iter_mut() {
            let Some(variable) = object.environment.clone() else {
                continue;
            };
            let value = match included.get(&format!("{section}.{name}")) {
                Some(Some(value)) => Some(value.clone()),
                _ => environment.get(&variable).cloned(),
            };
            match value {
                Some(value) => object.content = Some(value),
                None => unset.push(UnsetObject {
                    kind,
                    name: name.clone(),
                    variable,
                }),
            }
        }
    }
    if unset.is_empty() { Ok(()) } else { Err(unset) }
}
