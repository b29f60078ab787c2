//! `config`: what the files mean, printed in canonical form, or one aspect of it.
//!
//! A pure function of options, flags and files. It neither asks the engine nor knows the terminal:
//! digests and hashes come through [`Lookups`], bytes go to the writers that it is given.

mod explain;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::compose::print::{PrintOptions, to_json, to_yaml};
use crate::compose::{self, LoadOptions, Loaded, Project, Service};
use crate::plan::convert::image_reference;
use crate::source::{self, Files};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Yaml,
    Json,
}

/// Print the project as the files, the environment and the defaults make it
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// Services to print, with what they depend on; all when none is named
    pub services: Vec<String>,
    /// Print the variables that interpolation sees
    #[arg(long)]
    pub environment: bool,
    /// Say where each value at a path comes from, as in services.web.ports
    #[arg(long, value_name = "PATH")]
    pub explain: Option<String>,
    /// Print as yaml or json; diagnostics too, with json
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Print the configuration hash of these services, `*` for all
    #[arg(long, value_name = "SERVICES")]
    pub hash: Option<String>,
    /// Print the image names
    #[arg(long)]
    pub images: bool,
    /// Print an override file that pins image digests
    #[arg(long)]
    pub lock_image_digests: bool,
    /// Print the model names
    #[arg(long)]
    pub models: bool,
    /// Print the network names
    #[arg(long)]
    pub networks: bool,
    /// Do not check references between the parts of the project
    #[arg(long)]
    pub no_consistency: bool,
    /// Do not read env files into the environment of the services
    #[arg(long)]
    pub no_env_resolution: bool,
    /// Leave ${VARIABLES} as they are
    #[arg(long)]
    pub no_interpolate: bool,
    /// Do not add what the files imply
    #[arg(long)]
    pub no_normalize: bool,
    /// Leave relative paths as they are
    #[arg(long)]
    pub no_path_resolution: bool,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print the profile names
    #[arg(long)]
    pub profiles: bool,
    /// Only check; print nothing
    #[arg(short, long)]
    pub quiet: bool,
    /// Pin image tags to digests
    #[arg(long)]
    pub resolve_image_digests: bool,
    /// Print the service names, dependencies first
    #[arg(long = "services")]
    pub services_only: bool,
    /// Print the variables that the files name
    #[arg(long)]
    pub variables: bool,
    /// Print the volume names
    #[arg(long)]
    pub volumes: bool,
}

/// What `config` has to ask others for.
pub struct Lookups<'a> {
    /// The configuration hash of a service, as its containers are labelled.
    pub hash: &'a dyn Fn(&Project, &str) -> Option<String>,
    /// An image reference with the digest that its registry has for it, or why there is none.
    pub digest: &'a dyn Fn(&str) -> Result<String, String>,
}

/// The command's exit codes, Compose's own.
pub const EXIT_FILE_NOT_FOUND: u8 = 14;
pub const EXIT_PARSE: u8 = 15;
pub const EXIT_FAILURE: u8 = 1;

/// Runs `config`. Results go to `out`, diagnostics to `err`; the number is the exit code.
///
/// # Errors
/// Only when a writer fails.
pub fn run(
    mut options: LoadOptions,
    args: &ConfigArgs,
    files: &dyn Files,
    lookups: &Lookups<'_>,
    color: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    options.services.clone_from(&args.services);
    options.interpolate = !args.no_interpolate && !args.variables;
    options.normalize = !args.no_normalize;
    options.resolve_paths = !args.no_path_resolution;
    options.consistency = !args.no_consistency;
    options.check_values = false;
    options.resolve_environment = !args.no_env_resolution;
    if args.profiles || args.variables {
        // Both speak of the files as a whole, whatever is switched on.
        options.profiles = vec!["*".to_owned()];
    }
    let mut loaded = compose::load(&options, files);
    if !loaded.diagnostics.is_empty() {
        let text = match args.format {
            Some(Format::Json) => {
                source::render_json(&loaded.diagnostics, &loaded.sources).to_string() + "\n"
            }
            _ => source::render(&loaded.diagnostics, &loaded.sources, color),
        };
        err.write_all(text.as_bytes())?;
    }
    let Some(mut project) = loaded.project.take() else {
        return Ok(failure_code(&loaded));
    };
    if args.resolve_image_digests || args.lock_image_digests {
        let failures = pin_images(&mut project, lookups);
        for failure in &failures {
            writeln!(err, "error: {failure}")?;
        }
        if !failures.is_empty() {
            return Ok(EXIT_FAILURE);
        }
    }
    let text = match text(args, &project, &loaded, lookups) {
        Ok(text) => text,
        Err(message) => {
            writeln!(err, "error: {message}")?;
            return Ok(EXIT_FAILURE);
        }
    };
    if args.quiet {
        return Ok(0);
    }
    match &args.output {
        Some(path) => {
            if let Err(error) = std::fs::write(options.current_dir.join(path), text) {
                writeln!(err, "error: cannot write {}: {error}", path.display())?;
                return Ok(EXIT_FAILURE);
            }
        }
        None => out.write_all(text.as_bytes())?,
    }
    Ok(0)
}

