//! One text's tree against the table of keys: interpolates, casts, and reports what does not fit.
//!
//! Runs once per document, before anything is merged, so that every message can point at the file
//! that is wrong. Missing keys and empty values are no business of this phase: another file may
//! still supply them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::budget::{Budget, Use};
use super::schema::{self, Object, Shape};
use super::units;
use crate::source::diagnostic::is_secret_name;
use crate::source::interpolate::{self, TemplateError, Variable};
use crate::source::{Diagnostic, History, Node, Origin, Span, Step, Tag, Trail, Value};

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// Where the variables stand that come from env files. The others are the process's.
pub type Places = BTreeMap<String, Span>;

/// One walk over one document.
pub struct Admission<'a> {
    pub environment: &'a Environment,
    pub places: &'a Places,
    pub interpolate: bool,
    pub diagnostics: &'a mut Vec<Diagnostic>,
    /// What is wrong only if no later file replaces the value.
    pub deferred: &'a mut Vec<Diagnostic>,
    /// Names that were found unset in this load; each is reported once.
    pub unset: &'a mut BTreeSet<String>,
    pub budget: &'a mut Budget,
    pub variables: &'a mut Vec<Variable>,
    pub traits: &'a mut Traits,
}

/// What was seen of all documents, so that phases for what is rare need not look for it.
#[derive(Debug, Default)]
pub struct Traits {
    /// A value is tagged `!reset` or `!override`.
    pub has_tags: bool,
    /// A null stands where the table does not take one.
    pub has_nulls: bool,
}

