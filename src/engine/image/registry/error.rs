//! Why a registry could not be used, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::engine::image::Digest;

/// The innermost cause of a failed exchange. The layers around it (connector, client, request) say
/// the same thing again with the address in it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct TransportError {
    text: String,
    /// Whether the same request may succeed a moment later.
    pub is_passing: bool,
    /// Whether the other side's certificate was the trouble.
    pub is_certificate: bool,
}

impl TransportError {
    pub fn new(text: impl Into<String>) -> TransportError {
        TransportError {
            text: text.into(),
            is_passing: true,
            is_certificate: false,
        }
    }
}

impl From<reqwest::Error> for TransportError {
    fn from(error: reqwest::Error) -> TransportError {
        let mut innermost: &dyn std::error::Error = &error;
        let mut is_certificate = false;
        let mut is_unknown_name = false;
        loop {
            if let Some(io) = innermost.downcast_ref::<io::Error>() {
                is_certificate |= wraps_certificate_error(io);
            }
            if let Some(tls) = innermost.downcast_ref::<rustls::Error>() {
                is_certificate |= is_about_certificate(tls);
            }
            let text = innermost.to_string();
            is_unknown_name |= text.starts_with("failed to lookup address");
            match innermost.source() {
                Some(source) => innermost = source,
                None => break,
            }
        }
        let text = match innermost.to_string() {
            text if error.is_timeout() && !text.contains("timed out") => "timed out".to_owned(),
            text => text,
        };
        TransportError {
            text,
            is_passing: !is_certificate && !is_unknown_name && !error.is_builder(),
            is_certificate,
        }
    }
}

/// An `io::Error` hides what it wraps from `source`, and some are wrapped twice.
fn wraps_certificate_error(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else {
        return false;
    };
    match inner.downcast_ref::<io::Error>() {
        Some(error) => wraps_certificate_error(error),
        None => inner.downcast_ref().is_some_and(is_about_certificate),
    }
}

fn is_about_certificate(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented
    )
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach registry {host}")]
    Unreachable {
        host: String,
        source: TransportError,
    },
    #[error("the certificate of registry {host} is not trusted")]
    Untrusted {
        host: String,
        source: TransportError,
    },
    #[error("registry {host} has no {what}{said}")]
    NotFound {
        host: String,
        what: String,
        /// What the registry said, with a colon in front; empty when it said nothing.
        said: String,
    },
    #[error("registry {host} denies access to {what}{said}")]
    Denied {
        host: String,
        what: String,
        said: String,
        /// Whether it was asked with credentials.
        with_login: bool,
    },
    #[error("registry {host} limits how often it may be asked{said}")]
    RateLimited { host: String, said: String },
    #[error("registry {host} answered {status} when asked for {what}{said}")]
    Status {
        host: String,
        what: String,
        status: u16,
        said: String,
    },
    #[error("registry {host} asks for authentication in a way that is not understood")]
    Challenge { host: String },
    #[error("registry {host} names {realm} as the place to send credentials to, which is not safe")]
    Realm { host: String, realm: String },
    #[error("the token service of registry {host} sent no token")]
    NoToken { host: String },
    #[error("{what} of registry {host} does not match: expected {expected}, found {found}")]
    Mismatch {
        host: String,
        what: String,
        expected: String,
        found: String,
    },
    #[error("{what} of registry {host} is larger than {limit} bytes")]
    TooLarge {
        host: String,
        what: String,
        limit: u64,
    },
    #[error("{what} of registry {host} is no container image that can be run: {why}")]
    NotAnImage {
        host: String,
        what: String,
        why: String,
    },
    #[error("{what} of registry {host} is {found:?}, not {wanted:?}")]
    OtherKind {
        host: String,
        what: String,
        found: String,
        wanted: String,
    },
    #[error("cannot keep what is downloaded of layer {layer}")]
    Keep { layer: String, source: io::Error },
    #[error("cannot use {path:?}")]
    Settings { path: PathBuf, source: io::Error },
    #[error("{path:?} is not what it should be: {why}")]
    BadSettings { path: PathBuf, why: String },
    #[error("given up")]
    Cancelled,
}

impl RegistryError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            RegistryError::Unreachable { host, source } if is_name(source) => {
                format!("check the name {host}, and that this machine can resolve it")
            }
            RegistryError::Unreachable { host, .. } => format!(
                "check that {host} runs and that no proxy (HTTPS_PROXY, NO_PROXY, \"proxies\" in \
                 /etc/wharf/daemon.json) is missing or in the way"
            ),
            RegistryError::Untrusted { host, .. } => format!(
                "put the certificate of its authority into /etc/wharf/certs.d/{host}/ca.crt, or \
                 name {host} under \"insecure-registries\" in /etc/wharf/daemon.json"
            ),
            RegistryError::NotFound { .. } => {
                "check the spelling of the name and the tag; a private image needs `wharf login`"
                    .to_owned()
            }
            RegistryError::Denied {
                host, with_login, ..
            } => match with_login {
                true => format!(
                    "the credentials for {host} do not give this right; `wharf login {host}` \
                     replaces them"
                ),
                false => format!("`wharf login {host}` if the image is there and private"),
            },
            RegistryError::RateLimited { host, .. } => {
                format!("wait, or `wharf login {host}`: users with an account may ask more often")
            }
            RegistryError::OtherKind { .. } => {
                "name what `docker compose publish` put there; an image belongs under `image`"
                    .to_owned()
            }
            RegistryError::Mismatch { .. } => {
                "the content was changed on its way, or the registry is damaged: pull again, and \
                 ask its owner"
                    .to_owned()
            }
            _ => return None,
        })
    }

    pub(super) fn mismatch(host: &str, what: &str, expected: &Digest, found: &Digest) -> Self {
        RegistryError::Mismatch {
            host: host.to_owned(),
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

fn is_name(source: &TransportError) -> bool {
    !source.is_passing && !source.is_certificate
}
