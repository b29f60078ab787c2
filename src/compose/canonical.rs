//! Short forms to long forms, on the tree of one document.
//!
//! Merging knows the long forms only. Defaults are filled in later, when every file has spoken:
//! see [`super::normalize`].

use super::short::{self, is_windows_absolute};
use crate::source::{Diagnostic, Map, Node, Tag, Value};

/// What a canonicalisation needs beside the tree.
pub struct Canonical<'a> {
    pub diagnostics: &'a mut Vec<Diagnostic>,
    /// What is wrong only if no later file replaces the value.
    pub deferred: &'a mut Vec<Diagnostic>,
    /// Values may still hold `${…}`; such short forms stay as they are.
    pub templates: bool,
    /// Ports of the whole load. `1-65535` on every service would be a bomb.
    pub n_ports: &'a mut usize,
}

/// Most ports that the short forms of one load may expand to.
const MAX_PORTS: usize = 70_000;

/// What a `key` alone, without `=value`, stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bare {
    /// The project's environment decides.
    Inherit,
    Empty,
    /// There must be a value; a null is kept to be reported.
    Refused,
}

impl Canonical<'_> {
    /// Rewrites a whole document.
    pub fn project(&mut self, root: &mut Node) {
        let Some(root) = root.as_map_mut() else {
            return;
        };
        self.each(root, "services", Self::service);
        self.each(root, "networks", Self::network);
        self.each(root, "volumes", Self::resource);
        self.each(root, "secrets", Self::resource);
        self.each(root, "configs", Self::resource);
    }

    fn each(&mut self, map: &mut Map, key: &str, rewrite: fn(&mut Self, &mut Map)) {
        let Some(entries) = map.get_mut(key).and_then(Node::as_map_mut) else {
            return;
        };
        for entry in entries.values_mut() {
            if entry.tag != Some(Tag::Reset)
                && let Some(entry) = entry.as_map_mut()
            {
                rewrite(self, entry);
            }
        }
    }

    /// Applies a rewrite to an entry, unless it is absent, null or reset.
    fn at(&mut self, map: &mut Map, key: &str, rewrite: impl FnOnce(&mut Self, &mut Node)) {
        if let Some(node) = map.get_mut(key)
            && node.tag != Some(Tag::Reset)
            && !node.is_null()
        {
            rewrite(self, node);
        }
    }

    fn is_template(&self, text: &str) -> bool {
        self.templates && text.contains('$')
    }

    fn refuse(&mut self, node: &Node, message: String) {
        self.diagnostics
            .push(Diagnostic::error("wrong-value", message).at(node.span));
    }

    /// Rewrites one service.
    pub fn service(&mut self, service: &mut Map) {
        for key in ["env_file", "label_file", "dns", "dns_search", "tmpfs"] {
            self.at(service, key, |_, node| into_list(node));
        }
        self.at(service, "dns", |_, node| {
            // `dns: ${DNS}` with an unset variable is no server.
            if let Some(list) = node.as_list_mut() {
                list.retain(|item| item.as_str() != Some(""));
            }
        });
        for key in ["command", "entrypoint"] {
            self.at(service, key, Self::words);
        }
        self.at(service, "environment", |c, n| c.pairs(n, Bare::Inherit));
        for key in ["labels", "annotations", "sysctls", "storage_opt"] {
            self.at(service, key, |c, n| c.pairs(n, Bare::Empty));
        }
        self.at(service, "extends", |_, n| into_field(n, "service"));
        self.at(service, "build", Self::build);
        self.at(service, "deploy", |c, n| {
            if let Some(deploy) = n.as_map_mut() {
                c.deploy(deploy);
            }
        });
        self.at(service, "gpus", |c, n| {
            if n.as_str().is_some() {
                let count = n.with(Value::Int(-1));
                let request = n.with(Value::from(Map::from_iter([("count".to_owned(), count)])));
                replace(n, Value::List(vec![request]));
            }
            c.device_requests(n);
        });
        self.at(service, "develop", |c, n| {
            let Some(rules) = n.get_mut("watch").and_then(Node::as_list_mut) else {
                return;
            };
            for rule in rules {
                let Some(rule) = rule.as_map_mut() else {
                    continue;
                };
                for key in ["ignore", "include"] {
                    c.at(rule, key, |_, n| into_list(n));
                }
                c.at(rule, "exec", Self::hook);
            }
        });
        for key in ["pre_start", "post_start", "pre_stop"] {
            self.at(service, key, |c, n| {
                for hook in n.as_list_mut().into_iter().flatten() {
                    c.hook(hook);
                }
            });
        }
        self.at(service, "depends_on", |_, n| {
            list_to_map(n, |item| {
                let condition = Node::text(item.span, "service_started");
                let required = Node::new(item.span, Value::Bool(true));
                Value::from(Map::from_iter([
                    ("condition".to_owned(), condition),
                    ("required".to_owned(), required),
                ]))
            });
        });
        for key in ["networks", "models"] {
            self.at(service, key, |_, n| list_to_map(n, |_| Value::Null));
        }
        self.at(service, "networks", |c, n| {
            for network in n.as_map_mut().into_iter().flat_map(Map::values_mut) {
                if let Some(network) = network.as_map_mut() {
                    c.at(network, "driver_opts", |c, n| c.pairs(n, Bare::Refused));
                }
            }
        });
        self.at(service, "ports", Self::ports);
        self.at(service, "volumes", Self::volumes);
        self.at(service, "devices", Self::devices);
        for key in ["secrets", "configs"] {
            self.at(service, key, |_, n| file_uses(n));
        }
        self.at(service, "extra_hosts", Self::hosts);
        self.at(service, "healthcheck", Self::healthcheck);
        self.at(service, "logging", |c, n| {
            if let Some(logging) = n.as_map_mut() {
                c.at(logging, "options", |c, n| c.pairs(n, Bare::Empty));
            }
        });
    }

    fn build(&mut self, node: &mut Node) {
        into_field(node, "context");
        let Some(build) = node.as_map_mut() else {
            return;
        };
        self.at(build, "args", |c, n| c.pairs(n, Bare::Inherit));
        self.at(build, "additional_contexts", |c, n| {
            for item in n.as_list().into_iter().flatten() {
                if let Some(text) = item.as_str()
                    && !text.contains('=')
                {
                    c.refuse(item, format!("invalid value {text}, expected key=value"));
                }
            }
        });
        for key in ["labels", "additional_contexts"] {
            self.at(build, key, |c, n| c.pairs(n, Bare::Empty));
        }
        self.at(build, "ssh", |c, n| {
            for item in n.as_list_mut().into_iter().flatten() {
                // The canonical form prints `id: path`; it must load again.
                if let Some((id, path)) = item.as_str().and_then(|t| t.split_once(": ")) {
                    item.value = Value::Text(format!("{id}={path}"));
                }
            }
            c.pairs(n, Bare::Inherit);
            let mut bare = Vec::new();
            for (id, path) in n.as_map_mut().into_iter().flatten() {
                if path.is_null() && id != "default" {
                    bare.push((id.clone(), path.clone()));
                }
            }
            for (id, at) in bare {
                c.refuse(
                    &at,
                    format!("invalid ssh key {id:?}: only `default` may stand alone"),
                );
            }
        });
        self.at(build, "no_cache_filter", |_, n| into_list(n));
        self.at(build, "secrets", |_, n| file_uses(n));
        self.at(build, "extra_hosts", Self::hosts);
        for key in ["provenance", "sbom"] {
            self.at(build, key, |_, n| {
                if let Some(text) = n.scalar_text() {
                    replace(n, Value::Text(text));
                }
            });
        }
    }

    fn deploy(&mut self, deploy: &mut Map) {
        self.at(deploy, "labels", |c, n| c.pairs(n, Bare::Empty));
        if let Some(reservations) = deploy
            .get_mut("resources")
            .and_then(|r| r.get_mut("reservations"))
            .and_then(Node::as_map_mut)
        {
            self.at(reservations, "devices", Self::device_requests);
        }
    }

    /// Requests name a number of devices or the devices, never both; neither means all (C9).
    fn device_requests(&mut self, node: &mut Node) {
        for request in node.as_list_mut().into_iter().flatten() {
            let span = request.span;
            let Some(map) = request.as_map_mut() else {
                continue;
            };
            self.at(map, "options", |c, n| c.pairs(n, Bare::Empty));
            if map.get("count").and_then(Node::as_str) == Some("all") {
                self.at(map, "count", |_, n| replace(n, Value::Int(-1)));
            }
            if map.contains_key("count") && map.contains_key("device_ids") {
                self.diagnostics.push(
                    Diagnostic::error(
                        "device-request",
                        "\"count\" and \"device_ids\" attributes are exclusive",
                    )
                    .at(span),
                );
            }
        }
    }

    fn hook(&mut self, node: &mut Node) {
        let Some(hook) = node.as_map_mut() else {
            return;
        };
        self.at(hook, "command", Self::words);
        self.at(hook, "environment", |c, n| c.pairs(n, Bare::Inherit));
    }

    fn healthcheck(&mut self, node: &mut Node) {
        let Some(check) = node.as_map_mut() else {
            return;
        };
        self.at(check, "test", |c, test| match &test.value {
            Value::Text(line) => {
                let words = vec![
                    Node::text(test.span, "CMD-SHELL"),
                    Node::text(test.span, line.clone()),
                ];
                replace(test, Value::List(words));
            }
            Value::List(words) => {
                let first = words.first().and_then(Node::as_str);
                if !matches!(first, Some("NONE" | "CMD" | "CMD-SHELL") | None) {
                    c.diagnostics.push(
                        Diagnostic::error(
                            "healthcheck-test",
                            "healthcheck.test must start either by \"CMD\", \"CMD-SHELL\" or \"NONE\"",
                        )
                        .at(words[0].span)
                        .help("write the list as [CMD, program, argument…]"),
                    );
                }
            }
            _ => {}
        });
    }

    /// A shell-like line to words. Quotes and backslashes count, variables and pipes do not (C11).
    fn words(&mut self, node: &mut Node) {
        let Some(line) = node.as_str() else { return };
        if self.is_template(line) {
            return;
        }
        match short::split_words(line) {
            Some(found) => {
                if let Some(operator) = found.cut_at {
                    self.diagnostics.push(
                        Diagnostic::warning(
                            "command-operator",
                            format!("no shell reads this line: it ends before the `{operator}`, as in Docker Compose"),
                        )
                        .at(node.span)
                        .help("write [sh, -c, '…'] for a shell, or put the character in quotes"),
                    );
                }
                let words = found
                    .words
                    .into_iter()
                    .map(|w| Node::text(node.span, w))
                    .collect();
                replace(node, Value::List(words));
            }
            None => self.deferred.push(
                Diagnostic::error(
                    "wrong-value",
                    "invalid command line string: a quote or bracket has no counterpart",
                )
                .at(node.span)
                .help("write the command as a list, one item per word"),
            ),
        }
    }

    /// A mapping of scalars or a list of `key=value` to a mapping of texts and, where a bare key
    /// means something else than an empty text, nulls.
    fn pairs(&mut self, node: &mut Node, bare: Bare) {
        let absent = |bare| match bare {
            Bare::Inherit | Bare::Refused => Value::Null,
            Bare::Empty => Value::Text(String::new()),
        };
        match &mut node.value {
            Value::Map(map) => {
                for value in map.values_mut() {
                    if value.tag == Some(Tag::Reset) {
                        continue;
                    }
                    if !value.become_text() {
                        value.value = absent(bare);
                    }
                }
            }
            Value::List(list) => {
                let mut map = Map::default();
                for item in std::mem::take(list) {
                    let Some(text) = item.as_str() else { continue };
                    let (key, value) = match text.split_once('=') {
                        Some((key, value)) => (key, Value::Text(value.to_owned())),
                        None => (text, absent(bare)),
                    };
                    if bare == Bare::Inherit && key.ends_with([' ', '\t']) {
                        self.diagnostics.push(
                            Diagnostic::error(
                                "environment-space",
                                format!(
                                    "environment variable {} is declared with a trailing space",
                                    key.trim_end()
                                ),
                            )
                            .at(item.span)
                            .help("remove the blank before `=`"),
                        );
                    }
                    let mut entry = item.with(value);
                    entry.key = Some(item.span);
                    // The last definition wins and keeps the place of the first (M4).
                    map.insert(key.to_owned(), entry);
                }
                node.value = map.into();
            }
            _ => {}
        }
    }

    /// `host: ip`, `host=ip`, `host:ip` to a list of `host=ip` (C12).
    fn hosts(&mut self, node: &mut Node) {
        let mut hosts = Vec::new();
        match &node.value {
            Value::Map(map) => {
                for (host, addresses) in &**map {
                    let one = std::slice::from_ref(addresses);
                    for address in addresses.as_list().unwrap_or(one) {
                        let ip = short::unbracket(address.as_str().unwrap_or_default());
                        hosts.push(address.with(Value::Text(format!("{host}={ip}"))));
                    }
                }
            }
            Value::List(list) => {
                for item in list {
                    let Some(text) = item.as_str() else { continue };
                    match text.split_once('=').or_else(|| text.split_once(':')) {
                        Some((host, ip)) if !host.is_empty() => {
                            let ip = short::unbracket(ip);
                            hosts.push(item.with(Value::Text(format!("{host}={ip}"))));
                        }
                        _ if self.is_template(text) => hosts.push(item.clone()),
                        _ => self
                            .refuse(item, format!("invalid additional host, missing IP: {text}")),
                    }
                }
            }
            _ => return,
        }
        replace(node, Value::List(hosts));
    }

    fn ports(&mut self, node: &mut Node) {
        let Some(items) = node.as_list_mut() else {
            return;
        };
        let mut ports = Vec::new();
        for item in std::mem::take(items) {
            if *self.n_ports > MAX_PORTS {
                // Said once; expanding what follows would be the work that the limit prevents.
                break;
            }
            match item.as_str() {
                None => ports.push(item),
                Some(text) if self.is_template(text) => ports.push(item),
                Some(text) => match short::ports(text) {
                    Ok(found) => {
                        *self.n_ports += found.len();
                        if *self.n_ports > MAX_PORTS {
                            let message =
                                format!("the project publishes more than {MAX_PORTS} ports");
                            self.refuse(&item, message);
                            break;
                        }
                        ports.extend(found.into_iter().map(|p| {
                            let mut port = p.node(item.span);
                            port.history = item.history.clone();
                            port
                        }));
                    }
                    Err(error) => self.diagnostics.push(
                        Diagnostic::error("port", error.to_string())
                            .at(item.span)
                            .labels_of(&item.history)
                            .help("write it as [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/PROTOCOL]"),
                    ),
                },
            }
        }
        *items = ports;
    }

    fn volumes(&mut self, node: &mut Node) {
        for item in node.as_list_mut().into_iter().flatten() {
            let span = item.span;
            match &mut item.value {
                Value::Text(text) => {
                    match short::volume(text) {
                        Ok(volume) => {
                            if volume.source.is_none() && is_windows_absolute(&volume.target) {
                                self.diagnostics.push(
                                Diagnostic::warning(
                                    "drive-letter",
                                    format!("volume {text:?} is read as the path of a Windows container"),
                                )
                                .at(span)
                                .help("a volume's name needs two letters in this form"),
                            );
                            }
                            let history = std::mem::take(&mut item.history);
                            *item = volume.node(span);
                            item.history = history;
                        }
                        Err(error) => self.diagnostics.push(
                            Diagnostic::error("volume", error.to_string())
                                .at(span)
                                .labels_of(&item.history)
                                .help("write it as [SOURCE:]TARGET[:OPTIONS]"),
                        ),
                    }
                }
                Value::Map(map) => {
                    if let Some(target) = map.get_mut("target")
                        && let Some(text) = target.as_str()
                    {
                        target.value = Value::Text(short::clean_target(text));
                    }
                    if let Some(volume) = map.get_mut("volume").and_then(Node::as_map_mut) {
                        self.at(volume, "labels", |c, n| c.pairs(n, Bare::Empty));
                    }
                }
                _ => {}
            }
        }
    }

    fn devices(&mut self, node: &mut Node) {
        for item in node.as_list_mut().into_iter().flatten() {
            let Some(text) = item.as_str() else { continue };
            if self.is_template(text) && text.contains("${") {
                // A default may hold colons.
                continue;
            }
            let parts: Vec<&str> = text.split(':').collect();
            let (source, target, permissions) = match *parts {
                [source] => (source, source, "rwm"),
                [source, target] => (source, target, "rwm"),
                [source, target, permissions] => (source, target, permissions),
                _ => {
                    let message = "confusing device mapping, please use long syntax".to_owned();
                    let at = item.clone();
                    self.refuse(&at, format!("{message}: {text}"));
                    continue;
                }
            };
            let field = |text: &str| Node::text(item.span, text);
            let map = Map::from_iter([
                ("source".to_owned(), field(source)),
                ("target".to_owned(), field(target)),
                ("permissions".to_owned(), field(permissions)),
            ]);
            replace(item, map.into());
        }
    }

    fn network(&mut self, network: &mut Map) {
        self.resource(network);
    }

    /// What networks, volumes, secrets and configs have in common.
    fn resource(&mut self, resource: &mut Map) {
        self.at(resource, "labels", |c, n| c.pairs(n, Bare::Empty));
        self.at(resource, "driver_opts", |c, n| c.pairs(n, Bare::Refused));
        let Some(external) = resource.get_mut("external") else {
            return;
        };
        let span = external.span;
        if external.as_map().is_none() {
            return;
        }
        // Deprecated `external: {name: x}` (C17).
        let name = external
            .as_map_mut()
            .and_then(|map| map.shift_remove("name"));
        replace(external, Value::Bool(true));
        let Some(name) = name else { return };
        match resource.get("name") {
            Some(own) if own.as_str() != name.as_str() => self.diagnostics.push(
                Diagnostic::error(
                    "external-name",
                    "name and external.name conflict; only use name",
                )
                .at(span)
                .label(own.span, "the other name"),
            ),
            Some(_) => {}
            None => {
                self.diagnostics.push(
                    Diagnostic::warning(
                        "deprecated-external-name",
                        "external.name is deprecated, please set name and external: true",
                    )
                    .at(span),
                );
                resource.insert("name".to_owned(), name);
            }
        }
    }
}

/// Puts another value at a node's place; its tag and key stay.
fn replace(node: &mut Node, value: Value) {
    node.value = value;
}

fn into_list(node: &mut Node) {
    if node.as_str().is_some() {
        let item = Node::new(node.span, std::mem::replace(&mut node.value, Value::Null));
        node.value = Value::List(vec![item]);
    }
}

/// A text to a mapping with that one field.
fn into_field(node: &mut Node, field: &str) {
    if node.as_str().is_some() {
        let item = Node::new(node.span, std::mem::replace(&mut node.value, Value::Null));
        node.value = Value::from(Map::from_iter([(field.to_owned(), item)]));
    }
}

fn list_to_map(node: &mut Node, value: impl Fn(&Node) -> Value) {
    if let Value::List(list) = &node.value {
        let mut map = Map::default();
        for item in list {
            if let Some(name) = item.as_str() {
                let mut entry = item.with(value(item));
                entry.key = Some(item.span);
                map.insert(name.to_owned(), entry);
            }
        }
        node.value = map.into();
    }
}

fn file_uses(node: &mut Node) {
    for item in node.as_list_mut().into_iter().flatten() {
        into_field(item, "source");
    }
}
