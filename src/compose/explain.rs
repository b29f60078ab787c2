//! Where each value of a loaded project comes from.
//!
//! Reads the canonical tree and the histories of its nodes; decides nothing. A value that three
//! files had a part in names all three: where it stands, what it replaced, which variable it was
//! made from, and the `extends` and `include` lines that brought its file in.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::print::json;
use super::{Loaded, Location, Project, rule, schema};
use crate::source::{FileId, Map, Node, Origin, Span, Step, TreePath, Value};

/// One value and everything that had a part in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// As it is written in messages: `services.web.ports[0]`.
    pub path: String,
    /// `None` for a list or mapping whose entries follow on their own.
    pub value: Option<serde_json::Value>,
    /// Where the value itself stands first, then the rest.
    pub causes: Vec<Cause>,
}

/// One thing that had a part in a value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// Stable name of what happened: `written`, `variable`, `append`, …
    pub rule: &'static str,
    /// The same in words, which the location ends where there is one.
    pub text: String,
    pub location: Option<Location>,
    /// The line of the file, without blanks around it.
    pub line: Option<String>,
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    #[error("the project has no value at {path}")]
    Nothing {
        path: String,
        /// What may have been meant.
        near: Option<String>,
    },
    #[error("the project did not load")]
    NotLoaded,
}

/// Explains the value at a path, and every value below it. Keys are divided by dots and may hold
/// some themselves; entries of lists are `[0]` or `.0`. The empty path is the whole project.
///
/// # Errors
/// When the path leads nowhere, or the project holds no tree.
pub fn explain(
    loaded: &Loaded,
    project: &Project,
    path: &str,
) -> Result<Vec<Explanation>, ExplainError> {
    let root = project
        .canonical
        .as_deref()
        .ok_or(ExplainError::NotLoaded)?;
    let mut way = vec![root];
    let mut names = TreePath::default();
    if !walk(root, path, &mut way, &mut names) {
        return Err(ExplainError::Nothing {
            path: path.to_owned(),
            near: nearest(root, path),
        });
    }
    let mut explainer = Explainer {
        loaded,
        names,
        found: Vec::new(),
    };
    explainer.node(&mut way);
    Ok(explainer.found)
}

/// Follows a path. Where a key with dots and one without both fit, the longer one is tried first.
fn walk<'n>(node: &'n Node, path: &str, way: &mut Vec<&'n Node>, names: &mut TreePath) -> bool {
    if path.is_empty() {
        return true;
    }
    match &node.value {
        Value::Map(map) => {
            let path = path.strip_prefix('.').unwrap_or(path);
            let mut keys: Vec<(&String, &Node, &str)> = map
                .iter()
                .filter_map(|(key, child)| {
                    let rest = path.strip_prefix(key.as_str())?;
                    (rest.is_empty() || rest.starts_with(['.', '['])).then_some((key, child, rest))
                })
                .collect();
            keys.sort_by_key(|(key, _, _)| std::cmp::Reverse(key.len()));
            for (key, child, rest) in keys {
                way.push(child);
                names.push_key(key);
                if walk(child, rest, way, names) {
                    return true;
                }
                names.pop();
                way.pop();
            }
            false
        }
        Value::List(list) => {
            let (number, rest) = match path.strip_prefix('[') {
                Some(tail) => match tail.split_once(']') {
                    Some(parts) => parts,
                    None => return false,
                },
                None => {
                    let tail = path.strip_prefix('.').unwrap_or(path);
                    let end = tail.find(['.', '[']).unwrap_or(tail.len());
                    tail.split_at(end)
                }
            };
            let Ok(index) = number.parse::<usize>() else {
                return false;
            };
            let Some(child) = list.get(index) else {
                return false;
            };
            way.push(child);
            names.push_index(index);
            walk(child, rest, way, names)
        }
        _ => false,
    }
}

/// A path that differs from a wrong one in one key.
fn nearest(root: &Node, path: &str) -> Option<String> {
    let mut node = root;
    let mut good = String::new();
    for key in path.split('.') {
        match node.get(key) {
            Some(child) => {
                if !good.is_empty() {
                    good.push('.');
                }
                good.push_str(key);
                node = child;
            }
            None => {
                let known = node.as_map().into_iter().flat_map(Map::keys);
                let near = schema::nearest(key, known.map(String::as_str))?;
                return Some(match good.is_empty() {
                    true => near.to_owned(),
                    false => format!("{good}.{near}"),
                });
            }
        }
    }
    None
}

struct Explainer<'l> {
    loaded: &'l Loaded,
    names: TreePath,
    found: Vec<Explanation>,
}

