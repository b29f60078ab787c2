//! Rules inside one value: what is required, what excludes what.
//!
//! References between values are [`super::consistency`]'s.

use std::fmt;

use super::schema;
use crate::source::{Diagnostic, Node, Span, Value};

pub(super) fn services(root: &Node) -> impl Iterator<Item = (&String, &Node)> {
    entries(root, "services")
}

fn entries<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = (&'n String, &'n Node)> {
    node.get(key).and_then(Node::as_map).into_iter().flatten()
}

pub(super) fn list<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> {
    node.get(key).and_then(Node::as_list).into_iter().flatten()
}

pub(super) fn error(code: &'static str, at: Span, message: String) -> Diagnostic {
    Diagnostic::error(code, message).at(at)
}

/// Keys without which a value says nothing. Runs on the merged whole: any file may supply them.
pub fn required(root: &Node, check_values: bool, diagnostics: &mut Vec<Diagnostic>) {
    // Paths are written out for messages alone: most values lack nothing.
    let mut need = |node: &Node, keys: &[&str], path: fmt::Arguments<'_>| {
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
        let mut each = |key: &str, keys: &[&str]| {
            for (at, item) in list(service, key).enumerate() {
                need(item, keys, format_args!("services.{name}.{key}.{at}"));
            }
        };
        each("ports", &["target"]);
        each("volumes", &["type"]);
        for key in ["pre_start", "post_start", "pre_stop"] {
            each(key, &["command"]);
        }
        each("devices", &["source", "target"]);
        each("env_file", &["path"]);
        for (on, dependency) in entries(service, "depends_on") {
            let path = format_args!("services.{name}.depends_on.{on}");
            need(dependency, &["condition"], path);
        }
        if let Some(develop) = service.get("develop") {
            for (at, rule) in list(develop, "watch").enumerate() {
                let path = format_args!("services.{name}.develop.watch.{at}");
                need(rule, &["action", "path"], path);
                if let Some(exec) = rule.get("exec") {
                    let path = format_args!("services.{name}.develop.watch.{at}.exec");
                    need(exec, &["command"], path);
                }
            }
        }
        for (limit, value) in entries(service, "ulimits") {
            let path = format_args!("services.{name}.ulimits.{limit}");
            need(value, &["soft", "hard"], path);
        }
        if let Some(provider) = service.get("provider") {
            let path = format_args!("services.{name}.provider");
            need(provider, &["type"], path);
        }
        let reservations = service
            .get("deploy")
            .and_then(|d| d.get("resources"))
            .and_then(|r| r.get("reservations"));
        if let Some(reservations) = reservations {
            for (at, device) in list(reservations, "devices").enumerate() {
                let path =
                    format_args!("services.{name}.deploy.resources.reservations.devices.{at}");
                need(device, &["capabilities"], path);
            }
        }
    }
    for (name, model) in entries(root, "models") {
        need(model, &["model"], format_args!("models.{name}"));
    }
    shape(root, check_values, diagnostics);
}

