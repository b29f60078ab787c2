//! `~/.docker/config.json`: who the user is to registries, and the programs that keep secrets.
//!
//! Read and written as the docker CLI does, so that both share their logins. Helpers are run here,
//! as the user, never by the engine (HAZARDS S44); what they answer is shown to nobody.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::command::with_engine;
use super::globals::Context;
use super::output::{Failure, Kind};
use crate::api::wire::{Login, Logins};
use crate::compose::Project;

const DOCKER_HUB: &str = "docker.io";
/// What Docker Hub is called in the file, since the days of its first protocol.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// As a user name: what stands beside it is an identity token.
const TOKEN_USER: &str = "<token>";

/// The file, with everything in it that is not ours.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    content: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// The logins for the registries that a project's images come from. A file that cannot be read is a
/// warning: most images need no login.
pub fn for_project(context: &Context, project: &Project) -> Logins {
    let images = project.services.values();
    let images = images.filter_map(|service| service.image.as_deref());
    for_references(context, images)
}

/// As [`for_project`], for a command that fetches only what is missing: no helper is asked about a
/// registry that nothing will be fetched from. Helpers take their time, and some ask the user.
pub fn for_missing(context: &Context, project: &Project, policy: Option<&str>) -> Logins {
    let images = || {
        project.services.values().filter_map(|service| {
            let policy = policy.or(service.pull_policy.as_deref());
            Some((service.image.as_deref()?, service, policy))
        })
    };
    let has_helper = match ConfigFile::read() {
        Ok(file) => images().any(|(image, ..)| {
            let registry = registry_of(image);
            registry.is_some_and(|registry| file.helper(key_of(registry)).is_some())
        }),
        // It is read again, with the warning.
        Err(_) => false,
    };
    if !has_helper {
        return for_project(context, project);
    }
    // An engine that cannot be asked says so when it is told what to do.
    let present = with_engine(context, async |client| Ok(client.images("").await?));
    let present = present.unwrap_or_default();
    let names: HashSet<String> = present
        .iter()
        .flat_map(|image| image.repo_tags.iter().chain(&image.repo_digests))
        .map(|name| full_name(name))
        .collect();
    let missing = images().filter(|(image, service, policy)| {
        let is_asked_for = !matches!(
            policy,
            None | Some("missing" | "if_not_present" | "never" | "build")
        );
        is_asked_for || service.platform.is_some() || !names.contains(&full_name(image))
    });
    for_references(context, missing.map(|(image, ..)| image))
}

/// As Docker prints it last: with registry and tag.
pub fn full_name(reference: &str) -> String {
    let Some(registry) = registry_of(reference) else {
        return reference.to_owned();
    };
    let rest = match reference.split_once('/') {
        Some((host, rest))
            if registry_of(&format!("{host}/x")) == Some(registry)
                && (host.contains(['.', ':']) || host == "localhost") =>
        {
            rest
        }
        _ => reference,
    };
    let library = match registry == DOCKER_HUB && !rest.contains('/') {
        true => "library/",
        false => "",
    };
    let last = rest.rsplit('/').next().unwrap_or(rest);
    let tag = match last.contains([':', '@']) {
        true => "",
        false => ":latest",
    };
    format!("{registry}/{library}{rest}{tag}")
}

pub fn for_references<'a>(context: &Context, references: impl Iterator<Item = &'a str>) -> Logins {
    let mut registries: Vec<&str> = references.filter_map(registry_of).collect();
    registries.sort_unstable();
    registries.dedup();
    if registries.is_empty() {
        return Logins::default();
    }
    let file = match ConfigFile::read() {
        Ok(file) => file,
        Err(failure) => {
            context.output.warn(&failure.error);
            return Logins::default();
        }
    };
    let mut logins = BTreeMap::new();
    for registry in registries {
        match file.login(registry) {
            Ok(Some(login)) => drop(logins.insert(registry.to_owned(), login)),
            Ok(None) => {}
            Err(failure) => context.output.warn(&failure.error),
        }
    }
    Logins(logins)
}

