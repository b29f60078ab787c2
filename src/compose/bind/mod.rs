//! The canonical tree to the typed [`Project`], and the places of its parts.
//!
//! Nothing is decided here: defaults and checks are done. What remains are values that have a
//! grammar of their own, such as addresses; those are reported at their place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::print::json;
use super::{
    BlkioConfig, FileMount, FileObject, Hook, IpamPool, Location, ModelConfig, Network, Project,
    ProjectName, Service, Ulimit, Volume, schema, units,
};
use crate::source::{Diagnostic, Map, Node, SourceMap, Span, Value};

mod service;

/// What becomes of a value that does not parse. It is left out in any case.
#[derive(Debug, Clone, Copy)]
pub struct Strictness {
    /// Values may still be templates, so nothing is said.
    pub templates: bool,
    /// Report an error rather than a warning.
    pub refuse: bool,
}

/// Reads a tree.
pub fn project(
    root: &Node,
    name: ProjectName,
    strictness: Strictness,
    env_resolved: bool,
    diagnostics: &mut Vec<Diagnostic>,
) -> Project {
    let mut binder = Binder {
        strictness,
        env_resolved,
        diagnostics,
    };
    let mut project = Project::new(name);
    for (name, node) in entries(root, "services") {
        project
            .services
            .insert(name.clone(), service::service(&mut binder, name, node));
    }
    // Who depends on what is off, and need not, does not depend on it (S3).
    let names: BTreeSet<String> = project.services.keys().cloned().collect();
    for service in project.services.values_mut() {
        let depends_on = &mut service.depends_on;
        depends_on.retain(|on, dependency| dependency.required || names.contains(on));
    }
    for (name, node) in entries(root, "networks") {
        let network = binder.network(node);
        project.networks.insert(name.clone(), network);
    }
    for (name, node) in entries(root, "volumes") {
        let volume = Volume {
            name: text(node, "name").unwrap_or_default(),
            external: flag(node, "external"),
            driver: text(node, "driver"),
            driver_opts: texts_by_key(node, "driver_opts"),
            labels: texts_by_key(node, "labels"),
        };
        project.volumes.insert(name.clone(), volume);
    }
    for (name, node) in entries(root, "secrets") {
        project.secrets.insert(name.clone(), file_object(node));
    }
    for (name, node) in entries(root, "configs") {
        project.configs.insert(name.clone(), file_object(node));
    }
    for (name, node) in entries(root, "models") {
        let model = ModelConfig {
            name: text(node, "name"),
            model: text(node, "model").unwrap_or_default(),
            context_size: int(node, "context_size"),
            runtime_flags: texts(node, "runtime_flags"),
        };
        project.models.insert(name.clone(), model);
    }
    project.extensions = extensions(root);
    project
}

/// Places of services, of the parts of services that an engine can fail on, and of resources.
pub fn locations(root: &Node, sources: &SourceMap) -> BTreeMap<String, Location> {
    let mut found = Vec::new();
    let mut put = |path: String, span: Span| {
        let place = sources.place(span);
        let location = Location {
            file: Arc::clone(&sources.file(span.file).path),
            line: place.line,
            column: place.column,
        };
        found.push((path, location));
    };
    for (name, service) in entries(root, "services") {
        let base = ["services.", name].concat();
        for (key, node) in service.as_map().into_iter().flatten() {
            match key.as_str() {
                "image" | "build" | "command" | "entrypoint" | "networks" | "healthcheck"
                | "container_name" | "network_mode" | "environment" | "user" | "working_dir"
                | "provider" => put([&base, ".", key].concat(), node.entry_span()),
                "ports" | "volumes" | "devices" | "secrets" | "configs" | "tmpfs" => {
                    for (at, item) in node.as_list().into_iter().flatten().enumerate() {
                        put(format!("{base}.{key}.{at}"), item.span);
                    }
                }
                "depends_on" => {
                    for (on, node) in node.as_map().into_iter().flatten() {
                        put([&base, ".depends_on.", on].concat(), node.entry_span());
                    }
                }
                _ => {}
            }
        }
        put(base, service.entry_span());
    }
    for section in ["networks", "volumes", "secrets", "configs", "models"] {
        for (name, node) in entries(root, section) {
            put([section, ".", name].concat(), node.entry_span());
        }
    }
    // Sorted as a whole rather than entry by entry.
    found.into_iter().collect()
}

