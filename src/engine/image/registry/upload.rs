//! Blobs and manifests on their way to a registry.
//!
//! What the registry has already is not sent: asked for by digest first, then offered from another
//! repository of the same registry, then sent as a whole. An upload that is cut off begins anew; the
//! registry throws the rest away.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio_util::io::ReaderStream;

use super::error::TransportError;
use super::repository::{Ask, Repository, refusal};
use super::transport::Outgoing;
use super::{RegistryError, retry};
use crate::engine::image::Digest;

/// Bytes of a file that are sent at once.
const CHUNK: usize = 256 << 10;

impl Repository {
    /// Whether anybody is there; any answer will do.
    pub async fn reach(&self) -> Result<(), RegistryError> {
        let outgoing = Outgoing {
            method: Method::GET,
            url: self.endpoint.api.clone(),
            headers: self.endpoint.headers.clone(),
            body: None,
        };
        let sent = self
            .transport
            .send(&self.settings, &self.endpoint, outgoing);
        match self.unless_cancelled(sent).await? {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into_error()),
        }
    }

    /// Has the registry check who we are.
    pub async fn authenticate(&self) -> Result<(), RegistryError> {
        let url = self.endpoint.api.clone();
        let ask = Ask {
            insists: false,
            ..Ask::get(url, "its users")
        };
        self.ask(ask).await.map(drop)
    }

    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let what = format!("blob {}", digest.short());
        let ask = Ask {
            method: Method::HEAD,
            ..Ask::get(self.url(&format!("blobs/{digest}")), &what)
        };
        match self.ask(ask).await {
            Ok(_) => Ok(true),
            // A registry that refuses the question may still take the answer.
            Err(RegistryError::NotFound { .. } | RegistryError::Status { status: 405, .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Has the registry take the blob over from another repository, if that has it.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let mut url = self.url("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let what = format!("blob {}", digest.short());
        let response = self.post(url, &what).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(true);
        }
        // It has opened an upload in place of that, which nobody will use.
        if let Some(location) = self.location(&response) {
            let ask = Ask {
                method: Method::DELETE,
                insists: false,
                ..Ask::get(location, &what)
            };
            // A registry that does not let go of it now forgets it later.
            let _ = self.ask(ask).await;
        }
        Ok(false)
    }

    async fn post(&self, url: Url, what: &str) -> Result<Response, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let ask = Ask {
            method: Method::POST,
            headers,
            ..Ask::get(url, what)
        };
        Ok(self.ask(ask).await?.response)
    }

    fn location(&self, response: &Response) -> Option<Url> {
        let location = response.headers().get(LOCATION)?.to_str().ok()?;
        response.url().join(location).ok()
    }

    /// Sends a blob. `on_bytes` is told how much of it has gone out.
    pub async fn send_blob(
        &self,
        digest: &Digest,
        file: &File,
        n_bytes: u64,
        on_bytes: impl Fn(u64) + Clone + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        let what = format!("blob {}", digest.short());
        let mut pauses = retry::Pauses::default();
        loop {
            let sent = self
                .send_once(digest, file, n_bytes, &what, on_bytes.clone())
                .await;
            let error = match sent {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let may_pass = match &error {
                RegistryError::Unreachable { source, .. } => source.is_passing,
                // A token that died during the upload is another one in the next attempt.
                RegistryError::Denied { .. } => true,
                RegistryError::Status { status, .. } => {
                    StatusCode::from_u16(*status).is_ok_and(retry::is_passing) || *status == 404
                }
                // The upload was forgotten.
                RegistryError::NotFound { .. } => true,
                _ => false,
            };
            match pauses.next(None).filter(|_| may_pass) {
                Some(pause) => self.pause(pause).await?,
                None => return Err(error),
            }
        }
    }

    async fn send_once(
        &self,
        digest: &Digest,
        file: &File,
        n_bytes: u64,
        what: &str,
        on_bytes: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), RegistryError> {
        let host = || self.host().to_owned();
        let nowhere = || RegistryError::Status {
            host: self.host().to_owned(),
            what: what.to_owned(),
            status: 202,
            said: ": it does not say where to send it".to_owned(),
        };
        let opened = self.post(self.url("blobs/uploads/"), what).await?;
        let location = self.location(&opened).ok_or_else(nowhere)?;

        let file = file.try_clone().map_err(|source| RegistryError::Keep {
            layer: digest.short().to_owned(),
            source,
        })?;
        let n_sent = Arc::new(AtomicU64::new(0));
        let stream = ReaderStream::with_capacity(Rewound::new(file), CHUNK).inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                let n = chunk.len() as u64;
                on_bytes(n_sent.fetch_add(n, Ordering::Relaxed) + n);
            }
        });
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(n_bytes));
        if self.endpoint.is_origin_of(&location)
            && let Some(rights) = self.authorizer.header(&self.via(), &self.scope).await?
        {
            headers.insert(AUTHORIZATION, rights);
        }
        let outgoing = Outgoing {
            method: Method::PATCH,
            url: location,
            headers,
            body: Some(Body::wrap_stream(stream)),
        };
        let sent = self
            .transport
            .send(&self.settings, &self.endpoint, outgoing);
        let incoming = match self.unless_cancelled(sent).await? {
            Ok(incoming) => incoming,
            Err(error) => return Err(error.into_error()),
        };
        if !incoming.response.status().is_success() {
            let has_login = self.authorizer.has_login();
            return Err(refusal(self.host(), what, has_login, incoming).await);
        }
        let mut location = self.location(&incoming.response).ok_or_else(nowhere)?;
        location
            .query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let ask = Ask {
            method: Method::PUT,
            headers,
            ..Ask::get(location, what)
        };
        let response = self.ask(ask).await?.response;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            status => Err(RegistryError::Unreachable {
                host: host(),
                source: TransportError::new(format!("it answered {status} to an upload")),
            }),
        }
    }

    /// Gives a manifest its name; everything that it names has to be there already.
    pub async fn put_manifest(
        &self,
        tag_or_digest: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), RegistryError> {
        let what = format!("image {}:{tag_or_digest}", self.name);
        let mut headers = HeaderMap::new();
        if let Ok(media_type) = HeaderValue::from_str(media_type) {
            headers.insert(CONTENT_TYPE, media_type);
        }
        let ask = Ask {
            method: Method::PUT,
            headers,
            body: Some(Bytes::from(bytes)),
            ..Ask::get(self.url(&format!("manifests/{tag_or_digest}")), &what)
        };
        self.ask(ask).await.map(drop)
    }
}

/// A file that is read from its beginning by position, so that attempts do not share a cursor.
struct Rewound {
    file: Arc<File>,
    position: u64,
    reading: Option<tokio::task::JoinHandle<std::io::Result<Vec<u8>>>>,
}

impl Rewound {
    fn new(file: File) -> Rewound {
        Rewound {
            file: Arc::new(file),
            position: 0,
            reading: None,
        }
    }
}

impl tokio::io::AsyncRead for Rewound {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        use std::os::unix::fs::FileExt;
        let (file, position) = (Arc::clone(&self.file), self.position);
        let wanted = buffer.remaining();
        let reading = self.reading.get_or_insert_with(|| {
            // A disk may let us wait, and the engine's threads must not.
            tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; wanted];
                let n = file.read_at(&mut bytes, position)?;
                bytes.truncate(n);
                Ok(bytes)
            })
        });
        let read = std::task::ready!(std::pin::Pin::new(reading).poll(cx));
        self.reading = None;
        let bytes = read.map_err(std::io::Error::other)??;
        // A caller that comes back with less room than it had gets what fits, and the rest again.
        let n = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..n]);
        self.position += n as u64;
        std::task::Poll::Ready(Ok(()))
    }
}
