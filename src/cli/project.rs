//! The project that a command is about: its name, and the loaded files where there are any.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::globals::{Context, Globals};
use super::output::{Failure, Kind};
use super::remote::{Registries, RemoteFiles};
use super::{command, credentials};
use crate::api::wire::registry::{Artifact, ArtifactRequest};
use crate::compose::{self, LoadOptions, Project, ProjectName};
use crate::source::files::HostFiles;
use crate::source::{self, Diagnostic};

/// A project as far as it is known here.
pub struct Selected {
    pub name: ProjectName,
    /// `None` when a name was given and no file is there: the engine goes by labels.
    pub project: Option<Project>,
}

impl From<Project> for Selected {
    fn from(project: Project) -> Selected {
        Selected {
            name: project.name.clone(),
            project: Some(project),
        }
    }
}

/// How to load the project that the flags and the environment name.
pub fn options(globals: &Globals, current_dir: &Path) -> LoadOptions {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut options = LoadOptions::new(current_dir.to_owned(), environment);
    options.files = globals.files.clone();
    options.project_name = globals.project_name.clone();
    options.project_directory = globals.project_directory.clone();
    options.env_files = globals.env_files.clone();
    options.profiles = globals.profiles.clone();
    options.all_resources = globals.all_resources;
    options.compatibility = globals.compatibility;
    options
}

/// Loads the project; warnings are shown, errors are the failure.
///
/// The named services are selected with what they depend on, whatever their profiles; the others
/// stay known as disabled, so that their containers are no orphans.
pub fn load(context: &Context, services: &[String]) -> Result<Project, Failure> {
    load_from(context, services, &RemoteFiles::cached())
}

/// The same for a command that changes things, and may therefore fetch what the files name on
/// other machines.
pub fn load_and_fetch(context: &Context, services: &[String]) -> Result<Project, Failure> {
    let registries = AskEngine(context);
    let files = RemoteFiles::fetching().with_registries(&registries);
    load_from(context, services, &files)
}

/// Registries as the engine reaches them, with the user's logins.
struct AskEngine<'a>(&'a Context);

impl Registries for AskEngine<'_> {
    fn artifact(&self, reference: &str, kinds: &[&str]) -> io::Result<Artifact> {
        let context = self.0;
        let request = ArtifactRequest {
            reference: reference.to_owned(),
            kinds: kinds.iter().map(ToString::to_string).collect(),
            logins: credentials::for_references(context, std::iter::once(reference)),
        };
        let fetched = command::with_engine(context, async |client| {
            Ok(client.artifact(&request).await?)
        });
        // The loader prints one line, at the place that names the reference.
        fetched.map_err(|failure| {
            let told = std::iter::once(failure.error).chain(failure.hints);
            io::Error::other(told.collect::<Vec<_>>().join("; "))
        })
    }
}

fn load_from(
    context: &Context,
    services: &[String],
    files: &RemoteFiles<'_>,
) -> Result<Project, Failure> {
    let mut options = options(&context.globals, &context.current_dir);
    options.services = services.to_vec();
    let loaded = compose::load(&options, files);
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
    // Only now, and only for the engine: what is printed never holds the values.
    compose::resolve_environment_objects(&mut project, &loaded.environment).map_err(|unset| {
        let missing: Vec<String> = unset.iter().map(ToString::to_string).collect();
        Failure::new(Kind::File, missing.join("; "))
            .hint("set it in the shell, or in .env beside the file")
    })?;
    Ok(project)
}

fn has_no_file(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .any(|diagnostic| diagnostic.code == "no-file")
}

/// The project with its files, or by its name alone where a name is given and no file is there.
pub fn select(context: &Context, services: &[String]) -> Result<Selected, Failure> {
    match load(context, services) {
        Ok(project) => Ok(project.into()),
        Err(failure) if failure.kind == Kind::NoFile && is_named(context) => Ok(Selected {
            name: name(context)?,
            project: None,
        }),
        Err(failure) => Err(failure),
    }
}

fn is_named(context: &Context) -> bool {
    context.globals.files.is_empty()
        && (context.globals.project_name.is_some()
            || context.variable("COMPOSE_PROJECT_NAME").is_some())
}

/// The project's name, without reading more than that takes.
pub fn name(context: &Context) -> Result<ProjectName, Failure> {
    if let Some(name) = &context.globals.project_name {
        return ProjectName::new(name.as_str())
            .map_err(|error| Failure::new(Kind::Usage, error.to_string()));
    }
    let options = options(&context.globals, &context.current_dir);
    compose::project_name(&options, &HostFiles).map_err(|diagnostics| {
        if has_no_file(&diagnostics) {
            return Failure::new(Kind::NoFile, "no configuration file provided: not found")
                .hint("name the project with -p, or change to its directory");
        }
        let is_missing = |diagnostic: &Diagnostic| diagnostic.code == "missing-file";
        let kind = match diagnostics.iter().any(is_missing) {
            true => Kind::NoFile,
            false => Kind::File,
        };
        let mut failure = Failure::new(kind, "the project's name cannot be told");
        if let Some(first) = diagnostics.first() {
            failure.error.clone_from(&first.message);
            failure.hints.extend(first.help.clone());
        }
        failure
    })
}
