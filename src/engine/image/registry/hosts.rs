//! `hosts.toml`: where the images of one registry are fetched instead, as containerd has it.
//!
//! ```toml
//! server = "https://registry-1.docker.io"
//! [host."https://mirror.example:5000"]
//! capabilities = ["pull", "resolve"]
//! ca = "ca.pem"
//! ```
//!
//! Hosts are asked in the order of the file, the server last. Two things are not containerd's: a host
//! without `resolve` is asked for digests only, never as a second source of a tag's blobs, and pushes
//! go to the server whatever a host's `push` says. Text only: knows no requests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::RegistryError;
use super::settings::HostFiles;

/// One registry's file.
#[derive(Debug, Default)]
pub struct Hosts {
    /// In place of the registry's own address.
    pub server: Option<String>,
    /// How the server is spoken to.
    pub of_server: HostSettings,
    /// Others that are asked first: address and settings, in order.
    pub mirrors: Vec<(String, HostSettings)>,
}

/// How one host is spoken to.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct HostSettings {
    pub files: HostFiles,
    pub skip_verify: bool,
    /// The address is that of the API itself: no `/v2` behind it.
    pub override_path: bool,
    /// Whether it knows what tags stand for.
    pub resolves: bool,
    /// Whether it has content.
    pub pulls: bool,
    pub headers: HeaderMap,
}

#[derive(Deserialize)]
struct HostsFile {
    server: Option<String>,
    #[serde(default)]
    host: IndexMap<String, HostTable>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// Files with certificate and key in one, or pairs of files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Whole(OneOrMany),
    Pairs(Vec<(String, String)>),
}

/// The file of a registry in one directory of settings, or the one for all that have none.
pub fn read(certs: &Path, registry: &str) -> Result<Option<Hosts>, RegistryError> {
    for name in [registry, "_default"] {
        let path = certs.join(name).join("hosts.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse(&path, &text).map(Some),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(source) => return Err(RegistryError::Settings { path, source }),
        }
    }
    Ok(None)
}

fn parse(path: &Path, text: &str) -> Result<Hosts, RegistryError> {
    let bad = |why: String| RegistryError::BadSettings {
        path: path.to_owned(),
        why,
    };
    let told = |error: toml::de::Error| bad(error.to_string().trim_end().to_owned());
    let file: HostsFile = toml::from_str(text).map_err(told)?;
    // What stands outside of the hosts' tables is the server's.
    let of_server: HostTable = toml::from_str(text).map_err(told)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let settings = |table: &HostTable| table.settings(directory).map_err(&bad);
    for address in file.host.keys().chain(&file.server) {
        if !is_address(address) {
            return Err(bad(format!("{address:?} is no address of a registry")));
        }
    }
    let mirrors = file
        .host
        .iter()
        .map(|(address, table)| Ok((address.clone(), settings(table)?)));
    Ok(Hosts {
        of_server: settings(&of_server)?,
        mirrors: mirrors.collect::<Result<_, RegistryError>>()?,
        server: file.server,
    })
}

/// `https://host`, `http://host:5000/path`, or a host alone.
fn is_address(text: &str) -> bool {
    match text.split_once("://") {
        Some(("http" | "https", _)) => Url::parse(text).is_ok(),
        Some(_) => false,
        None => Url::parse(&format!("https://{text}")).is_ok(),
    }
}

impl HostSettings {
    /// Of a host about which nothing is said.
    pub fn usual() -> HostSettings {
        HostSettings {
            resolves: true,
            pulls: true,
            ..HostSettings::default()
        }
    }
}

