//! `include`: whole models with a directory and an environment of their own.
//!
//! What an included model defines is copied into the document that includes it; the document's own
//! definitions are merged over it, and of two includes the earlier one wins (N3).

use std::path::{Path, PathBuf};

use super::admit::{Environment, Places};
use super::extends::{clean_path, is_remote};
use super::merge;
use super::model::{Model, Session};
use super::paths::Resolver;
use crate::source::{Diagnostic, Map, Node, Span, Value, dotenv};

/// Deepest nesting of includes; each level is a recursion of the loader.
const MAX_DEPTH: usize = 32;

struct Item {
    span: Span,
    paths: Vec<String>,
    directory: Option<String>,
    env_files: Option<Vec<String>>,
}

/// Loads what a canonical document includes and merges the document over it.
pub fn apply(session: &mut Session<'_>, document: &mut Node, path: &Path, model: &Model<'_>) {
    let Some(include) = document
        .as_map_mut()
        .and_then(|d| d.shift_remove("include"))
    else {
        return;
    };
    if include.tag.is_some() {
        return;
    }
    let mut below: Option<Node> = None;
    for item in include.as_list().unwrap_or_default() {
        let Some(item) = item_of(item) else { continue };
        let Some(included) = load(session, &item, path, model) else {
            session.is_partial = true;
            continue;
        };
        match &mut below {
            None => below = Some(included),
            Some(below) => {
                // The earlier include is laid over the later one.
                let earlier = std::mem::replace(below, included);
                merge::project(below, earlier, &mut session.diagnostics);
                merge::unique_project(below);
            }
        }
    }
    let Some(mut below) = below else { return };
    merge::reset(&mut below, document);
    let mut own = std::mem::replace(document, below);
    if let Some(map) = own.as_map_mut() {
        for section in SECTIONS {
            let Some(mut entry) = map.shift_remove(section) else {
                continue;
            };
            settle_merge(session, document, section, &mut entry);
        }
        // Everything else (name, extensions) is never taken from an included model.
        let rest = std::mem::take(map);
        if let Some(document) = document.as_map_mut() {
            document.extend(rest);
        }
    }
    document.span = own.span;
    merge::unique_project(document);
}

const SECTIONS: [&str; 6] = [
    "services", "networks", "volumes", "secrets", "configs", "models",
];

/// Merges a section of the document over the included one. Entries that only the document has keep
/// their tags: earlier files of the same model are still to be reset by them.
fn settle_merge(session: &mut Session<'_>, below: &mut Node, section: &str, own: &mut Node) {
    let Some(target) = below.as_map_mut() else {
        return;
    };
    let key = own.key;
    let (Some(existing), Value::Map(own_map)) = (target.get_mut(section), &mut own.value) else {
        target.insert(section.to_owned(), own.clone());
        return;
    };
    existing.key = key;
    let Some(existing) = existing.as_map_mut() else {
        return;
    };
    for (name, mut entry) in *std::mem::take(own_map) {
        match existing.get_mut(&name) {
            None => {
                existing.insert(name, entry);
            }
            Some(below) => {
                if section == "services" {
                    merge::settle(&mut entry);
                    merge::service(below, entry, &mut session.diagnostics);
                } else {
                    merge::settle(&mut entry);
                    let wrap = |node: Node| {
                        let span = node.span;
                        let inner = Map::from_iter([(name.clone(), node)]);
                        let inner = Node::new(span, inner.into());
                        let outer = Map::from_iter([(section.to_owned(), inner)]);
                        Node::new(span, outer.into())
                    };
                    let mut left = wrap(below.clone());
                    merge::project(&mut left, wrap(entry), &mut session.diagnostics);
                    if let Some(merged) = left.get(section).and_then(|s| s.get(&name)) {
                        *below = merged.clone();
                    }
                }
            }
        }
    }
}

