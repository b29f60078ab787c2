//! The loader's behaviours as a table: `tests/data/compose/behaviours.yaml`, one row for each half
//! of a sentence of the list that they come from, named by the list's ids.
//!
//! That every id has a row is checked on the rows themselves, not on the text of any test.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use wharf::compose::print::{PrintOptions, to_json, to_yaml};
use wharf::compose::{self, LoadOptions, Loaded, MountKind};
use wharf::source::{Files, Severity};

/// A row; the head of the table says what the fields mean.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: Ids,
    says: String,
    yaml: Option<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    remote: BTreeMap<String, PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    args: Vec<String>,
    cwd: Option<PathBuf>,
    #[serde(default)]
    stdin: String,

    #[serde(default)]
    want: BTreeMap<String, Value>,
    #[serde(default)]
    absent: Vec<String>,
    name: Option<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    services: Option<Vec<String>>,
    disabled: Option<Vec<String>>,
    variables: Option<Vec<String>>,
    #[serde(default)]
    prints: Vec<String>,
    hides: Option<String>,
    #[serde(default)]
    error: Vec<String>,
    warns: Option<Vec<String>>,
    /// The project's name where only that is asked for, and why there is none.
    name_alone: Option<String>,
    no_name: Option<String>,
    /// What secrets and configs hold, by their names.
    #[serde(default)]
    contents: BTreeMap<String, String>,
    /// Whether the directories of the binds of service `a` are made.
    makes: Option<Vec<bool>>,
    /// Where secrets and configs are mounted in service `a`, by their sources.
    #[serde(default)]
    mounted: BTreeMap<String, Vec<PathBuf>>,
    /// Services whose health nobody checks.
    #[serde(default)]
    unchecked: Vec<String>,
    /// Between the parts of names.
    separator: Option<char>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(String),
    Several(Vec<String>),
}

impl Ids {
    fn list(&self) -> &[String] {
        match self {
            Ids::One(id) => std::slice::from_ref(id),
            Ids::Several(ids) => ids,
        }
    }
}

fn rows() -> Vec<Row> {
    serde_yaml::from_str(include_str!("data/compose/behaviours.yaml")).expect("the table is sound")
}

struct Memory<'r> {
    files: BTreeMap<PathBuf, &'r str>,
    stdin: &'r str,
    remote: &'r BTreeMap<String, PathBuf>,
}

