//! Rules between the parts of a project: what is required, what excludes what, what must exist.

use std::collections::BTreeMap;

use super::merge::file_target;
use super::profiles::Disabled;
use super::schema;
use crate::source::{Diagnostic, Map, Node, Span};

fn services(root: &Node) -> impl Iterator<Item = (&String, &Node)> {
    root.get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
}

fn list<'n>(node: &'n Node, key: &str) -> impl Iterator<Item = &'n Node> {
    node.get(key).and_then(Node::as_list).into_iter().flatten()
}

fn error(code: &'static str, at: Span, message: String) -> Diagnostic {
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

/// References and contradictions of the enabled services (V4, V6, V7, S3).
pub fn consistency(root: &Node, disabled: &Disabled, diagnostics: &mut Vec<Diagnostic>) {
    let all = root.get("services").and_then(Node::as_map);
    for (name, service) in services(root) {
        let one = One {
            root,
            name,
            service,
            diagnostics,
        };
        one.check(all, disabled);
    }
    container_names(root, diagnostics);
    for (name, service) in services(root) {
        for hook in list(service, "pre_start") {
            if let Some(flag) = hook.get("per_replica")
                && flag.as_bool() == Some(true)
            {
                diagnostics.push(error(
                    "hook",
                    flag.entry_span(),
                    format!("service {name:?}: pre_start.per_replica is not supported"),
                ));
            }
        }
    }
    cycles(root, diagnostics);
}

struct One<'a> {
    root: &'a Node,
    name: &'a str,
    service: &'a Node,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl One<'_> {
    fn check(mut self, all: Option<&Map>, disabled: &Disabled) {
        self.source();
        self.networks();
        self.references();
        self.dependencies(all, disabled);
        self.scale();
        self.limits();
        self.targets();
        self.watch();
        self.build(all, disabled);
    }

    fn push(&mut self, code: &'static str, at: Span, message: String) -> &mut Diagnostic {
        self.diagnostics.push(error(code, at, message));
        self.diagnostics
            .last_mut()
            .unwrap_or_else(|| unreachable!("just pushed"))
    }

    fn source(&mut self) {
        let has = |key: &str| {
            self.service
                .get(key)
                .is_some_and(|n| !n.is_null() && n.as_str() != Some(""))
        };
        if !has("image") && !has("build") && !has("provider") {
            let name = self.name;
            self.push(
                "no-image",
                self.service.entry_span(),
                format!("service {name:?} has neither an image nor a build context specified"),
            )
            .help = Some("add `image:` or `build:`".into());
        }
    }

    fn defined(&self, section: &str, name: &str) -> bool {
        self.root
            .get(section)
            .is_some_and(|s| s.get(name).is_some())
    }

    fn undefined(&mut self, section: &str, kind: &str, name: &str, at: Span) {
        let service = self.name;
        let known = self.root.get(section).and_then(Node::as_map);
        let known = known.into_iter().flat_map(Map::keys).map(String::as_str);
        let help = match schema::nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("define it under the top-level key `{section}`"),
        };
        self.push(
            "undefined-resource",
            at,
            format!("service {service:?} refers to undefined {kind} {name}"),
        )
        .help = Some(help);
    }

    fn networks(&mut self) {
        let service = self.service;
        if let (Some(mode), Some(networks)) = (service.get("network_mode"), service.get("networks"))
            && networks.as_map().is_some_and(|n| !n.is_empty())
        {
            let name = self.name;
            let diagnostic = error(
                "network-mode",
                mode.entry_span(),
                format!(
                    "service {name:?} declares mutually exclusive `network_mode` and `networks`"
                ),
            )
            .label(networks.entry_span(), "and here");
            self.diagnostics.push(diagnostic);
        }
        for (network, node) in service
            .get("networks")
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            if !self.defined("networks", network) {
                self.undefined("networks", "network", network, node.entry_span());
            }
        }
    }

    fn references(&mut self) {
        let service = self.service;
        for volume in list(service, "volumes") {
            if volume.get_str("type") == Some("volume")
                && let Some(source) = volume.get("source")
                && let Some(name) = source.as_str().filter(|s| !s.is_empty())
                && !self.defined("volumes", name)
            {
                self.undefined("volumes", "volume", name, source.span);
            }
        }
        let build_secrets = service.get("build").map(|b| list(b, "secrets"));
        let uses = list(service, "secrets")
            .map(|n| ("secrets", "secret", n))
            .chain(list(service, "configs").map(|n| ("configs", "config", n)))
            .chain(
                build_secrets
                    .into_iter()
                    .flatten()
                    .map(|n| ("secrets", "build secret", n)),
            );
        for (section, kind, item) in uses {
            if let Some(source) = item.get("source")
                && let Some(name) = source.as_str()
                && !self.defined(section, name)
            {
                self.undefined(section, kind, name, source.span);
            }
        }
        for (model, node) in service
            .get("models")
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            if !self.defined("models", model) {
                self.undefined("models", "model", model, node.entry_span());
            }
        }
    }

    fn dependencies(&mut self, all: Option<&Map>, disabled: &Disabled) {
        let service = self.name;
        for (name, node) in self
            .service
            .get("depends_on")
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            if all.is_some_and(|all| all.contains_key(name)) {
                continue;
            }
            let required = node.get("required").and_then(Node::as_bool) != Some(false);
            match disabled.get(name) {
                _ if !required => {}
                Some(off) => {
                    let profiles: Vec<&str> =
                        list(off, "profiles").filter_map(Node::as_str).collect();
                    let message = format!(
                        "service {name:?} is required by {service:?} but is disabled. Can be enabled by profiles [{}]",
                        profiles.join(" ")
                    );
                    self.push("disabled-dependency", node.entry_span(), message)
                        .help = Some(format!(
                        "enable it with --profile {}",
                        profiles.join(" or --profile ")
                    ));
                }
                None => {
                    let known = all.into_iter().flat_map(Map::keys).map(String::as_str);
                    let near = schema::nearest(name, known.filter(|known| *known != service))
                        .map(|near| format!("did you mean `{near}`?"));
                    self.push(
                        "undefined-dependency",
                        node.entry_span(),
                        format!("service {service:?} depends on undefined service {name:?}"),
                    )
                    .help = near;
                }
            }
        }
    }

    fn int(&self, keys: &[&str]) -> Option<(i64, Span)> {
        let mut node = self.service;
        for key in keys {
            node = node.get(key)?;
        }
        match node.value {
            crate::source::Value::Int(value) => Some((value, node.entry_span())),
            _ => None,
        }
    }

    fn scale(&mut self) {
        let name = self.name;
        let scale = self.int(&["scale"]);
        let replicas = self.int(&["deploy", "replicas"]);
        if let (Some((scale, at)), Some((replicas, other))) = (scale, replicas)
            && scale != replicas
        {
            self.diagnostics.push(
                error(
                    "scale",
                    at,
                    format!("services.{name}: can't set distinct values on 'scale' and 'deploy.replicas'"),
                )
                .label(other, "the other value"),
            );
        }
        let Some((count, at)) = scale.or(replicas) else {
            return;
        };
        if count < 0 {
            self.push(
                "scale",
                at,
                format!("services.{name}.scale: must be greater than or equal to 0"),
            );
        }
        if count > 1
            && let Some(fixed) = self.service.get("container_name")
        {
            let diagnostic = error(
                "scale",
                fixed.entry_span(),
                format!("services.{name}: can't set container_name and more than one replica"),
            )
            .label(at, "more than one replica")
            .help("remove container_name: a name can belong to one container only");
            self.diagnostics.push(diagnostic);
        }
    }

    fn limits(&mut self) {
        let pairs: [(&str, &[&str]); 4] = [
            ("cpus", &["limits", "cpus"]),
            ("mem_limit", &["limits", "memory"]),
            ("mem_reservation", &["reservations", "memory"]),
            ("pids_limit", &["limits", "pids"]),
        ];
        for (key, path) in pairs {
            let own = self.service.get(key);
            let mut deploy = self.service.get("deploy").and_then(|d| d.get("resources"));
            for key in path {
                deploy = deploy.and_then(|n| n.get(key));
            }
            if let (Some(own), Some(deploy)) = (own, deploy)
                && own.scalar_text() != deploy.scalar_text()
            {
                let name = self.name;
                let long = format!("deploy.resources.{}", path.join("."));
                self.diagnostics.push(
                    error(
                        "limits",
                        own.entry_span(),
                        format!(
                            "services.{name}: can't set distinct values on '{key}' and '{long}'"
                        ),
                    )
                    .label(deploy.entry_span(), "the other value"),
                );
            }
        }
    }

    /// Two mounts cannot be seen at one place.
    fn targets(&mut self) {
        let mut seen: BTreeMap<String, Span> = BTreeMap::new();
        let volumes =
            list(self.service, "volumes").filter_map(|v| Some((v.get_str("target")?, v.span)));
        let tmpfs = list(self.service, "tmpfs").filter_map(|t| {
            let path = t.as_str()?;
            Some((path.split(':').next().unwrap_or(path), t.span))
        });
        let mut clashes = Vec::new();
        for (target, at) in volumes.chain(tmpfs) {
            let target = super::short::clean_target(target);
            match seen.get(&target) {
                Some(first) => clashes.push((target, at, *first)),
                None => {
                    seen.insert(target, at);
                }
            }
        }
        let name = self.name;
        for (target, at, first) in clashes {
            self.diagnostics.push(
                error(
                    "mount",
                    at,
                    format!("services.{name}: duplicate mount target {target}"),
                )
                .label(first, "first mounted here"),
            );
        }
        for (key, directory) in [("secrets", "/run/secrets/"), ("configs", "/")] {
            for item in list(self.service, key) {
                if file_target(item, directory).is_some_and(|t| t.ends_with("/..")) {
                    self.push(
                        "mount",
                        item.span,
                        format!("services.{name}.{key}: target leads nowhere"),
                    );
                }
            }
        }
    }

    fn watch(&mut self) {
        let Some(develop) = self.service.get("develop") else {
            return;
        };
        let name = self.name;
        for rule in list(develop, "watch") {
            let action = rule.get_str("action").unwrap_or_default();
            if action.starts_with("sync") && rule.get_str("target").is_none_or(str::is_empty) {
                self.push(
                    "watch",
                    rule.span,
                    format!(
                        "services.{name}.develop.watch: target is required for {action} action"
                    ),
                );
            }
            if action == "rebuild" && self.service.get("build").is_none() {
                self.push(
                    "watch",
                    rule.span,
                    format!("service {name:?} doesn't have a build section, can't apply 'rebuild' on watch"),
                );
            }
        }
    }

    fn build(&mut self, all: Option<&Map>, disabled: &Disabled) {
        let Some(build) = self.service.get("build") else {
            return;
        };
        let name = self.name;
        if let (Some(platform), Some(platforms)) =
            (self.service.get("platform"), build.get("platforms"))
            && let Some(text) = platform.as_str()
        {
            let mut built = platforms
                .as_list()
                .into_iter()
                .flatten()
                .filter_map(Node::as_str)
                .peekable();
            if built.peek().is_some() && !built.any(|p| p == text) {
                self.diagnostics.push(
                    error(
                        "platform",
                        platforms.entry_span(),
                        format!("service.build.platforms MUST include service.platform {text:?}"),
                    )
                    .label(platform.entry_span(), "the service's platform"),
                );
            }
        }
        for (context, node) in build
            .get("additional_contexts")
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
        {
            let Some(other) = node.as_str().and_then(|t| t.strip_prefix("service:")) else {
                continue;
            };
            let target = all
                .and_then(|a| a.get(other))
                .or_else(|| disabled.get(other));
            match target {
                None => {
                    self.push(
                        "build-context",
                        node.span,
                        format!("service {name:?} declares unknown service {other:?} as additional contexts {context}"),
                    );
                }
                Some(target) if target.get("build").is_none() => {
                    self.push(
                        "build-context",
                        node.span,
                        format!("service {name:?} declares service {other:?} as additional contexts {context}, which has no build section"),
                    );
                }
                Some(_) => {}
            }
        }
    }
}

