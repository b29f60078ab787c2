//! One model: the files that are merged under one project directory and one environment.
//!
//! The phases per file, in order: parse, admit (interpolate and check types), canonical form,
//! include, reset, extends, merge, unique. After the last file: bare variables, paths. An included
//! model runs through the same phases on its own (N2).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::admit::{Admission, Environment, Places, Traits, origin, refuse_nulls};
use super::budget::{Budget, Use};
use super::canonical::Canonical;
use super::paths::Resolver;
use super::schema::{self, Shape};
use super::{extends, include, merge, normalize};
use crate::source::dotenv::Assignment;
use crate::source::interpolate::Variable;
use crate::source::{
    Diagnostic, FileId, Files, Map, Node, SourceMap, Span, Step, Tag, Trail, Value, files, parse,
};

/// What all models of one load share.
pub struct Session<'a> {
    pub files: &'a dyn Files,
    pub sources: SourceMap,
    pub diagnostics: Vec<Diagnostic>,
    pub interpolate: bool,
    pub resolve_paths: bool,
    pub variables: Vec<Variable>,
    pub unset: BTreeSet<String>,
    /// Something that was named could not be read, so that what seems missing may stand there.
    pub is_partial: bool,
    pub budget: Budget,
    pub traits: Traits,
    /// Ports that short forms expanded to so far; see [`Canonical`].
    pub n_ports: usize,
    /// Models loaded so far; includes that include each other's files twice would double at each
    /// level.
    n_models: usize,
    /// Texts by path: an env file that many services name is held once.
    texts: BTreeMap<PathBuf, FileId>,
    /// Parsed files by path; a base that many services extend is read once.
    parsed: BTreeMap<PathBuf, Option<Rc<Vec<Node>>>>,
    /// Values of `environment:` secrets and configs of included models, whose environment is not
    /// the project's (N5). By `secrets.NAME` and `configs.NAME`.
    pub included_values: BTreeMap<String, Option<String>>,
    /// Mistakes in values that a later file may still replace.
    pub deferred: Vec<Diagnostic>,
    /// The `include` entries that files were read for.
    pub included_at: BTreeMap<FileId, Span>,
}

/// The files of one model and what they are read with.
pub struct Model<'a> {
    pub files: &'a [PathBuf],
    pub directory: &'a Path,
    pub environment: &'a Environment,
    /// Where those of the variables stand that come from env files.
    pub places: &'a Places,
    /// The files that led here through `include`.
    pub chain: &'a [PathBuf],
}

/// Most models of one load.
const MAX_MODELS: usize = 1_000;

/// The path that stands for standard input.
pub const STDIN: &str = "-";

impl<'a> Session<'a> {
    pub fn new(files: &'a dyn Files, root: Option<PathBuf>) -> Self {
        Session {
            files,
            sources: SourceMap::new(root),
            diagnostics: Vec::new(),
            interpolate: true,
            resolve_paths: true,
            variables: Vec::new(),
            unset: BTreeSet::new(),
            is_partial: false,
            budget: Budget::default(),
            traits: Traits::default(),
            n_ports: 0,
            n_models: 0,
            texts: BTreeMap::new(),
            parsed: BTreeMap::new(),
            included_values: BTreeMap::new(),
            deferred: Vec::new(),
            included_at: BTreeMap::new(),
        }
    }

    /// Reads a text file into the source map.
    pub fn read(&mut self, path: &Path) -> io::Result<FileId> {
        if let Some(known) = self.texts.get(path) {
            return Ok(*known);
        }
        let bytes = if path == Path::new(STDIN) {
            self.files.read_stdin()?
        } else {
            self.files.read(path)?
        };
        let text = files::decode(bytes)?;
        let id = self.sources.add(path.to_owned(), text);
        self.texts.insert(path.to_owned(), id);
        Ok(id)
    }

    /// The documents of a Compose file; `None` when it cannot be read, which is reported once, at
    /// the place that names the file.
    pub fn documents(&mut self, path: &Path, named_at: Option<Span>) -> Option<Rc<Vec<Node>>> {
        if let Some(known) = self.parsed.get(path) {
            return known.clone();
        }
        let documents = match self.read(path) {
            Ok(file) if self.may_read(file, named_at) => {
                let mut found = Vec::new();
                let documents = parse::parse(&self.sources, file, &mut found);
                self.is_partial |= !found.is_empty();
                self.diagnostics.append(&mut found);
                Some(Rc::new(documents))
            }
            Ok(_) => None,
            Err(error) => {
                self.unreadable(path, &error, named_at);
                None
            }
        };
        self.parsed.insert(path.to_owned(), documents.clone());
        documents
    }

