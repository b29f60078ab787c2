//! One repository at one endpoint: manifests and blobs by the OCI distribution specification.
//!
//! Owns authentication, patience with a registry that is busy, and the checks that make an answer
//! usable: nothing leaves here that does not have the digest and size it was asked for by
//! (HAZARDS S42), except the bytes of layers, which are checked by who unpacks them.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::auth::{Authorizer, Via};
use super::challenge::{self, Challenge};
use super::endpoint::Endpoint;
use super::settings::Settings;
use super::transport::{Incoming, Outgoing, SendError, Transport};
use super::{RegistryError, retry};
use crate::engine::image::Digest;
use crate::engine::image::content::MAX_DOCUMENT_BYTES;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// A registry's explanation is quoted up to this length.
const MAX_SAID_CHARS: usize = 300;

pub struct Repository {
    pub(super) transport: Arc<Transport>,
    pub(super) settings: Arc<Settings>,
    pub(super) endpoint: Endpoint,
    pub(super) authorizer: Arc<Authorizer>,
    /// `library/nginx`.
    pub(super) name: String,
    /// Rights that every request asks for.
    pub(super) scope: String,
    pub(super) cancelled: CancellationToken,
}

/// A document under the digest that it was found to have.
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

/// One request, as often as it has to be sent.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    /// For messages: `manifest latest`.
    pub what: &'a str,
    /// Small, so that it can be sent again.
    pub body: Option<bytes::Bytes>,
    /// Whether a connection that cannot be made is tried again. Not for the first contact: a user
    /// who misspelt a host should hear of it now.
    pub insists: bool,
}

impl<'a> Ask<'a> {
    pub fn get(url: Url, what: &'a str) -> Ask<'a> {
        Ask {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            what,
            body: None,
            insists: true,
        }
    }
}

impl Repository {
    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    pub(super) fn url(&self, rest: &str) -> Url {
        let url = self.endpoint.api.join(&format!("{}/{rest}", self.name));
        let mut url = url.expect("names, tags and digests were checked and need no escapes");
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// The digest that the registry has for a tag, by the request that costs least. `None` when it
    /// does not say: some refuse HEAD, some redirect it to a place that does (moby #50065).
    ///
    /// # Errors
    /// When nobody is there to be asked.
    pub async fn digest_of(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let what = format!("manifest {tag}");
        let ask = Ask {
            method: Method::HEAD,
            headers: accept_manifests(),
            insists: false,
            ..Ask::get(self.url(&format!("manifests/{tag}")), &what)
        };
        match self.ask(ask).await {
            Ok(incoming) => Ok(content_digest(&incoming.response)),
            Err(
                error @ (RegistryError::Unreachable { .. }
                | RegistryError::Untrusted { .. }
                | RegistryError::Cancelled),
            ) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// An index or a manifest, by tag or digest.
    pub async fn manifest(
        &self,
        tag_or_digest: &str,
        insists: bool,
    ) -> Result<Manifest, RegistryError> {
        let what = format!("image {}:{tag_or_digest}", self.name);
        let ask = Ask {
            headers: accept_manifests(),
            insists,
            ..Ask::get(self.url(&format!("manifests/{tag_or_digest}")), &what)
        };
        let response = self.ask(ask).await?.response;
        let announced = content_digest(&response);
        let media_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media_type = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let bytes = self.body(response, &what, MAX_DOCUMENT_BYTES).await?;
        let found = Digest::of(&bytes);
        let expected = Digest::parse(tag_or_digest).ok().or(announced);
        match expected {
            Some(expected) if expected != found => Err(RegistryError::mismatch(
                self.host(),
                &what,
                &expected,
                &found,
            )),
            _ => Ok(Manifest {
                digest: found,
                media_type,
                bytes,
            }),
        }
    }

    /// A blob that is read into memory: an image config, a file of a project. `what` is for
    /// messages.
    pub async fn document(
        &self,
        digest: &Digest,
        n_bytes: u64,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"));
        let response = self.ask(Ask::get(url, what)).await?.response;
        let bytes = self
            .body(response, what, n_bytes.min(MAX_DOCUMENT_BYTES))
            .await?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(RegistryError::mismatch(self.host(), what, digest, &found));
        }
        Ok(bytes)
    }

    /// A layer's bytes from `from` on, if the registry will; else from the beginning. One attempt
    /// of a reader that has its own patience.
    pub async fn blob(&self, url: Url, from: u64, what: &str) -> Result<Response, RegistryError> {
        let mut ask = Ask::get(url, what);
        if from > 0 {
            let range = format!("bytes={from}-");
            let range = HeaderValue::from_str(&range).expect("digits are fine in a header");
            ask.headers.insert(RANGE, range);
        }
        Ok(self.ask(ask).await?.response)
    }

    /// Sends a request until it is answered: with rights, and with patience.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Incoming, RegistryError> {
        let mut n_refused = 0;
        let mut pauses = retry::Pauses::default();
        let via = self.via();
        // Other origins (the places of foreign layers) get no rights of ours.
        let is_ours = self.endpoint.is_origin_of(&ask.url);
        let mut rights = match is_ours {
            true => {
                self.patiently(self.authorizer.header(&via, &self.scope))
                    .await?
            }
            false => None,
        };
        loop {
            let mut headers = ask.headers.clone();
            if is_ours {
                headers.extend(self.endpoint.headers.clone());
            }
            if let Some(rights) = &rights {
                headers.insert(AUTHORIZATION, rights.clone());
            }
            let outgoing = Outgoing {
                method: ask.method.clone(),
                url: ask.url.clone(),
                headers,
                body: ask.body.clone().map(Body::from),
            };
            let sent = self
                .unless_cancelled(
                    self.transport
                        .send(&self.settings, &self.endpoint, outgoing),
                )
                .await?;
            let incoming = match sent {
                Ok(incoming) => incoming,
                Err(SendError::There(unanswered))
                    if unanswered.error.is_passing && (ask.insists || !unanswered.is_connect) =>
                {
                    match pauses.next(None) {
                        Some(pause) => self.pause(pause).await?,
                        None => return Err(unanswered.into_error()),
                    }
                    continue;
                }
                Err(error) => return Err(error.into_error()),
            };
            let status = incoming.response.status();
            if status.is_success() {
                return Ok(incoming);
            }
            if status == StatusCode::UNAUTHORIZED && !incoming.is_redirected && is_ours {
                // Once for a token that has died, once for one that has too few rights.
                n_refused += 1;
                if n_refused <= 2 {
                    let challenges = challenges(&incoming.response);
                    let answer =
                        self.authorizer
                            .answer(&via, &challenges, &self.scope, rights.as_ref());
                    let answer = self.patiently(answer).await?;
                    if answer.is_some() {
                        rights = answer;
                        continue;
                    }
                }
            }
            if retry::is_passing(status)
                && let Some(pause) = pauses.next(retry_after(&incoming.response))
            {
                self.pause(pause).await?;
                continue;
            }
            let has_login = self.authorizer.has_login();
            return Err(refusal(self.host(), ask.what, has_login, incoming).await);
        }
    }

    pub(super) fn via(&self) -> Via<'_> {
        Via {
            transport: &self.transport,
            settings: &self.settings,
            endpoint: &self.endpoint,
        }
    }

