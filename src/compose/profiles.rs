//! Which services of a project are on: profiles, then the selection of the command line.

use std::collections::{BTreeSet, VecDeque};

use super::admit::Environment;
use super::find::LoadOptions;
use super::schema;
use crate::source::{Diagnostic, Map, Node};

/// Services that are switched off, by name.
pub type Disabled = Map;

/// Every profile that a service names, sorted.
pub fn names(root: &Node) -> Vec<String> {
    let names: BTreeSet<String> = services(root)
        .flat_map(|(_, service)| profiles(service))
        .map(str::to_owned)
        .collect();
    names.into_iter().collect()
}

fn services(root: &Node) -> impl Iterator<Item = (&String, &Node)> {
    root.get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
}

fn profiles(service: &Node) -> impl Iterator<Item = &str> {
    service
        .get("profiles")
        .and_then(Node::as_list)
        .into_iter()
        .flatten()
        .filter_map(Node::as_str)
}

/// Takes the services out whose profiles are not enabled (S1, S2).
pub fn enable(
    root: &mut Node,
    options: &LoadOptions,
    environment: &Environment,
    diagnostics: &mut Vec<Diagnostic>,
) -> Disabled {
    let mut enabled: BTreeSet<String> = match options.profiles.is_empty() {
        false => options.profiles.iter().cloned().collect(),
        // No list is a list of the empty name, which `profiles: ["${OFF:+never}"]` makes use of.
        true => environment
            .get("COMPOSE_PROFILES")
            .map_or("", String::as_str)
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect(),
    };
    // Naming a service enables its own profiles.
    for (name, service) in services(root) {
        if options.services.iter().any(|pattern| glob(pattern, name)) {
            enabled.extend(profiles(service).map(str::to_owned));
        }
    }
    for (name, service) in services(root) {
        for profile in service
            .get("profiles")
            .and_then(Node::as_list)
            .into_iter()
            .flatten()
        {
            let Some(text) = profile.as_str() else {
                continue;
            };
            if text.is_empty() || text.contains('$') {
                continue;
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(legal) {
                diagnostics.push(
                    Diagnostic::warning("profile-name", format!("service {name:?} has the profile {text:?}, which no command line can name safely"))
                        .at(profile.span),
                );
            }
        }
    }
    if enabled.contains("*") {
        return Disabled::default();
    }
    let Some(map) = root.get_mut("services").and_then(Node::as_map_mut) else {
        return Disabled::default();
    };
    let is_on = |service: &Node| {
        let mut own = profiles(service).peekable();
        own.peek().is_none() || own.any(|p| enabled.contains(p))
    };
    let (on, off): (Map, Map) = std::mem::take(map)
        .into_iter()
        .partition(|(_, service)| is_on(service));
    *map = on;
    off
}

/// Keeps the selected services and, unless switched off, what they depend on (S2–S4).
pub fn select(
    root: &mut Node,
    disabled: &mut Disabled,
    options: &LoadOptions,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(map) = root.get_mut("services").and_then(Node::as_map_mut) else {
        return;
    };
    if options.services.is_empty() {
        return;
    }
    drop_optional(map);
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut queue: VecDeque<String> = VecDeque::new();
    for pattern in &options.services {
        let before = queue.len();
        queue.extend(map.keys().filter(|name| glob(pattern, name)).cloned());
        if queue.len() == before {
            let diagnostic =
                Diagnostic::error("no-such-service", format!("no such service: {pattern}"));
            let near = schema::nearest(pattern, map.keys().map(String::as_str));
            diagnostics.push(match near {
                Some(name) => diagnostic.help(format!("did you mean `{name}`?")),
                None => diagnostic,
            });
        }
    }
    while let Some(name) = queue.pop_front() {
        if !wanted.insert(name.clone()) || !options.with_dependencies {
            continue;
        }
        let dependencies = map
            .get(&name)
            .and_then(|s| s.get("depends_on"))
            .and_then(Node::as_map);
        queue.extend(
            dependencies
                .into_iter()
                .flat_map(Map::keys)
                .filter(|dependency| map.contains_key(*dependency))
                .cloned(),
        );
    }
    let (on, off): (Map, Map) = std::mem::take(map)
        .into_iter()
        .partition(|(name, _)| wanted.contains(name));
    *map = on;
    disabled.extend(off);
    if !options.with_dependencies {
        // What is not started cannot be waited for.
        let names: BTreeSet<String> = map.keys().cloned().collect();
        for service in map.values_mut() {
            retain_dependencies(service, |name, _| names.contains(name));
        }
    }
}

/// Optional dependencies on services that are off or absent vanish (S3).
fn drop_optional(services: &mut Map) {
    let names: BTreeSet<String> = services.keys().cloned().collect();
    for service in services.values_mut() {
        retain_dependencies(service, |name, dependency| {
            names.contains(name)
                || dependency.get("required").and_then(Node::as_bool) != Some(false)
        });
    }
}

fn retain_dependencies(service: &mut Node, keep: impl Fn(&str, &Node) -> bool) {
    let Some(service) = service.as_map_mut() else {
        return;
    };
    let Some(dependencies) = service.get_mut("depends_on").and_then(Node::as_map_mut) else {
        return;
    };
    dependencies.retain(|name, dependency| keep(name, dependency));
    if dependencies.is_empty() {
        service.shift_remove("depends_on");
    }
}

/// Whether a name matches a pattern of `*`, `?` and plain characters.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn globs_s4() {
        for (pattern, name, expected) in [
            ("web*", "web-1", true),
            ("*b*", "web", true),
            ("w?b", "web", true),
            ("web", "web2", false),
            ("*", "", true),
            ("a*c*e", "abcde", true),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }
}
