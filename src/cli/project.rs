//! The project that a command is about: its name, and the loaded files where there are any.

use std::collections::BTreeMap;

use super::globals::Context;
use super::output::{Failure, Kind};
use crate::compose::{self, LoadOptions, Project, ProjectName};
use crate::source::files::HostFiles;
use crate::source::{self, Diagnostic};

/// A project as far as it is known here.
pub struct Selected {
    pub name: ProjectName,
    /// `None` when a name was given and no file is there: the engine goes by labels.
    pub project: Option<Project>,
}

fn options(context: &Context) -> LoadOptions {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let globals = &context.globals;
    let mut options = LoadOptions::new(context.current_dir.clone(), environment);
    options.files = globals.files.clone();
    options.project_name = globals.project_name.clone();
    options.project_directory = globals.project_directory.clone();
    options.env_files = globals.env_files.clone();
    options.profiles = globals.profiles.clone();
    options
}

/// Loads the project; warnings are shown, errors are the failure.
///
/// The named services are selected by the engine, with what they depend on: others stay in the
/// project, so that they are no orphans.
pub fn load(context: &Context) -> Result<Project, Failure> {
    let loaded = compose::load(&options(context), &HostFiles);
    let is_missing = has_no_file(&loaded.diagnostics);
    if !loaded.diagnostics.is_empty() && !is_missing {
        let palette = context.output.ansi.stderr();
        let text = source::render(&loaded.diagnostics, &loaded.sources, palette.is_on);
        context.output.note(text.trim_end());
    }
    let Some(mut project) = loaded.project else {
        return Err(if is_missing {
            Failure::new(Kind::NoFile, "no configuration file provided: not found")
                .hint("write a compose.yaml here, or name a file with -f")
        } else {
            // The diagnostics have said it all, each with its place.
            Failure::new(Kind::File, "")
        });
    };
    fill_from_environment(&mut project, &loaded.environment)?;
    Ok(project)
}

fn has_no_file(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.code == "no-file")
}

/// Secrets and configs that come from a variable get their content here: the variables are the
/// user's, and the canonical form that others print must never hold them.
fn fill_from_environment(
    project: &mut Project,
    environment: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let kinds = [("secret", &mut project.secrets), ("config", &mut project.configs)];
    for (kind, objects) in kinds {
        for (key, object) in objects.iter_mut() {
            let Some(variable) = &object.environment else { continue };
            match environment.get(variable) {
                Some(value) => object.content = Some(value.clone()),
                None => {
                    return Err(Failure::new(
                        Kind::File,
                        format!("environment variable {variable:?} required by {kind} {key:?} is not set"),
                    )
                    .hint(format!("set it in the shell or in .env: {variable}=…")));
                }
            }
        }
    }
    Ok(())
}

/// The project with its files, or by its name alone where a name is given and no file is there.
pub fn select(context: &Context) -> Result<Selected, Failure> {
    match load(context) {
        Ok(project) => Ok(Selected { name: project.name.clone(), project: Some(project) }),
        Err(failure) if failure.kind == Kind::NoFile && is_named(context) => {
            Ok(Selected { name: name(context)?, project: None })
        }
        Err(failure) => Err(failure),
    }
}

fn is_named(context: &Context) -> bool {
    context.globals.files.is_empty()
        && (context.globals.project_name.is_some()
            || std::env::var_os("COMPOSE_PROJECT_NAME").is_some_and(|name| !name.is_empty()))
}

/// The project's name, without reading more than that takes.
pub fn name(context: &Context) -> Result<ProjectName, Failure> {
    if let Some(name) = &context.globals.project_name {
        return ProjectName::new(name.as_str())
            .map_err(|error| Failure::new(Kind::Usage, error.to_string()));
    }
    compose::project_name(&options(context), &HostFiles).map_err(|diagnostics| {
        if has_no_file(&diagnostics) {
            return Failure::new(Kind::NoFile, "no configuration file provided: not found")
                .hint("name the project with -p, or change to its directory");
        }
        let mut failure = Failure::new(Kind::File, "the project's name cannot be told");
        if let Some(first) = diagnostics.first() {
            failure.error.clone_from(&first.message);
            failure.hints.extend(first.help.clone());
        }
        failure
    })
}

/// Fails like Compose for a service that the file does not have.
pub fn check_services(project: &Project, services: &[String]) -> Result<(), Failure> {
    for service in services {
        if !project.services.contains_key(service) && !project.disabled_services.contains(service) {
            return Err(Failure::new(Kind::Engine, format!("no such service: {service}"))
                .hint(format!(
                    "the file has {}",
                    project.services.keys().cloned().collect::<Vec<_>>().join(", ")
                )));
        }
    }
    Ok(())
}