impl Admission<'_> {
    /// Checks and casts a node in place.
    pub fn node(&mut self, node: &mut Node, shape: &Shape, path: &Trail<'_>) {
        self.traits.has_tags |= node.tag.is_some();
        if node.tag == Some(Tag::Reset) {
            return;
        }
        if let Value::Text(text) = &mut node.value
            && text.contains('$')
        {
            if !self.interpolate {
                // Nothing can be said of a value that is still a template, but what it names.
                interpolate::variables(text, self.variables);
                return;
            }
            match self.substitute(text, node.span, &mut node.history, path) {
                Some(new) => *text = new,
                None => return,
            }
        }
        if node.is_null() {
            self.traits.has_nulls |= !accepts(shape, &node.value);
            return;
        }
        let Some(shape) = resolve(shape, node) else {
            self.mismatch(node, shape, path);
            return;
        };
        match shape {
            Shape::Any => self.any(node, path),
            Shape::Object(object) => self.object(node, object, path),
            Shape::Dict(item) => {
                let Some(map) = node.as_map_mut() else { return };
                for (key, value) in map.iter_mut() {
                    self.node(value, item, &path.key(key));
                }
            }
            Shape::List(item) => self.list(node, item, path),
            Shape::Set(item) => {
                self.list(node, item, path);
                self.distinct(node, path);
            }
            Shape::Pairs => {
                if matches!(node.value, Value::List(_)) {
                    self.list(node, &Shape::Text, path);
                    if !is_made_unique(path) {
                        self.distinct(node, path);
                    }
                } else {
                    self.node(node, &Shape::Dict(&Shape::Scalar), path);
                }
            }
            Shape::Bool => self.bool(node, path),
            Shape::Int | Shape::PlainInt => self.int(node, path),
            Shape::Number => self.number(node, path),
            Shape::TextOrInt | Shape::TextOrNumber | Shape::Text => _ = node.become_text(),
            Shape::Size | Shape::TextSize => self.size(node, path),
            Shape::Duration => self.duration(node, path),
            Shape::Mode => self.mode(node, path),
            Shape::Choice(words) => self.choice(node, words, path),
            Shape::Scalar | Shape::Null | Shape::PlainBool | Shape::OneOf(_) => {}
        }
    }

    fn list(&mut self, node: &mut Node, item: &Shape, path: &Trail<'_>) {
        let Some(list) = node.as_list_mut() else {
            return;
        };
        for (at, value) in list.iter_mut().enumerate() {
            let path = path.index(at);
            if value.is_null() && !accepts(item, &value.value) {
                self.mismatch(value, item, &path);
            } else {
                self.node(value, item, &path);
            }
        }
    }

    /// Reports items that stand twice. Lists of several files may overlap (M6).
    fn distinct(&mut self, node: &Node, path: &Trail<'_>) {
        let mut seen: BTreeMap<String, (usize, Span)> = BTreeMap::new();
        for (at, item) in node.as_list().into_iter().flatten().enumerate() {
            let Some(text) = item.scalar_text() else {
                continue;
            };
            match seen.get(&text) {
                None => _ = seen.insert(text, (at, item.span)),
                Some((first, span)) => self.diagnostics.push(
                    Diagnostic::error(
                        "repeated-item",
                        format!("{path} items at {first} and {at} are equal"),
                    )
                    .at(item.span)
                    .label(*span, "the same as this")
                    .help("remove one of the two"),
                ),
            }
        }
    }

    /// Extensions are interpolated like everything else (I7).
    fn any(&mut self, node: &mut Node, path: &Trail<'_>) {
        match &mut node.value {
            Value::List(list) => {
                for (at, value) in list.iter_mut().enumerate() {
                    self.node(value, &schema::ANY, &path.index(at));
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter_mut() {
                    self.node(value, &schema::ANY, &path.key(key));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, node: &mut Node, object: &Object, path: &Trail<'_>) {
        let Some(map) = node.as_map_mut() else { return };
        for (key, value) in map.iter_mut() {
            match object.shape(key) {
                Some(shape) => self.node(value, shape, &path.key(key)),
                None if schema::is_extension(key) => {
                    self.node(value, &schema::ANY, &path.key(key));
                }
                None => self.unknown(key, value, object, path),
            }
        }
    }

    fn unknown(&mut self, key: &str, value: &Node, object: &Object, path: &Trail<'_>) {
        if value.tag == Some(Tag::Reset) {
            return;
        }
        let place = match path.is_root() {
            true => "(root)".to_owned(),
            false => path.to_string(),
        };
        let diagnostic = Diagnostic::error(
            "unknown-key",
            format!("{place}: additional properties '{key}' not allowed"),
        )
        .label(value.entry_span(), "unknown key");
        let nearest = match self.diagnostics.len() < schema::MAX_SUGGESTIONS {
            true => object.nearest(key),
            false => None,
        };
        self.diagnostics.push(match nearest {
            Some(known) => diagnostic.help(format!("did you mean `{known}`?")),
            None => diagnostic.help("remove it, or start it with `x-` to keep it as an extension"),
        });
    }

    fn mismatch(&mut self, node: &Node, shape: &Shape, path: &Trail<'_>) {
        let mut wanted = Vec::new();
        describe(shape, &mut wanted);
        let wanted = match wanted.split_last() {
            None => "nothing".to_owned(),
            Some((last, [])) => last.clone(),
            Some((last, head)) => format!("{} or {last}", head.join(", ")),
        };
        let is_item = matches!(path, Trail::Index(..));
        let path = match path.is_root() {
            true => "top-level object".to_owned(),
            false => path.to_string(),
        };
        let diagnostic = Diagnostic::error("wrong-type", format!("{path} must be {wanted}"))
            .label(node.span, format!("this is {}", node.value.kind()));
        self.diagnostics.push(match (&node.value, shape) {
            (Value::Int(_) | Value::Float(_) | Value::Bool(_), Shape::Text) => {
                diagnostic.help("put it in quotes")
            }
            (Value::Int(_) | Value::Float(_), Shape::TextSize) => {
                diagnostic.help("give the unit, as in `512m`, or put it in quotes for bytes")
            }
            (Value::Text(_), Shape::PlainBool | Shape::PlainInt) => {
                diagnostic.help("write it without quotes")
            }
            (Value::Map(_), Shape::Text) if is_item => diagnostic
                .help("write `NAME=value` in a list, or put a text that holds `: ` in quotes"),
            (
                Value::Text(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_),
                Shape::List(_) | Shape::Set(_),
            ) => diagnostic.help("write it as a list, with `- ` before each item"),
            (Value::Int(_) | Value::Float(_), Shape::Duration) => {
                diagnostic.help("give the unit, as in `30s`")
            }
            _ => diagnostic,
        });
    }

    fn substitute(
        &mut self,
        text: &str,
        span: Span,
        history: &mut History,
        path: &Trail<'_>,
    ) -> Option<String> {
        let mut missing = Vec::new();
        let used: RefCell<Vec<(String, Origin)>> = RefCell::default();
        let lookup = |name: &str| {
            let value = self.environment.get(name).cloned();
            let mut used = used.borrow_mut();
            if !used.iter().any(|(known, _)| known == name) {
                used.push((name.to_owned(), origin(name, self.environment, self.places)));
            }
            value
        };
        let result =
            interpolate::substitute(text, &lookup, &mut |name| missing.push(name.to_owned()));
        let used = used.into_inner();
        for (name, from) in used {
            history.push(Step::Variable { name, from });
        }
        match result {
            Ok(new) => {
                let new = new.into_owned();
                if !self
                    .budget
                    .spend(Use::Variables, new.len(), Some(span), self.diagnostics)
                {
                    return None;
                }
                for name in missing {
                    if self.unset.insert(name.clone()) {
                        self.diagnostics.push(
                            Diagnostic::warning(
                                "unset-variable",
                                format!(
                                    "The {name:?} variable is not set. Defaulting to a blank string."
                                ),
                            )
                            .at(span)
                            .help(match is_in_secret(text, path) {
                                true => format!(
                                    "if the `$` is part of the value, write `$${name}`; in an env file put the value in single quotes"
                                ),
                                false => format!(
                                    "set it in the environment or in .env, or write ${{{name}:-default}}"
                                ),
                            }),
                        );
                    }
                }
                Some(new)
            }
            Err(error) => {
                self.diagnostics.push(match &error {
                    TemplateError::Required { name, .. } => Diagnostic::error(
                        "required-variable",
                        format!("error while interpolating {path}: {error}"),
                    )
                    .at(span)
                    .help(format!("set {name} in the environment or in .env")),
                    TemplateError::Length => {
                        Diagnostic::error("too-large", format!("{error} in {path}")).at(span)
                    }
                    TemplateError::Format | TemplateError::Depth => {
                        Diagnostic::error("interpolation-format", format!("{error} for {path}"))
                            .at(span)
                            .help(match is_in_secret(text, path) {
                                true => "you may need to escape any $ with another $".to_owned(),
                                false => format!(
                                    "you may need to escape any $ with another $: {}",
                                    text.replace('$', "$$")
                                ),
                            })
                    }
                });
                None
            }
        }
    }

    fn cast_failed(&mut self, node: &Node, reason: String, path: &Trail<'_>) {
        let from_secret = |step: &Step| match step {
            Step::Variable { name, .. } => is_secret_name(name),
            _ => false,
        };
        let reason = match node.history.steps().iter().any(from_secret) {
            true => "its value (hidden) is of another type".to_owned(),
            false => reason,
        };
        self.diagnostics.push(
            Diagnostic::error(
                "wrong-value",
                format!(
                    "error while interpolating {path}: failed to cast to expected type: {reason}"
                ),
            )
            .at(node.span)
            .labels_of(&node.history),
        );
    }

    fn wrong_value(&mut self, node: &Node, reason: String, path: &Trail<'_>) {
        let diagnostic = self.wrong(node, reason, path);
        self.diagnostics.push(diagnostic);
    }

    /// Wrong unless a later file replaces it.
    fn doubtful_value(&mut self, node: &Node, reason: String, path: &Trail<'_>) {
        let diagnostic = self.wrong(node, reason, path);
        self.deferred.push(diagnostic);
    }

    fn wrong(&self, node: &Node, reason: String, path: &Trail<'_>) -> Diagnostic {
        Diagnostic::error("wrong-value", format!("{path}: {reason}"))
            .at(node.span)
            .labels_of(&node.history)
    }

    fn bool(&mut self, node: &mut Node, path: &Trail<'_>) {
        let Some(text) = node.as_str() else { return };
        let (value, doubtful) = match text.to_ascii_lowercase().as_str() {
            "true" => (true, false),
            "false" => (false, false),
            "y" | "yes" | "on" => (true, true),
            "n" | "no" | "off" => (false, true),
            _ => {
                let reason = format!("invalid boolean: {text}");
                self.cast_failed(node, reason, path);
                if let Some(said) = self.diagnostics.last_mut() {
                    said.help = Some("write `true` or `false`".to_owned());
                }
                return;
            }
        };
        if doubtful {
            let message = format!(
                "{path}: {text:?} for boolean is not supported by YAML 1.2, please use `{value}`"
            );
            self.diagnostics
                .push(Diagnostic::warning("yaml-boolean", message).at(node.span));
        }
        node.value = Value::Bool(value);
    }

    fn int(&mut self, node: &mut Node, path: &Trail<'_>) {
        match &node.value {
            Value::Text(text) => match text.parse::<i64>() {
                Ok(value) => node.value = Value::Int(value),
                Err(_) => {
                    let reason = format!("{text:?} is not a whole number");
                    self.cast_failed(node, reason, path);
                }
            },
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                node.value = Value::Int(*value as i64);
            }
            Value::Float(_) => self.wrong_value(node, "must be a whole number".into(), path),
            _ => {}
        }
    }

    fn number(&mut self, node: &mut Node, path: &Trail<'_>) {
        if let Value::Text(text) = &node.value {
            match text.parse::<f64>() {
                Ok(value) if value.is_finite() => {
                    // Compose holds such numbers in 32 bits; the shortest text is the same.
                    node.value = Value::Float(value);
                }
                _ => {
                    let reason = format!("{text:?} is not a number");
                    self.cast_failed(node, reason, path);
                }
            }
        }
    }

    fn size(&mut self, node: &mut Node, path: &Trail<'_>) {
        let Some(text) = node.scalar_text() else {
            return;
        };
        match units::parse_bytes(&text) {
            Ok(bytes) => node.value = Value::Text(bytes.to_string()),
            // Wrong unless a later file replaces it.
            Err(error) => self.deferred.push(
                self.wrong(node, error.to_string(), path)
                    .help("write a number of bytes, or one with a unit as in `512m`"),
            ),
        }
    }

    fn duration(&mut self, node: &mut Node, path: &Trail<'_>) {
        let Some(text) = node.as_str() else { return };
        match units::parse_duration(text) {
            Ok(value) => node.value = Value::Text(units::format_duration(value)),
            Err(error) => self.diagnostics.push(
                self.wrong(node, error.to_string(), path)
                    .help("write numbers with units, as in `30s` or `1m30s`"),
            ),
        }
    }

    fn mode(&mut self, node: &mut Node, path: &Trail<'_>) {
        let mode = match &node.value {
            Value::Int(mode) => Some(*mode),
            Value::Text(text) => i64::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
            _ => None,
        };
        match mode.filter(|mode| (0..=0o7777).contains(mode)) {
            Some(mode) => node.value = Value::Text(format!("0{mode:o}")),
            None => self.doubtful_value(
                node,
                "is no file mode; write it in octal as in \"0440\"".into(),
                path,
            ),
        }
    }

    fn choice(&mut self, node: &Node, words: &[&str], path: &Trail<'_>) {
        let Some(text) = node.as_str() else { return };
        if words.contains(&text) {
            return;
        }
        let list: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
        let diagnostic = Diagnostic::error(
            "wrong-value",
            format!("{path} must be one of the following: {}", list.join(", ")),
        )
        .at(node.span);
        let within = || {
            let mut longer = words.iter().copied();
            longer.find(|word| text.len() > 2 && word.contains(text))
        };
        let near = schema::nearest(text, words.iter().copied()).or_else(within);
        self.diagnostics.push(match near {
            Some(word) => diagnostic.help(format!("did you mean `{word}`?")),
            None => diagnostic,
        });
    }
}

/// Whether a text is, or sets, what must not be shown.
fn is_in_secret(text: &str, path: &Trail<'_>) -> bool {
    path.keys_upwards().any(is_secret_name)
        || text
            .split_once('=')
            .is_some_and(|(name, _)| is_secret_name(name))
        || text.contains("://") && text.contains('@')
}

/// Where the value of a variable comes from.
pub fn origin(name: &str, environment: &Environment, places: &Places) -> Origin {
    match (environment.contains_key(name), places.get(name)) {
        (false, _) => Origin::Unset,
        (true, Some(span)) => Origin::File(*span),
        (true, None) => Origin::Process,
    }
}

/// The alternative that takes a value of this kind.
fn resolve<'s>(shape: &'s Shape, node: &Node) -> Option<&'s Shape> {
    match shape {
        Shape::OneOf(shapes) => shapes.iter().find(|s| match (s, &node.value) {
            (Shape::Choice(words), Value::Text(text)) => words.contains(&text.as_str()),
            (shape, value) => accepts(shape, value),
        }),
        shape => accepts(shape, &node.value).then_some(shape),
    }
}