impl Explainer<'_> {
    /// `way` leads from the root to the node.
    fn node(&mut self, way: &mut Vec<&Node>) {
        let Some(node) = way.last().copied() else {
            return;
        };
        if is_one(node, node.span) {
            let causes = self.causes(way);
            self.push(Some(json(node)), causes);
            return;
        }
        let own: Vec<Cause> = node
            .history
            .steps()
            .iter()
            .filter(|step| {
                !matches!(
                    step,
                    Step::Rule {
                        name: rule::EXTENDS,
                        ..
                    }
                )
            })
            .map(|step| self.cause(step))
            .collect();
        if !own.is_empty() {
            let mut causes = vec![self.written(node.span)];
            causes.extend(own);
            self.push(None, causes);
        }
        match &node.value {
            Value::Map(map) => {
                for (key, child) in &**map {
                    self.names.push_key(key);
                    way.push(child);
                    self.node(way);
                    way.pop();
                    self.names.pop();
                }
            }
            Value::List(list) => {
                for (index, child) in list.iter().enumerate() {
                    self.names.push_index(index);
                    way.push(child);
                    self.node(way);
                    way.pop();
                    self.names.pop();
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, value: Option<serde_json::Value>, causes: Vec<Cause>) {
        // A value may be reached by the same line in two ways; saying it once is enough.
        let mut seen = BTreeSet::new();
        let causes = causes
            .into_iter()
            .filter(|c| {
                let place = c
                    .location
                    .as_ref()
                    .map(|l| (l.file.clone(), l.line, l.column));
                seen.insert((c.rule, c.text.clone(), place))
            })
            .collect();
        self.found.push(Explanation {
            path: self.names.to_string(),
            value,
            causes,
        });
    }

    fn causes(&self, way: &[&Node]) -> Vec<Cause> {
        let Some((node, above)) = way.split_last() else {
            return Vec::new();
        };
        let mut causes = Vec::new();
        if !node.history.is_implied() {
            causes.push(self.written(node.span));
        }
        for step in node.history.steps() {
            match step {
                Step::Rule { name, at: None, .. } => {
                    causes.push(self.located(name, rule::sentence(name).to_owned(), node.span));
                }
                Step::Rule {
                    name: rule::EXTENDS,
                    ..
                } => {}
                step => causes.push(self.cause(step)),
            }
        }
        // What a short form or an alias above says of the node holds for it too.
        let mut used_at = vec![node.span];
        for ancestor in above.iter().rev() {
            for step in ancestor.history.steps() {
                match step {
                    Step::Alias { at } | Step::MergeKey { at } => {
                        used_at.push(*at);
                        causes.push(self.cause(step));
                    }
                    Step::Variable { .. } if ancestor.span == node.span => {
                        causes.push(self.cause(step));
                    }
                    _ => {}
                }
            }
        }
        for step in node.history.steps() {
            if let Step::Alias { at } | Step::MergeKey { at } = step {
                used_at.push(*at);
            }
        }
        for ancestor in way.iter().rev() {
            causes.extend(self.inherited(ancestor, &used_at));
        }
        let mut file = node.span.file;
        let mut files: BTreeSet<FileId> = BTreeSet::new();
        while let Some(at) = self.loaded.included_at.get(&file)
            && files.insert(file)
        {
            causes.push(self.located(rule::INCLUDE, rule::sentence(rule::INCLUDE).to_owned(), *at));
            file = at.file;
        }
        causes
    }

    /// The `extends` steps that lead from a service to the base that a value stands in.
    fn inherited(&self, service: &Node, used_at: &[Span]) -> Vec<Cause> {
        let mut chain = Vec::new();
        for step in service.history.steps().iter().rev() {
            let Step::Rule {
                name: name @ rule::EXTENDS,
                at: Some(at),
                extent: Some(extent),
            } = step
            else {
                continue;
            };
            chain.push(self.located(name, rule::sentence(name).to_owned(), *at));
            if used_at.iter().any(|span| contains(*extent, *span)) {
                return chain;
            }
        }
        // It stands in the service itself.
        Vec::new()
    }

    fn cause(&self, step: &Step) -> Cause {
        match step {
            Step::Alias { at } => self.located("alias", "used by the alias at".to_owned(), *at),
            Step::MergeKey { at } => {
                self.located("merge-key", "merged in by `<<` at".to_owned(), *at)
            }
            Step::Variable { name, from } => match from {
                Origin::File(at) => self.located("variable", format!("{name} is set at"), *at),
                Origin::Process => Cause {
                    rule: "variable",
                    text: match name.as_str() {
                        "COMPOSE_PROJECT_NAME" => format!("{name} is the project's name"),
                        _ => format!("{name} is set in the environment"),
                    },
                    location: None,
                    line: None,
                },
                Origin::Unset => Cause {
                    rule: "variable",
                    text: format!("{name} is not set"),
                    location: None,
                    line: None,
                },
            },
            Step::Rule { name, at, .. } => {
                let text = rule::sentence(name).to_owned();
                match at {
                    Some(at) => self.located(name, text, *at),
                    None => Cause {
                        rule: name,
                        text,
                        location: None,
                        line: None,
                    },
                }
            }
        }
    }

    fn written(&self, span: Span) -> Cause {
        self.located("written", String::new(), span)
    }

    fn located(&self, rule: &'static str, text: String, span: Span) -> Cause {
        let sources = &self.loaded.sources;
        let place = sources.place(span);
        Cause {
            rule,
            text,
            location: Some(Location {
                file: Arc::clone(&sources.file(span.file).path),
                line: place.line,
                column: place.column,
            }),
            line: Some(sources.line(span).trim().to_owned()),
        }
    }
}

fn contains(outer: Span, inner: Span) -> bool {
    outer.file == inner.file && outer.start <= inner.start && inner.end <= outer.end
}

/// Whether a value and all below it come from one text by one way, as the parts of a short form do.
fn is_one(node: &Node, span: Span) -> bool {
    match &node.value {
        Value::Map(map) if !map.is_empty() => map
            .values()
            .all(|child| is_part(child, span) && is_one(child, span)),
        Value::List(list) if !list.is_empty() => list
            .iter()
            .all(|child| is_part(child, span) && is_one(child, span)),
        _ => true,
    }
}

fn is_part(node: &Node, span: Span) -> bool {
    node.span == span && node.history.steps().iter().all(Step::is_implied)
}
