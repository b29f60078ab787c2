//! The phases of a load, in order. Each is a function of its own room; this is their table of
//! contents.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::find::{self, LoadOptions};
use super::model::{Model, Session};
use super::{Project, ProjectName, bind, check, consistency, environment, normalize, profiles};
use crate::source::interpolate::Variable;
use crate::source::{Diagnostic, FileId, Files, Map, Node, SourceMap, Span, Value, diagnostic};

/// What a load found out.
#[derive(Debug)]
pub struct Loaded {
    /// `None` exactly when there is an error among the diagnostics.
    pub project: Option<Project>,
    /// Every mistake and doubt, ordered by place.
    pub diagnostics: Vec<Diagnostic>,
    pub sources: SourceMap,
    /// The variables that interpolation saw: the environment over the env files.
    pub environment: BTreeMap<String, String>,
    /// The variables that the files name; listed only where interpolation is left out.
    pub variables: Vec<Variable>,
    /// Every profile that a service names, enabled or not.
    pub profiles: Vec<String>,
    /// The `include` entries that files were read for.
    pub included_at: BTreeMap<FileId, Span>,
}

impl Loaded {
    /// Whether the load failed because a file that something names is not there; Compose ends with
    /// another exit code then. Files of the model count before all else, env files only when
    /// nothing else is wrong, because they are read last.
    pub fn is_file_missing(&self) -> bool {
        let mut errors = self.diagnostics.iter().filter(|d| d.is_error()).peekable();
        let is_model_file = |d: &&Diagnostic| matches!(d.code, "no-file" | "missing-file");
        if errors.clone().any(|d| is_model_file(&d)) {
            return true;
        }
        errors.peek().is_some() && errors.all(|d| d.code == "missing-env-file")
    }
}

/// Loads a project. Reports all mistakes it can find in one run.
pub fn load(options: &LoadOptions, files: &dyn Files) -> Loaded {
    let mut session = Session::new(files, Some(options.current_dir.clone()));
    session.interpolate = options.interpolate;
    session.resolve_paths = options.resolve_paths;
    let mut found = find::find(&mut session, options);
    let (project, profiles) = project(&mut session, options, &mut found);
    let mut diagnostics = session.diagnostics;
    diagnostic::sort(&mut diagnostics);
    let failed = diagnostics.iter().any(Diagnostic::is_error);
    Loaded {
        project: project.filter(|_| !failed),
        diagnostics,
        sources: session.sources,
        environment: found.environment,
        variables: session.variables,
        profiles,
        included_at: session.included_at,
    }
}

/// The project's name alone, for commands that need no file (F12). A file that is named and not
/// there is a mistake all the same, unless the name was given with it.
pub fn project_name(
    options: &LoadOptions,
    files: &dyn Files,
) -> Result<ProjectName, Vec<Diagnostic>> {
    let mut session = Session::new(files, Some(options.current_dir.clone()));
    let found = find::find(&mut session, options);
    if found.files.is_empty() && !find::is_named(options, &found) {
        return Err(vec![no_file()]);
    }
    let name = find::name(&mut session, options, &found);
    if options.project_name.is_none() {
        session.require(&found.files);
    }
    let is_missing = |diagnostic: &Diagnostic| diagnostic.code == "missing-file";
    match name {
        Some(name) if !session.diagnostics.iter().any(is_missing) => Ok(name),
        _ => {
            session.diagnostics.retain(Diagnostic::is_error);
            diagnostic::sort(&mut session.diagnostics);
            Err(session.diagnostics)
        }
    }
}

/// The variables that a load with these options sees. What is wrong with an env file is said when
/// the project is loaded.
pub fn variables(options: &LoadOptions, files: &dyn Files) -> BTreeMap<String, String> {
    let mut session = Session::new(files, Some(options.current_dir.clone()));
    find::find(&mut session, options).environment
}