impl HostTable {
    fn settings(&self, directory: &Path) -> Result<HostSettings, String> {
        let place = |name: &String| -> PathBuf { directory.join(name) };
        let identity = match &self.client {
            None => None,
            Some(Client::Whole(files)) => files.all().first().map(|file| (file, file)),
            Some(Client::Pairs(pairs)) => pairs.first().map(|(certificate, key)| {
                let key = if key.is_empty() { certificate } else { key };
                (certificate, key)
            }),
        };
        let can = |what: &str| {
            let listed = self.capabilities.as_ref();
            listed.is_none_or(|listed| listed.iter().any(|capability| capability == what))
        };
        let mut headers = HeaderMap::new();
        for (name, values) in &self.header {
            for value in values.all() {
                let refuse = || format!("header {name:?} is no possible header");
                let name: HeaderName = name.parse().map_err(|_| refuse())?;
                let mut value: HeaderValue = value.parse().map_err(|_| refuse())?;
                // It may well be a secret.
                value.set_sensitive(true);
                headers.append(name, value);
            }
        }
        Ok(HostSettings {
            files: HostFiles {
                authorities: self.ca.iter().flat_map(OneOrMany::all).map(place).collect(),
                identity: identity.map(|(certificate, key)| (place(certificate), place(key))),
            },
            skip_verify: self.skip_verify,
            override_path: self.override_path,
            resolves: can("resolve"),
            pulls: can("pull"),
            headers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Hosts, RegistryError> {
        parse(Path::new("/c/docker.io/hosts.toml"), text)
    }

    #[test]
    fn a_file_is_read_as_containerd_reads_it() {
        let hosts = parsed(
            r#"
server = "https://registry-1.docker.io"
ca = ["/abs/ca.pem", "more.pem"]

[host."https://z.example"]
  capabilities = ["pull", "resolve"]
  client = [["c.cert", "c.key"], ["other.cert", "other.key"]]
  [host."https://z.example".header]
    x-token = ["a", "b"]
    x-one = "c"

[host."http://a.example:5000/mirror/v2"]
  capabilities = ["pull"]
  skip_verify = true
  override_path = true
  client = "both.pem"
"#,
        )
        .unwrap();
        assert_eq!(
            hosts.server.as_deref(),
            Some("https://registry-1.docker.io")
        );
        assert_eq!(
            hosts.of_server.files.authorities,
            [Path::new("/abs/ca.pem"), Path::new("/c/docker.io/more.pem")]
        );
        assert!(hosts.of_server.resolves && hosts.of_server.pulls);
        // In the order of the file, whatever the names.
        let addresses: Vec<&str> = hosts.mirrors.iter().map(|(a, _)| a.as_str()).collect();
        assert_eq!(
            addresses,
            ["https://z.example", "http://a.example:5000/mirror/v2"]
        );
        let [(_, z), (_, a)] = &hosts.mirrors[..] else {
            panic!("two hosts")
        };
        assert_eq!(
            z.files.identity,
            Some(("/c/docker.io/c.cert".into(), "/c/docker.io/c.key".into()))
        );
        assert!(z.resolves && !z.skip_verify && !z.override_path);
        assert_eq!(z.headers.get_all("x-token").iter().count(), 2);
        assert_eq!(z.headers["x-one"], "c");
        assert!(a.pulls && !a.resolves && a.skip_verify && a.override_path);
        let both = PathBuf::from("/c/docker.io/both.pem");
        assert_eq!(a.files.identity, Some((both.clone(), both)));
    }

    #[test]
    fn a_broken_file_is_named() {
        for text in [
            "server = ",
            "server = 1",
            "server = \"ftp://mirror\"",
            "[host.\"https://\"]",
            "[host.\"a\"]\nheader = {\"b c\" = \"x\"}",
            "[host.\"a\"]\nskip_verify = \"yes\"",
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains("/c/docker.io/hosts.toml"), "{error}");
        }
    }

    #[test]
    fn the_registrys_own_file_is_read_before_that_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let directory = dir.path().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let text = format!("server = \"https://{name}.example\"");
            std::fs::write(directory.join("hosts.toml"), text).unwrap();
        };
        let server = |registry: &str| {
            let hosts = read(dir.path(), registry).unwrap();
            hosts.and_then(|hosts| hosts.server)
        };
        assert_eq!(server("one"), None);
        put("_default");
        put("one");
        assert_eq!(server("one").as_deref(), Some("https://one.example"));
        assert_eq!(server("two").as_deref(), Some("https://_default.example"));
    }
}