impl Files for Memory<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.files.get(path) {
            Some(text) => Ok(text.as_bytes().to_vec()),
            None if self.is_dir(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        Ok(self.stdin.into())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.files.keys().any(|f| f != path && f.starts_with(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }

    fn remote(&self, reference: &str) -> io::Result<PathBuf> {
        let found = self.remote.get(reference).cloned();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Row {
    fn memory(&self) -> Memory<'_> {
        let root = Path::new("/p");
        let files = self.files.iter();
        let mut files: BTreeMap<PathBuf, &str> = files
            .map(|(path, text)| (root.join(path), text.as_str()))
            .collect();
        if let Some(text) = &self.yaml {
            files.insert(root.join("compose.yaml"), text);
        }
        Memory {
            files,
            stdin: &self.stdin,
            remote: &self.remote,
        }
    }

    /// The options, and whether `config` escapes dollars with them.
    fn options(&self) -> (LoadOptions, bool) {
        let directory = match &self.cwd {
            Some(below) => Path::new("/p").join(below),
            None => "/p".into(),
        };
        let mut options = LoadOptions::new(directory, self.env.clone());
        let mut escape_dollar = true;
        let mut args = self.args.iter().cloned();
        while let Some(arg) = args.next() {
            let mut value = || args.next().expect("the flag has a value");
            match &*arg {
                "-f" => options.files.push(value().into()),
                "-p" => options.project_name = Some(value()),
                "--project-directory" => options.project_directory = Some(value().into()),
                "--env-file" => options.env_files.push(value().into()),
                "--profile" => options.profiles.push(value()),
                "--all-resources" => options.all_resources = true,
                "--no-interpolate" => (options.interpolate, escape_dollar) = (false, false),
                "--no-normalize" => options.normalize = false,
                "--no-path-resolution" => options.resolve_paths = false,
                "--no-consistency" => options.consistency = false,
                "--no-env-resolution" => options.resolve_environment = false,
                flag if flag.starts_with('-') => panic!("no such flag: {flag}"),
                _ => options.services.push(arg),
            }
        }
        (options, escape_dollar)
    }

    /// What is not as the row says.
    fn wrong(&self) -> Vec<String> {
        let (options, escape_dollar) = self.options();
        let files = self.memory();
        let mut wrong = Vec::new();
        if self.name_alone.is_some() || self.no_name.is_some() {
            let found = compose::project_name(&options, &files);
            let errors = found.as_ref().err().into_iter().flatten();
            let errors: Vec<&str> = errors.map(|d| &*d.message).collect();
            let name = found.as_ref().ok().map(ToString::to_string);
            let is_as_said = match &self.no_name {
                Some(part) => errors.iter().any(|error| error.contains(part)),
                None => name == self.name_alone,
            };
            if !is_as_said {
                wrong.push(format!("the name alone is {name:?}: {errors:?}"));
            }
            return wrong;
        }
        let loaded = compose::load(&options, &files);
        self.messages(&loaded, &mut wrong);
        match &loaded.project {
            Some(_) if self.error.is_empty() => self.project(&loaded, escape_dollar, &mut wrong),
            Some(_) => wrong.push("it loads".to_owned()),
            None if self.error.is_empty() => wrong.push("it does not load".to_owned()),
            None => {}
        }
        if !wrong.is_empty() {
            let all = loaded.diagnostics.iter();
            wrong.extend(all.map(|d| format!("  [{}] {}", d.code, d.message)));
        }
        wrong
    }

    fn messages(&self, loaded: &Loaded, wrong: &mut Vec<String>) {
        let errors = || loaded.diagnostics.iter().filter(|d| d.is_error());
        for part in &self.error {
            if !errors().any(|d| d.message.contains(part)) {
                wrong.push(format!("no error says {part:?}"));
            }
        }
        if let Some(expected) = &self.warns {
            let lesser = loaded.diagnostics.iter();
            let lesser = lesser.filter(|d| d.severity != Severity::Error);
            let codes: Vec<&str> = lesser.map(|d| d.code).collect();
            if codes != *expected {
                wrong.push(format!("the warnings are {codes:?}"));
            }
        }
    }

    fn project(&self, loaded: &Loaded, escape_dollar: bool, wrong: &mut Vec<String>) {
        let Some(project) = &loaded.project else {
            return;
        };
        let text = to_json(project, PrintOptions::default());
        let document: Value = serde_json::from_str(&text).expect("it is JSON");
        for (pointer, expected) in &self.want {
            let found = document.pointer(pointer);
            if found.is_none_or(|found| !is_same(found, expected)) {
                wrong.push(format!("{pointer} is {found:?}, not {expected}"));
            }
        }
        for pointer in &self.absent {
            if let Some(found) = document.pointer(pointer) {
                wrong.push(format!("{pointer} is there: {found}"));
            }
        }
        let printed = to_yaml(project, PrintOptions { escape_dollar });
        for part in &self.prints {
            if !printed.contains(part) {
                wrong.push(format!("{part:?} is not printed:\n{printed}"));
            }
        }
        if let Some(secret) = &self.hides
            && (printed.contains(secret) || text.contains(secret))
        {
            wrong.push(format!("{secret:?} is printed:\n{printed}"));
        }
        let mut are = |what: &str, found: Vec<String>, expected: &Option<Vec<String>>| {
            if expected.as_ref().is_some_and(|e| *e != found) {
                wrong.push(format!("{what} are {found:?}"));
            }
        };
        are(
            "services",
            project.services.keys().cloned().collect(),
            &self.services,
        );
        are(
            "disabled services",
            project.disabled_services.clone(),
            &self.disabled,
        );
        let variables = loaded.variables.iter().map(|variable| {
            let mut line = variable.name.clone();
            let mut say = |what: &str| line = format!("{line} {what}");
            if variable.required {
                say("required");
            }
            if let Some(text) = &variable.default {
                say(&format!("default {text}"));
            }
            if let Some(text) = &variable.alternate {
                say(&format!("alternate {text}"));
            }
            line
        });
        let mut variables: Vec<String> = variables.collect();
        variables.sort();
        are("variables", variables, &self.variables);
        let name = project.name.to_string();
        if self.name.as_ref().is_some_and(|expected| *expected != name) {
            wrong.push(format!("the name is {name}"));
        }
        for (name, expected) in &self.environment {
            let found = loaded.environment.get(name);
            if found != Some(expected) {
                wrong.push(format!("${name} is {found:?}"));
            }
        }
        self.typed(project, loaded, wrong);
    }

    /// What the document does not show, but the engine is told.
    fn typed(&self, project: &compose::Project, loaded: &Loaded, wrong: &mut Vec<String>) {
        let separator = project.separator();
        if self.separator.is_some_and(|expected| expected != separator) {
            wrong.push(format!("names are joined by {separator:?}"));
        }
        if !self.contents.is_empty() {
            let mut project = project.clone();
            if compose::resolve_environment_objects(&mut project, &loaded.environment).is_err() {
                wrong.push("a secret's variable is not set".to_owned());
            }
            for (name, expected) in &self.contents {
                let object = project.secrets.get(name).or(project.configs.get(name));
                let found = object.and_then(|object| object.content.as_ref());
                if found != Some(expected) {
                    wrong.push(format!("{name} holds {found:?}"));
                }
            }
        }
        if let Some(expected) = &self.makes {
            let made = project.services["a"].volumes.iter();
            let made = made.filter_map(|mount| match &mount.kind {
                MountKind::Bind {
                    create_host_path, ..
                } => Some(*create_host_path),
                _ => None,
            });
            let made: Vec<bool> = made.collect();
            if made != *expected {
                wrong.push(format!("directories are made: {made:?}"));
            }
        }
        for (source, expected) in &self.mounted {
            let service = &project.services["a"];
            let all = service.secrets.iter().chain(&service.configs);
            let all = all.filter(|reference| reference.source == *source);
            let found: Vec<&Path> = all.map(|reference| &*reference.target).collect();
            if found != *expected {
                wrong.push(format!("{source} is mounted at {found:?}"));
            }
        }
        for name in &self.unchecked {
            let check = project.services[name].healthcheck.as_ref();
            let test = check.and_then(|check| check.test.clone());
            if test.as_deref() != Some(&["NONE".to_owned()]) {
                wrong.push(format!("the health of {name} is tested by {test:?}"));
            }
        }
    }
}

/// Numbers are equal whatever their kind.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn every_row_holds() {
    let mut wrong = Vec::new();
    for row in rows() {
        let found = row.wrong();
        if !found.is_empty() {
            let id = row.id.list().join(" ");
            wrong.push(format!("{id}: {}\n{}", row.says, found.join("\n")));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows:\n\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// How many ids each section has: 0 to 12 and 21, by their letters.
const SECTIONS: [(&str, usize); 14] = [
    ("P", 6),
    ("F", 12),
    ("E", 12),
    ("D", 7),
    ("I", 12),
    ("Y", 8),
    ("M", 14),
    ("X", 8),
    ("N", 6),
    ("S", 6),
    ("C", 20),
    ("H", 4),
    ("V", 9),
    ("Z", 7),
];

/// Section 20: the variables that a load looks at. The others are switches of the command line, of
/// Docker's client or of programs that wharf does not have.
const VARIABLES: [&str; 11] = [
    "COMPOSE_FILE",
    "COMPOSE_PATH_SEPARATOR",
    "COMPOSE_PROJECT_NAME",
    "COMPOSE_PROFILES",
    "COMPOSE_ENV_FILES",
    "COMPOSE_DISABLE_ENV_FILE",
    "COMPOSE_CONVERT_WINDOWS_PATHS",
    "COMPOSE_COMPATIBILITY",
    "COMPOSE_EXPERIMENTAL",
    "PWD",
    "HOME",
];

/// About the help text of `wait`.
const NO_MATTER_OF_LOADING: [&str; 1] = ["Z3"];

#[test]
fn every_behaviour_has_its_rows_and_every_row_a_behaviour() {
    let numbered = SECTIONS
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")));
    let listed: BTreeSet<String> = numbered
        .filter(|id| !NO_MATTER_OF_LOADING.contains(&&**id))
        .chain(VARIABLES.map(str::to_owned))
        .collect();
    let rows = rows();
    let tested: BTreeSet<String> = rows.iter().flat_map(|row| row.id.list().to_vec()).collect();
    assert_eq!(tested, listed);
    // A row that asks for nothing would hold whatever happened.
    for row in &rows {
        let asks = !(row.want.is_empty()
            && row.absent.is_empty()
            && row.error.is_empty()
            && row.prints.is_empty()
            && row.environment.is_empty()
            && row.contents.is_empty())
            || row.name.is_some()
            || row.services.is_some()
            || row.disabled.is_some()
            || row.variables.is_some()
            || row.name_alone.is_some()
            || row.no_name.is_some()
            || row.separator.is_some();
        assert!(asks, "{}: {}", row.id.list().join(" "), row.says);
    }
    let mut said = BTreeSet::new();
    for row in &rows {
        let name = (row.id.list().join(" "), row.says.clone());
        assert!(said.insert(name.clone()), "{name:?} is there twice");
    }
}
