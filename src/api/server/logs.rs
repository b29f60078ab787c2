//! The output of a project's containers as one stream of frames.
//!
//! Without `follow` the records of all containers come in the order of their times. With it they
//! come as they are written; containers that appear meanwhile join in, and the stream ends when no
//! container is left that could write.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll};
use tokio::sync::{broadcast, mpsc};

use super::Shared;
use super::error::ApiError;
use super::project::project_name;
use crate::api::containers::log_label;
use crate::api::wire::LogsQuery;
use crate::api::wire::frame::{Closed, LogFrame, Opened};
use crate::api::{Host, LogLine, LogQuery};
use crate::compose::ProjectName;
use crate::plan::{ObservedContainer, Phase};
use crate::reconcile::{BackendError, ContainerChange, FailureKind};

/// Frames are gathered up to this size before they are handed to the connection, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for a slow reader; behind them the containers' records wait in their logs.
const N_CHUNKS: usize = 4;

pub(super) async fn logs<H: Host>(
    State(shared): State<Arc<Shared<H>>>,
    Path(name): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let name = project_name(&name)?;
    // Subscribed before the list is made, so that no container can start unseen in between.
    let changes = query.follow.then(|| shared.host.subscribe());
    let mut containers = shared.host.list(Some(&name), true).await?;
    containers.retain(|container| is_asked_for(&query, container));
    if containers.len() > usize::from(u16::MAX) {
        return Err(ApiError::new(
            FailureKind::Invalid,
            "too many containers for one stream",
        ));
    }
    containers.sort_by(|a, b| a.name.cmp(&b.name));

    let (chunks, receiver) = mpsc::channel(N_CHUNKS);
    let closing = shared.closing.clone();
    tokio::spawn(async move {
        let gone = chunks.clone();
        let work = async {
            match changes {
                None => in_order(&*shared.host, &query, containers, chunks).await,
                Some(changes) => {
                    follow(&*shared.host, &name, &query, containers, changes, chunks).await;
                }
            }
        };
        tokio::select! {
            () = work => (),
            // The reader has gone; a quiet container would never tell.
            () = gone.closed() => (),
            () = closing.cancelled() => (),
        }
    });
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, Infallible>(chunk), receiver))
    });
    Ok((
        [(header::CONTENT_TYPE, "application/vnd.wharf.logs")],
        Body::from_stream(body),
    )
        .into_response())
}

fn is_asked_for(query: &LogsQuery, container: &ObservedContainer) -> bool {
    let services = query.services();
    let service = container.label("com.docker.compose.service");
    let number = container.label("com.docker.compose.container-number");
    (services.is_empty() || services.contains(&service))
        && query.index.is_none_or(|index| number == index.to_string())
        && container.label("com.docker.compose.oneoff") != "True"
}

fn of_one(query: &LogsQuery) -> LogQuery {
    LogQuery {
        follow: query.follow,
        tail: query.tail,
        since: query.since,
        until: query.until,
    }
}

/// Gathers frames into chunks. An error says that the reader has gone.
struct Chunks {
    buffer: BytesMut,
    to: mpsc::Sender<Bytes>,
}

struct ReaderGone;

impl Chunks {
    fn new(to: mpsc::Sender<Bytes>) -> Chunks {
        Chunks {
            buffer: BytesMut::new(),
            to,
        }
    }

    async fn push(&mut self, frame: &LogFrame) -> Result<(), ReaderGone> {
        frame.encode(&mut self.buffer);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Says that nothing is missing.
    async fn finish(&mut self) {
        LogFrame::End.encode(&mut self.buffer);
        // A reader that has gone needs no end.
        _ = self.flush().await;
    }

    async fn flush(&mut self) -> Result<(), ReaderGone> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.to.send(chunk).await.map_err(|_| ReaderGone)
    }
}

fn opened(index: u16, container: &ObservedContainer) -> LogFrame {
    LogFrame::Opened(Opened {
        index,
        id: container.id.clone(),
        name: container.name.clone(),
        label: log_label(container),
        service: container.label("com.docker.compose.service").to_owned(),
    })
}

fn record(index: u16, line: LogLine) -> LogFrame {
    LogFrame::Record {
        index,
        stream: line.stream,
        time_ns: line.time_ns,
        partial: line.partial,
        bytes: line.bytes,
    }
}

