//! The output of a project, across the end and the return of the engine (HAZARDS L22).
//!
//! Containers and their logs outlive the engine. When a stream that follows is cut off, it is taken
//! up again from the last record of each container, so that nothing is lost or shown twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt;

use crate::api::client::{Client, ClientError, Logs};
use crate::api::wire::LogsQuery;
use crate::api::wire::frame::LogFrame;
use crate::cli::autostart;
use crate::cli::clock::now_ns;
use crate::cli::globals::Context;
use crate::cli::output::{Failure, Kind};
use crate::compose::ProjectName;

/// How often, and how long in all, a new engine is waited for.
const RETRY: Duration = Duration::from_millis(50);
const N_RETRIES: usize = 200;

/// Frames of one project, under indices that stay the same for each container.
pub struct Follower<'a> {
    context: &'a Context,
    name: &'a ProjectName,
    query: LogsQuery,
    /// Nanoseconds since the epoch; from here on nothing may be missed.
    begun_at: u64,
    /// `None` after the stream was cut off.
    frames: Option<Logs>,
    seen: Seen,
}

/// What has been handed out.
#[derive(Default)]
struct Seen {
    /// Own index by container id.
    indices: HashMap<String, u16>,
    /// Own index by the index of the present stream.
    translated: HashMap<u16, u16>,
    /// Time of the last record of each container, from streams that were cut off.
    cursors: HashMap<u16, u64>,
    /// Time of the last record in the present stream.
    newest: HashMap<u16, u64>,
    closed: HashSet<u16>,
    /// Closed before the present stream began, which will say so again.
    closed_before: HashSet<u16>,
}

impl Seen {
    /// The frame under its own index; `None` if it repeats what was handed out before.
    fn take(&mut self, frame: LogFrame) -> Option<LogFrame> {
        match frame {
            LogFrame::Opened(mut opened) => {
                let next = self.indices.len() as u16;
                let known = self.indices.get(&opened.id).copied();
                let own = *self.indices.entry(opened.id.clone()).or_insert(next);
                self.translated.insert(opened.index, own);
                opened.index = own;
                if !self.closed_before.remove(&own) {
                    // Started again: its next end is news.
                    self.closed.remove(&own);
                }
                known.is_none().then_some(LogFrame::Opened(opened))
            }
            LogFrame::Record {
                index,
                stream,
                time_ns,
                partial,
                bytes,
            } => {
                let index = *self.translated.get(&index)?;
                if self
                    .cursors
                    .get(&index)
                    .is_some_and(|cursor| time_ns <= *cursor)
                {
                    return None;
                }
                self.newest.insert(index, time_ns);
                Some(LogFrame::Record {
                    index,
                    stream,
                    time_ns,
                    partial,
                    bytes,
                })
            }
            LogFrame::Closed(mut closed) => {
                closed.index = *self.translated.get(&closed.index)?;
                self.closed
                    .insert(closed.index)
                    .then_some(LogFrame::Closed(closed))
            }
            other => Some(other),
        }
    }

    /// Prepares for a new stream; gives the time it has to begin at.
    fn cut(&mut self, begun_at: u64) -> u64 {
        self.translated.clear();
        self.closed_before.clone_from(&self.closed);
        self.cursors.extend(self.newest.drain());
        let all_seen = self
            .indices
            .values()
            .all(|index| self.cursors.contains_key(index));
        let oldest = self.cursors.values().copied().min().unwrap_or(begun_at);
        if all_seen {
            oldest
        } else {
            oldest.min(begun_at)
        }
    }
}

