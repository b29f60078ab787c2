//! What a file implies without saying it: defaults, names, networks, dependencies.

use std::collections::BTreeSet;

use super::rule;
use crate::source::{Map, Node, Span, Value};

/// Fills in defaults that stand inside one value. Runs before paths are resolved, because a missing
/// build context is the directory itself.
pub fn defaults(root: &mut Node) {
    let services = root.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(Map::values_mut) {
        if service.is_null() {
            // `web:` alone is completed by another file or not at all (Y8).
            service.value = Value::from(Map::default());
        }
        let Some(service) = service.as_map_mut() else {
            continue;
        };
        if let Some(build) = service.get_mut("build") {
            let span = build.span;
            if let Some(build) = build.as_map_mut() {
                default(build, "context", span, Value::Text(".".into()));
            }
        }
        if let Some(provider) = service.get_mut("provider") {
            provider_options(provider);
        }
        for secret in list(service.get_mut("secrets")) {
            secret_target(secret);
        }
        for port in list(service.get_mut("ports")) {
            let span = port.span;
            if let Some(port) = port.as_map_mut() {
                default(port, "mode", span, Value::Text("ingress".into()));
                default(port, "protocol", span, Value::Text("tcp".into()));
            }
        }
        for volume in list(service.get_mut("volumes")) {
            if volume.get_str("type") == Some("bind")
                && let Some(bind) = volume.get_mut("bind")
            {
                let span = bind.span;
                if let Some(bind) = bind.as_map_mut() {
                    default(bind, "create_host_path", span, Value::Bool(true));
                }
            }
        }
        for dependency in service
            .get_mut("depends_on")
            .and_then(Node::as_map_mut)
            .into_iter()
            .flat_map(Map::values_mut)
        {
            let span = dependency.span;
            if let Some(dependency) = dependency.as_map_mut() {
                default(dependency, "required", span, Value::Bool(true));
            }
        }
        for item in list(service.get_mut("env_file")) {
            if item.as_str().is_some() {
                let text = std::mem::replace(&mut item.value, Value::Null);
                let path = item.with(text);
                let required = Node::new(item.span, Value::Bool(true));
                item.value = Value::from(Map::from_iter([
                    ("path".to_owned(), path),
                    ("required".to_owned(), required),
                ]));
            }
        }
        device_requests(service.get_mut("gpus"));
        device_requests(
            service
                .get_mut("deploy")
                .and_then(|d| d.get_mut("resources"))
                .and_then(|r| r.get_mut("reservations"))
                .and_then(|r| r.get_mut("devices")),
        );
    }
}

/// Options are handed to the provider as flags, each as often as it has values. One that is written
/// without a list is replaced by a later file, so this comes after all of them.
fn provider_options(node: &mut Node) {
    let options = node.get_mut("options").and_then(Node::as_map_mut);
    for option in options.into_iter().flat_map(Map::values_mut) {
        let to_text = |node: &mut Node| {
            if let Some(text) = node.scalar_text() {
                node.value = Value::Text(text);
            }
        };
        if let Some(items) = option.as_list_mut() {
            items.iter_mut().for_each(to_text);
        } else {
            to_text(option);
            let one = Node::new(
                option.span,
                std::mem::replace(&mut option.value, Value::Null),
            );
            option.value = Value::List(vec![one]);
        }
    }
}

fn list(node: Option<&mut Node>) -> impl Iterator<Item = &mut Node> {
    node.and_then(Node::as_list_mut).into_iter().flatten()
}

fn default(map: &mut Map, key: &str, span: Span, value: Value) {
    match map.get(key) {
        Some(node) if !node.is_null() => {}
        _ => {
            let mut node = Node::new(span, value);
            node.history.implied(rule::DEFAULT);
            map.insert(key.to_owned(), node);
        }
    }
}

/// A node that no text says.
fn implied_node(span: Span, value: Value, rule: &'static str) -> Node {
    let mut node = Node::new(span, value);
    node.history.implied(rule);
    node
}

fn secret_target(secret: &mut Node) {
    let span = secret.span;
    let target = secret
        .get_str("source")
        .map(|source| format!("/run/secrets/{source}"));
    if let (Some(target), Some(secret)) = (target, secret.as_map_mut()) {
        default(secret, "target", span, Value::Text(target));
    }
}

/// A request without a number and without devices is for all of them (C9).
fn device_requests(node: Option<&mut Node>) {
    for request in list(node) {
        let span = request.span;
        if let Some(request) = request.as_map_mut()
            && !request.contains_key("device_ids")
        {
            default(request, "count", span, Value::Int(-1));
        }
    }
}