/// Two services cannot share one container name (V7).
fn container_names(root: &Node, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, (&str, Span)> = BTreeMap::new();
    for (name, service) in services(root) {
        let Some(node) = service.get("container_name") else {
            continue;
        };
        let Some(text) = node.as_str().filter(|t| !t.is_empty()) else {
            continue;
        };
        if let Some((other, first)) = seen.insert(text, (name, node.span)) {
            diagnostics.push(
                error(
                    "container-name",
                    node.span,
                    format!("container name {text:?} is already in use by service {other:?}"),
                )
                .label(first, "first used here"),
            );
        }
    }
}

/// Reports one cycle of dependencies, with its path (V4).
fn cycles(root: &Node, diagnostics: &mut Vec<Diagnostic>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Open,
        Done,
    }
    let Some(all) = root.get("services").and_then(Node::as_map) else {
        return;
    };
    let mut marks: BTreeMap<&str, Mark> = BTreeMap::new();
    let edges = |name: &str| -> Vec<(&str, Span)> {
        all.get(name)
            .and_then(|s| s.get("depends_on"))
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
            .filter(|(to, _)| all.contains_key(*to))
            .map(|(to, node)| (to.as_str(), node.entry_span()))
            .collect()
    };
    for start in all.keys() {
        if marks.contains_key(start.as_str()) {
            continue;
        }
        // A stack of our own: a chain may be as long as the file.
        let mut stack = vec![(start.as_str(), edges(start).into_iter())];
        marks.insert(start, Mark::Open);
        while let Some((name, next)) = stack.last_mut() {
            let name = *name;
            match next.next() {
                None => {
                    marks.insert(name, Mark::Done);
                    stack.pop();
                }
                Some((to, at)) => match marks.get(to) {
                    Some(Mark::Done) => {}
                    Some(Mark::Open) => {
                        let from = stack.iter().position(|(n, _)| *n == to).unwrap_or(0);
                        let mut names: Vec<&str> = stack[from..].iter().map(|(n, _)| *n).collect();
                        names.push(to);
                        diagnostics.push(
                            error(
                                "dependency-cycle",
                                at,
                                format!("dependency cycle detected: {}", names.join(" -> ")),
                            )
                            .help("remove one of these dependencies"),
                        );
                        return;
                    }
                    None => {
                        marks.insert(to, Mark::Open);
                        stack.push((to, edges(to).into_iter()));
                    }
                },
            }
        }
    }
}