    pub(super) async fn pause(&self, pause: Duration) -> Result<(), RegistryError> {
        self.unless_cancelled(tokio::time::sleep(pause)).await
    }

    pub(super) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        self.cancelled
            .run_until_cancelled(work)
            .await
            .ok_or(RegistryError::Cancelled)
    }

    async fn patiently<T>(
        &self,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.unless_cancelled(work).await?
    }

    async fn body(
        &self,
        response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        self.patiently(read_body(response, self.host(), what, limit))
            .await
    }
}

fn accept_manifests() -> HeaderMap {
    let mut headers = HeaderMap::new();
    // One header with all of them: some registries look at the first only.
    let types = [DOCKER_LIST, OCI_INDEX, DOCKER_MANIFEST, OCI_MANIFEST, "*/*"].join(", ");
    let types = HeaderValue::from_str(&types).expect("media types are fine in a header");
    headers.insert(ACCEPT, types);
    headers
}

fn content_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get(CONTENT_DIGEST)?.to_str().ok()?;
    Digest::parse(value).ok()
}

fn challenges(response: &Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    headers
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    retry::asked_for(value, jiff::Timestamp::now())
}

/// The body of an answer, if it is no longer than it may be.
pub(super) async fn read_body(
    mut response: Response,
    host: &str,
    what: &str,
    limit: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|error| RegistryError::Unreachable {
                host: host.to_owned(),
                source: error.into(),
            })?;
        let Some(chunk) = chunk else {
            return Ok(bytes);
        };
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            return Err(RegistryError::TooLarge {
                host: host.to_owned(),
                what: what.to_owned(),
                limit,
            });
        }
        bytes.extend_from_slice(&chunk);
    }
}

#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    /// Token services say it in their own ways.
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What an answer that is no success means.
pub(super) async fn refusal(
    host: &str,
    what: &str,
    with_login: bool,
    incoming: Incoming,
) -> RegistryError {
    let Incoming {
        response,
        is_redirected,
    } = incoming;
    let status = response.status();
    let header = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.split(';').next().unwrap_or(value).to_owned())
    };
    let left = header("ratelimit-remaining").zip(header("ratelimit-limit"));
    let wait = retry_after(&response);
    // Where a registry sends us on to may be any place of this network; what is said there is not
    // passed on.
    let said = match is_redirected {
        true => None,
        false => said(response, host, what).await,
    };
    let mut said = said.map_or_else(String::new, |said| format!(": {said}"));
    let (host, what) = (host.to_owned(), what.to_owned());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
            host,
            what,
            said,
            with_login,
        },
        StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, said },
        StatusCode::TOO_MANY_REQUESTS => {
            if let Some((remaining, limit)) = left {
                said.push_str(&format!(" ({remaining} of {limit} requests are left)"));
            }
            if let Some(wait) = wait {
                said.push_str(&format!(" (again in {} s)", wait.as_secs()));
            }
            RegistryError::RateLimited { host, said }
        }
        status => RegistryError::Status {
            host,
            what,
            status: status.as_u16(),
            said,
        },
    }
}

/// The registry's own words, short and harmless.
async fn said(response: Response, host: &str, what: &str) -> Option<String> {
    let body = read_body(response, host, what, 1 << 16).await.ok()?;
    let answer: ErrorAnswer = serde_json::from_slice(&body).ok()?;
    let first = answer.errors.into_iter().next();
    let text = match first {
        Some(entry) if entry.message.is_empty() => entry.code,
        Some(entry) => entry.message,
        None => answer.details.or(answer.message)?,
    };
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_SAID_CHARS)
        .collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
