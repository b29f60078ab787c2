//! The canonical form as text: the reference's key order, sorted maps, zero values left out.
//!
//! It prints the canonical tree rather than the typed project, so that nothing that was written is
//! lost on the way. Values of `environment:` secrets are never in that tree. The reference leaves
//! `models` out of its JSON (Z6); a reader would lose data by that, so they are there.

use serde_json::{Map as Object, Value as Json};

use super::schema::{self, Shape};
use super::{Project, order, yaml};
use crate::source::{Map, Node, Value};

/// How a project is printed.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrintOptions {
    /// Write `$` as `$$`, so that the output can be loaded again (I11).
    pub escape_dollar: bool,
}

/// Canonical YAML, two blanks of indentation, `name:` first.
pub fn to_yaml(project: &Project, options: PrintOptions) -> String {
    yaml::document(&document(project, options, Form::Yaml))
}

/// Canonical JSON, indented by two blanks.
pub fn to_json(project: &Project, options: PrintOptions) -> String {
    format!("{:#}", Json::Object(document(project, options, Form::Json)))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Yaml,
    Json,
}

fn document(project: &Project, options: PrintOptions, form: Form) -> Object<String, Json> {
    let Some(root) = &project.canonical else {
        // A project that came over the wire has no tree; its serialised form is all there is.
        return match serde_json::to_value(project) {
            Ok(Json::Object(document)) => document,
            _ => Object::new(),
        };
    };
    let printer = Printer { options, form };
    let mut document = printer.object(root.as_map(), &schema::PROJECT);
    if !document.contains_key("services") {
        let at = usize::from(document.contains_key("name"));
        document.shift_insert(at, "services".to_owned(), Json::Object(Object::new()));
    }
    document
}

/// A node as plain JSON, in the order of the file.
pub fn json(node: &Node) -> Json {
    Printer {
        options: PrintOptions::default(),
        form: Form::Json,
    }
    .any(node)
}

struct Printer {
    options: PrintOptions,
    form: Form,
}

impl Printer {
    fn text(&self, text: &str) -> Json {
        Json::String(match self.options.escape_dollar {
            true => text.replace('$', "$$"),
            false => text.to_owned(),
        })
    }

    /// Go's YAML counts the numbers in keys, its JSON does not.
    fn sort(&self, keys: &mut [&String]) {
        match self.form {
            Form::Yaml => keys.sort_by(|a, b| order::keys(a, b)),
            Form::Json => keys.sort_unstable(),
        }
    }

    fn any(&self, node: &Node) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => number(*value, self.form),
            Value::Text(text) => self.text(text),
            Value::List(list) => list.iter().map(|n| self.any(n)).collect(),
            Value::Map(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                self.sort(&mut keys);
                Json::Object(
                    keys.into_iter()
                        .map(|key| (key.clone(), self.any(&map[key])))
                        .collect(),
                )
            }
        }
    }

    fn node(&self, node: &Node, shape: &Shape) -> Json {
        match (&node.value, shape) {
            (Value::Map(map), Shape::Object(object)) => {
                Json::Object(self.object(Some(map), object))
            }
            (Value::Map(map), Shape::Dict(item)) => {
                let mut keys: Vec<&String> = map.keys().collect();
                self.sort(&mut keys);
                Json::Object(
                    keys.into_iter()
                        .map(|key| (key.clone(), self.node(&map[key], item)))
                        .collect(),
                )
            }
            (Value::List(list), Shape::List(item) | Shape::Set(item)) => {
                list.iter().map(|n| self.node(n, item)).collect()
            }
            (value, Shape::OneOf(shapes)) => {
                let fitting = shapes.iter().find(|s| {
                    matches!(
                        (value, s),
                        (Value::Map(_), Shape::Object(_) | Shape::Dict(_))
                            | (Value::List(_), Shape::List(_) | Shape::Set(_))
                    )
                });
                match fitting {
                    Some(shape) => self.node(node, shape),
                    // Canonical lists of what may be written as a mapping of lists.
                    None => self.any(node),
                }
            }
            _ => self.any(node),
        }
    }

    fn object(&self, map: Option<&Map>, object: &schema::Object) -> Object<String, Json> {
        let mut out = Object::new();
        let Some(map) = map else { return out };
        for (key, shape) in object.keys {
            let node = map.get(*key).filter(|n| !is_dropped(n, key, shape, object));
            let Some(node) = node else {
                if let Some(zero) = always(key, object) {
                    out.insert((*key).to_owned(), zero);
                }
                if self.form == Form::Json
                    && let Some(zero) = json_zero(key, object)
                {
                    out.insert((*key).to_owned(), zero);
                }
                continue;
            };
            let mut value = match *key {
                "env_file" if !std::ptr::eq(object, &schema::INCLUDE) => self.env_files(node),
                "ssh" if self.form == Form::Yaml => self.ssh(node),
                "ulimits" => self.ulimits(node, shape),
                _ => self.node(node, shape),
            };
            if *key == "extra_hosts"
                && let Some(list) = value.as_array_mut()
            {
                list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
            out.insert((*key).to_owned(), value);
        }
        let mut extra: Vec<&String> = map.keys().filter(|k| object.shape(k).is_none()).collect();
        self.sort(&mut extra);
        for key in extra {
            out.insert(key.clone(), self.any(&map[key]));
        }
        out
    }

    /// YAML shows keys as a list of `id: path`, as the reference does.
    fn ssh(&self, node: &Node) -> Json {
        node.as_map()
            .into_iter()
            .flatten()
            .map(|(id, path)| match path.as_str() {
                Some(path) if !path.is_empty() => self.text(&format!("{id}: {path}")),
                _ => self.text(id),
            })
            .collect()
    }

    /// A limit of zero is printed in its long form.
    fn ulimits(&self, node: &Node, shape: &Shape) -> Json {
        let mut limits = self.node(node, shape);
        for limit in limits
            .as_object_mut()
            .into_iter()
            .flat_map(|l| l.values_mut())
        {
            if limit.as_i64() == Some(0) {
                *limit = serde_json::json!({"soft": 0, "hard": 0});
            }
        }
        limits
    }

    /// An env file with nothing but a path is printed as that path.
    fn env_files(&self, node: &Node) -> Json {
        let Some(list) = node.as_list() else {
            return self.any(node);
        };
        list.iter()
            .map(|item| {
                let plain = item.get("required").and_then(Node::as_bool) != Some(false)
                    && item.get_str("format").is_none_or(str::is_empty);
                match item.get("path") {
                    Some(path) if plain && self.form == Form::Yaml => self.any(path),
                    _ => self.node(item, &Shape::Object(&schema::ENV_FILE)),
                }
            })
            .collect()
    }
}