/// Whether of two equal items of a list of pairs the later one is dropped before anybody looks.
fn is_made_unique(path: &Trail<'_>) -> bool {
    let mut keys = path.keys_upwards();
    let (own, above, top) = (keys.next(), keys.next(), keys.next());
    !matches!(
        (own, above, top),
        (
            Some("environment"),
            Some("exec" | "pre_start" | "post_start" | "pre_stop"),
            _
        ) | (Some("options"), Some("devices" | "gpus"), _)
            | (Some("labels"), Some("volume"), _)
            | (Some("labels"), _, Some("secrets" | "configs"))
    )
}

/// Whether a shape takes values of this kind at all.
pub fn accepts(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Any, _) | (Shape::Scalar | Shape::Null, Value::Null) => true,
        (Shape::OneOf(shapes), value) => shapes.iter().any(|s| accepts(s, value)),
        (
            Shape::Text
            | Shape::Bool
            | Shape::Int
            | Shape::Number
            | Shape::TextOrInt
            | Shape::TextOrNumber
            | Shape::Scalar
            | Shape::Size
            | Shape::TextSize
            | Shape::Duration
            | Shape::Mode
            | Shape::Choice(_),
            Value::Text(_),
        ) => true,
        (Shape::Bool | Shape::PlainBool | Shape::Scalar, Value::Bool(_)) => true,
        (
            Shape::Int
            | Shape::PlainInt
            | Shape::Number
            | Shape::TextOrInt
            | Shape::TextOrNumber
            | Shape::Scalar
            | Shape::Size
            | Shape::Mode,
            Value::Int(_),
        ) => true,
        (
            Shape::Int
            | Shape::PlainInt
            | Shape::Number
            | Shape::TextOrNumber
            | Shape::Scalar
            | Shape::Size,
            Value::Float(_),
        ) => true,
        (Shape::List(_) | Shape::Set(_) | Shape::Pairs, Value::List(_)) => true,
        (Shape::Dict(_) | Shape::Pairs | Shape::Object(_), Value::Map(_)) => true,
        _ => false,
    }
}

