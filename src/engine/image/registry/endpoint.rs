//! Where a registry is spoken to.

use reqwest::Url;

use super::settings::{Settings, split_port};
use super::tls::Trust;

pub const DOCKER_HUB: &str = "docker.io";
/// Docker Hub's images are served under another name than they are called by.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Ends with a slash.
    pub base: Url,
    /// `name[:port]`, as in `certs.d` and messages.
    pub host: String,
    pub trust: Trust,
    /// Somebody else's copy of what was asked for: it is shown no credentials, and its failures
    /// are not the last word.
    pub is_mirror: bool,
}

impl Endpoint {
    fn at(scheme: &str, host: &str, trust: Trust) -> Option<Endpoint> {
        Some(Endpoint {
            base: Url::parse(&format!("{scheme}://{host}/")).ok()?,
            host: host.to_owned(),
            trust,
            is_mirror: false,
        })
    }

    fn mirror(address: &str, settings: &Settings) -> Option<Endpoint> {
        let address = match address.contains("://") {
            true => address.to_owned(),
            false => format!("https://{address}"),
        };
        let base = Url::parse(&format!("{}/", address.trim_end_matches('/'))).ok()?;
        if !matches!(base.scheme(), "http" | "https") {
            return None;
        }
        let host = host_of(&base);
        let trust = match base.scheme() == "http" || settings.is_insecure(&host) {
            true => Trust::Insecure,
            false => Trust::Verified,
        };
        Some(Endpoint {
            base,
            host,
            trust,
            is_mirror: true,
        })
    }

    /// Whether a URL is of the same scheme, host and port.
    pub fn is_origin_of(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
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

/// Where to ask, in order.
pub fn for_pull(registry: &str, settings: &Settings) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    if registry == DOCKER_HUB {
        let mirrors = settings.mirrors.iter();
        endpoints.extend(mirrors.filter_map(|mirror| Endpoint::mirror(mirror, settings)));
    }
    endpoints.extend(for_push(registry, settings));
    endpoints
}

/// The registry itself. One that is insecure may speak TLS nevertheless, and is asked so first.
pub fn for_push(registry: &str, settings: &Settings) -> Vec<Endpoint> {
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
            let endpoints = for_pull(registry, &settings);
            let shown = endpoints.iter().map(|e| {
                format!(
                    "{} {:?}{}",
                    e.base,
                    e.trust,
                    if e.is_mirror { " mirror" } else { "" }
                )
            });
            shown.collect()
        };
        assert_eq!(
            asked("docker.io"),
            [
                "https://mirror.example/hub/ Verified mirror",
                "http://10.0.0.1:5000/ Insecure mirror",
                "https://registry-1.docker.io/ Verified",
            ]
        );
        assert_eq!(asked("ghcr.io"), ["https://ghcr.io/ Verified"]);
        assert_eq!(
            asked("old.example"),
            [
                "https://old.example/ Insecure",
                "http://old.example/ Insecure"
            ]
        );
        assert_eq!(
            asked("localhost:5000"),
            [
                "https://localhost:5000/ Insecure",
                "http://localhost:5000/ Insecure"
            ]
        );
    }
}
