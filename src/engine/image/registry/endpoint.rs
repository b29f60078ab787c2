//! Where a registry is spoken to.

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::RegistryError;
use super::hosts::{HostSettings, Hosts};
use super::settings::{HostFiles, Settings, split_port};
use super::tls::Trust;

pub const DOCKER_HUB: &str = "docker.io";
/// Docker Hub's images are served under another name than they are called by.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where its API begins: `https://host/v2/`.
    pub api: Url,
    /// `name[:port]`, as in `certs.d` and messages.
    pub host: String,
    pub trust: Trust,
    /// Somebody else's copy of what was asked for: it is shown no credentials, and its failures
    /// are not the last word.
    pub is_mirror: bool,
    /// Whether it knows what a tag stands for.
    pub resolves: bool,
    /// Certificates beside those of `certs.d`.
    pub files: HostFiles,
    /// Sent along with every request to it, and to nobody else.
    pub headers: HeaderMap,
    /// The registry whose copy this is, for a mirror of several.
    pub namespace: Option<String>,
}

impl Endpoint {
    fn at(scheme: &str, host: &str, trust: Trust) -> Option<Endpoint> {
        Some(Endpoint {
            api: Url::parse(&format!("{scheme}://{host}/v2/")).ok()?,
            host: host.to_owned(),
            trust,
            is_mirror: false,
            resolves: true,
            files: HostFiles::default(),
            headers: HeaderMap::new(),
            namespace: None,
        })
    }

    /// By an address with or without a scheme and a path.
    fn by_address(address: &str, of: &HostSettings, settings: &Settings) -> Option<Endpoint> {
        let address = match address.contains("://") {
            true => address.to_owned(),
            false => format!("https://{address}"),
        };
        let version = if of.override_path { "" } else { "v2/" };
        let address = address.trim_end_matches('/');
        let api = Url::parse(&format!("{address}/{version}")).ok()?;
        if !matches!(api.scheme(), "http" | "https") {
            return None;
        }
        let host = host_of(&api);
        let is_insecure = match of.files.authorities.is_empty() {
            true => settings.is_insecure(&host),
            // An authority that was put there on purpose is not to be bypassed.
            false => false,
        };
        let trust = match api.scheme() == "http" || of.skip_verify || is_insecure {
            true => Trust::Insecure,
            false => Trust::Verified,
        };
        Some(Endpoint {
            api,
            host,
            trust,
            is_mirror: false,
            resolves: of.resolves,
            files: of.files.clone(),
            headers: of.headers.clone(),
            namespace: None,
        })
    }

    fn mirror(
        address: &str,
        of: &HostSettings,
        registry: &str,
        settings: &Settings,
    ) -> Option<Endpoint> {
        Some(Endpoint {
            is_mirror: true,
            namespace: Some(registry.to_owned()),
            ..Endpoint::by_address(address, of, settings)?
        })
    }

    /// Whether a URL is of the same scheme, host and port.
    pub fn is_origin_of(&self, url: &Url) -> bool {
        url.origin() == self.api.origin()
    }
}