fn failure_code(loaded: &Loaded) -> u8 {
    match loaded.is_file_missing() {
        true => EXIT_FILE_NOT_FOUND,
        false => EXIT_PARSE,
    }
}

/// The text of the aspect that the flags ask for.
fn text(
    args: &ConfigArgs,
    project: &Project,
    loaded: &Loaded,
    lookups: &Lookups<'_>,
) -> Result<String, String> {
    if let Some(path) = &args.explain {
        return explain::text(loaded, project, path, args.format.unwrap_or_default());
    }
    if args.services_only {
        return Ok(lines(service_order(project)));
    }
    if args.volumes {
        return Ok(lines(project.volumes.keys()));
    }
    if args.networks {
        return Ok(lines(project.networks.keys()));
    }
    if args.models {
        return Ok(lines(project.models.values().map(|m| &m.model)));
    }
    if args.profiles {
        return Ok(lines(&loaded.profiles));
    }
    if args.images {
        let image = |(name, service): (&String, &Service)| image_reference(project, name, service);
        return Ok(lines(project.services.iter().map(image)));
    }
    if let Some(which) = &args.hash {
        return hashes(project, which, lookups);
    }
    if args.environment {
        return Ok(lines(
            loaded.environment.iter().map(|(k, v)| format!("{k}={v}")),
        ));
    }
    if args.variables {
        return Ok(match args.format {
            Some(Format::Json) => variables_json(loaded),
            _ => variables(loaded),
        });
    }
    if args.lock_image_digests {
        return Ok(lock(project));
    }
    let print = PrintOptions {
        escape_dollar: !args.no_interpolate,
    };
    match args.format.unwrap_or_default() {
        Format::Yaml => Ok(to_yaml(project, print)),
        Format::Json => Ok(to_json(project, print) + "\n"),
    }
}

fn lines<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().fold(String::new(), |mut text, item| {
        _ = writeln!(text, "{item}");
        text
    })
}

/// Names so that each stands after what it depends on.
fn service_order(project: &Project) -> Vec<&str> {
    let mut order = Vec::new();
    let mut placed = BTreeSet::new();
    // The loader refuses cycles, unless told not to; the second sight of a name then ends the walk.
    let mut seen = BTreeSet::new();
    let mut stack: Vec<(&str, bool)> = project
        .services
        .keys()
        .rev()
        .map(|name| (name.as_str(), false))
        .collect();
    while let Some((name, is_done)) = stack.pop() {
        if is_done {
            if placed.insert(name) {
                order.push(name);
            }
            continue;
        }
        if !seen.insert(name) {
            continue;
        }
        stack.push((name, true));
        let dependencies = project
            .services
            .get(name)
            .into_iter()
            .flat_map(|s| s.depends_on.keys());
        for dependency in dependencies.rev() {
            if project.services.contains_key(dependency) {
                stack.push((dependency, false));
            }
        }
    }
    order
}

fn hashes(project: &Project, which: &str, lookups: &Lookups<'_>) -> Result<String, String> {
    let mut names: Vec<&str> = match which {
        "*" => project.services.keys().map(String::as_str).collect(),
        list => list.split(',').map(str::trim).collect(),
    };
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        if !project.services.contains_key(name) {
            return Err(format!("no such service: {name}"));
        }
        let hash = (lookups.hash)(project, name)
            .ok_or_else(|| format!("service {name:?} has no configuration hash"))?;
        _ = writeln!(text, "{name} {hash}");
    }
    Ok(text)
}

