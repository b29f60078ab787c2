//! Relative paths of a model to absolute ones.
//!
//! Pure text: whether a path exists is asked elsewhere. `~` is the home directory of the variables
//! that were passed in.

use std::path::Path;

use super::admit::Environment;
use super::short::is_windows_absolute;
use crate::source::{Map, Node, Value};

/// Where relative paths of a model start.
pub struct Resolver<'a> {
    pub base: &'a Path,
    pub environment: &'a Environment,
}

impl Resolver<'_> {
    /// Resolves every path of a model (H1).
    pub fn project(&self, root: &mut Node) {
        let Some(root) = root.as_map_mut() else {
            return;
        };
        for service in entries(root, "services") {
            self.service(service);
        }
        for volume in entries(root, "volumes") {
            let is_bind = volume
                .get("driver_opts")
                .and_then(|o| o.get_str("o"))
                .is_some_and(|o| o.split(',').any(|o| o == "bind"));
            let is_local = volume
                .get("driver")
                .and_then(Node::as_str)
                .is_none_or(|d| d.is_empty() || d == "local");
            if is_bind && is_local {
                let options = volume.get_mut("driver_opts").and_then(Node::as_map_mut);
                self.field(options, "device");
            }
        }
        for section in ["secrets", "configs"] {
            for object in entries(root, section) {
                self.field(Some(object), "file");
            }
        }
    }

    /// Resolves the paths of one service.
    pub fn service(&self, service: &mut Map) {
        if let Some(build) = service.get_mut("build").and_then(Node::as_map_mut) {
            if let Some(context) = build.get_mut("context") {
                self.context(context);
            }
            for section in ["additional_contexts", "ssh"] {
                let map = build.get_mut(section).and_then(Node::as_map_mut);
                for value in map.into_iter().flat_map(Map::values_mut) {
                    self.context(value);
                }
            }
        }
        for section in ["env_file", "label_file"] {
            let list = service.get_mut(section).and_then(Node::as_list_mut);
            for item in list.into_iter().flatten() {
                if item.as_map().is_some() {
                    self.field(item.as_map_mut(), "path");
                } else {
                    self.node(item);
                }
            }
        }
        self.field(
            service.get_mut("extends").and_then(Node::as_map_mut),
            "file",
        );
        if let Some(rules) = service
            .get_mut("develop")
            .and_then(|d| d.get_mut("watch"))
            .and_then(Node::as_list_mut)
        {
            for rule in rules {
                self.field(rule.as_map_mut(), "path");
            }
        }
        let volumes = service.get_mut("volumes").and_then(Node::as_list_mut);
        for volume in volumes.into_iter().flatten() {
            if volume.get_str("type") == Some("bind") {
                self.field(volume.as_map_mut(), "source");
            }
        }
        if let Some(image) = service.get_mut("image") {
            self.local_image(image);
        }
    }

    /// `rootfs:./dir` and its kin name files of the host.
    fn local_image(&self, image: &mut Node) {
        let Some(text) = image.as_str() else { return };
        for scheme in ["rootfs:", "oci:", "oci-archive:", "docker-archive:"] {
            let Some(path) = text.strip_prefix(scheme) else {
                continue;
            };
            // `oci:5` is a repository named `oci` with a tag; a path shows itself as one.
            if path.starts_with(['.', '/', '~']) || scheme.contains('-') || path.contains('/') {
                image.value = Value::Text(format!("{scheme}{}", self.resolve(path)));
            }
            return;
        }
    }

    fn field(&self, map: Option<&mut Map>, key: &str) {
        if let Some(node) = map.and_then(|map| map.get_mut(key)) {
            self.node(node);
        }
    }

    fn node(&self, node: &mut Node) {
        if let Value::Text(text) = &mut node.value
            && !text.is_empty()
        {
            *text = self.resolve(text);
        }
    }

    /// A build context; URLs and `service:` stay (H2).
    fn context(&self, node: &mut Node) {
        if node.as_str().is_some_and(|text| !is_remote_context(text)) {
            self.node(node);
        }
    }

    /// `C:\x` to `/c/x` where the user asks for it (H4).
    fn converted(&self, path: &str) -> String {
        let asked = self
            .environment
            .get("COMPOSE_CONVERT_WINDOWS_PATHS")
            .is_some_and(|v| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "t"));
        match path.split_once(':') {
            Some((drive, rest)) if asked => {
                format!("/{}{}", drive.to_ascii_lowercase(), rest.replace('\\', "/"))
            }
            _ => path.to_owned(),
        }
    }

    /// An absolute form of a path.
    pub fn resolve(&self, path: &str) -> String {
        if is_windows_absolute(path) || path.starts_with("\\\\") {
            return self.converted(path);
        }
        if let Some(rest) = path.strip_prefix('~')
            && (rest.is_empty() || rest.starts_with('/'))
            && let Some(home) = self.environment.get("HOME")
        {
            return clean(&format!("{home}{rest}"));
        }
        if path.starts_with('/') {
            // As it is written: the reference leaves even `..` and doubled slashes in.
            return path.to_owned();
        }
        clean(&format!("{}/{path}", self.base.display()))
    }
}

pub fn is_remote_context(context: &str) -> bool {
    context.contains("://")
        || [
            "https://",
            "http://",
            "git://",
            "ssh://",
            "github.com/",
            "git@",
            "service:",
            "target:",
        ]
        .iter()
        .any(|prefix| context.starts_with(prefix))
}

fn entries<'m>(root: &'m mut Map, section: &str) -> impl Iterator<Item = &'m mut Map> {
    root.get_mut(section)
        .and_then(Node::as_map_mut)
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Node::as_map_mut)
}

/// Removes `.`, `..` and needless slashes by text alone, as Go's `path.Clean` does.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(last) if *last != ".." => {
                    parts.pop();
                }
                None if absolute => {}
                _ => parts.push(".."),
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}