/// `name[:port]`, without the scheme's own port.
pub fn host_of(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

/// Where to ask, in order: the mirrors of `hosts.toml`, or else those that `daemon.json` has for
/// Docker Hub, and then the registry itself.
pub fn for_pull(registry: &str, settings: &Settings) -> Result<Vec<Endpoint>, RegistryError> {
    let hosts = settings.hosts(registry)?;
    let usual = HostSettings::usual();
    let mut endpoints = Vec::new();
    match &hosts {
        Some(hosts) => {
            let mirrors = hosts.mirrors.iter().filter(|(_, of)| of.pulls);
            endpoints.extend(
                mirrors
                    .filter_map(|(address, of)| Endpoint::mirror(address, of, registry, settings)),
            );
        }
        None if registry == DOCKER_HUB => {
            let mirrors = settings.mirrors.iter();
            endpoints.extend(mirrors.filter_map(|address| {
                // As Docker asks them: it names no registry, since there is only one.
                let mirror = Endpoint::mirror(address, &usual, registry, settings)?;
                Some(Endpoint {
                    namespace: None,
                    ..mirror
                })
            }));
        }
        None => {}
    }
    endpoints.extend(the_registry(registry, hosts.as_ref(), settings));
    Ok(endpoints)
}

/// The registry itself.
pub fn for_push(registry: &str, settings: &Settings) -> Result<Vec<Endpoint>, RegistryError> {
    let hosts = settings.hosts(registry)?;
    Ok(the_registry(registry, hosts.as_ref(), settings))
}

/// One that is insecure may speak TLS nevertheless, and is asked so first.
fn the_registry(registry: &str, hosts: Option<&Hosts>, settings: &Settings) -> Vec<Endpoint> {
    if let Some((address, hosts)) = hosts.and_then(|hosts| Some((hosts.server.as_ref()?, hosts))) {
        return Vec::from_iter(Endpoint::by_address(address, &hosts.of_server, settings));
    }
    if registry == DOCKER_HUB {
        return Vec::from_iter(Endpoint::at("https", DOCKER_HUB_API, Trust::Verified));
    }
    if !settings.is_insecure(registry) {
        return Vec::from_iter(Endpoint::at("https", registry, Trust::Verified));
    }
    // An explicit TLS port is never served in plain.
    let schemes: &[&str] = match split_port(registry).1 {
        Some(443) => &["https"],
        _ => &["https", "http"],
    };
    let endpoints = schemes.iter();
    endpoints
        .filter_map(|scheme| Endpoint::at(scheme, registry, Trust::Insecure))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("daemon.json"), json).unwrap();
        Settings::in_directories(vec![dir.path().to_owned()]).unwrap()
    }

    #[test]
    fn registries_are_asked_where_they_are() {
        let settings = settings(
            r#"{"registry-mirrors": ["https://mirror.example/hub/", "http://10.0.0.1:5000", "ftp://x"],
                "insecure-registries": ["old.example"]}"#,
        );
        let asked = |registry: &str| -> Vec<String> {
            let endpoints = for_pull(registry, &settings).unwrap();
            let shown = endpoints.iter().map(|e| {
                format!(
                    "{} {:?}{}",
                    e.api,
                    e.trust,
                    if e.is_mirror { " mirror" } else { "" }
                )
            });
            shown.collect()
        };
        assert_eq!(
            asked("docker.io"),
            [
                "https://mirror.example/hub/v2/ Verified mirror",
                "http://10.0.0.1:5000/v2/ Insecure mirror",
                "https://registry-1.docker.io/v2/ Verified",
            ]
        );
        assert_eq!(asked("ghcr.io"), ["https://ghcr.io/v2/ Verified"]);
        assert_eq!(
            asked("old.example"),
            [
                "https://old.example/v2/ Insecure",
                "http://old.example/v2/ Insecure"
            ]
        );
        assert_eq!(
            asked("localhost:5000"),
            [
                "https://localhost:5000/v2/ Insecure",
                "http://localhost:5000/v2/ Insecure"
            ]
        );
    }

    #[test]
    fn a_hosts_file_says_where_any_registry_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs.d/ghcr.io");
        std::fs::create_dir_all(&certs).unwrap();
        let text = r#"
server = "https://ghcr.example"
[host."https://api.example/mirror/v2"]
override_path = true
[host."http://plain.example"]
capabilities = ["pull"]
[host."https://localhost:5000"]
ca = "ca.pem"
[host."pushes.example"]
capabilities = ["push"]
"#;
        std::fs::write(certs.join("hosts.toml"), text).unwrap();
        let settings = Settings::in_directories(vec![dir.path().to_owned()]).unwrap();
        let asked = for_pull("ghcr.io", &settings).unwrap();
        let shown: Vec<String> = asked
            .iter()
            .map(|e| format!("{} {:?} {} {:?}", e.api, e.trust, e.resolves, e.namespace))
            .collect();
        assert_eq!(
            shown,
            [
                "https://api.example/mirror/v2/ Verified true Some(\"ghcr.io\")",
                "http://plain.example/v2/ Insecure false Some(\"ghcr.io\")",
                "https://localhost:5000/v2/ Verified true Some(\"ghcr.io\")",
                "https://ghcr.example/v2/ Verified true None",
            ]
        );
        assert!(asked[..3].iter().all(|e| e.is_mirror) && !asked[3].is_mirror);
        let pushed = for_push("ghcr.io", &settings).unwrap();
        assert_eq!(pushed, asked[3..]);
        assert_eq!(for_pull("quay.io", &settings).unwrap().len(), 1);
    }
}