fn item_of(node: &Node) -> Option<Item> {
    let texts = |node: &Node| match &node.value {
        Value::Text(text) => vec![text.clone()],
        Value::List(list) => list
            .iter()
            .filter_map(Node::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    };
    match &node.value {
        Value::Text(path) => Some(Item {
            span: node.span,
            paths: vec![path.clone()],
            directory: None,
            env_files: None,
        }),
        Value::Map(map) => Some(Item {
            span: node.span,
            paths: map.get("path").map(texts).unwrap_or_default(),
            directory: map
                .get("project_directory")
                .and_then(Node::as_str)
                .filter(|d| !d.is_empty())
                .map(str::to_owned),
            env_files: map.get("env_file").map(texts).filter(|f| !f.is_empty()),
        }),
        _ => None,
    }
}

fn load(session: &mut Session<'_>, item: &Item, path: &Path, model: &Model<'_>) -> Option<Node> {
    let resolver = Resolver {
        base: model.directory,
        environment: model.environment,
    };
    let mut files = Vec::new();
    for text in &item.paths {
        if is_remote(text) {
            files.push(session.remote(text, Some(item.span), model.environment)?);
            continue;
        }
        files.push(clean_path(Path::new(&resolver.resolve(text))));
    }
    let Some(first) = files.first().cloned() else {
        session.diagnostics.push(
            Diagnostic::error("include", "include must name at least one path").at(item.span),
        );
        return None;
    };
    let mut chain = model.chain.to_vec();
    chain.push(path.to_owned());
    if !chain.contains(&first) && chain.len() > MAX_DEPTH {
        let message = format!("includes are nested more than {MAX_DEPTH} levels deep");
        session
            .diagnostics
            .push(Diagnostic::error("include-depth", message).at(item.span));
        return None;
    }
    if chain.contains(&first) {
        let mut message = format!("include cycle detected:\n{}", chain[0].display());
        for file in chain[1..].iter().chain([&first]) {
            message.push_str(&format!("\n include {}", file.display()));
        }
        session
            .diagnostics
            .push(Diagnostic::error("include-cycle", message).at(item.span));
        return None;
    }
    let directory = match &item.directory {
        Some(text) => clean_path(Path::new(&resolver.resolve(text))),
        None => first.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    let mut environment = model.environment.clone();
    let mut places = model.places.clone();
    let env_files = match &item.env_files {
        Some(files) => files
            .iter()
            .filter(|f| f.as_str() != "/dev/null")
            .map(|f| PathBuf::from(resolver.resolve(f)))
            .collect(),
        None => {
            let implicit = directory.join(".env");
            match session.files.is_file(&implicit) {
                true => vec![implicit],
                false => Vec::new(),
            }
        }
    };
    for file in env_files {
        extend_environment(
            session,
            (&mut environment, &mut places),
            model.environment,
            &file,
            item.span,
        );
    }
    for file in &files {
        // Reported here, at the line that names it; `documents` then finds it known as missing.
        session.documents(file, Some(item.span))?;
        session.note_included(file, item.span);
    }
    let mut included = session.model(&Model {
        files: &files,
        directory: &directory,
        environment: &environment,
        places: &places,
        chain: &chain,
    })?;
    if !session.resolve_paths {
        // Relative paths stay relative, but to the directory of the model that includes.
        let base = directory
            .strip_prefix(model.directory)
            .unwrap_or(&directory);
        if !base.as_os_str().is_empty() {
            Resolver {
                base,
                environment: &environment,
            }
            .project(&mut included);
        }
    }
    for section in ["secrets", "configs"] {
        for (name, object) in included
            .get(section)
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            if let Some(variable) = object.get_str("environment") {
                session.included_values.insert(
                    format!("{section}.{name}"),
                    environment.get(variable).cloned(),
                );
            }
        }
    }
    if let Some(map) = included.as_map_mut() {
        map.retain(|key, _| SECTIONS.contains(&key.as_str()));
    }
    Some(included)
}

/// Adds the variables of an env file below those that are set (parent wins, N2).
fn extend_environment(
    session: &mut Session<'_>,
    (environment, places): (&mut Environment, &mut Places),
    parent: &Environment,
    file: &Path,
    at: Span,
) {
    let id = match session.read(file) {
        Ok(id) => id,
        Err(error) => {
            session.unreadable(file, &error, Some(at));
            return;
        }
    };
    if !session.may_read(id, Some(at)) {
        return;
    }
    let text = session.sources.shared_text(id);
    let lookup = |name: &str| environment.get(name).cloned();
    let found = dotenv::parse(&text, &dotenv::Scope::above(&lookup), &mut |_| {});
    match found {
        Ok(found) => {
            for (name, assignment) in found {
                if !parent.contains_key(&name) {
                    places.insert(name.clone(), session.assigned_at(id, &assignment));
                    environment.insert(name, assignment.value);
                }
            }
        }
        Err(error) => session.diagnostics.push(
            Diagnostic::error(
                "env-file",
                format!("failed to read {}: {error}", file.display()),
            )
            .at(at),
        ),
    }
}
