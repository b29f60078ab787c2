//! Which files make the project, in which directory, under which name and variables.
//!
//! Everything comes from [`LoadOptions`]; the process's own environment is passed in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::admit::{Environment, Places};
use super::extends::{clean_path, is_remote};
use super::model::{STDIN, Session};
use super::{InvalidProjectName, ProjectName};
use crate::source::{Diagnostic, Files, Node, Span, dotenv, interpolate};

/// What to load and how. Make one with [`LoadOptions::new`], then set what differs.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Files given by `-f`; `-` is standard input. Empty: `COMPOSE_FILE`, then the default names.
    pub files: Vec<PathBuf>,
    pub project_name: Option<String>,
    pub project_directory: Option<PathBuf>,
    /// Files given by `--env-file`; empty: `COMPOSE_ENV_FILES`, then `.env`.
    pub env_files: Vec<PathBuf>,
    /// Profiles given by `--profile`; empty: `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// Services to select, by name or glob; empty selects all.
    pub services: Vec<String>,
    /// Selection takes the services in that the selected ones depend on.
    pub with_dependencies: bool,
    /// Keep networks, volumes, secrets, configs and models that no enabled service uses.
    pub all_resources: bool,
    /// The process's environment.
    pub environment: BTreeMap<String, String>,
    /// Absolute.
    pub current_dir: PathBuf,
    pub interpolate: bool,
    /// Fill in implied networks, names and dependencies.
    pub normalize: bool,
    pub resolve_paths: bool,
    /// Check references between the parts of the project.
    pub consistency: bool,
    /// Values that only an engine minds (addresses, restart policies, mount types) are errors; else
    /// they are warnings, and the fields stay empty. `config` prints them as they are.
    pub check_values: bool,
    /// Join names by `_`; `COMPOSE_COMPATIBILITY` says so, too.
    pub compatibility: bool,
    /// Read `env_file` and `label_file` into `environment` and `labels`.
    pub resolve_environment: bool,
}

impl LoadOptions {
    pub fn new(current_dir: PathBuf, environment: BTreeMap<String, String>) -> Self {
        LoadOptions {
            files: Vec::new(),
            project_name: None,
            project_directory: None,
            env_files: Vec::new(),
            profiles: Vec::new(),
            services: Vec::new(),
            with_dependencies: true,
            all_resources: false,
            environment,
            current_dir,
            interpolate: true,
            normalize: true,
            resolve_paths: true,
            consistency: true,
            check_values: true,
            compatibility: false,
            resolve_environment: true,
        }
    }
}

/// The names that a Compose file has when none is given, in the order of preference.
pub const DEFAULT_FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDE_FILES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// What was found.
pub struct Found {
    pub files: Vec<PathBuf>,
    pub directory: PathBuf,
    /// The directory whose name the project has when nobody gives it one.
    pub named_after: PathBuf,
    /// Variables for interpolation: the process's over those of the env files.
    pub environment: Environment,
    /// Where those of them stand that come from env files.
    pub places: Places,
    /// Explicit env files, absolute.
    pub env_files: Vec<PathBuf>,
}