/// Zero values of plain fields say nothing and are left out, as Go's `omitempty` does.
fn is_dropped(node: &Node, key: &str, shape: &Shape, object: &schema::Object) -> bool {
    if key == "create_host_path" && node.history.is_implied() {
        // What the long form means when it does not say it (C5).
        return true;
    }
    if object.keep_zero.contains(&key) {
        return node.is_null();
    }
    match &node.value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Text(text) => {
            text.is_empty() || (text == "0" && matches!(shape, Shape::Size | Shape::TextSize))
        }
        Value::List(list) => list.is_empty(),
        Value::Map(map) => {
            let is_empty = match key {
                "ipam" | "placement" => map.values().all(is_zero),
                _ => map.is_empty(),
            };
            is_empty && (!is_object(shape) || matches!(key, "ipam" | "resources" | "placement"))
        }
    }
}

fn is_zero(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Int(0) => true,
        Value::Text(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        _ => false,
    }
}

/// What is shown for an absent value of a structure that Go writes whole.
fn always(key: &str, object: &schema::Object) -> Option<Json> {
    let of = |other: &schema::Object| std::ptr::eq(object, other);
    match key {
        "kind" if of(&schema::DISCRETE_RESOURCE) => Some(Json::from("")),
        "value" if of(&schema::DISCRETE_RESOURCE) => Some(Json::from(0)),
        "path" if of(&schema::RATE_DEVICE) || of(&schema::WEIGHT_DEVICE) => Some(Json::from("")),
        "rate" if of(&schema::RATE_DEVICE) => Some(Json::from("0")),
        "weight" if of(&schema::WEIGHT_DEVICE) => Some(Json::from(0)),
        _ => None,
    }
}

/// What JSON shows for an absent value: Go's JSON writes empty structures that its YAML leaves out.
fn json_zero(key: &str, object: &schema::Object) -> Option<Json> {
    let of = |other: &schema::Object| std::ptr::eq(object, other);
    match key {
        "command" | "entrypoint" if of(&schema::SERVICE) => Some(Json::Null),
        "ipam" if of(&schema::NETWORK) => Some(Json::Object(Object::new())),
        "resources" | "placement" if of(&schema::DEPLOY) => Some(Json::Object(Object::new())),
        _ => None,
    }
}

fn is_object(shape: &Shape) -> bool {
    match shape {
        Shape::Object(_) => true,
        Shape::OneOf(shapes) => shapes.iter().any(is_object),
        _ => false,
    }
}

/// A whole number is written without a fraction; YAML writes long ones with an exponent, and only
/// what is still a float here gets one there.
fn number(value: f64, form: Form) -> Json {
    let longest = match form {
        Form::Yaml => 1e6,
        Form::Json => 9e15,
    };
    if value.fract() == 0.0 && value.abs() < longest {
        Json::from(value as i64)
    } else {
        serde_json::Number::from_f64(value).map_or(Json::Null, Json::Number)
    }
}