/// Everything there is, merged by time.
async fn in_order<H: Host>(
    host: &H,
    query: &LogsQuery,
    containers: Vec<ObservedContainer>,
    chunks: mpsc::Sender<Bytes>,
) {
    let mut chunks = Chunks::new(chunks);
    let mut sources = Vec::new();
    for (index, container) in (0u16..).zip(&containers) {
        if chunks.push(&opened(index, container)).await.is_err() {
            return;
        }
        match host.logs(&container.id, of_one(query)).await {
            Ok(stream) => sources.push((index, stream, None)),
            Err(error) => _ = chunks.push(&LogFrame::Failed(error)).await,
        }
    }
    loop {
        // Each source's next record has to be known before the earliest can be told.
        let mut n = 0;
        while n < sources.len() {
            let (_, stream, head) = &mut sources[n];
            if head.is_none() {
                match stream.next().await {
                    Some(Ok(line)) => *head = Some(line),
                    Some(Err(error)) => {
                        _ = chunks.push(&LogFrame::Failed(error)).await;
                        drop(sources.remove(n));
                        continue;
                    }
                    None => {
                        drop(sources.remove(n));
                        continue;
                    }
                }
            }
            n += 1;
        }
        let earliest = sources
            .iter_mut()
            .min_by_key(|(_, _, head)| head.as_ref().map(|line: &LogLine| line.time_ns));
        let Some((index, _, head)) = earliest else {
            break;
        };
        let line = head
            .take()
            .expect("every source that is left has its next record");
        if chunks.push(&record(*index, line)).await.is_err() {
            return;
        }
    }
    chunks.finish().await;
}

enum Event {
    Line(u16, LogLine),
    Failed(BackendError),
    Ended(u16),
}

/// The containers that are followed.
struct Followed {
    streams: SelectAll<BoxStream<'static, Event>>,
    /// Container ids by index, in order of appearance.
    ids: Vec<String>,
    active: HashMap<String, u16>,
}

impl Followed {
    /// Joins a container's records to the stream.
    async fn open<H: Host>(
        &mut self,
        host: &H,
        query: LogQuery,
        container: &ObservedContainer,
        chunks: &mut Chunks,
    ) -> Result<(), ReaderGone> {
        let Ok(index) = u16::try_from(self.ids.len()) else {
            return Ok(());
        };
        chunks.push(&opened(index, container)).await?;
        self.ids.push(container.id.clone());
        match host.logs(&container.id, query).await {
            Ok(stream) => {
                self.active.insert(container.id.clone(), index);
                let events = stream.map(move |item| match item {
                    Ok(line) => Event::Line(index, line),
                    Err(error) => Event::Failed(error),
                });
                let end = futures_util::stream::once(async move { Event::Ended(index) });
                self.streams.push(events.chain(end).boxed());
                Ok(())
            }
            Err(error) => chunks.push(&LogFrame::Failed(error)).await,
        }
    }
}

async fn follow<H: Host>(
    host: &H,
    name: &ProjectName,
    query: &LogsQuery,
    containers: Vec<ObservedContainer>,
    mut changes: broadcast::Receiver<ContainerChange>,
    chunks: mpsc::Sender<Bytes>,
) {
    let mut chunks = Chunks::new(chunks);
    let mut followed = Followed {
        streams: SelectAll::new(),
        ids: Vec::new(),
        active: HashMap::new(),
    };
    for container in &containers {
        if followed
            .open(host, of_one(query), container, &mut chunks)
            .await
            .is_err()
        {
            return;
        }
    }
    while !followed.active.is_empty() {
        if chunks.flush().await.is_err() {
            return;
        }
        tokio::select! {
            // Cancel safe: an event is taken from the set only when it is handed out.
            Some(event) = followed.streams.next() => {
                let mut next = Some(event);
                // What is ready goes out together; the chunk's limit flushes on the way.
                while let Some(event) = next {
                    let sent = match event {
                        Event::Line(index, line) => chunks.push(&record(index, line)).await,
                        Event::Failed(error) => chunks.push(&LogFrame::Failed(error)).await,
                        Event::Ended(index) => {
                            let id = followed.ids[usize::from(index)].clone();
                            let exit_code = exit_code(host, &id).await;
                            followed.active.remove(&id);
                            chunks.push(&LogFrame::Closed(Closed { index, exit_code })).await
                        }
                    };
                    if sent.is_err() {
                        return;
                    }
                    next = std::future::poll_fn(|cx| {
                        use futures_util::Stream;
                        use std::task::Poll;
                        match std::pin::Pin::new(&mut followed.streams).poll_next(cx) {
                            Poll::Ready(event) => Poll::Ready(event),
                            Poll::Pending => Poll::Ready(None),
                        }
                    })
                    .await;
                }
            }
            // Cancel safe: a change is taken only when it is handed out.
            change = changes.recv() => {
                let newcomers = match change {
                    Ok(change) if followed.active.contains_key(&change.id) => continue,
                    Ok(change) => host.inspect(&change.id).await.into_iter().collect(),
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        host.list(Some(name), false).await.unwrap_or_default()
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                for container in newcomers {
                    let is_new = container.label("com.docker.compose.project") == name.as_str()
                        && is_asked_for(query, &container)
                        && matches!(container.phase, Phase::Running | Phase::Restarting)
                        && !followed.active.contains_key(&container.id);
                    let from_its_start = LogQuery {
                        tail: None,
                        since: container.started_at,
                        ..of_one(query)
                    };
                    if is_new
                        && followed.open(host, from_its_start, &container, &mut chunks).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    }
    chunks.finish().await;
}

/// `None` while it runs, and for a container that is gone or never ran.
async fn exit_code<H: Host>(host: &H, id: &str) -> Option<i32> {
    let container = host.inspect(id).await.ok()?;
    matches!(container.phase, Phase::Exited | Phase::Dead)
        .then_some(container.exit_code)
        .flatten()
}
