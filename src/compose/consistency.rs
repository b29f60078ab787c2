//! Rules between the parts of a project: what must exist, what contradicts what, cycles.
//!
//! Runs once, on the enabled services of the merged whole.

use std::collections::BTreeMap;

use super::check::{error, list, services};
use super::merge::file_target;
use super::profiles::Disabled;
use super::schema;
use crate::source::{Diagnostic, Map, Node, Span};

/// References and contradictions of the enabled services (V4, V6, V7, S3).
///
pub fn check(
    root: &Node,
    disabled: &Disabled,
    knowledge: Knowledge,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let all = root.get("services").and_then(Node::as_map);
    for (name, service) in services(root) {
        let one = One {
            root,
            name,
            service,
            is_partial: knowledge.is_partial,
            templates: knowledge.templates,
            diagnostics,
        };
        one.check(all, disabled);
    }
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
    is_partial: bool,
    templates: bool,
    diagnostics: &'a mut Vec<Diagnostic>,
}

/// How much of the project is known.
#[derive(Debug, Clone, Copy)]
pub struct Knowledge {
    /// What seems missing may stand in a text that could not be read; only what is there is judged.
    pub is_partial: bool,
    /// Names may hold `${…}`.
    pub templates: bool,
}

impl One<'_> {
    fn check(mut self, all: Option<&Map>, disabled: &Disabled) {
        self.network_mode();
        if !self.is_partial {
            self.source();
            self.references();
            self.dependencies(all, disabled);
        }
        self.pull_policy();
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

    /// A name that only interpolation would tell.
    fn is_template(&self, name: &str) -> bool {
        self.templates && name.contains('$')
    }

    fn undefined(&mut self, section: &str, kind: &str, name: &str, at: Span) {
        if self.is_template(name) {
            return;
        }
        let service = self.name;
        let known = self.root.get(section).and_then(Node::as_map);
        let known = known.into_iter().flat_map(Map::keys).map(String::as_str);
        let known = known.take_while(|_| self.diagnostics.len() < schema::MAX_SUGGESTIONS);
        let help = match schema::nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if section == "volumes" && name.contains('/') => {
                format!("write `./{name}` for a directory beside the file")
            }
            None => format!("define it under the top-level key `{section}`"),
        };
        self.push(
            "undefined-resource",
            at,
            format!("service {service:?} refers to undefined {kind} {name}"),
        )
        .help = Some(help);
    }

    fn network_mode(&mut self) {
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
    }

    fn references(&mut self) {
        let service = self.service;
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
            match item.get("source").filter(|n| !n.is_null()) {
                None => {
                    let service = self.name;
                    self.push(
                        "undefined-resource",
                        item.span,
                        format!("service {service:?} refers to a {kind} without saying which"),
                    )
                    .help = Some("add `source:` with its name".into());
                }
                Some(source) => {
                    if let Some(name) = source.as_str()
                        && !self.defined(section, name)
                    {
                        self.undefined(section, kind, name, source.span);
                    }
                }
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
            if self.is_template(name) {
                continue;
            }
            match disabled.get(name) {
                Some(_) if !required => {}
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
                    let may_suggest = self.diagnostics.len() < schema::MAX_SUGGESTIONS;
                    let known = known.filter(|known| may_suggest && *known != service);
                    let near =
                        schema::nearest(name, known).map(|near| format!("did you mean `{near}`?"));
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

    /// C16, and the words of the specification.
    fn pull_policy(&mut self) {
        let Some(node) = self.service.get("pull_policy") else {
            return;
        };
        let Some(text) = node.as_str() else { return };
        let known = [
            "always",
            "never",
            "missing",
            "if_not_present",
            "build",
            "daily",
            "weekly",
        ];
        let age = text.strip_prefix("every_");
        let is_age = age.is_some_and(|age| super::units::parse_duration(age).is_ok_and(|n| n > 0));
        if !known.contains(&text) && !is_age && !text.contains('$') {
            let name = self.name;
            let help = schema::nearest(text, known).map(|near| format!("did you mean `{near}`?"));
            self.push(
                "pull-policy",
                node.span,
                format!("service {name:?}: invalid pull policy {text:?}"),
            )
            .help = help;
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
                // Only `watch` minds.
                self.diagnostics.push(
                    Diagnostic::warning(
                        "watch",
                        format!("service {name:?} doesn't have a build section, can't apply 'rebuild' on watch"),
                    )
                    .at(rule.span),
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

/// Two services cannot share one container name (V7); those that are not selected take none.
pub fn container_names(root: &Node, diagnostics: &mut Vec<Diagnostic>) {
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

/// Longest cycle that is shown whole.
const MAX_SHOWN: usize = 40;

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
                        if names.len() > MAX_SHOWN {
                            names.splice(MAX_SHOWN / 2..names.len() - MAX_SHOWN / 2, ["…"]);
                        }
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