/// A boolean variable as the reference reads it.
pub fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Finds files, directory and variables. Without any file, `files` is empty.
pub fn find(session: &mut Session<'_>, options: &LoadOptions) -> Found {
    let absolute = |path: &Path| clean_path(&options.current_dir.join(path));
    let mut environment = options.environment.clone();
    environment
        .entry("PWD".to_owned())
        .or_insert_with(|| options.current_dir.to_string_lossy().into_owned());

    let listed = environment
        .get("COMPOSE_ENV_FILES")
        .filter(|l| !l.is_empty());
    let env_files: Vec<PathBuf> = match (options.env_files.is_empty(), listed) {
        (false, _) => options.env_files.iter().map(|f| absolute(f)).collect(),
        (true, Some(list)) => list
            .split(',')
            .map(|f| absolute(Path::new(f.trim())))
            .collect(),
        (true, None) => Vec::new(),
    };
    let given = options.files.iter().find(|file| {
        let is_local = |text: &str| text != STDIN && !is_remote(text);
        file.to_str().is_none_or(is_local)
    });
    let start = match (&options.project_directory, given) {
        (Some(directory), _) => absolute(directory),
        (None, Some(file)) => absolute(file)
            .parent()
            .map_or_else(|| options.current_dir.clone(), Path::to_owned),
        (None, None) => options.current_dir.clone(),
    };
    let no_implicit = environment
        .get("COMPOSE_DISABLE_ENV_FILE")
        .is_some_and(|v| is_true(v));
    let mut from_files = Environment::new();
    let mut places = Places::new();
    if env_files.is_empty() {
        if !no_implicit {
            implicit_env(
                session,
                &start,
                &environment,
                (&mut from_files, &mut places),
            );
        }
    } else {
        for file in &env_files {
            // A later file overrides an earlier one (E2).
            for (name, value, at) in env_file(session, file, &environment, &from_files) {
                places.insert(name.clone(), at);
                from_files.insert(name, value);
            }
        }
    }
    let lookup = |from_files: &Environment, name: &str| {
        environment
            .get(name)
            .or_else(|| from_files.get(name))
            .filter(|v| !v.is_empty())
            .cloned()
    };

    let mut searched = false;
    let mut files: Vec<PathBuf> = if !options.files.is_empty() {
        options.files.clone()
    } else if let Some(list) = lookup(&from_files, "COMPOSE_FILE") {
        let separator = lookup(&from_files, "COMPOSE_PATH_SEPARATOR").unwrap_or(":".into());
        list.split(&*separator)
            .filter(|f| !f.is_empty())
            .map(PathBuf::from)
            .collect()
    } else {
        searched = true;
        search(session, &start)
    };
    // Files on other machines say nothing about the project's directory (F5), unless there are no
    // others: what such a file names beside itself is in its own tree, not where the user stands.
    let mut remote = Vec::new();
    if !searched {
        files.retain_mut(|file| {
            if file.as_os_str() == STDIN {
                return true;
            }
            match file.to_str().filter(|text| is_remote(text)) {
                None => *file = absolute(file),
                Some(reference) => match session.remote(reference, None, &environment) {
                    None => return false,
                    Some(local) => {
                        remote.push(local.clone());
                        *file = local;
                    }
                },
            }
            true
        });
    }
    let local = files
        .iter()
        .find(|f| f.as_os_str() != STDIN && !remote.contains(f));
    let beside = |file: Option<&PathBuf>| file.and_then(|f| f.parent()).map(Path::to_owned);
    let named_after = match &options.project_directory {
        Some(directory) => absolute(directory),
        None => beside(local).unwrap_or_else(|| options.current_dir.clone()),
    };
    let directory = match local {
        None => beside(remote.first()).unwrap_or_else(|| named_after.clone()),
        Some(_) => named_after.clone(),
    };
    if env_files.is_empty() && !no_implicit && directory != start {
        implicit_env(
            session,
            &directory,
            &environment,
            (&mut from_files, &mut places),
        );
    }
    places.retain(|name, _| !environment.contains_key(name));
    for (name, value) in from_files {
        environment.entry(name).or_insert(value);
    }
    Found {
        files,
        directory,
        named_after,
        environment,
        places,
        env_files,
    }
}

/// The default files of a directory or the nearest one above it (F1, F2).
fn search(session: &mut Session<'_>, start: &Path) -> Vec<PathBuf> {
    for directory in start.ancestors() {
        let present = |names: &[&str], files: &dyn Files| -> Vec<PathBuf> {
            names
                .iter()
                .map(|name| directory.join(name))
                .filter(|path| files.is_file(path))
                .collect()
        };
        let found = present(&DEFAULT_FILES, session.files);
        let Some(first) = found.first() else { continue };
        let mut files = vec![first.clone()];
        warn_ambiguous(session, &found, "config");
        let overrides = present(&OVERRIDE_FILES, session.files);
        warn_ambiguous(session, &overrides, "override");
        files.extend(overrides.into_iter().next());
        return files;
    }
    Vec::new()
}

fn warn_ambiguous(session: &mut Session<'_>, found: &[PathBuf], what: &str) {
    if found.len() > 1 {
        let list: Vec<String> = found.iter().map(|f| f.display().to_string()).collect();
        session.diagnostics.push(Diagnostic::warning(
            "several-files",
            format!(
                "found multiple {what} files with supported names: {}; using {}",
                list.join(", "),
                found[0].display()
            ),
        ));
    }
}

fn implicit_env(
    session: &mut Session<'_>,
    directory: &Path,
    environment: &Environment,
    (into, places): (&mut Environment, &mut Places),
) {
    let file = directory.join(".env");
    if session.files.is_file(&file) {
        for (name, value, at) in env_file(session, &file, environment, into) {
            places.entry(name.clone()).or_insert(at);
            into.entry(name).or_insert(value);
        }
    }
}

