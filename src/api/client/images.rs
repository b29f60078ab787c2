//! Calls about images. Archives travel as streams in both directions and are never held in memory.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Client, ClientError, collect, escape, refused};
use crate::api::wire::image::{
    DeleteItem, DiskUsage, HistoryItem, ImageInspect, ImageSummary, ImageVerdict, ImagesPruned,
    ProgressLine,
};
use crate::api::wire::registry::{Artifact, ArtifactRequest, ImageTransfer, RemoteDigest};
use crate::reconcile::{BackendError, FailureKind};

/// One line of progress is no longer than this, in bytes.
const LINE_BYTES: usize = 1 << 20;

/// `key=value&…`, escaped.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(key);
        text.push('=');
        escape(value, &mut text);
    }
    text
}

/// A name in a path: its slashes stay.
fn path_of(name: &str, rest: &str) -> String {
    let mut path = "/images/".to_owned();
    for (n, part) in name.split('/').enumerate() {
        if n > 0 {
            path.push('/');
        }
        escape(part, &mut path);
    }
    path.push_str(rest);
    path
}

impl Client {
    /// `filters` is Docker's JSON, or empty.
    pub async fn images(&self, filters: &str) -> Result<Vec<ImageSummary>, ClientError> {
        let query = query(&[("filters", filters)]);
        self.get("the list of images", &format!("/images/json?{query}"))
            .await
    }

