//! Which proxy leads to a host.
//!
//! By the variables that everybody reads (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, also in
//! small letters), and before them `proxies` of `daemon.json`, key by key, as Docker has it. Exceptions
//! are read as Go reads them: names with everything below them, `.name` and `*.name` without the name
//! itself, addresses, networks, each with or without a port, and `*`.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use reqwest::Url;
use serde::Deserialize;

use super::RegistryError;
use super::settings::split_port;

/// `proxies` of `daemon.json`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
pub struct ProxiesFile {
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
}

#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone)]
struct Exception {
    to: To,
    port: Option<u16>,
}

#[derive(Debug, Clone)]
enum To {
    Everything,
    Network(IpNet),
    /// In small letters.
    Name(String),
    /// With the dot in front.
    Below(String),
}

impl Proxies {
    /// `path` is that of the file, `variable` reads the environment.
    pub fn gather(
        path: &Path,
        file: &ProxiesFile,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Proxies, RegistryError> {
        let variable = |name: &str| {
            [name.to_owned(), name.to_lowercase()]
                .into_iter()
                .find_map(|name| variable(&name).filter(|value| !value.is_empty()))
        };
        let proxy = |key: &str, value: &str, name: &str| {
            if !value.is_empty() {
                return address(path, key, value).map(Some);
            }
            let names = [name, "ALL_PROXY"];
            let found = names.iter().find_map(|name| Some((name, variable(name)?)));
            found
                .map(|(name, value)| address(Path::new("environment"), name, &value))
                .transpose()
        };
        let no_proxy = match file.no_proxy.is_empty() {
            true => variable("NO_PROXY").unwrap_or_default(),
            false => file.no_proxy.clone(),
        };
        Ok(Proxies {
            http: proxy("http-proxy", &file.http_proxy, "HTTP_PROXY")?,
            https: proxy("https-proxy", &file.https_proxy, "HTTPS_PROXY")?,
            exceptions: no_proxy.split(',').filter_map(exception).collect(),
        })
    }

    /// The proxy for requests to a URL. None leads to this machine itself.
    pub fn of(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let name = url.host_str()?.trim_matches(['[', ']']).to_lowercase();
        let name = name.trim_end_matches('.');
        let ip = name.parse::<IpAddr>().ok();
        if name == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return None;
        }
        let is_excepted = self.exceptions.iter().any(|exception| {
            let is_to = match (&exception.to, ip) {
                (To::Everything, _) => true,
                (To::Network(net), Some(ip)) => net.contains(&ip),
                (To::Name(excepted), None) => {
                    let rest = name.strip_suffix(excepted.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                }
                (To::Below(suffix), None) => name.ends_with(suffix),
                _ => false,
            };
            is_to
                && exception
                    .port
                    .is_none_or(|port| url.port_or_known_default() == Some(port))
        });
        (!is_excepted).then_some(proxy)
    }
}

/// A proxy's address; without a scheme it speaks plain HTTP.
fn address(path: &Path, key: &str, value: &str) -> Result<Url, RegistryError> {
    // The value, which may have a password in it, is not shown.
    let bad = |why: &str| RegistryError::BadSettings {
        path: path.to_owned(),
        why: format!("{key} {why}"),
    };
    let value = value.trim();
    let url = match value.contains("://") {
        true => Url::parse(value),
        false => Url::parse(&format!("http://{value}")),
    };
    let is_known = |url: &Url| matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
    match url {
        Ok(url) if is_known(&url) && url.has_host() => Ok(url),
        _ => Err(bad(
            "is no address of a proxy: write http://host:port or socks5://host:port",
        )),
    }
}

/// What cannot be read excepts nothing, as everywhere.
fn exception(entry: &str) -> Option<Exception> {
    let entry = entry.trim().to_lowercase();
    if entry == "*" {
        let to = To::Everything;
        return Some(Exception { to, port: None });
    }
    let whole = entry.trim_matches(['[', ']']);
    let network = match whole.parse::<IpAddr>() {
        Ok(ip) => Some(IpNet::from(ip)),
        Err(_) => whole.parse().ok(),
    };
    if let Some(network) = network {
        let to = To::Network(network);
        return Some(Exception { to, port: None });
    }
    let (name, port) = split_port(&entry);
    let to = match name.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => To::Network(ip.into()),
        Err(_) => match name.strip_prefix('*').unwrap_or(name) {
            "" => return None,
            below if below.starts_with('.') => To::Below(below.to_owned()),
            name => To::Name(name.to_owned()),
        },
    };
    Some(Exception { to, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(json: &str, variables: &[(&str, &str)]) -> Result<Proxies, RegistryError> {
        let file: ProxiesFile = serde_json::from_str(json).unwrap();
        Proxies::gather(Path::new("daemon.json"), &file, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn way(proxies: &Proxies, url: &str) -> String {
        let proxy = proxies.of(&Url::parse(url).unwrap());
        proxy
            .map_or("direct", |proxy| proxy.host_str().unwrap())
            .to_owned()
    }

    #[test]
    fn the_file_goes_before_the_environment_key_by_key() {
        let variables = [
            ("HTTP_PROXY", ""),
            ("http_proxy", "by-variable:1"),
            ("HTTPS_PROXY", "http://by-variable:1"),
            ("no_proxy", "a.example"),
        ];
        let proxies =
            gathered(r#"{"https-proxy": "http://user:pw@by-file:2"}"#, &variables).unwrap();
        assert_eq!(way(&proxies, "http://reg.example/v2/"), "by-variable");
        assert_eq!(way(&proxies, "https://reg.example/v2/"), "by-file");
        assert_eq!(way(&proxies, "https://a.example/v2/"), "direct");
        let proxies = gathered(r#"{"no-proxy": "b.example"}"#, &variables).unwrap();
        assert_eq!(way(&proxies, "https://a.example/"), "by-variable");
        assert_eq!(way(&proxies, "https://b.example/"), "direct");
        let proxies = gathered("{}", &[("ALL_PROXY", "all")]).unwrap();
        assert_eq!(way(&proxies, "https://a.example/"), "all");
        assert_eq!(
            way(&gathered("{}", &[]).unwrap(), "https://a.example/"),
            "direct"
        );
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        let json = r#"{"http-proxy": "p", "https-proxy": "p",
            "no-proxy": "whole.example, .below.example,*.Star.example,10.1.0.0/16,10.9.9.9,ported:5000,[fd00::1]:80,fd01::/64,,*"}"#;
        let proxies = gathered(&json.replace(",*\"", "\""), &[]).unwrap();
        for (url, expected) in [
            ("https://whole.example/", "direct"),
            ("https://whole.example.:8443/", "direct"),
            ("https://a.whole.example/", "direct"),
            ("https://notwhole.example/", "p"),
            ("https://below.example/", "p"),
            ("https://a.below.example/", "direct"),
            ("https://star.example/", "p"),
            ("https://a.b.star.example/", "direct"),
            ("https://10.1.2.3:5000/", "direct"),
            ("https://10.2.2.3/", "p"),
            ("https://10.9.9.9/", "direct"),
            ("http://ported:5000/", "direct"),
            ("http://ported/", "p"),
            ("http://[fd00::1]/", "direct"),
            ("https://[fd00::1]/", "p"),
            ("https://[fd01::5]/", "direct"),
            ("https://localhost:5000/", "direct"),
            ("https://127.0.0.2/", "direct"),
            ("https://[::1]/", "direct"),
        ] {
            assert_eq!(way(&proxies, url), expected, "{url}");
        }
        assert_eq!(way(&gathered(json, &[]).unwrap(), "https://x/"), "direct");
    }

    #[test]
    fn what_is_no_proxy_is_said_without_its_password() {
        for value in [
            "ftp://user:secret@p",
            "http://user:secret@",
            "socks4://user:secret@p:1",
        ] {
            let json = serde_json::json!({ "https-proxy": value }).to_string();
            let error = gathered(&json, &[]).unwrap_err().to_string();
            assert!(
                error.contains("daemon.json") && error.contains("https-proxy"),
                "{error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
        let error = gathered("{}", &[("HTTPS_PROXY", "gopher://p")]).unwrap_err();
        assert!(error.to_string().contains("HTTPS_PROXY"), "{error}");
    }
}
