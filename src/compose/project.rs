//! The root object of a Compose file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{FileObject, ModelConfig, Network, Service, Volume};
use crate::source::Node;

/// A project name: lower-case letters, digits, `-` and `_`, starting with a letter or a digit.
///
/// The rule is compose-go's `NormalizeProjectName`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProjectName(String);

/// A project name that breaks the rule of [`ProjectName`].
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid project name {0:?}: must consist only of lowercase alphanumeric characters, \
     hyphens, and underscores as well as start with a letter or number"
)]
pub struct InvalidProjectName(pub String);

impl ProjectName {
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidProjectName> {
        let name = name.into();
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let starts_well = name
            .chars()
            .next()
            .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if starts_well && name.chars().all(legal) {
            Ok(ProjectName(name))
        } else {
            Err(InvalidProjectName(name))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ProjectName {
    type Error = InvalidProjectName;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<ProjectName> for String {
    fn from(name: ProjectName) -> String {
        name.0
    }
}

/// Where a value stands in the user's files; line and column count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    pub file: Arc<Path>,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// A whole Compose project in canonical form: the desired state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    pub name: ProjectName,
    /// Absolute directory that relative paths of the files were resolved against.
    pub working_dir: PathBuf,
    /// The files that were read, in merge order, absolute.
    pub config_files: Vec<PathBuf>,
    /// Files given by `--env-file`, absolute; empty when only the implicit `.env` was used.
    #[serde(default)]
    pub environment_files: Vec<PathBuf>,
    /// Enabled and selected services, in file order.
    #[serde(default)]
    pub services: IndexMap<String, Service>,
    /// Services that profiles or selection switched off; they are not orphans.
    #[serde(default)]
    pub disabled_services: Vec<String>,
    #[serde(default)]
    pub networks: BTreeMap<String, Network>,
    #[serde(default)]
    pub volumes: BTreeMap<String, Volume>,
    #[serde(default)]
    pub secrets: BTreeMap<String, FileObject>,
    #[serde(default)]
    pub configs: BTreeMap<String, FileObject>,
    /// Names of containers and images are joined by `_` instead of `-`, as the first Compose did
    /// (L1).
    #[serde(default)]
    pub compatibility: bool,
    /// Where the parts of the project stand, by dotted path (`services.web.ports.0`), so that a
    /// failure in the engine can still name file and line. Paths are display keys only.
    #[serde(default)]
    pub locations: BTreeMap<String, Location>,
    #[serde(default)]
    pub models: BTreeMap<String, ModelConfig>,
    /// `x-…` keys of the top level, as written.
    #[serde(default)]
    pub extensions: BTreeMap<String, serde_json::Value>,
    /// The canonical tree that the fields above were read from; what `config` prints. It stays in
    /// the process that loaded the files.
    #[serde(skip)]
    pub canonical: Option<Arc<Node>>,
    /// Values of `environment:` secrets and configs of included models, by `secrets.NAME` and
    /// `configs.NAME`. Secret, so they never travel except as `content`.
    #[serde(skip)]
    pub included_values: BTreeMap<String, Option<String>>,
}

impl Project {
    /// A project without anything in it.
    pub fn new(name: ProjectName) -> Self {
        Project {
            name,
            working_dir: PathBuf::new(),
            config_files: Vec::new(),
            environment_files: Vec::new(),
            services: IndexMap::new(),
            disabled_services: Vec::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
            compatibility: false,
            locations: BTreeMap::new(),
            models: BTreeMap::new(),
            extensions: BTreeMap::new(),
            canonical: None,
            included_values: BTreeMap::new(),
        }
    }

    /// What joins the parts of the names of containers and images.
    pub fn separator(&self) -> char {
        match self.compatibility {
            true => '_',
            false => '-',
        }
    }
}