fn describe(shape: &Shape, into: &mut Vec<String>) {
    let words: &[&str] = match shape {
        Shape::OneOf(shapes) => {
            for shape in *shapes {
                describe(shape, into);
            }
            return;
        }
        Shape::Any => &["any value"],
        Shape::Text | Shape::TextSize | Shape::Duration | Shape::Choice(_) => &["a string"],
        Shape::Bool | Shape::PlainBool => &["a boolean"],
        Shape::Int | Shape::PlainInt => &["an integer"],
        Shape::Number => &["a number"],
        Shape::TextOrInt | Shape::Mode | Shape::TextOrNumber | Shape::Size => {
            &["a string", "a number"]
        }
        Shape::Scalar => &["a string", "number", "boolean", "null"],
        Shape::Null => &["null"],
        Shape::List(_) | Shape::Set(_) => &["a list"],
        Shape::Dict(_) | Shape::Object(_) => &["a mapping"],
        Shape::Pairs => &["a mapping", "a list"],
    };
    for word in words {
        if !into.iter().any(|have| have == word) {
            into.push((*word).to_owned());
        }
    }
}

/// Reports every null that stands where the table does not take one; run on the merged whole.
pub fn refuse_nulls(root: &Node, shape: &'static Shape, diagnostics: &mut Vec<Diagnostic>) {
    Nulls { shape, diagnostics }.walk(&Visit {
        above: None,
        node: root,
        path: Trail::Root,
    });
}