impl<'a> Follower<'a> {
    pub async fn begin(
        context: &'a Context,
        client: &Client,
        name: &'a ProjectName,
        query: LogsQuery,
    ) -> Result<Follower<'a>, Failure> {
        let begun_at = query.since.unwrap_or_else(now_ns);
        let frames = Some(client.logs(name, &query).await?);
        let seen = Seen::default();
        Ok(Follower {
            context,
            name,
            query,
            begun_at,
            frames,
            seen,
        })
    }

    /// The next frame; `None` after the last. Cancel safe: what was cut off is begun again.
    pub async fn next(&mut self) -> Option<Result<LogFrame, Failure>> {
        loop {
            let frame = match &mut self.frames {
                Some(frames) => frames.next().await?,
                None => match self.resume().await {
                    Ok(()) => continue,
                    Err(failure) => return Some(Err(failure)),
                },
            };
            match frame {
                Ok(frame) => {
                    if let Some(frame) = self.seen.take(frame) {
                        return Some(Ok(frame));
                    }
                }
                Err(ClientError::Gone { .. } | ClientError::Transport { .. })
                    if self.query.follow =>
                {
                    self.frames = None;
                    self.query.since = Some(self.seen.cut(self.begun_at));
                    self.query.tail = None;
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Connects to the engine that comes back by itself, or starts one.
    async fn resume(&mut self) -> Result<(), Failure> {
        let mut last = None;
        for _ in 0..N_RETRIES {
            match self.connect().await {
                Ok(frames) => {
                    self.frames = Some(frames);
                    return Ok(());
                }
                Err(failure) => last = Some(failure),
            }
            tokio::time::sleep(RETRY).await;
        }
        Err(last.unwrap_or_else(|| Failure::new(Kind::Engine, "the engine went away")))
    }

    async fn connect(&self) -> Result<Logs, Failure> {
        // Dialling says whether somebody answers; starting is for when nobody does.
        drop(autostart::connect(self.context)?);
        let client = Client::connect(&self.context.roots.socket).await?;
        Ok(client.logs(self.name, &self.query).await?)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::wire::frame::{Closed, Opened, OutputStream};

    fn opened(index: u16, id: &str) -> LogFrame {
        LogFrame::Opened(Opened {
            index,
            id: id.into(),
            name: id.into(),
            label: id.into(),
            service: String::new(),
        })
    }

    fn record(index: u16, time_ns: u64) -> LogFrame {
        LogFrame::Record {
            index,
            stream: OutputStream::Stdout,
            time_ns,
            partial: false,
            bytes: Bytes::new(),
        }
    }

    #[test]
    fn a_stream_that_is_taken_up_again_repeats_nothing_and_loses_nothing() {
        let mut seen = Seen::default();
        for frame in [
            opened(0, "a"),
            opened(1, "b"),
            record(0, 10),
            record(1, 30),
            record(0, 20),
        ] {
            assert_eq!(seen.take(frame.clone()), Some(frame));
        }
        assert_eq!(seen.cut(5), 20);

        // The new engine lists them the other way round.
        assert_eq!(seen.take(opened(0, "b")), None);
        assert_eq!(seen.take(opened(1, "a")), None);
        assert_eq!(seen.take(record(1, 20)), None);
        assert_eq!(seen.take(record(0, 30)), None);
        assert_eq!(seen.take(record(1, 21)), Some(record(0, 21)));
        assert_eq!(seen.take(record(0, 31)), Some(record(1, 31)));
        let closed = |index| {
            LogFrame::Closed(Closed {
                index,
                exit_code: Some(0),
            })
        };
        assert_eq!(seen.take(closed(0)), Some(closed(1)));

        // A third stream says again that `b` has ended, and then starts it again.
        seen.cut(5);
        seen.take(opened(0, "b"));
        assert_eq!(seen.take(closed(0)), None);
        seen.take(opened(2, "b"));
        assert_eq!(seen.take(closed(2)), Some(closed(1)));
    }

    #[test]
    fn a_container_that_was_silent_is_read_from_the_beginning() {
        let mut seen = Seen::default();
        seen.take(opened(0, "a"));
        seen.take(opened(1, "silent"));
        seen.take(record(0, 20));
        assert_eq!(seen.cut(5), 5);
    }
}
