//! `extends`: a service starts from another one, of this file or of another.
//!
//! The base is copied and the extending service merged over it with the rules for several files
//! (X1–X8). Chains are walked with a loop: their length is the user's choice, the stack's is not.

use std::path::{Path, PathBuf};

use super::budget::Use;
use super::merge;
use super::model::{Model, Session};
use super::paths::{Resolver, clean, is_remote_context};
use super::rule;
use super::schema::{self, Shape};
use crate::source::{Diagnostic, Map, Node, Span, Step, Trail, Value};

/// A base may be empty.
static BASE: Shape = Shape::OneOf(&[Shape::Object(&schema::SERVICE), Shape::Null]);

/// One service of a chain, from the extending one down to its base.
struct Link {
    file: PathBuf,
    name: String,
    service: Node,
    /// Where it names its base.
    extends_at: Option<Span>,
    /// It stands in the document that is being loaded, so its result is kept.
    is_local: bool,
}

/// Resolves every `extends` of a canonical document.
pub fn apply(session: &mut Session<'_>, document: &mut Node, path: &Path, model: &Model<'_>) {
    let Some(services) = document.get("services").and_then(Node::as_map) else {
        return;
    };
    let extending: Vec<String> = services
        .iter()
        .filter(|(_, s)| s.tag.is_none() && s.get("extends").is_some())
        .map(|(name, _)| name.clone())
        .collect();
    for name in extending {
        resolve(session, document, path, model, name);
    }
}

fn resolve(
    session: &mut Session<'_>,
    document: &mut Node,
    path: &Path,
    model: &Model<'_>,
    name: String,
) {
    let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) else {
        return;
    };
    let Some(first) = services.get(&name) else {
        return;
    };
    let mut chain = vec![Link {
        file: path.to_owned(),
        name: name.clone(),
        service: first.clone(),
        extends_at: None,
        is_local: true,
    }];
    let mut failed = false;
    loop {
        let Some(last) = chain.last_mut() else { return };
        let Some(extends) = last
            .service
            .as_map_mut()
            .and_then(|s| s.shift_remove("extends"))
        else {
            break;
        };
        if extends.is_null() || extends.tag.is_some() {
            break;
        }
        last.extends_at = Some(extends.entry_span());
        let (file, from, is_local) = (last.file.clone(), last.name.clone(), last.is_local);
        match base(session, services, &file, &from, is_local, &extends, model) {
            None => {
                session.is_partial = true;
                failed = true;
                break;
            }
            Some(link) => {
                if let Some(at) = chain
                    .iter()
                    .position(|l| l.file == link.file && l.name == link.name)
                {
                    report_cycle(session, &chain[at..], &link, extends.span);
                    failed = true;
                    break;
                }
                chain.push(link);
            }
        }
    }
    let Some(mut base) = chain.pop() else { return };
    if failed {
        // What is there is kept, without the key, so that other mistakes can be found as well.
        merge::settle(&mut base.service);
    }
    while let Some(mut child) = chain.pop() {
        let weight = base.service.weight();
        let may = session.budget.spend(
            Use::Copies,
            weight,
            child.extends_at,
            &mut session.diagnostics,
        );
        if !may {
            session.is_partial = true;
            merge::settle(&mut child.service);
            if child.is_local {
                services.insert(child.name, child.service);
            }
            continue;
        }
        let mut service = base.service.clone();
        // What a base resets has no target in who extends it (M14).
        merge::settle(&mut service);
        if base.is_local {
            services.insert(base.name, base.service);
        }
        let extent = Some(service.span);
        merge::reset(&mut service, &mut child.service);
        merge::settle(&mut child.service);
        service.key = child.service.key;
        service.span = child.service.span;
        merge::service(&mut service, child.service, &mut session.diagnostics);
        merge::unique_service(&mut service);
        service.history.push(Step::Rule {
            name: rule::EXTENDS,
            at: child.extends_at,
            extent,
        });
        base = Link { service, ..child };
    }
    services.insert(base.name, base.service);
}

