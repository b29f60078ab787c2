//! What the administrator of this machine says about registries.
//!
//! ```text
//! <dir>/daemon.json                       "registry-mirrors", "insecure-registries", "proxies", as
//!                                         Docker has them
//! <dir>/certs.d/<host[:port]>/*.crt       authorities that are trusted for this host
//!                            /x.cert .key a client certificate
//!                            /hosts.toml  mirrors, as containerd has them (`hosts`)
//! ```
//!
//! `<dir>` is `/etc/wharf`, and behind it `/etc/docker` and `/etc/containerd`, so that a machine that
//! comes from there needs no change; `WHARF_CONFIG_DIR` names another in place of all. Read anew for
//! every pull: a change needs no restart. Knows nothing of requests.

use std::ffi::OsStr;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;
use super::hosts::{self, Hosts};
use super::proxies::{Proxies, ProxiesFile};

#[derive(Debug, Clone, Default)]
pub struct Settings {
    dirs: Vec<PathBuf>,
    /// Base addresses that are asked for images of Docker Hub first.
    pub mirrors: Vec<String>,
    insecure: Vec<String>,
    pub proxies: Proxies,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct DaemonFile {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
    proxies: ProxiesFile,
}

/// Certificates for one host, as files.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct HostFiles {
    pub authorities: Vec<PathBuf>,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    pub fn read() -> Result<Settings, RegistryError> {
        let dirs = match std::env::var_os("WHARF_CONFIG_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => vec![PathBuf::from(dir)],
            None => ["/etc/wharf", "/etc/docker", "/etc/containerd"]
                .map(PathBuf::from)
                .to_vec(),
        };
        Settings::in_directories(dirs)
    }

    pub fn in_directories(dirs: Vec<PathBuf>) -> Result<Settings, RegistryError> {
        let mut settings = Settings {
            dirs,
            ..Settings::default()
        };
        let variable = |name: &str| std::env::var(name).ok();
        for dir in &settings.dirs {
            let path = dir.join("daemon.json");
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(RegistryError::Settings { path, source }),
            };
            let file: DaemonFile =
                serde_json::from_slice(&bytes).map_err(|error| RegistryError::BadSettings {
                    path: path.clone(),
                    why: error.to_string(),
                })?;
            settings.mirrors = file.registry_mirrors;
            settings.insecure = file.insecure_registries;
            settings.proxies = Proxies::gather(&path, &file.proxies, variable)?;
            return Ok(settings);
        }
        settings.proxies = Proxies::gather(Path::new(""), &ProxiesFile::default(), variable)?;
        Ok(settings)
    }

    /// Whether a registry may be used without a certificate that is trusted, or without TLS.
    ///
    /// What is on this machine itself is, unless the administrator has put a certificate there.
    pub fn is_insecure(&self, host: &str) -> bool {
        let (name, _) = split_port(host);
        let address = name.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let is_listed = self.insecure.iter().any(|entry| {
            let entry = entry
                .trim_start_matches("http://")
                .trim_start_matches("https://")
                .trim_end_matches('/');
            entry == host
                || entry == name
                || match (entry.parse::<ipnet::IpNet>(), address) {
                    (Ok(net), Some(address)) => net.contains(&address),
                    _ => false,
                }
        });
        let is_here = name == "localhost" || address.is_some_and(|address| address.is_loopback());
        is_listed || (is_here && self.files_for(host).authorities.is_empty())
    }

    /// The `hosts.toml` of a registry; of the first directory that has one.
    pub fn hosts(&self, registry: &str) -> Result<Option<Hosts>, RegistryError> {
        if !is_file_name(registry) {
            return Ok(None);
        }
        for dir in &self.dirs {
            if let Some(found) = hosts::read(&dir.join("certs.d"), registry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The certificates for a host (`name[:port]`); of the first directory that has any.
    pub fn files_for(&self, host: &str) -> HostFiles {
        if !is_file_name(host) {
            return HostFiles::default();
        }
        for dir in &self.dirs {
            let found = files_in(&dir.join("certs.d").join(host));
            if found != HostFiles::default() {
                return found;
            }
        }
        HostFiles::default()
    }
}

/// A host that was parsed has no slash, but it becomes a part of a path.
fn is_file_name(host: &str) -> bool {
    !host.is_empty() && !host.contains('/') && !host.starts_with('.')
}

fn files_in(dir: &Path) -> HostFiles {
    let mut files = HostFiles::default();
    // A directory that cannot be read has no certificates for us; the handshake tells.
    let Ok(entries) = std::fs::read_dir(dir) else {
        return files;
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in &paths {
        match path.extension().and_then(OsStr::to_str) {
            Some("crt") => files.authorities.push(path.clone()),
            Some("cert") if files.identity.is_none() => {
                let key = path.with_extension("key");
                if key.is_file() {
                    files.identity = Some((path.clone(), key));
                }
            }
            _ => {}
        }
    }
    files
}

/// `host:port` in parts; an IPv6 address keeps its brackets.
pub fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (host, None),
        },
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> (tempfile::TempDir, Settings) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("daemon.json"), json).unwrap();
        let settings = Settings::in_directories(vec![dir.path().to_owned()]).unwrap();
        (dir, settings)
    }

    #[test]
    fn insecure_is_what_is_listed_and_what_is_here() {
        let (dir, settings) = written(
            r#"{"insecure-registries": ["reg.example:5000", "10.1.0.0/16", "http://other"], "log-level": "x"}"#,
        );
        for host in [
            "reg.example:5000",
            "10.1.2.3:80",
            "10.1.2.3",
            "other",
            "localhost",
            "localhost:5000",
            "127.0.0.9:5000",
            "[::1]:5000",
        ] {
            assert!(settings.is_insecure(host), "{host}");
        }
        for host in [
            "reg.example",
            "10.2.0.1",
            "docker.io",
            "localhost.evil.example",
        ] {
            assert!(!settings.is_insecure(host), "{host}");
        }
        // A certificate that was put there on purpose is not to be bypassed.
        let certs = dir.path().join("certs.d/localhost:5000");
        std::fs::create_dir_all(&certs).unwrap();
        std::fs::write(certs.join("ca.crt"), "").unwrap();
        assert!(!settings.is_insecure("localhost:5000"));
    }

    #[test]
    fn certificates_are_found_by_host_and_port() {
        let (dir, settings) = written("{}");
        let certs = dir.path().join("certs.d/reg:1");
        std::fs::create_dir_all(&certs).unwrap();
        for name in [
            "ca.crt",
            "client.cert",
            "client.key",
            "lonely.cert",
            "README",
        ] {
            std::fs::write(certs.join(name), "").unwrap();
        }
        let files = settings.files_for("reg:1");
        assert_eq!(files.authorities, [certs.join("ca.crt")]);
        assert_eq!(
            files.identity,
            Some((certs.join("client.cert"), certs.join("client.key")))
        );
        assert_eq!(settings.files_for("reg:2"), HostFiles::default());
        assert_eq!(settings.files_for("../certs.d/reg:1"), HostFiles::default());
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("daemon.json"), "{").unwrap();
        let error = Settings::in_directories(vec![dir.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("daemon.json"), "{error}");
    }
}