    /// The image as Docker's JSON has it; parsed by whoever needs to know.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, ClientError> {
        self.inspect_image_for(name, None).await
    }

    /// The same of an image that has to be made for a platform.
    pub async fn inspect_image_for(
        &self,
        name: &str,
        platform: Option<&str>,
    ) -> Result<ImageInspect, ClientError> {
        let rest = match platform {
            Some(platform) => format!("/json?{}", query(&[("platform", platform)])),
            None => "/json".to_owned(),
        };
        self.get("inspect", &path_of(name, &rest)).await
    }

    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, ClientError> {
        self.get("history", &path_of(name, "/history")).await
    }

    pub async fn tag_image(&self, name: &str, to: &str) -> Result<(), ClientError> {
        let query = query(&[("repo", to)]);
        self.post_empty("tag", &path_of(name, &format!("/tag?{query}")))
            .await
    }

    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
    ) -> Result<Vec<DeleteItem>, ClientError> {
        let path = path_of(name, &format!("?force={force}"));
        self.answer("rm", Method::DELETE, &path, Bytes::new()).await
    }

    pub async fn prune_images(&self, filters: &str) -> Result<ImagesPruned, ClientError> {
        let query = query(&[("filters", filters)]);
        self.answer(
            "prune",
            Method::POST,
            &format!("/images/prune?{query}"),
            Bytes::new(),
        )
        .await
    }

    pub async fn check_images(&self, names: &[String]) -> Result<Vec<ImageVerdict>, ClientError> {
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| ("names", &**name)).collect();
        let path = format!("/wharf/v1/images/check?{}", query(&pairs));
        self.answer("check", Method::POST, &path, Bytes::new())
            .await
    }

    /// The digest that the registry has for an image's name now.
    pub async fn remote_digest(&self, transfer: &ImageTransfer) -> Result<String, ClientError> {
        let call = "digest";
        let body =
            serde_json::to_vec(transfer).map_err(|source| ClientError::Encode { call, source })?;
        let path = "/wharf/v1/images/digest";
        let answer: RemoteDigest = self.answer(call, Method::POST, path, body.into()).await?;
        Ok(answer.digest)
    }

    /// A small artifact out of a registry.
    pub async fn artifact(&self, request: &ArtifactRequest) -> Result<Artifact, ClientError> {
        let call = "artifact";
        let body =
            serde_json::to_vec(request).map_err(|source| ClientError::Encode { call, source })?;
        let path = "/wharf/v1/artifacts";
        self.answer(call, Method::POST, path, body.into()).await
    }

    pub async fn disk_usage(&self) -> Result<DiskUsage, ClientError> {
        self.get("df", "/system/df").await
    }

    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (response, sender) = self.send(call, method, path, body, false).await?;
        let body = collect(call, response.into_body()).await?;
        self.keep(sender);
        serde_json::from_slice(&body).map_err(|source| ClientError::Decode { call, source })
    }

    /// An archive of images, as it comes.
    pub async fn save_images(&self, names: &[String]) -> Result<Archive, ClientError> {
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| ("names", &**name)).collect();
        let path = format!("/images/get?{}", query(&pairs));
        let (response, _) = self
            .send("save", Method::GET, &path, Bytes::new(), false)
            .await?;
        Ok(Archive {
            body: BodyStream::new(response.into_body()),
        })
    }

    pub async fn load_images(
        &self,
        platform: &str,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Lines, ClientError> {
        let query = query(&[("platform", platform)]);
        self.upload("load", &format!("/images/load?{query}"), archive)
            .await
    }

    /// `pairs` are the parameters of `POST /images/create` beside the source.
    pub async fn import_image(
        &self,
        pairs: &[(&str, &str)],
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Lines, ClientError> {
        let path = format!("/images/create?fromSrc=-&{}", query(pairs));
        self.upload("import", &path, archive).await
    }

    /// On a connection of its own: what is sent is a stream.
    async fn upload(
        &self,
        call: &'static str,
        path: &str,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Lines, ClientError> {
        let stream = UnixStream::connect(&self.socket);
        let stream = stream.await.map_err(|source| ClientError::Connect {
            socket: self.socket.clone(),
            source,
        })?;
        let transport = |source| ClientError::Transport { call, source };
        let body = StreamBody::new(Box::pin(body.map(|piece| piece.map(Frame::data))));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(transport)?;
        // Whoever waits for the answer is told of a failure.
        tokio::spawn(async move { _ = connection.await });
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "wharf")
            .header(CONTENT_TYPE, "application/x-tar")
            .body(body)
            .expect("paths are made of escaped names and constants");
        let response = sender.send_request(request).await.map_err(transport)?;
        if !response.status().is_success() {
            let status = response.status();
            let text = collect(call, response.into_body()).await?;
            return Err(refused(call, status, &text));
        }
        Ok(Lines {
            call,
            body: BodyStream::new(response.into_body()),
            buffer: BytesMut::new(),
        })
    }
}

/// An archive, as it comes.
pub struct Archive {
    body: BodyStream<Incoming>,
}

impl Archive {
    /// The next piece; `None` at the end of a complete archive.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        loop {
            match self.body.next().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                // The engine broke off: it found damage, or ended.
                Err(source) => {
                    return Some(Err(ClientError::Transport {
                        call: "save",
                        source,
                    }));
                }
            }
        }
    }
}

/// Lines of progress, as they come. A line with an error is that error.
pub struct Lines {
    call: &'static str,
    body: BodyStream<Incoming>,
    buffer: BytesMut,
}

impl Lines {
    pub async fn next(&mut self) -> Option<Result<ProgressLine, ClientError>> {
        let call = self.call;
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let text = self.buffer.split_to(end);
                self.buffer.advance(1);
                let line: ProgressLine = match serde_json::from_slice(&text) {
                    Ok(line) => line,
                    Err(source) => return Some(Err(ClientError::Decode { call, source })),
                };
                return Some(match line.error {
                    Some(message) => Err(ClientError::Engine(BackendError {
                        kind: FailureKind::Internal,
                        message,
                        hints: line.error_detail.map_or(Vec::new(), |detail| detail.hints),
                    })),
                    None => Ok(line),
                });
            }
            if self.buffer.len() > LINE_BYTES {
                return Some(Err(ClientError::TooLong { call }));
            }
            match self.body.next().await? {
                Ok(frame) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Err(source) => return Some(Err(ClientError::Transport { call, source })),
            }
        }
    }
}