/// Finds the service that one extends.
fn base(
    session: &mut Session<'_>,
    services: &Map,
    file: &Path,
    from: &str,
    is_local: bool,
    extends: &Node,
    model: &Model<'_>,
) -> Option<Link> {
    let Some(service) = extends.get("service").and_then(Node::as_str) else {
        session.diagnostics.push(
            Diagnostic::error("extends", format!("extends.{from}.service is required"))
                .at(extends.entry_span()),
        );
        return None;
    };
    let service_at = extends.get("service").map_or(extends.span, |n| n.span);
    let named = extends.get("file").filter(|n| !n.is_null());
    if named.is_none() && is_local {
        let Some(found) = services.get(service) else {
            not_found(session, services, from, file, service, file, service_at);
            return None;
        };
        return Some(Link {
            file: file.to_owned(),
            name: service.to_owned(),
            service: found.clone(),
            extends_at: None,
            is_local: true,
        });
    }
    let target = match named.and_then(Node::as_str) {
        None => file.to_owned(),
        Some(text) if is_remote(text) => {
            session.remote(text, Some(extends.span), model.environment)?
        }
        // Inside a base file the path is already resolved against that file.
        Some(text) => {
            let resolver = Resolver {
                base: model.directory,
                environment: model.environment,
            };
            PathBuf::from(clean(&resolver.resolve(text)))
        }
    };
    let documents = session.documents(&target, named.map(|n| n.span))?;
    // The documents of a file are merged like files (P5).
    let found: Vec<&Node> = documents
        .iter()
        .filter_map(|d| d.get("services").and_then(|s| s.get(service)))
        .collect();
    if found.is_empty() {
        let empty = Map::default();
        let known = documents
            .iter()
            .find_map(|d| d.get("services").and_then(Node::as_map))
            .unwrap_or(&empty);
        not_found(session, known, from, file, service, &target, service_at);
        return None;
    }
    let mut merged: Option<Node> = None;
    for document in found {
        let mut document = document.clone();
        let services = Trail::Root.key("services");
        session.admit(&mut document, &BASE, &services.key(service), model);
        if document.is_null() {
            document.value = Value::from(Map::default());
        }
        if let Some(map) = document.as_map_mut() {
            session.canonical().service(map);
        }
        match &mut merged {
            None => merged = Some(document),
            Some(merged) => {
                merge::reset(merged, &mut document);
                merge::settle(&mut document);
                merge::service(merged, document, &mut session.diagnostics);
                merge::unique_service(merged);
            }
        }
    }
    let mut found = merged?;
    if let Some(map) = found.as_map_mut() {
        let directory = target.parent().unwrap_or(Path::new("/"));
        // Without path resolution the paths are still moved under the main file's directory.
        let relative = directory.strip_prefix(model.directory).unwrap_or(directory);
        let resolver = Resolver {
            base: directory,
            environment: model.environment,
        };
        let extends_file = map
            .get("extends")
            .and_then(|e| e.get_str("file"))
            .filter(|text| !is_remote(text))
            .map(|text| resolver.resolve(text));
        if session.resolve_paths {
            resolver.service(map);
        } else if !relative.as_os_str().is_empty() {
            Resolver {
                base: relative,
                environment: model.environment,
            }
            .service(map);
        }
        if let (Some(text), Some(file)) = (
            extends_file,
            map.get_mut("extends").and_then(|e| e.get_mut("file")),
        ) {
            file.value = Value::Text(text);
        }
    }
    Some(Link {
        file: target,
        name: service.to_owned(),
        service: found,
        extends_at: None,
        is_local: false,
    })
}

fn not_found(
    session: &mut Session<'_>,
    known: &Map,
    from: &str,
    file: &Path,
    service: &str,
    target: &Path,
    at: Span,
) {
    let shown = |p: &Path| session.sources.display_path(p).display().to_string();
    let message = format!(
        "cannot extend service {from:?} in {}: service {service:?} not found in {}",
        shown(file),
        shown(target)
    );
    let mut diagnostic = Diagnostic::error("extends", message).at(at);
    if session.diagnostics.len() < schema::MAX_SUGGESTIONS
        && let Some(near) = schema::nearest(service, known.keys().map(String::as_str))
    {
        diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
    }
    session.diagnostics.push(diagnostic);
}

fn report_cycle(session: &mut Session<'_>, chain: &[Link], again: &Link, at: Span) {
    let mut message = "Circular reference:".to_owned();
    for (n, link) in chain.iter().chain([again]).enumerate() {
        let verb = if n == 0 { "" } else { "extends " };
        let file = session.sources.display_path(&link.file).display();
        message.push_str(&format!("\n  {verb}{} in {file}", link.name));
    }
    session
        .diagnostics
        .push(Diagnostic::error("extends-cycle", message).at(at));
}

/// Whether a reference names something on another machine.
pub fn is_remote(reference: &str) -> bool {
    reference.starts_with("oci://")
        || is_remote_context(reference) && !reference.starts_with("service:")
}

/// A URL, or a sentence with one, without the user and password in it: they must not reach a log.
pub fn clean_url(reference: &str) -> String {
    match (reference.find("://"), reference.find('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://{}", &reference[..scheme], &reference[at + 1..])
        }
        _ => reference.to_owned(),
    }
}

/// A path as text without `.` and `..`.
pub fn clean_path(path: &Path) -> PathBuf {
    PathBuf::from(clean(&path.to_string_lossy()))
}