    /// Takes the length of a text that is to be read through from the budget of this load.
    pub fn may_read(&mut self, file: FileId, named_at: Option<Span>) -> bool {
        let length = self.sources.file(file).text().len();
        let may = self
            .budget
            .spend(Use::Text, length, named_at, &mut self.diagnostics);
        self.is_partial |= !may;
        may
    }

    /// The place of a variable in an env file that was read.
    pub fn assigned_at(&self, file: FileId, assignment: &Assignment) -> Span {
        Span {
            start: assignment.start,
            end: assignment.end,
            ..self.sources.start_of(file)
        }
    }

    /// Notes that a file is read because of an `include`.
    pub fn note_included(&mut self, path: &Path, at: Span) {
        if let Some(file) = self.texts.get(path) {
            self.included_at.entry(*file).or_insert(at);
        }
    }

    /// The local copy of a file on another machine; why there is none is reported.
    pub fn remote(
        &mut self,
        reference: &str,
        named_at: Option<Span>,
        environment: &Environment,
    ) -> Option<PathBuf> {
        let shown = extends::clean_url(reference);
        let is_oci = reference.starts_with("oci://");
        let switch = match is_oci {
            true => "COMPOSE_EXPERIMENTAL_OCI_REMOTE",
            false => "COMPOSE_EXPERIMENTAL_GIT_REMOTE",
        };
        let is_off = environment
            .get(switch)
            .is_some_and(|v| matches!(v.as_str(), "0" | "false" | "False" | "FALSE" | "f"));
        let found = match is_off {
            true => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("switched off by {switch}"),
            )),
            false => self.files.remote(reference),
        };
        let error = match found {
            Ok(path) => return Some(path),
            Err(error) => error,
        };
        self.is_partial = true;
        let diagnostic = match error.kind() {
            io::ErrorKind::Unsupported => Diagnostic::error(
                "remote-file",
                format!("remote resource {shown} is not supported"),
            )
            .help("check it out beside the Compose file and name the local path"),
            io::ErrorKind::NotFound => Diagnostic::error(
                "remote-file",
                format!("remote resource {shown} has not been fetched: {error}"),
            )
            .help("`wharf up` fetches it; commands that only read never do"),
            _ => Diagnostic::error(
                "remote-file",
                format!("cannot fetch remote resource {shown}: {error}"),
            ),
        };
        self.diagnostics.push(match named_at {
            Some(span) => diagnostic.at(span),
            None => diagnostic,
        });
        None
    }

    /// Reports those of the files that are not there.
    pub fn require(&mut self, files: &[PathBuf]) {
        for file in files.iter().filter(|file| file.as_os_str() != STDIN) {
            match self.read(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.unreadable(file, &error, None);
                }
                _ => {}
            }
        }
    }

    pub fn unreadable(&mut self, path: &Path, error: &io::Error, named_at: Option<Span>) {
        self.is_partial = true;
        let code = match error.kind() {
            io::ErrorKind::NotFound => "missing-file",
            _ => "unreadable-file",
        };
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            io::ErrorKind::IsADirectory => "is a directory".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        let diagnostic = Diagnostic::error(code, format!("open {}: {reason}", path.display()));
        self.diagnostics.push(match named_at {
            Some(span) => diagnostic.at(span),
            None => diagnostic,
        });
    }

    /// Interpolates, checks and canonicalises a part of a document.
    pub fn admit(&mut self, node: &mut Node, shape: &Shape, path: &Trail<'_>, model: &Model<'_>) {
        Admission {
            environment: model.environment,
            places: model.places,
            interpolate: self.interpolate,
            diagnostics: &mut self.diagnostics,
            deferred: &mut self.deferred,
            unset: &mut self.unset,
            budget: &mut self.budget,
            variables: &mut self.variables,
            traits: &mut self.traits,
        }
        .node(node, shape, path);
    }

    pub fn canonical(&mut self) -> Canonical<'_> {
        Canonical {
            diagnostics: &mut self.diagnostics,
            deferred: &mut self.deferred,
            templates: !self.interpolate,
            n_ports: &mut self.n_ports,
        }
    }

    /// Loads a model. `None` when no file of it could be read.
    pub fn model(&mut self, model: &Model<'_>) -> Option<Node> {
        self.n_models += 1;
        if self.n_models > MAX_MODELS {
            if self.n_models == MAX_MODELS + 1 {
                self.diagnostics.push(Diagnostic::error(
                    "too-many-includes",
                    format!("more than {MAX_MODELS} models are included"),
                ));
            }
            return None;
        }
        let mut merged: Option<Node> = None;
        for path in model.files {
            let Some(documents) = self.documents(path, None) else {
                continue;
            };
            // A file of a model is rarely read a second time, and then it is parsed again: that is
            // cheaper than a copy of every file.
            self.parsed.remove(path);
            let documents = Rc::try_unwrap(documents).unwrap_or_else(|shared| (*shared).clone());
            let mut versions = 0;
            let is_alone = documents.len() == 1;
            for mut document in documents {
                if document.is_null() && is_alone {
                    continue;
                }
                if document.as_map().is_none() {
                    let diagnostic =
                        Diagnostic::error("top-level", "top-level object must be a mapping")
                            .label(document.span, format!("this is {}", document.value.kind()));
                    self.diagnostics.push(match document.is_null() {
                        true => diagnostic.help("remove the `---` that begins an empty document"),
                        false => diagnostic,
                    });
                    continue;
                }
                self.admit(&mut document, &schema::ROOT, &Trail::Root, model);
                self.resource_names(&document);
                if let Some(version) = document
                    .as_map_mut()
                    .and_then(|m| m.shift_remove("version"))
                {
                    versions += 1;
                    if versions == 1 {
                        self.diagnostics.push(
                            Diagnostic::warning(
                                "obsolete-version",
                                "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion",
                            )
                            .at(version.entry_span()),
                        );
                    }
                }
                self.canonical().project(&mut document);
                if let Some(merged) = &mut merged {
                    // Before the include: merging the document over what it includes uses its
                    // tags up.
                    merge::reset(merged, &mut document);
                }
                include::apply(self, &mut document, path, model);
                extends::apply(self, &mut document, path, model);
                if self.traits.has_tags {
                    merge::settle(&mut document);
                }
                match &mut merged {
                    Some(merged) => merge::project(merged, document, &mut self.diagnostics),
                    None => merged = Some(document),
                }
                // Each document is checked with those before it, so a later one does not mend it.
                if let Some(merged) = &merged
                    && self.traits.has_nulls
                {
                    refuse_nulls(merged, &schema::ROOT, &mut self.diagnostics);
                }
            }
            if let Some(merged) = &mut merged {
                merge::unique_project(merged);
            }
        }
        let mut merged = merged?;
        inherit_variables(&mut merged, model);
        normalize::defaults(&mut merged);
        if self.resolve_paths {
            Resolver {
                base: model.directory,
                environment: model.environment,
            }
            .project(&mut merged);
            self.resolve_watched(&mut merged);
            self.warn_bare_layouts(&merged, model.directory);
        }
        Some(merged)
    }

    /// Watched paths are named by the kernel without symbolic links, so the first link in one is
    /// resolved (H1). What does not exist stays as it is.
    fn resolve_watched(&self, root: &mut Node) {
        let services = root.get_mut("services").and_then(Node::as_map_mut);
        for service in services.into_iter().flat_map(Map::values_mut) {
            let rules = service.get_mut("develop").and_then(|d| d.get_mut("watch"));
            for rule in rules.and_then(Node::as_list_mut).into_iter().flatten() {
                let Some(path) = rule.get_mut("path") else {
                    continue;
                };
                let Some(text) = path.as_str() else { continue };
                let whole = Path::new(text);
                let mut prefixes: Vec<&Path> = whole.ancestors().collect();
                prefixes.reverse();
                let linked = prefixes.into_iter().find_map(|prefix| {
                    let real = self.files.canonicalize(prefix).ok()?;
                    (real != prefix).then(|| (real, whole.strip_prefix(prefix).ok()))
                });
                if let Some((real, Some(rest))) = linked {
                    let resolved = real.join(rest);
                    // Joining nothing leaves a slash at the end.
                    let text = resolved.to_string_lossy().trim_end_matches('/').to_owned();
                    path.value = Value::Text(text);
                }
            }
        }
    }

    /// `oci:name` is a repository named `oci` with a tag, as everywhere; who has a directory of
    /// that name may have meant it.
    fn warn_bare_layouts(&mut self, root: &Node, directory: &Path) {
        let services = root.get("services").and_then(Node::as_map);
        for image in services
            .into_iter()
            .flat_map(Map::values)
            .filter_map(|s| s.get("image"))
        {
            let Some((scheme, name)) = image.as_str().and_then(|text| text.split_once(':')) else {
                continue;
            };
            if !matches!(scheme, "oci" | "rootfs") || name.is_empty() || name.contains('/') {
                continue;
            }
            let layout = name.split(':').next().unwrap_or(name);
            if self.files.is_dir(&directory.join(layout)) {
                self.diagnostics.push(
                    Diagnostic::warning(
                        "bare-layout",
                        format!("image \"{scheme}:{name}\" is the tag {name} of the repository {scheme}, not the directory {layout}"),
                    )
                    .at(image.span)
                    .help(format!("write {scheme}:./{name} for the directory")),
                );
            }
        }
    }

    /// Reports the mistakes in values that are still there when all files have spoken. The
    /// reference reads sizes, modes and command lines only then.
    pub fn report_deferred(&mut self, root: &Node) {
        if self.deferred.is_empty() {
            return;
        }
        let mut left = BTreeSet::new();
        spans(root, &mut left);
        for diagnostic in std::mem::take(&mut self.deferred) {
            if diagnostic
                .labels
                .first()
                .is_none_or(|l| left.contains(&l.span))
            {
                self.diagnostics.push(diagnostic);
            }
        }
    }

    /// Reports what is no echo of an error that was reported already: one mistake, one message.
    pub fn report_news(&mut self, found: Vec<Diagnostic>) {
        let known: Vec<Span> = self
            .diagnostics
            .iter()
            .filter(|d| d.is_error())
            .filter_map(|d| d.labels.first())
            .map(|label| label.span)
            .collect();
        let is_known = |span: Span| {
            let line = |at: Span| self.sources.place(at).line;
            known
                .iter()
                .any(|k| k.file == span.file && line(*k) == line(span))
        };
        let news: Vec<Diagnostic> = found
            .into_iter()
            .filter(|d| d.is_error() || d.labels.first().is_none_or(|l| !is_known(l.span)))
            .collect();
        self.diagnostics.extend(news);
    }

    /// Names of resources become parts of file names and labels.
    fn resource_names(&mut self, document: &Node) {
        for section in [
            "services", "networks", "volumes", "secrets", "configs", "models",
        ] {
            for (name, node) in document
                .get(section)
                .and_then(Node::as_map)
                .into_iter()
                .flatten()
            {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
                if name.is_empty() || !name.chars().all(legal) {
                    self.diagnostics.push(
                        Diagnostic::error(
                            "resource-name",
                            format!("{section}: additional properties '{name}' not allowed"),
                        )
                        .at(node.entry_span())
                        .help("names consist of letters, digits, `.`, `_` and `-`"),
                    );
                }
            }
        }
    }
}