/// Rules inside one value (extra validation of the reference, C3, C5, C17, V6).
fn shape(root: &Node, check_values: bool, diagnostics: &mut Vec<Diagnostic>) {
    for section in ["networks", "volumes", "secrets", "configs"] {
        for (name, entry) in entries(root, section) {
            external_alone(section, name, entry, diagnostics);
        }
    }
    for (section, kind) in [("secrets", "secret"), ("configs", "config")] {
        for (name, entry) in entries(root, section) {
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
        container_name(name, service, check_values, diagnostics);
        for (key, most) in [("cpu_count", None), ("cpu_percent", Some(100.0))] {
            let Some(node) = service.get(key) else {
                continue;
            };
            let number = match node.value {
                Value::Int(value) => value as f64,
                Value::Float(value) => value,
                _ => continue,
            };
            if number < 0.0 || most.is_some_and(|most| number > most) {
                let range = match most {
                    Some(most) => format!("must be between 0 and {most}"),
                    None => "must be greater than or equal to 0".to_owned(),
                };
                let message = format!("services.{name}.{key} {range}");
                diagnostics.push(error("wrong-value", node.span, message));
            }
        }
        not_negative(name, service, diagnostics);
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
                let message = "invalid mount config for type \"tmpfs\": field Source must be empty";
                diagnostics.push(match check_values {
                    true => error("mount", volume.span, message.into()),
                    false => Diagnostic::warning("mount", message).at(volume.span),
                });
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

/// Counts that an engine takes as unsigned numbers.
fn not_negative(service: &str, node: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let mut see = |at: Option<&Node>, key: &str, path: fmt::Arguments<'_>| {
        if let Some(node) = at.and_then(|at| at.get(key))
            && matches!(node.value, Value::Int(n) if n < 0)
        {
            let message =
                format!("services.{service}.{path}.{key} must be greater than or equal to 0");
            diagnostics.push(error("wrong-value", node.span, message));
        }
    };
    let of = |key: &str| node.get("deploy").and_then(|deploy| deploy.get(key));
    see(
        node.get("healthcheck"),
        "retries",
        format_args!("healthcheck"),
    );
    see(
        node.get("blkio_config"),
        "weight",
        format_args!("blkio_config"),
    );
    for (part, key) in [
        ("update_config", "parallelism"),
        ("rollback_config", "parallelism"),
        ("restart_policy", "max_attempts"),
        ("placement", "max_replicas_per_node"),
    ] {
        see(of(part), key, format_args!("deploy.{part}"));
    }
    for (at, port) in list(node, "ports").enumerate() {
        see(Some(port), "target", format_args!("ports.{at}"));
    }
}

/// An engine's names are `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. The reference is content when a part of the
/// name is such a one; the engine is not.
fn container_name(
    service: &str,
    node: &Node,
    check_values: bool,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(node) = node.get("container_name") else {
        return;
    };
    // A template has no name yet.
    let Some(text) = node.as_str().filter(|t| !t.contains('$')) else {
        return;
    };
    let is_letter = |c: char| c.is_ascii_alphanumeric();
    let is_legal = |c: char| is_letter(c) || matches!(c, '_' | '.' | '-');
    if text.len() > 1 && text.starts_with(is_letter) && text.chars().all(is_legal) {
        return;
    }
    let chars: Vec<char> = text.chars().collect();
    let has_legal_part = chars
        .windows(2)
        .any(|pair| is_letter(pair[0]) && is_legal(pair[1]));
    let message = format!(
        "services.{service}.container_name '{text}' does not match pattern '[a-zA-Z0-9][a-zA-Z0-9_.-]+'"
    );
    let diagnostic = match check_values || !has_legal_part {
        true => Diagnostic::error("container-name", message),
        false => Diagnostic::warning("container-name", message),
    };
    diagnostics.push(diagnostic.at(node.span).help(
        "use letters, digits, `_`, `.` and `-`, at least two, and begin with a letter or digit",
    ));
}

/// One note for all keys that only a cluster of machines can honour. They are kept and printed.
pub fn without_effect(root: &Node, diagnostics: &mut Vec<Diagnostic>) {
    /// More places would hide the message.
    const MAX_SHOWN: usize = 3;
    let mut found: Vec<(String, Span)> = Vec::new();
    let mut see = |node: Option<&Node>, path: fmt::Arguments<'_>| {
        if let Some(node) = node
            && !node.is_null()
            && node.as_map().is_none_or(|map| !map.is_empty())
        {
            found.push((path.to_string(), node.entry_span()));
        }
    };
    for (name, service) in services(root) {
        for key in [
            "credential_spec",
            "isolation",
            "cpu_count",
            "cpu_percent",
            "pull_refresh_after",
        ] {
            see(service.get(key), format_args!("services.{name}.{key}"));
        }
        for volume in list(service, "volumes") {
            let path = format_args!("services.{name}.volumes.consistency");
            see(volume.get("consistency"), path);
        }
        let Some(deploy) = service.get("deploy") else {
            continue;
        };
        let mode = deploy.get("mode");
        see(
            mode.filter(|m| m.as_str() != Some("replicated")),
            format_args!("services.{name}.deploy.mode"),
        );
        for key in [
            "endpoint_mode",
            "placement",
            "update_config",
            "rollback_config",
        ] {
            see(
                deploy.get(key),
                format_args!("services.{name}.deploy.{key}"),
            );
        }
        let reservations = deploy.get("resources").and_then(|r| r.get("reservations"));
        for key in ["cpus", "generic_resources"] {
            let path = format_args!("services.{name}.deploy.resources.reservations.{key}");
            see(reservations.and_then(|r| r.get(key)), path);
        }
    }
    for (name, network) in entries(root, "networks") {
        let attachable = network.get("attachable");
        see(
            attachable.filter(|n| n.as_bool() == Some(true)),
            format_args!("networks.{name}.attachable"),
        );
    }
    if found.is_empty() {
        return;
    }
    found.dedup_by(|a, b| a.0 == b.0);
    let names: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    let message = match names.len() {
        1 => format!("{} has no effect on one machine", names[0]),
        n if n <= MAX_SHOWN => format!("{} have no effect on one machine", names.join(", ")),
        n => format!(
            "{} and {} more keys have no effect on one machine",
            names[..MAX_SHOWN].join(", "),
            n - MAX_SHOWN
        ),
    };
    let mut note = Diagnostic::note("no-effect", message);
    for (_, span) in found.iter().take(MAX_SHOWN) {
        note = note.at(*span);
    }
    diagnostics.push(note);
}

fn external_alone(section: &str, name: &str, entry: &Node, diagnostics: &mut Vec<Diagnostic>) {
    if entry.get("external").and_then(Node::as_bool) != Some(true) {
        return;
    }
    for (key, node) in entry.as_map().into_iter().flatten() {
        if key != "name" && key != "external" && !schema::is_extension(key) && !node.is_null() {
            let message = format!(
                "{section}.{name}: conflicting parameters \"external\" and {key:?} specified"
            );
            // The reference refuses it for volumes alone; elsewhere files have it and work.
            let diagnostic = match section {
                "volumes" => Diagnostic::error("external", message),
                _ => Diagnostic::warning("external", message),
            };
            diagnostics.push(
                diagnostic
                    .at(node.entry_span())
                    .help("an external resource is used as it is; only its name can be given"),
            );
        }
    }
}