fn env_file(
    session: &mut Session<'_>,
    file: &Path,
    environment: &Environment,
    earlier: &Environment,
) -> Vec<(String, String, Span)> {
    let id = match session.read(file) {
        Ok(id) => id,
        Err(error) => {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    format!("couldn't find env file: {}", file.display())
                }
                std::io::ErrorKind::IsADirectory => format!("{} is a directory", file.display()),
                _ => format!("failed to read {}: {error}", file.display()),
            };
            session
                .diagnostics
                .push(Diagnostic::error("env-file", reason));
            return Vec::new();
        }
    };
    if !session.may_read(id, None) {
        return Vec::new();
    }
    let text = session.sources.shared_text(id);
    let lookup = |name: &str| environment.get(name).or_else(|| earlier.get(name)).cloned();
    match dotenv::parse(&text, &dotenv::Scope::above(&lookup), &mut |_| {}) {
        Ok(found) => found
            .into_iter()
            .map(|(name, assignment)| {
                let at = session.assigned_at(id, &assignment);
                (name, assignment.value, at)
            })
            .collect(),
        Err(error) => {
            let span = line_span(session, id, error.line());
            session.diagnostics.push(
                Diagnostic::error(
                    "env-file",
                    format!("failed to read {}: {error}", file.display()),
                )
                .at(span),
            );
            Vec::new()
        }
    }
}

/// A whole line of a text file.
pub fn line_span(session: &Session<'_>, id: crate::source::FileId, line: usize) -> Span {
    let text = session.sources.file(id).text();
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    let length = text[start..].lines().next().map_or(0, str::len);
    Span {
        start: start as u32,
        end: (start + length) as u32,
        ..session.sources.start_of(id)
    }
}

/// Lower case, legal characters only, no leading separator (F7).
pub fn normalize_name(name: &str) -> String {
    let legal: String = name
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    legal.trim_start_matches(['_', '-']).to_owned()
}

/// Whether a name is given, so that none has to be made up.
pub fn is_named(options: &LoadOptions, found: &Found) -> bool {
    given_name(options, found).is_some()
}

fn given_name<'a>(options: &'a LoadOptions, found: &'a Found) -> Option<&'a String> {
    let variable = || {
        found
            .environment
            .get("COMPOSE_PROJECT_NAME")
            .filter(|n| !n.is_empty())
    };
    options
        .project_name
        .as_ref()
        .filter(|n| !n.is_empty())
        .or_else(variable)
}

/// The project's name by the order of precedence (F6), reported when it is not a legal one.
pub fn name(
    session: &mut Session<'_>,
    options: &LoadOptions,
    found: &Found,
) -> Option<ProjectName> {
    if let Some(chosen) = given_name(options, found) {
        return match ProjectName::new(chosen.clone()) {
            Ok(name) => Some(name),
            Err(error) => {
                let InvalidProjectName(given) = &error;
                let legal = normalize_name(given);
                let diagnostic = Diagnostic::error("project-name", error.to_string());
                session.diagnostics.push(match legal.is_empty() {
                    true => diagnostic,
                    false => diagnostic.help(format!("`{legal}` is a legal name")),
                });
                None
            }
        };
    }
    let mut named = String::new();
    for file in &found.files {
        let Some(documents) = session.documents(file, None) else {
            continue;
        };
        for document in documents.iter() {
            let Some(text) = document.get("name").and_then(Node::as_str) else {
                continue;
            };
            let lookup = |name: &str| found.environment.get(name).cloned();
            // Mistakes in the template are reported when the document itself is read.
            if let Ok(text) = interpolate::substitute(text, &lookup, &mut |_| {})
                && !text.is_empty()
            {
                named = text.into_owned();
            }
        }
    }
    if named.is_empty() {
        named = found
            .named_after
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        warn_symlink(session, &found.named_after, &named);
    }
    match ProjectName::new(normalize_name(&named)) {
        Ok(name) => Some(name),
        Err(_) => {
            session.diagnostics.push(
                Diagnostic::error("project-name", "project name must not be empty")
                    .help("give one with -p, COMPOSE_PROJECT_NAME or `name:` in the file"),
            );
            None
        }
    }
}

fn warn_symlink(session: &mut Session<'_>, directory: &Path, name: &str) {
    if let Ok(real) = session.files.canonicalize(directory)
        && let Some(real) = real.file_name()
        && real.to_string_lossy() != name
    {
        session.diagnostics.push(Diagnostic::warning(
            "symlinked-directory",
            format!(
                "project has been loaded without an explicit name from a symlink. Using name {name:?}"
            ),
        ));
    }
}
