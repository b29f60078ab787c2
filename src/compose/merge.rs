//! Two canonical trees to one: the later file's values over the earlier one's.
//!
//! Mappings merge key by key, lists append and are then made unique by what identifies an entry,
//! scalars replace (M1–M14). Places stay those of the text each value came from.

use indexmap::IndexMap;

use super::rule;
use crate::source::{Diagnostic, Map, Node, Step, Tag, Trail, Value};

/// How two values of one key meet.
enum Rule {
    Merge,
    Replace,
    /// A null is a value here: it means "from the environment".
    Variables,
    Logging,
    Pools,
    /// Of a provider: lists are appended, anything else replaces.
    Flag,
}

fn rule(path: &Trail<'_>) -> Rule {
    // From the value up to the root; no rule is about anything deeper.
    let mut keys = [""; 5];
    let mut depth = 0;
    for key in path.keys_upwards() {
        let Some(slot) = keys.get_mut(depth) else {
            return Rule::Merge;
        };
        *slot = key;
        depth += 1;
    }
    match &keys[..depth] {
        ["command" | "entrypoint", _, "services"]
        | ["test", "healthcheck", _, "services"]
        | [_, "ulimits", _, "services"]
        | [_, "ulimits", "build", _, "services"] => Rule::Replace,
        ["environment", _, "services"] | ["args", "build", _, "services"] => Rule::Variables,
        ["logging", _, "services"] => Rule::Logging,
        ["config", "ipam", _, "networks"] => Rule::Pools,
        [_, "options", "provider", _, "services"] => Rule::Flag,
        _ => Rule::Merge,
    }
}

/// Of these a null is a value, too: what the image says.
fn is_command(path: &Trail<'_>) -> bool {
    let mut keys = path.keys_upwards();
    let is_one = match keys.next() {
        Some("command" | "entrypoint") => true,
        Some("test") => keys.next() == Some("healthcheck"),
        _ => false,
    };
    is_one && keys.nth(1) == Some("services") && keys.next().is_none()
}

/// Merges a whole document over what was loaded before it.
pub fn project(left: &mut Node, right: Node, diagnostics: &mut Vec<Diagnostic>) {
    merge(left, right, &Trail::Root, diagnostics);
}

/// Merges a service over the one it extends.
pub fn service(left: &mut Node, right: Node, diagnostics: &mut Vec<Diagnostic>) {
    let services = Trail::Root.key("services");
    merge(left, right, &services.key("*"), diagnostics);
}

fn merge(left: &mut Node, mut right: Node, path: &Trail<'_>, diagnostics: &mut Vec<Diagnostic>) {
    if left.is_null() {
        *left = right;
        return;
    }
    let rule = match &left.value {
        Value::Map(_) | Value::List(_) => rule(path),
        _ => Rule::Replace,
    };
    if right.is_null() {
        if is_command(path) {
            succeed(&mut right, left, rule::REPLACE);
            *left = right;
        }
        return;
    }
    let at = right.span;
    let rule = match (&right.value, rule) {
        (Value::List(_), Rule::Flag) => Rule::Merge,
        (_, Rule::Flag) => Rule::Replace,
        (_, rule) => rule,
    };
    match (&mut left.value, &mut right.value, rule) {
        (_, _, Rule::Replace) => {
            let key = left.key;
            succeed(&mut right, left, rule::REPLACE);
            *left = right;
            left.key = left.key.or(key);
        }
        (Value::Map(below), Value::Map(above), Rule::Logging) => {
            let driver = |map: &Map| map.get("driver").and_then(Node::as_str).map(str::to_owned);
            match (driver(below), driver(above)) {
                (Some(a), Some(b)) if a != b => {
                    succeed(&mut right, left, rule::REPLACE_DRIVER);
                    *left = right;
                }
                _ => {
                    maps(below, *std::mem::take(above), path, diagnostics);
                    left.history.rule(rule::MERGE, at);
                }
            }
        }
        (Value::Map(below), Value::Map(above), Rule::Variables) => {
            for (name, mut value) in *std::mem::take(above) {
                if let Some(old) = below.get(&name) {
                    succeed(&mut value, old, rule::REPLACE);
                }
                below.insert(name, value);
            }
            left.history.rule(rule::MERGE, at);
        }
        (Value::Map(below), Value::Map(above), _) => {
            maps(below, *std::mem::take(above), path, diagnostics);
            left.history.rule(rule::MERGE, at);
        }
        (Value::List(below), Value::List(above), Rule::Pools) => {
            for pool in std::mem::take(above) {
                let subnet = pool.get_str("subnet").map(str::to_owned);
                let same = below
                    .iter_mut()
                    .find(|p| subnet.is_some() && p.get_str("subnet") == subnet.as_deref());
                match same {
                    Some(same) => merge(same, pool, path, diagnostics),
                    None => below.push(pool),
                }
            }
            left.history.rule(rule::MERGE_SUBNET, at);
        }
        (Value::List(below), Value::List(above), _) => {
            below.append(above);
            left.history.rule(rule::APPEND, at);
        }
        _ => {
            diagnostics.push(
                Diagnostic::error("merge-kind", format!("cannot override {path}"))
                    .label(right.span, format!("this is {}", right.value.kind()))
                    .label(left.span, format!("this is {}", left.value.kind()))
                    .help("use `!override` to replace the value whatever it was"),
            );
        }
    }
}

/// Notes which value another one takes the place of, and which ones that one had replaced.
fn succeed(new: &mut Node, old: &Node, name: &'static str) {
    new.history.rule(name, old.span);
    for step in old.history.steps() {
        if matches!(step, Step::Rule { name, .. } if rule::replaces(name)) {
            new.history.push(step.clone());
        }
    }
}

