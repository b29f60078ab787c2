//! Rules inside one value: what is required, what excludes what.
//!
//! References between values are [`super::consistency`]'s.

use super::schema;
use crate::source::{Diagnostic, Node, Span};

pub(super) fn services(root: &Node) -> impl Iterator<Item = (&String, &Node)> {
    root.get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
}

pub(super) fn list<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> {
    node.get(key).and_then(Node::as_list).into_iter().flatten()
}

pub(super) fn error(code: &'static str, at: Span, message: String) -> Diagnostic {
    Diagnostic::error(code, message).at(at)
}

/// Keys without which a value says nothing. Runs on the merged whole: any file may supply them.
pub fn required(root: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let mut need = |node: &Node, path: String, keys: &[&str]| {
        if node.as_map().is_none() {
            return;
        }
        for key in keys {
            if node.get(key).is_none_or(Node::is_null) {
                diagnostics.push(error(
                    "missing-key",
                    node.entry_span(),
                    format!("{path} {key} is required"),
                ));
            }
        }
    };
    for (name, service) in services(root) {
        let path = |tail: String| format!("services.{name}.{tail}");
        for (on, dependency) in service
            .get("depends_on")
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            need(dependency, path(format!("depends_on.{on}")), &["condition"]);
        }
        if let Some(develop) = service.get("develop") {
            for (at, rule) in list(develop, "watch").enumerate() {
                need(
                    rule,
                    path(format!("develop.watch.{at}")),
                    &["action", "path"],
                );
            }
        }
        for (at, port) in list(service, "ports").enumerate() {
            need(port, path(format!("ports.{at}")), &["target"]);
        }
        for (at, volume) in list(service, "volumes").enumerate() {
            need(volume, path(format!("volumes.{at}")), &["type"]);
        }
        for key in ["pre_start", "post_start", "pre_stop"] {
            for (at, hook) in list(service, key).enumerate() {
                need(hook, path(format!("{key}.{at}")), &["command"]);
            }
        }
        for (limit, value) in service
            .get("ulimits")
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            need(value, path(format!("ulimits.{limit}")), &["soft", "hard"]);
        }
        if let Some(provider) = service.get("provider") {
            need(provider, path("provider".into()), &["type"]);
        }
        let reservations = service
            .get("deploy")
            .and_then(|d| d.get("resources"))
            .and_then(|r| r.get("reservations"));
        if let Some(reservations) = reservations {
            for (at, device) in list(reservations, "devices").enumerate() {
                let path = path(format!("deploy.resources.reservations.devices.{at}"));
                need(device, path, &["capabilities"]);
            }
        }
        for (at, device) in list(service, "devices").enumerate() {
            need(device, path(format!("devices.{at}")), &["source"]);
        }
    }
    for (name, model) in root
        .get("models")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
    {
        need(model, format!("models.{name}"), &["model"]);
    }
    shape(root, diagnostics);
}

/// Rules inside one value (extra validation of the reference, C3, C5, C17, V6).
fn shape(root: &Node, diagnostics: &mut Vec<Diagnostic>) {
    for section in ["networks", "volumes", "secrets", "configs"] {
        for (name, entry) in root
            .get(section)
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            external_alone(section, name, entry, diagnostics);
        }
    }
    for (section, kind) in [("secrets", "secret"), ("configs", "config")] {
        for (name, entry) in root
            .get(section)
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            if entry.get("external").and_then(Node::as_bool) == Some(true) {
                continue;
            }
            let sources: Vec<&str> = ["file", "environment", "content"]
                .into_iter()
                .filter(|key| entry.get(key).is_some_and(|n| !n.is_null()))
                .collect();
            if sources.len() != 1 {
                let words = match section {
                    "secrets" => "file|environment",
                    _ => "file|environment|content",
                };
                let message = match sources.len() {
                    0 => format!("{section}.{name}: one of {words} must be set"),
                    _ => format!("{section}.{name}: {words} attributes are mutually exclusive"),
                };
                diagnostics.push(
                    error("content-source", entry.entry_span(), message)
                        .help(format!("say where the {kind}'s content comes from, once")),
                );
            }
        }
    }
    for (name, service) in services(root) {
        for volume in list(service, "volumes") {
            let kind = volume.get_str("type").unwrap_or_default();
            let has_source = volume.get_str("source").is_some_and(|s| !s.is_empty());
            if matches!(kind, "bind" | "image") && !has_source {
                diagnostics.push(error(
                    "mount",
                    volume.span,
                    format!(
                        "invalid mount config for type {kind:?}: field Source must not be empty"
                    ),
                ));
            }
            if kind == "tmpfs" && has_source {
                diagnostics.push(error(
                    "mount",
                    volume.span,
                    "invalid mount config for type \"tmpfs\": field Source must be empty".into(),
                ));
            }
            if volume.as_map().is_some() && volume.get_str("target").is_none_or(str::is_empty) {
                diagnostics.push(error(
                    "mount",
                    volume.span,
                    format!(
                        "invalid mount config for type {kind:?}: field Target must not be empty"
                    ),
                ));
            }
        }
        if let Some(build) = service.get("build")
            && build.get("dockerfile_inline").is_some()
            && let Some(dockerfile) = build.get("dockerfile")
        {
            diagnostics.push(
                error(
                    "build",
                    dockerfile.entry_span(),
                    format!("service {name:?} declares mutually exclusive dockerfile and dockerfile_inline"),
                )
                .help("keep one of the two"),
            );
        }
    }
}

fn external_alone(section: &str, name: &str, entry: &Node, diagnostics: &mut Vec<Diagnostic>) {
    if entry.get("external").and_then(Node::as_bool) != Some(true) {
        return;
    }
    for (key, node) in entry.as_map().into_iter().flatten() {
        if key != "name" && key != "external" && !schema::is_extension(key) && !node.is_null() {
            diagnostics.push(
                error(
                    "external",
                    node.entry_span(),
                    format!("{section}.{name}: conflicting parameters \"external\" and {key:?} specified"),
                )
                .help("an external resource is used as it is; only its name can be given"),
            );
        }
    }
}
