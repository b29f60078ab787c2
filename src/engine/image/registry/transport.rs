//! Requests and answers, one at a time: clients, time limits, redirects.
//!
//! HTTP/1.1 only: a connection for each layer has a congestion window of its own. Redirects are
//! followed here and not by the client, because what may go along depends on where they lead: no
//! credentials ever leave the origin that they are for (CVE-2020-15157).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Body, Client, Method, Proxy, Response, StatusCode, Url};

use super::endpoint::{Endpoint, host_of};
use super::error::{RegistryError, TransportError};
use super::settings::{HostFiles, Settings};
use super::tls::{self, Trust};

const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// Between two pieces of an answer. A registry that is silent for so long has forgotten us.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);
const MAX_REDIRECTS: usize = 6;
/// Clients of hosts that were used: a registry, its token service, its storage.
const MAX_CLIENTS: usize = 64;

#[derive(PartialEq, Eq, Hash)]
struct ClientKey {
    host: String,
    is_tls: bool,
    trust: Trust,
    files: HostFiles,
    /// A certificate that was replaced makes another client.
    modified: Vec<Option<SystemTime>>,
    proxy: Option<Url>,
}

/// Keeps connections open between requests.
#[derive(Default)]
pub struct Transport {
    clients: Mutex<HashMap<ClientKey, Client>>,
}

pub struct Outgoing {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Body>,
}

pub struct Incoming {
    pub response: Response,
    /// Whether somebody else than who was asked has answered.
    pub is_redirected: bool,
}

/// Why there is no answer, and of whom.
pub struct Unanswered {
    pub host: String,
    pub is_connect: bool,
    pub error: TransportError,
}

impl Unanswered {
    pub fn into_error(self) -> RegistryError {
        match self.error.is_certificate {
            true => RegistryError::Untrusted {
                host: self.host,
                source: self.error,
            },
            false => RegistryError::Unreachable {
                host: self.host,
                source: self.error,
            },
        }
    }
}

/// A problem of this machine, or of the exchange.
pub enum SendError {
    Here(RegistryError),
    There(Unanswered),
}

impl SendError {
    pub fn into_error(self) -> RegistryError {
        match self {
            SendError::Here(error) => error,
            SendError::There(unanswered) => unanswered.into_error(),
        }
    }
}

impl Transport {
    /// Sends a request and follows where a GET or HEAD is sent on to.
    pub async fn send(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        outgoing: Outgoing,
    ) -> Result<Incoming, SendError> {
        let Outgoing {
            method,
            mut url,
            mut headers,
            mut body,
        } = outgoing;
        let follows = method == Method::GET || method == Method::HEAD;
        let asked = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let client = self
                .client(settings, endpoint, &url)
                .map_err(SendError::Here)?;
            let mut request = client
                .request(method.clone(), url.clone())
                .headers(headers.clone());
            if let Some(body) = body.take() {
                request = request.body(body);
            }
            let response = request.send().await.map_err(|error| {
                SendError::There(Unanswered {
                    host: host_of(&url),
                    is_connect: error.is_connect(),
                    error: error.into(),
                })
            })?;
            let target = follows.then(|| redirect_target(&url, &response)).flatten();
            let Some(target) = target else {
                return Ok(Incoming {
                    is_redirected: url.origin() != asked,
                    response,
                });
            };
            if target.origin() != url.origin() {
                headers.remove(AUTHORIZATION);
                for name in endpoint.headers.keys() {
                    headers.remove(name);
                }
            }
            url = target;
        }
        Err(SendError::There(Unanswered {
            host: host_of(&url),
            is_connect: false,
            error: TransportError::new("it leads in circles"),
        }))
    }

    fn client(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        url: &Url,
    ) -> Result<Client, RegistryError> {
        let host = host_of(url);
        let is_tls = url.scheme() == "https";
        let trust = match () {
            () if !is_tls => Trust::Insecure,
            () if host == endpoint.host => endpoint.trust,
            () if settings.is_insecure(&host) => Trust::Insecure,
            () => Trust::Verified,
        };
        let mut files = match is_tls {
            true => settings.files_for(&host),
            false => HostFiles::default(),
        };
        if is_tls && host == endpoint.host {
            let own = &endpoint.files;
            files.authorities.extend(own.authorities.iter().cloned());
            files.identity = own.identity.clone().or(files.identity);
        }
        let paths = files.authorities.iter();
        let paths = paths.chain(files.identity.iter().flat_map(|(cert, key)| [cert, key]));
        let modified = paths
            .map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
            .collect();
        let key = ClientKey {
            host,
            is_tls,
            trust,
            files,
            modified,
            proxy: settings.proxies.of(url).cloned(),
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(&key)?;
        if clients.len() >= MAX_CLIENTS {
            // Nothing is lost but open connections.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn build(key: &ClientKey) -> Result<Client, RegistryError> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls::configuration(key.trust, &key.files)?)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .read_timeout(SILENCE_LIMIT)
        .pool_idle_timeout(Duration::from_secs(30));
    let failed = |error: reqwest::Error| RegistryError::Unreachable {
        host: key.host.clone(),
        source: error.into(),
    };
    let builder = match &key.proxy {
        Some(proxy) => builder.proxy(Proxy::all(proxy.clone()).map_err(failed)?),
        None => builder.no_proxy(),
    };
    builder.build().map_err(failed)
}

fn redirect_target(from: &Url, response: &Response) -> Option<Url> {
    let is_redirect = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| is_redirect)?;
    let target = from.join(location.to_str().ok()?).ok()?;
    matches!(target.scheme(), "http" | "https").then_some(target)
}