/// The places of all values of a tree.
fn spans(node: &Node, into: &mut BTreeSet<Span>) {
    into.insert(node.span);
    match &node.value {
        Value::Map(map) => map.values().for_each(|child| spans(child, into)),
        Value::List(list) => list.iter().for_each(|child| spans(child, into)),
        _ => {}
    }
}

/// `KEY` without a value takes the variable of that name (E7); a build argument without one is
/// dropped (V5).
fn inherit_variables(root: &mut Node, model: &Model<'_>) {
    let services = root.get_mut("services").and_then(Node::as_map_mut);
    for service in services.into_iter().flat_map(Map::values_mut) {
        let inherit = |map: Option<&mut Map>| {
            for (name, value) in map.into_iter().flatten() {
                if value.is_null()
                    && value.tag != Some(Tag::Reset)
                    && let Some(text) = model.environment.get(name)
                {
                    value.value = Value::Text(text.clone());
                    let from = origin(name, model.environment, model.places);
                    let name = name.clone();
                    value.history.push(Step::Variable { name, from });
                }
            }
        };
        inherit(service.get_mut("environment").and_then(Node::as_map_mut));
        if let Some(args) = service.get_mut("build").and_then(|b| b.get_mut("args")) {
            inherit(args.as_map_mut());
        }
    }
}