struct Binder<'a> {
    strictness: Strictness,
    env_resolved: bool,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Binder<'_> {
    fn refuse(&mut self, node: &Node, message: String) {
        if self.strictness.templates {
            return;
        }
        let diagnostic = match self.strictness.refuse {
            true => Diagnostic::error("wrong-value", message),
            false => Diagnostic::warning("wrong-value", message),
        };
        self.diagnostics.push(diagnostic.at(node.span));
    }

    /// A text that must parse as what the field holds.
    fn parsed<T: std::str::FromStr>(&mut self, node: Option<&Node>, what: &str) -> Option<T> {
        let node = node?;
        let text = node.as_str().filter(|t| !t.is_empty())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => {
                self.refuse(node, format!("invalid {what}: {text}"));
                None
            }
        }
    }

    fn parsed_list<T: std::str::FromStr>(&mut self, node: &Node, key: &str, what: &str) -> Vec<T> {
        let items = node.get(key).and_then(Node::as_list);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| self.parsed(Some(item), what))
            .collect()
    }

    /// A whole number that fits the field. Zero is the same as none, as in Compose: it is not
    /// printed either.
    fn number<T: TryFrom<i64> + Default + PartialEq>(
        &mut self,
        node: &Node,
        key: &str,
    ) -> Option<T> {
        self.number_or_zero(node, key)
            .filter(|value| *value != T::default())
    }

    /// A whole number where zero says something.
    fn number_or_zero<T: TryFrom<i64>>(&mut self, node: &Node, key: &str) -> Option<T> {
        let field = node.get(key)?;
        let value = match &field.value {
            Value::Int(value) => *value,
            Value::Text(text) => text.parse().ok()?,
            _ => return None,
        };
        match T::try_from(value) {
            Ok(value) => Some(value),
            Err(_) => {
                self.refuse(field, format!("{key}: {value} is out of range"));
                None
            }
        }
    }

    fn network(&mut self, node: &Node) -> Network {
        let ipam = node.get("ipam");
        let pools = ipam
            .and_then(|i| i.get("config"))
            .and_then(Node::as_list)
            .into_iter()
            .flatten();
        let mut list = Vec::new();
        for pool in pools {
            let mut aux_addresses = BTreeMap::new();
            for (name, address) in entries(pool, "aux_addresses") {
                if let Some(address) = self.parsed(Some(address), "ip address") {
                    aux_addresses.insert(name.clone(), address);
                }
            }
            list.push(IpamPool {
                subnet: self.parsed(pool.get("subnet"), "subnet"),
                ip_range: self.parsed(pool.get("ip_range"), "ip range"),
                gateway: self.parsed(pool.get("gateway"), "gateway address"),
                aux_addresses,
            });
        }
        Network {
            name: text(node, "name").unwrap_or_default(),
            external: flag(node, "external"),
            driver: text(node, "driver"),
            driver_opts: texts_by_key(node, "driver_opts"),
            internal: flag(node, "internal"),
            attachable: flag(node, "attachable"),
            enable_ipv4: node.get("enable_ipv4").and_then(Node::as_bool),
            enable_ipv6: node.get("enable_ipv6").and_then(Node::as_bool),
            ipam: list,
            ipam_driver: ipam.and_then(|i| text(i, "driver")),
            ipam_options: ipam.map(|i| texts_by_key(i, "options")).unwrap_or_default(),
            labels: texts_by_key(node, "labels"),
        }
    }
}

fn file_object(node: &Node) -> FileObject {
    FileObject {
        name: text(node, "name").unwrap_or_default(),
        external: flag(node, "external"),
        file: text(node, "file").map(PathBuf::from),
        environment: text(node, "environment"),
        content: text(node, "content"),
        labels: texts_by_key(node, "labels"),
        driver: text(node, "driver"),
        driver_opts: texts_by_key(node, "driver_opts"),
        template_driver: text(node, "template_driver"),
    }
}

fn entries<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = (&'n String, &'n Node)> {
    node.get(key).and_then(Node::as_map).into_iter().flatten()
}

/// A non-empty text; an empty one is the same as none, as in Compose.
fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.scalar_text().filter(|t| !t.is_empty())
}

fn flag(node: &Node, key: &str) -> bool {
    node.get(key).and_then(Node::as_bool) == Some(true)
}