fn no_file() -> Diagnostic {
    Diagnostic::error("no-file", "no configuration file provided: not found")
        .help("write a compose.yaml here, or name a file with -f")
}

fn project(
    session: &mut Session<'_>,
    options: &LoadOptions,
    found: &mut find::Found,
) -> (Option<Project>, Vec<String>) {
    if found.files.is_empty() {
        if !session.is_partial {
            session.diagnostics.push(no_file());
        }
        return (None, Vec::new());
    }
    let name = find::name(session, options, found);
    if let Some(name) = &name {
        // So that `${COMPOSE_PROJECT_NAME}` always works (F9).
        found
            .environment
            .insert("COMPOSE_PROJECT_NAME".to_owned(), name.to_string());
    }
    let root = session.model(&Model {
        files: &found.files,
        directory: &found.directory,
        environment: &found.environment,
        places: &found.places,
        chain: &[],
    });
    let Some(mut root) = root else {
        if !session.diagnostics.iter().any(Diagnostic::is_error) {
            session
                .diagnostics
                .push(Diagnostic::error("empty-file", "empty compose file"));
        }
        return (None, Vec::new());
    };
    if root.as_map().is_none_or(Map::is_empty) {
        session
            .diagnostics
            .push(Diagnostic::error("empty-file", "empty compose file"));
        return (None, Vec::new());
    }
    session.report_deferred(&root);
    let Some(name) = name else {
        return (None, Vec::new());
    };
    if let Some(map) = root.as_map_mut() {
        let mut node = map
            .get("name")
            .cloned()
            .unwrap_or_else(|| Node::new(root.span, Value::Null));
        node.value = Value::Text(name.to_string());
        root.as_map_mut()
            .map(|map| map.insert("name".to_owned(), node));
    }

    check::required(&root, options.check_values, &mut session.diagnostics);
    if options.normalize {
        normalize::normalize(&mut root, name.as_str());
    }
    let all_profiles = profiles::names(&root);
    // What a template refers to, and which of its services are there, is not known yet.
    let mut disabled = match options.interpolate {
        true => profiles::enable(
            &mut root,
            options,
            &found.environment,
            &mut session.diagnostics,
        ),
        false => profiles::Disabled::default(),
    };
    let is_checked = options.consistency && options.interpolate;
    if is_checked {
        consistency::check(
            &root,
            &disabled,
            consistency::Knowledge {
                is_partial: session.is_partial,
                templates: !options.interpolate,
            },
            &mut session.diagnostics,
        );
    }
    profiles::select(&mut root, &mut disabled, options, &mut session.diagnostics);
    if is_checked {
        consistency::container_names(&root, &mut session.diagnostics);
    }
    if !options.all_resources && (options.interpolate || !options.services.is_empty()) {
        normalize::drop_unused(&mut root);
    }
    check::without_effect(&root, &mut session.diagnostics);
    // A template names no file yet.
    let resolve_environment = options.resolve_environment && options.interpolate;
    if resolve_environment {
        environment::resolve_env_files(session, &mut root, &found.environment);
    }
    if options.interpolate {
        environment::resolve_label_files(session, &mut root);
    }
    let locations = bind::locations(&root, &session.sources);
    let mut doubts = Vec::new();
    let mut project = bind::project(
        &root,
        name,
        bind::Strictness {
            templates: !options.interpolate,
            refuse: options.check_values,
        },
        resolve_environment,
        &mut doubts,
    );
    session.report_news(doubts);
    project.working_dir = found.directory.clone();
    project.config_files = found.files.clone();
    project.environment_files = found.env_files.clone();
    project.disabled_services = disabled.keys().cloned().collect();
    let asked = found.environment.get("COMPOSE_COMPATIBILITY");
    project.compatibility = options.compatibility || asked.is_some_and(|v| find::is_true(v));
    project.locations = locations;
    project.included_values = std::mem::take(&mut session.included_values);
    project.canonical = Some(Arc::new(root));
    (Some(project), all_profiles)
}