/// A node on the way of a walk, and the nodes that it went through.
struct Visit<'a> {
    above: Option<&'a Visit<'a>>,
    node: &'a Node,
    path: Trail<'a>,
}

/// Nulls are few: the table is asked for them alone, not for every value on the way.
struct Nulls<'a> {
    shape: &'static Shape,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Nulls<'_> {
    fn walk(&mut self, visit: &Visit<'_>) {
        match &visit.node.value {
            Value::Null => self.null(visit),
            Value::Map(map) => {
                for (key, node) in &**map {
                    self.walk(&Visit {
                        above: Some(visit),
                        node,
                        path: visit.path.key(key),
                    });
                }
            }
            Value::List(list) => {
                for (at, node) in list.iter().enumerate() {
                    self.walk(&Visit {
                        above: Some(visit),
                        node,
                        path: visit.path.index(at),
                    });
                }
            }
            _ => {}
        }
    }

    fn null(&mut self, visit: &Visit<'_>) {
        let Some(shape) = self.shape_of(visit) else {
            return;
        };
        if accepts(shape, &Value::Null) {
            return;
        }
        let mut wanted = Vec::new();
        describe(shape, &mut wanted);
        let path = &visit.path;
        self.diagnostics.push(
            Diagnostic::error(
                "empty-value",
                format!("{path} must be {}", wanted.join(" or ")),
            )
            .label(visit.node.entry_span(), "has no value")
            .help("give it a value or remove the key"),
        );
    }

    fn shape_of(&self, visit: &Visit<'_>) -> Option<&'static Shape> {
        let Some(above) = visit.above else {
            return Some(self.shape);
        };
        match (resolve(self.shape_of(above)?, above.node)?, visit.path) {
            (Shape::Object(object), Trail::Key(_, key)) => object.shape(key),
            (Shape::Dict(item), Trail::Key(..)) => Some(item),
            (Shape::List(item) | Shape::Set(item), Trail::Index(..)) => Some(item),
            _ => None,
        }
    }
}