/// The registry that an image reference names; `None` for local sources.
pub fn registry_of(reference: &str) -> Option<&str> {
    const LOCAL: [&str; 4] = ["rootfs:", "oci:", "oci-archive:", "docker-archive:"];
    if LOCAL.iter().any(|scheme| reference.starts_with(scheme)) {
        return None;
    }
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
            Some(if host == "index.docker.io" {
                DOCKER_HUB
            } else {
                host
            })
        }
        _ => Some(DOCKER_HUB),
    }
}

/// The registry that a user names to `login`: with or without scheme and path.
pub fn registry_of_server(server: &str) -> &str {
    let name = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    match name.split('/').next().unwrap_or(name) {
        "" | DOCKER_HUB | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// How the file calls a registry.
fn key_of(registry: &str) -> &str {
    match registry {
        DOCKER_HUB => DOCKER_HUB_KEY,
        host => host,
    }
}

impl ConfigFile {
    /// The file of `DOCKER_CONFIG`, else of the home directory; empty when there is none.
    pub fn read() -> Result<ConfigFile, Failure> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let directory = match (variable("DOCKER_CONFIG"), variable("HOME")) {
            (Some(directory), _) => PathBuf::from(directory),
            (None, Some(home)) => Path::new(&home).join(".docker"),
            (None, None) => {
                return Ok(ConfigFile {
                    path: PathBuf::new(),
                    content: Map::new(),
                });
            }
        };
        ConfigFile::at(directory.join("config.json"))
    }

    fn at(path: PathBuf) -> Result<ConfigFile, Failure> {
        let refuse = |why: &dyn std::fmt::Display| {
            Failure::new(
                Kind::System,
                format!("cannot read {}: {why}", path.display()),
            )
        };
        let content = match std::fs::read(&path) {
            Ok(bytes) if bytes.trim_ascii().is_empty() => Map::new(),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| refuse(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(refuse(&error)),
        };
        Ok(ConfigFile { path, content })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What there is for a registry; runs a helper where one is configured.
    pub fn login(&self, registry: &str) -> Result<Option<Login>, Failure> {
        let key = key_of(registry);
        if let Some(helper) = self.helper(key) {
            return match run_helper(helper, "get", key.as_bytes())? {
                None => Ok(None),
                Some(answer) => {
                    let answer: HelperAnswer = serde_json::from_slice(&answer)
                        .map_err(|_| broken_helper(helper, "its answer is not understood"))?;
                    Ok(Some(of_pair(answer.username, answer.secret))
                        .filter(|login| !login.is_empty()))
                }
            };
        }
        let auths = self.content.get("auths").and_then(Value::as_object);
        let entry = auths.and_then(|auths| {
            auths.get(key).or_else(|| {
                let mut others = auths.iter();
                let found = others.find(|(other, _)| registry_of_server(other) == registry);
                found.map(|(_, entry)| entry)
            })
        });
        let Some(entry) = entry else { return Ok(None) };
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let (mut username, mut password) =
            (text("username").to_owned(), text("password").to_owned());
        if !text("auth").is_empty() {
            let unusable = || {
                Failure::new(
                    Kind::System,
                    format!("the login for {key} in {} is damaged", self.path.display()),
                )
                .hint(format!("`wharf login {registry}` writes it anew"))
            };
            let pair = STANDARD.decode(text("auth")).map_err(|_| unusable())?;
            let pair = String::from_utf8(pair).map_err(|_| unusable())?;
            // Only the first colon separates: passwords have colons, too.
            let (user, secret) = pair.split_once(':').ok_or_else(unusable)?;
            username = user.to_owned();
            password = secret.trim_end_matches('\0').to_owned();
        }
        let login = Login {
            identity_token: text("identitytoken").to_owned(),
            registry_token: text("registrytoken").to_owned(),
            ..of_pair(username, password)
        };
        Ok(Some(login).filter(|login| !login.is_empty()))
    }

    fn helper(&self, key: &str) -> Option<&str> {
        let helpers = self.content.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| {
            let mut helpers = helpers.iter();
            let found = helpers.find(|(name, _)| {
                *name == key || registry_of_server(name) == registry_of_server(key)
            });
            found.and_then(|(_, helper)| helper.as_str())
        });
        own.or_else(|| self.content.get("credsStore").and_then(Value::as_str))
            .filter(|helper| !helper.is_empty())
    }

    /// Keeps a login. True if it is kept by a helper and not in the file.
    pub fn store(&mut self, registry: &str, login: &Login) -> Result<bool, Failure> {
        let key = key_of(registry).to_owned();
        if let Some(helper) = self.helper(&key) {
            let (username, secret) = match login.identity_token.is_empty() {
                true => (login.username.as_str(), login.password.as_str()),
                false => (TOKEN_USER, login.identity_token.as_str()),
            };
            let question = json!({"ServerURL": key, "Username": username, "Secret": secret});
            run_helper(helper, "store", question.to_string().as_bytes())?;
            // As the docker CLI: the file says that there is a login, not which.
            self.entries().insert(key, json!({}));
            self.write()?;
            return Ok(true);
        }
        let entry = match login.identity_token.is_empty() {
            true => {
                let pair = format!("{}:{}", login.username, login.password);
                json!({"auth": STANDARD.encode(pair)})
            }
            false => {
                let pair = STANDARD.encode(format!("{}:", login.username));
                json!({"auth": pair, "identitytoken": login.identity_token})
            }
        };
        self.entries().insert(key, entry);
        self.write()?;
        Ok(false)
    }

    /// Takes a login away; false if there was none.
    pub fn erase(&mut self, registry: &str) -> Result<bool, Failure> {
        let key = key_of(registry).to_owned();
        let mut was_there = false;
        if let Some(helper) = self.helper(&key) {
            was_there = run_helper(helper, "get", key.as_bytes())?.is_some();
            if was_there {
                run_helper(helper, "erase", key.as_bytes())?;
            }
        }
        let entries = self.entries();
        let n_before = entries.len();
        entries.retain(|name, _| *name != key && registry_of_server(name) != registry);
        let is_changed = entries.len() < n_before;
        if is_changed {
            self.write()?;
        }
        Ok(was_there || is_changed)
    }

    fn entries(&mut self) -> &mut Map<String, Value> {
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths
            .as_object_mut()
            .expect("it was made an object just now")
    }

    /// Replaces the file in one step; nobody else may read it.
    fn write(&self) -> Result<(), Failure> {
        // A link is kept: what it points to is replaced.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let refuse =
            |error: &io::Error| Failure::system(&format!("cannot write {}", path.display()), error);
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| refuse(&error))?;
        let temporary = directory.join(format!(".config.json.{}", std::process::id()));
        let written = || -> io::Result<()> {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            let mut text = serde_json::to_string_pretty(&self.content)?.replace("\n  ", "\n\t");
            text.push('\n');
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        written().map_err(|error| {
            // The first failure is the one to tell.
            let _ = std::fs::remove_file(&temporary);
            refuse(&error)
        })
    }
}

fn of_pair(username: String, secret: String) -> Login {
    match username == TOKEN_USER {
        true => Login {
            identity_token: secret,
            ..Login::default()
        },
        false => Login {
            username,
            password: secret,
            ..Login::default()
        },
    }
}

fn broken_helper(helper: &str, why: &str) -> Failure {
    Failure::new(Kind::System, format!("docker-credential-{helper}: {why}"))
}

/// Asks a helper; `None` when it has nothing. Its name comes from a file that others may have
/// written, so it is a name and no path, and no shell sees it.
fn run_helper(helper: &str, action: &str, question: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !helper.bytes().all(is_name) || helper.starts_with('.') {
        return Err(Failure::new(
            Kind::System,
            format!("{helper:?} is no name of a credential helper"),
        ));
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| {
            Failure::system(&format!("cannot run {program}"), &error)
                .hint("install it, or take it out of \"credsStore\" and \"credHelpers\"")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read says why in its answer.
        let _ = stdin.write_all(question);
    }
    let output = child
        .wait_with_output()
        .map_err(|error| Failure::system(&format!("cannot hear {program}"), &error))?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("credentials not found") {
        return Ok(None);
    }
    // What it says to `store` may repeat what it was given.
    Err(broken_helper(
        helper,
        match action {
            "get" => said.lines().next().unwrap_or("it failed"),
            _ => "it failed",
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let file = ConfigFile::at(path).unwrap();
        (dir, file)
    }

    fn auth(pair: &str) -> String {
        STANDARD.encode(pair)
    }

    #[test]
    fn logins_are_found_as_docker_finds_them() {
        let text = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth("hub:a:b:c")},
            "reg.example:5000": {"username": "u", "password": "p"},
            "https://old.example/v2/": {"auth": auth("o:p")},
            "token.example": {"auth": auth("t:"), "identitytoken": "refresh"},
            "empty.example": {},
        }});
        let (_dir, file) = file(&text.to_string());
        let hub = file.login("docker.io").unwrap().unwrap();
        assert_eq!(
            (hub.username.as_str(), hub.password.as_str()),
            ("hub", "a:b:c")
        );
        assert_eq!(
            file.login("reg.example:5000").unwrap().unwrap().password,
            "p"
        );
        assert_eq!(file.login("old.example").unwrap().unwrap().username, "o");
        let token = file.login("token.example").unwrap().unwrap();
        assert_eq!(token.identity_token, "refresh");
        assert_eq!(file.login("empty.example").unwrap(), None);
        assert_eq!(file.login("reg.example").unwrap(), None);
    }

    #[test]
    fn what_is_not_ours_survives_and_nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, mut file) = file(
            r#"{"HttpHeaders": {"X": "y"}, "psFormat": "table", "auths": {"a.example": {"auth": "eDp5"}}, "plugins": {"z": {"k": 1}}}"#,
        );
        let login = Login {
            username: "me".to_owned(),
            password: "pa:ss".to_owned(),
            ..Login::default()
        };
        assert!(!file.store("docker.io", &login).unwrap());
        let path = dir.path().join("config.json");
        let again = ConfigFile::at(path.clone()).unwrap();
        assert_eq!(again.login("docker.io").unwrap(), Some(login));
        assert_eq!(again.content["HttpHeaders"], json!({"X": "y"}));
        assert_eq!(again.content["plugins"], json!({"z": {"k": 1}}));
        assert_eq!(again.content["auths"]["a.example"], json!({"auth": "eDp5"}));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let mut again = again;
        assert!(again.erase("docker.io").unwrap());
        assert!(!again.erase("docker.io").unwrap());
        assert!(again.content["auths"].get("a.example").is_some());
    }

    #[test]
    fn names_are_written_in_full() {
        for (reference, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
        ] {
            assert_eq!(full_name(reference), full, "{reference}");
        }
    }

    #[test]
    fn helpers_have_names_and_no_paths() {
        for helper in ["../../tmp/x", "/bin/sh", "a b", "x;y", ".hidden"] {
            let (_dir, file) = file(&json!({"credsStore": helper}).to_string());
            let failure = file.login("docker.io").unwrap_err();
            assert!(failure.error.contains("no name"), "{}", failure.error);
        }
    }

    #[test]
    fn a_damaged_file_is_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{").unwrap();
        let failure = ConfigFile::at(path.clone()).unwrap_err();
        assert!(failure.error.contains("config.json"));
        std::fs::write(
            &path,
            json!({"auths": {"a.example": {"auth": "%"}}}).to_string(),
        )
        .unwrap();
        assert!(ConfigFile::at(path).unwrap().login("a.example").is_err());
    }

    #[test]
    fn registries_of_references_and_servers() {
        for (reference, registry) in [
            ("nginx", Some("docker.io")),
            ("a/b:1", Some("docker.io")),
            ("index.docker.io/a/b", Some("docker.io")),
            ("ghcr.io/a/b", Some("ghcr.io")),
            ("localhost/x", Some("localhost")),
            ("localhost:5000/x", Some("localhost:5000")),
            ("rootfs:/", None),
            ("oci:/a/b:v1", None),
        ] {
            assert_eq!(registry_of(reference), registry, "{reference}");
        }
        for (server, registry) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://reg:5000/v2/", "reg:5000"),
            ("reg", "reg"),
        ] {
            assert_eq!(registry_of_server(server), registry, "{server}");
        }
    }
}