/// Adds the networks, names and dependencies that follow from the rest (V1–V5).
pub fn normalize(root: &mut Node, project: &str) {
    let Some(root_map) = root.as_map_mut() else {
        return;
    };
    let mut default_used = None;
    let services = root_map.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(Map::values_mut) {
        let span = service.entry_span();
        let Some(service) = service.as_map_mut() else {
            continue;
        };
        let names_networks = service
            .get("networks")
            .and_then(Node::as_map)
            .is_some_and(|n| !n.is_empty());
        if !names_networks
            && !service.contains_key("network_mode")
            && !service.contains_key("provider")
        {
            let networks = Map::from_iter([(
                "default".to_owned(),
                implied_node(span, Value::Null, rule::DEFAULT_NETWORK),
            )]);
            service.insert(
                "networks".to_owned(),
                implied_node(span, networks.into(), rule::DEFAULT_NETWORK),
            );
        }
        if service
            .get("networks")
            .and_then(Node::as_map)
            .is_some_and(|n| n.contains_key("default"))
        {
            default_used.get_or_insert(span);
        }
        if let Some(build) = service.get_mut("build") {
            let span = build.span;
            if let Some(build) = build.as_map_mut()
                && build
                    .get("dockerfile_inline")
                    .and_then(Node::as_str)
                    .is_none_or(str::is_empty)
            {
                default(build, "dockerfile", span, Value::Text("Dockerfile".into()));
            }
        }
        imply_dependencies(service);
        if let Some(Value::Text(policy)) = service.get_mut("pull_policy").map(|p| &mut p.value)
            && policy == "if_not_present"
        {
            *policy = "missing".to_owned();
        }
        if let Some(args) = service
            .get_mut("build")
            .and_then(|b| b.get_mut("args"))
            .and_then(Node::as_map_mut)
        {
            args.retain(|_, value| !value.is_null());
        }
        let inherited = service.get("image").cloned();
        for hook in list(service.get_mut("pre_start")) {
            if let (Some(hook), Some(image)) = (hook.as_map_mut(), &inherited) {
                hook.entry("image".to_owned())
                    .or_insert_with(|| image.clone());
            }
        }
    }
    if let Some(span) = default_used {
        root_map
            .entry("networks".to_owned())
            .or_insert_with(|| Node::new(span, Value::from(Map::default())))
            .as_map_mut()
            .map(|networks| {
                networks
                    .entry("default".to_owned())
                    .or_insert_with(|| implied_node(span, Value::Null, rule::DEFAULT_NETWORK))
            });
    }
    for section in ["networks", "volumes", "configs", "secrets"] {
        let entries = root_map.get_mut(section).and_then(Node::as_map_mut);
        for (key, entry) in entries.into_iter().flatten() {
            if entry.is_null() {
                entry.value = Value::from(Map::default());
            }
            let span = entry.entry_span();
            let Some(map) = entry.as_map_mut() else {
                continue;
            };
            let external = map.get("external").and_then(Node::as_bool) == Some(true);
            let name = match external {
                true => key.clone(),
                false => format!("{project}_{key}"),
            };
            match map.get("name").and_then(Node::as_str) {
                Some(own) if !own.is_empty() => {}
                _ => {
                    map.insert(
                        "name".to_owned(),
                        implied_node(span, Value::Text(name), rule::RESOURCE_NAME),
                    );
                }
            }
        }
    }
}

/// Dependencies that links and shared namespaces bring (V3). What is written stays.
fn imply_dependencies(service: &mut Map) {
    let mut implied: Vec<(String, bool, Span)> = Vec::new();
    let texts = |key: &str| {
        service
            .get(key)
            .and_then(Node::as_list)
            .into_iter()
            .flatten()
            .filter_map(|n| Some((n.as_str()?, n.span)))
    };
    for (link, span) in texts("links") {
        let name = link.split(':').next().unwrap_or(link);
        implied.push((name.to_owned(), true, span));
    }
    for key in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(key)
            && let Some(name) = node.as_str().and_then(|t| t.strip_prefix("service:"))
        {
            implied.push((name.to_owned(), true, node.span));
        }
    }
    for (from, span) in texts("volumes_from") {
        if !from.starts_with("container:") {
            let name = from.split(':').next().unwrap_or(from);
            implied.push((name.to_owned(), false, span));
        }
    }
    let Some((_, _, span)) = implied.first() else {
        return;
    };
    let span = *span;
    let entry = service
        .entry("depends_on".to_owned())
        .or_insert_with(|| Node::new(span, Value::from(Map::default())));
    let Some(dependencies) = entry.as_map_mut() else {
        return;
    };
    for (name, restart, span) in implied {
        dependencies.entry(name).or_insert_with(|| {
            let mut map = Map::default();
            map.insert("condition".into(), Node::text(span, "service_started"));
            if restart {
                map.insert("restart".into(), Node::new(span, Value::Bool(true)));
            }
            map.insert("required".into(), Node::new(span, Value::Bool(true)));
            implied_node(span, map.into(), rule::IMPLIED_DEPENDENCY)
        });
    }
}

/// Takes out the resources that no service uses (S5).
pub fn drop_unused(root: &mut Node) {
    let mut used: BTreeSet<(&'static str, String)> = BTreeSet::new();
    for service in root
        .get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flat_map(Map::values)
    {
        for section in ["networks", "models"] {
            for name in service
                .get(section)
                .and_then(Node::as_map)
                .into_iter()
                .flat_map(Map::keys)
            {
                used.insert((section, name.clone()));
            }
        }
        let mut take = |section, list: Option<&Node>| {
            for item in list.and_then(Node::as_list).into_iter().flatten() {
                let is_volume = section != "volumes" || item.get_str("type") == Some("volume");
                if let Some(name) = item.get_str("source").filter(|_| is_volume) {
                    used.insert((section, name.to_owned()));
                }
            }
        };
        take("volumes", service.get("volumes"));
        take("secrets", service.get("secrets"));
        take("configs", service.get("configs"));
        take(
            "secrets",
            service.get("build").and_then(|b| b.get("secrets")),
        );
    }
    for section in ["networks", "volumes", "secrets", "configs", "models"] {
        if let Some(entries) = root.get_mut(section).and_then(Node::as_map_mut) {
            entries.retain(|name, _| used.contains(&(section, name.clone())));
        }
    }
}