fn maps(left: &mut Map, right: Map, path: &Trail<'_>, diagnostics: &mut Vec<Diagnostic>) {
    for (key, value) in right {
        match left.get_mut(&key) {
            Some(old) => merge(old, value, &path.key(&key), diagnostics),
            None => {
                left.insert(key, value);
            }
        }
    }
}

/// Removes from `target` what the document resets or overrides (M13). Of the document only the
/// histories change.
pub fn reset(target: &mut Node, document: &mut Node) {
    let (Value::Map(target), Value::Map(document)) = (&mut target.value, &mut document.value)
    else {
        return;
    };
    for (key, value) in &mut **document {
        if value.tag.is_some() {
            if let Some(old) = target.shift_remove(key) {
                succeed(value, &old, rule::OVERRIDE);
            }
        } else if let Some(target) = target.get_mut(key) {
            reset(target, value);
        }
    }
}

/// Drops reset entries and forgets the other tags, once they have done their work (M14).
pub fn settle(node: &mut Node) {
    if node.tag == Some(Tag::Override) {
        node.tag = None;
    }
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, value| value.tag != Some(Tag::Reset));
            map.values_mut().for_each(settle);
        }
        Value::List(list) => list.iter_mut().for_each(settle),
        _ => {}
    }
}

/// Makes the lists of every service unique (M4, M5).
pub fn unique_project(root: &mut Node) {
    let services = root.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(Map::values_mut) {
        unique_service(service);
    }
}

/// Makes the lists of one service unique.
pub fn unique_service(service: &mut Node) {
    let Some(service) = service.as_map_mut() else {
        return;
    };
    for key in [
        "cap_add",
        "cap_drop",
        "dns",
        "dns_opt",
        "dns_search",
        "links",
        "profiles",
        "tmpfs",
    ] {
        unique(service.get_mut(key), rule::UNIQUE_VALUE, name_of_pair);
    }
    for key in ["expose", "extra_hosts"] {
        unique(service.get_mut(key), rule::UNIQUE_VALUE, Node::scalar_text);
    }
    for key in ["volumes", "devices"] {
        unique(service.get_mut(key), rule::UNIQUE_TARGET, |n| {
            n.get_str("target").map(str::to_owned)
        });
    }
    unique(service.get_mut("env_file"), rule::UNIQUE_PATH, |n| {
        n.as_str().or_else(|| n.get_str("path")).map(str::to_owned)
    });
    for (key, directory) in [("secrets", "/run/secrets/"), ("configs", "/")] {
        // The target as it is written: `a` and `/run/secrets/a` are two to the reference.
        unique(service.get_mut(key), rule::UNIQUE_TARGET, |n| {
            match n.get_str("target").filter(|t| !t.is_empty()) {
                Some(target) => Some(target.to_owned()),
                None => file_target(n, directory),
            }
        });
    }
    unique(service.get_mut("ports"), rule::UNIQUE_PORT, |n| {
        n.as_map()?;
        let text = |key: &str| n.get(key).and_then(Node::scalar_text);
        Some(format!(
            "{}:{}:{}/{}",
            text("host_ip").unwrap_or_else(|| "0.0.0.0".into()),
            text("published").unwrap_or_default(),
            text("target").unwrap_or_default(),
            text("protocol").unwrap_or_else(|| "tcp".into()),
        ))
    });
    if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut) {
        unique(build.get_mut("tags"), rule::UNIQUE_VALUE, name_of_pair);
        let hosts = build.get_mut("extra_hosts");
        unique(hosts, rule::UNIQUE_VALUE, Node::scalar_text);
    }
    let networks = service.get_mut("networks").and_then(Node::as_map_mut);
    for network in networks.into_iter().flat_map(Map::values_mut) {
        for key in ["aliases", "link_local_ips"] {
            unique(network.get_mut(key), rule::UNIQUE_VALUE, name_of_pair);
        }
    }
}

/// What stands before the first `=`: `a=1` and `a=2` are one entry, whatever the list is of.
fn name_of_pair(node: &Node) -> Option<String> {
    let mut text = node.scalar_text()?;
    text.truncate(text.find('=').unwrap_or(text.len()));
    Some(text)
}

/// Where a secret or config appears in the container.
pub fn file_target(node: &Node, directory: &str) -> Option<String> {
    let target = node.get_str("target").filter(|t| !t.is_empty());
    match target.or_else(|| node.get_str("source"))? {
        absolute if absolute.starts_with('/') => Some(absolute.to_owned()),
        relative => Some(format!("{directory}{relative}")),
    }
}

/// Keeps the last entry of each identity, at the place of the first. Entries without one stay.
fn unique(list: Option<&mut Node>, name: &'static str, identity: impl Fn(&Node) -> Option<String>) {
    let Some(list) = list.and_then(Node::as_list_mut) else {
        return;
    };
    if list.len() < 2 {
        return;
    }
    let mut slots: Vec<Node> = Vec::with_capacity(list.len());
    let mut seen: IndexMap<String, usize> = IndexMap::new();
    for mut node in std::mem::take(list) {
        match identity(&node) {
            None => slots.push(node),
            Some(id) => match seen.get(&id) {
                Some(at) => {
                    succeed(&mut node, &slots[*at], name);
                    slots[*at] = node;
                }
                None => {
                    seen.insert(id, slots.len());
                    slots.push(node);
                }
            },
        }
    }
    *list = slots;
}