/// The reference's table: no column is narrower, and blanks follow the longest cell.
const COLUMN: usize = 20;
const GAP: usize = 3;

fn variables(loaded: &Loaded) -> String {
    let mut known: BTreeMap<&str, &source::interpolate::Variable> = BTreeMap::new();
    for variable in &loaded.variables {
        known.entry(&variable.name).or_insert(variable);
    }
    let rows: Vec<[String; 4]> = known
        .values()
        .map(|v| {
            [
                v.name.clone(),
                v.required.to_string(),
                v.default.clone().unwrap_or_default(),
                v.alternate.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = ["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"].map(str::to_owned);
    let all: Vec<&[String; 4]> = std::iter::once(&head).chain(&rows).collect();
    let widths: Vec<usize> = (0..4)
        .map(|column| {
            let longest = all.iter().map(|row| row[column].chars().count()).max();
            (longest.unwrap_or(0) + GAP).max(COLUMN)
        })
        .collect();
    lines(all.iter().map(|row| {
        let mut line = String::new();
        for (cell, width) in row[..3].iter().zip(&widths) {
            _ = write!(line, "{cell:<width$}");
        }
        line + &row[3]
    }))
}

/// The variables by name, with the fields that the reference's JSON has.
fn variables_json(loaded: &Loaded) -> String {
    let mut known = serde_json::Map::new();
    for variable in &loaded.variables {
        known.entry(&variable.name).or_insert_with(|| {
            serde_json::json!({
                "Name": variable.name,
                "DefaultValue": variable.default.as_deref().unwrap_or_default(),
                "PresenceValue": variable.alternate.as_deref().unwrap_or_default(),
                "Required": variable.required,
            })
        });
    }
    known.sort_keys();
    format!("{:#}\n", serde_json::Value::Object(known))
}

/// Puts digests into the images of the project and of its canonical tree.
fn pin_images(project: &mut Project, lookups: &Lookups<'_>) -> Vec<String> {
    let mut failures = Vec::new();
    for (name, service) in &mut project.services {
        let Some(image) = &mut service.image else {
            continue;
        };
        if image.contains("@sha256:") {
            continue;
        }
        match (lookups.digest)(image) {
            Ok(pinned) => *image = pinned,
            Err(reason) => {
                failures.push(format!(
                    "cannot resolve image {image} of service {name:?}: {reason}"
                ));
                continue;
            }
        }
        let tree = project.canonical.as_mut().map(Arc::make_mut);
        if let Some(node) = tree
            .and_then(|t| t.get_mut("services"))
            .and_then(|s| s.get_mut(name))
            .and_then(|s| s.get_mut("image"))
        {
            node.value = source::Value::Text(image.clone());
        }
    }
    failures
}

/// An override file that holds nothing but images.
fn lock(project: &Project) -> String {
    let mut text = "services:\n".to_owned();
    for (name, service) in &project.services {
        if let Some(image) = &service.image {
            _ = write!(text, "  {name}:\n    image: {}\n", image.replace('$', "$$"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::files::HostFiles;

    const FILE: &str = "name: demo\nservices:\n  web:\n    image: web:${TAG:-1}\n    depends_on: [db]\n    networks: [back]\n  db:\n    build: .\n    volumes: ['data:/data']\n    environment: {A: '$$x'}\n  dbg: {image: d, profiles: [debug]}\nnetworks: {back: {}}\nvolumes: {data: {}}\nmodels: {m: {model: ai/m}}\n";

    fn config(file: &str, args: &ConfigArgs) -> (u8, String, String) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("compose.yaml"), file).expect("the file is written");
        let options = LoadOptions::new(directory.path().to_owned(), BTreeMap::new());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let lookups = Lookups {
            hash: &|_, service| Some(format!("hash-of-{service}")),
            digest: &|image| match image {
                "web:1" => Ok("web:1@sha256:00".to_owned()),
                _ => Err("no such image".to_owned()),
            },
        };
        let code = run(
            options, args, &HostFiles, &lookups, false, &mut out, &mut err,
        )
        .expect("vectors take everything");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (code, text(out), text(err))
    }

    fn printed(args: ConfigArgs) -> String {
        let (code, out, err) = config(FILE, &args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        out
    }

    #[test]
    fn each_aspect_has_its_lines() {
        let args = ConfigArgs::default;
        assert_eq!(
            printed(ConfigArgs {
                services_only: true,
                ..args()
            }),
            "db\nweb\n"
        );
        assert_eq!(
            printed(ConfigArgs {
                volumes: true,
                ..args()
            }),
            "data\n"
        );
        assert_eq!(
            printed(ConfigArgs {
                networks: true,
                ..args()
            }),
            "back\ndefault\n"
        );
        assert_eq!(
            printed(ConfigArgs {
                profiles: true,
                ..args()
            }),
            "debug\n"
        );
        assert_eq!(
            printed(ConfigArgs {
                images: true,
                ..args()
            }),
            "web:1\ndemo-db\n"
        );
        assert_eq!(
            printed(ConfigArgs {
                quiet: true,
                ..args()
            }),
            ""
        );
        assert_eq!(
            printed(ConfigArgs {
                hash: Some("*".into()),
                ..args()
            }),
            "db hash-of-db\nweb hash-of-web\n"
        );
        assert_eq!(
            printed(ConfigArgs {
                variables: true,
                ..args()
            }),
            concat!(
                "NAME                REQUIRED            DEFAULT VALUE       ALTERNATE VALUE\n",
                "TAG                 false               1                   \n"
            )
        );
        assert!(
            printed(ConfigArgs {
                environment: true,
                ..args()
            })
            .contains("COMPOSE_PROJECT_NAME=demo\n")
        );
    }

    #[test]
    fn dollars_are_escaped_unless_variables_stay() {
        assert!(printed(ConfigArgs::default()).contains("A: $$x\n"));
        let raw = printed(ConfigArgs {
            no_interpolate: true,
            ..ConfigArgs::default()
        });
        assert!(
            raw.contains("image: web:${TAG:-1}\n") && raw.contains("A: $$x\n"),
            "{raw}"
        );
    }

    #[test]
    fn one_service_brings_its_dependencies() {
        let services = |name: &str| ConfigArgs {
            services: vec![name.into()],
            ..ConfigArgs::default()
        };
        assert!(printed(services("web")).contains("  db:\n"), "V9");
        assert!(!printed(services("db")).contains("  web:\n"), "V9");
    }

    #[test]
    fn digests_are_pinned_or_named() {
        let args = ConfigArgs {
            resolve_image_digests: true,
            ..ConfigArgs::default()
        };
        assert!(printed(args.clone()).contains("image: web:1@sha256:00\n"));
        let (code, _, err) = config("services: {a: {image: x}}", &args);
        assert_eq!(code, EXIT_FAILURE);
        assert!(
            err.contains("cannot resolve image x of service \"a\": no such image"),
            "{err}"
        );
        let lock = ConfigArgs {
            lock_image_digests: true,
            services: vec!["web".into()],
            ..ConfigArgs::default()
        };
        assert_eq!(
            printed(lock),
            "services:\n  web:\n    image: web:1@sha256:00\n"
        );
    }

    #[test]
    fn a_path_into_a_service_that_is_off_says_so() {
        let explain = |path: &str| {
            let args = ConfigArgs {
                explain: Some(path.into()),
                ..ConfigArgs::default()
            };
            config(FILE, &args).2
        };
        assert!(explain("services.dbg.image").contains("\"dbg\" is switched off"));
        assert!(!explain("services.none.at.all").contains("switched off"));
    }

    #[test]
    fn failures_have_composes_codes() {
        let (code, out, err) = config("services: {a: {imag: x}}", &ConfigArgs::default());
        assert_eq!((code, out.as_str()), (EXIT_PARSE, ""));
        assert!(err.contains("did you mean `image`?"), "{err}");
        let (code, _, _) = config("include: [gone.yaml]\nservices: {}", &ConfigArgs::default());
        assert_eq!(code, EXIT_FILE_NOT_FOUND);
    }
}