fn int(node: &Node, key: &str) -> Option<i64> {
    match node.get(key)?.value {
        Value::Int(value) => Some(value),
        _ => None,
    }
}

/// A number; zero is the same as none.
fn float(node: &Node, key: &str) -> Option<f64> {
    let value = match node.get(key)?.value {
        Value::Int(value) => value as f64,
        Value::Float(value) => value,
        _ => return None,
    };
    (value != 0.0).then_some(value)
}

fn texts(node: &Node, key: &str) -> Vec<String> {
    let items = node.get(key).and_then(Node::as_list);
    items
        .into_iter()
        .flatten()
        .filter_map(Node::scalar_text)
        .collect()
}

fn texts_by_key(node: &Node, key: &str) -> BTreeMap<String, String> {
    entries(node, key)
        .map(|(name, value)| (name.clone(), value.scalar_text().unwrap_or_default()))
        .collect()
}

fn variables(node: &Node, key: &str) -> IndexMap<String, Option<String>> {
    entries(node, key)
        .map(|(name, value)| (name.clone(), value.scalar_text()))
        .collect()
}

fn duration(node: &Node, key: &str) -> Option<Duration> {
    units::duration(node.get(key)?.as_str()?)
}

/// Hosts in the order in which they are printed.
fn hosts(node: &Node, key: &str) -> Vec<(String, String)> {
    let mut lines = texts(node, key);
    lines.sort_unstable();
    lines
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(host, address)| (host.to_owned(), address.to_owned()))
        .collect()
}

fn extensions(node: &Node) -> BTreeMap<String, serde_json::Value> {
    node.as_map()
        .into_iter()
        .flatten()
        .filter(|(key, _)| schema::is_extension(key))
        .map(|(key, value)| (key.clone(), json(value)))
        .collect()
}

fn octal(node: &Node, key: &str) -> Option<u32> {
    u32::from_str_radix(node.get(key)?.as_str()?, 8).ok()
}

fn file_mounts(node: &Node, key: &str, directory: &str) -> Vec<FileMount> {
    let items = node.get(key).and_then(Node::as_list);
    items
        .into_iter()
        .flatten()
        .filter_map(|item| {
            Some(FileMount {
                source: item.get_str("source")?.to_owned(),
                target: PathBuf::from(super::merge::file_target(item, directory)?),
                uid: text(item, "uid"),
                gid: text(item, "gid"),
                mode: octal(item, "mode"),
            })
        })
        .collect()
}

fn ulimits(node: &Node) -> BTreeMap<String, Ulimit> {
    entries(node, "ulimits")
        .filter_map(|(name, value)| {
            let limit = match value.value {
                Value::Int(both) => Ulimit {
                    soft: both,
                    hard: both,
                },
                _ => Ulimit {
                    soft: int(value, "soft")?,
                    hard: int(value, "hard")?,
                },
            };
            Some((name.clone(), limit))
        })
        .collect()
}

fn hook(node: &Node) -> Hook {
    Hook {
        command: texts(node, "command"),
        image: text(node, "image"),
        user: text(node, "user"),
        privileged: flag(node, "privileged"),
        working_dir: text(node, "working_dir"),
        environment: variables(node, "environment"),
    }
}

fn blkio(node: &Node) -> BlkioConfig {
    fn pairs<T: TryFrom<i64>>(node: &Node, key: &str, amount: &str) -> Vec<(String, T)> {
        let items = node.get(key).and_then(Node::as_list);
        items
            .into_iter()
            .flatten()
            .filter_map(|item| {
                let amount: i64 = item.get(amount)?.scalar_text()?.parse().ok()?;
                Some((text(item, "path")?, T::try_from(amount).ok()?))
            })
            .collect()
    }
    BlkioConfig {
        weight_device: pairs(node, "weight_device", "weight"),
        device_read_bps: pairs(node, "device_read_bps", "rate"),
        device_write_bps: pairs(node, "device_write_bps", "rate"),
        device_read_iops: pairs(node, "device_read_iops", "rate"),
        device_write_iops: pairs(node, "device_write_iops", "rate"),
    }
}

/// Whether a map has a value other than null under a key.
fn has(map: &Map, key: &str) -> bool {
    map.get(key).is_some_and(|n| !n.is_null())
}
