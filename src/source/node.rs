//! The located tree: what YAML says, where it says it.

use std::fmt;

use indexmap::IndexMap;

use super::{History, Span};

/// A value of the tree. `PartialEq` compares places too; see [`Node::same_value`].
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where the value stands.
    pub span: Span,
    /// Where the key stands that leads to the value; `None` for list items and the root.
    pub key: Option<Span>,
    pub tag: Option<Tag>,
    pub value: Value,
    /// What else had a part in the value.
    pub history: History,
}

/// The tags that mean something when files are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// `!reset`: remove what earlier files say here.
    Reset,
    /// `!override`: replace instead of merging.
    Override,
}

/// Bytes of text that weigh as much as a value.
const TEXT_WEIGHT: usize = 128;

/// What a text weighs in a tree; see [`Node::weight`].
pub fn text_weight(text: &str) -> usize {
    1 + text.len() / TEXT_WEIGHT
}

/// Mappings are hashed with every lookup of every phase, and the files may be anybody's: the hash is
/// a fast one that is seeded anew in each process.
pub type Map = IndexMap<String, Node, foldhash::fast::RandomState>;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Apart, so that the many values that are none stay small.
    Map(Box<Map>),
}

impl From<Map> for Value {
    fn from(map: Map) -> Value {
        Value::Map(Box::new(map))
    }
}

impl Value {
    /// What the value is, in the words of the specification.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl Node {
    pub fn new(span: Span, value: Value) -> Self {
        Node {
            span,
            key: None,
            tag: None,
            value,
            history: History::default(),
        }
    }

    pub fn text(span: Span, text: impl Into<String>) -> Self {
        Node::new(span, Value::Text(text.into()))
    }

    /// A new value at this node's place, made from this one's.
    pub fn with(&self, value: Value) -> Self {
        Node {
            span: self.span,
            key: self.key,
            tag: None,
            value,
            history: self.history.clone(),
        }
    }

    /// The place to point at when the entry as a whole is meant: its key, else its value.
    pub fn entry_span(&self) -> Span {
        self.key.unwrap_or(self.span)
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    pub fn as_list_mut(&mut self) -> Option<&mut Vec<Node>> {
        match &mut self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The entry of a mapping; `None` when this is no mapping or has no such key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.as_map_mut()?.get_mut(key)
    }

    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// A scalar as the text that Compose makes of it; `None` for null, lists and mappings.
    pub fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(super::scalar::float_text(*value)),
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// What a copy of it costs: one for every value, and one more for every [`TEXT_WEIGHT`] bytes
    /// of text.
    pub fn weight(&self) -> usize {
        match &self.value {
            Value::Text(text) => text_weight(text),
            Value::List(list) => 1 + list.iter().map(Node::weight).sum::<usize>(),
            Value::Map(map) => {
                let of = |(key, value): (&String, &Node)| text_weight(key) + value.weight();
                1 + map.iter().map(of).sum::<usize>()
            }
            _ => 1,
        }
    }

    /// Makes a scalar the text that Compose makes of it; false for null, lists and mappings.
    pub fn become_text(&mut self) -> bool {
        if let Value::Text(_) = self.value {
            return true;
        }
        match self.scalar_text() {
            Some(text) => self.value = Value::Text(text),
            None => return false,
        }
        true
    }

    /// Equal but for places and tags.
    pub fn same_value(&self, other: &Node) -> bool {
        match (&self.value, &other.value) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_value(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, a)| b.get(key).is_some_and(|b| a.same_value(b)))
            }
            (a, b) => a == b,
        }
    }
}

/// The way from the root to the node that a walk is at, as a list on the walk's own stack. It costs
/// nothing to keep up; only a message that names the place writes it out.
#[derive(Debug, Clone, Copy, Default)]
pub enum Trail<'a> {
    #[default]
    Root,
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl<'a> Trail<'a> {
    pub fn key(&'a self, key: &'a str) -> Trail<'a> {
        Trail::Key(self, key)
    }

    pub fn index(&'a self, index: usize) -> Trail<'a> {
        Trail::Index(self, index)
    }

    pub fn is_root(&self) -> bool {
        matches!(self, Trail::Root)
    }

    /// The keys on the way, from the node up to the root.
    pub fn keys_upwards(&self) -> impl Iterator<Item = &'a str> {
        let mut at = *self;
        std::iter::from_fn(move || {
            loop {
                match at {
                    Trail::Root => return None,
                    Trail::Index(above, _) => at = *above,
                    Trail::Key(above, key) => {
                        at = *above;
                        return Some(key);
                    }
                }
            }
        })
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trail::Root => Ok(()),
            Trail::Key(Trail::Root, key) => f.write_str(key),
            Trail::Key(above, key) => write!(f, "{above}.{key}"),
            Trail::Index(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

/// One step from a node to its child.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    Key(String),
    Index(usize),
}

/// The way from the root to a node, to keep. Keys may hold dots, so it is never one string (Y7).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreePath(pub Vec<Segment>);

impl TreePath {
    pub fn push_key(&mut self, key: &str) {
        self.0.push(Segment::Key(key.to_owned()));
    }

    pub fn push_index(&mut self, index: usize) {
        self.0.push(Segment::Index(index));
    }

    pub fn pop(&mut self) {
        self.0.pop();
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) if at == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
