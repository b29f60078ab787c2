//! Reading what a container has written: the shim appends records, readers here follow the files.
//!
//! A reader never asks the shim, so that a slow client can never hold up a container (HAZARDS L26).
//! New records are announced by inotify: one instance for the whole engine (L19, D2).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};

use super::Container;
use super::log_parts::LogReader;
use crate::engine::EngineError;
use crate::plan::Phase;
use crate::shim::protocol::log::{Record, Stream};

/// Records that may wait for a slow reader.
const BACKLOG: usize = 256;

/// Which records are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on until the container has ended and will not be restarted.
    pub follow: bool,
    /// At most this many lines from the end, before following.
    pub tail: Option<usize>,
    /// Nanoseconds since the epoch, inclusive.
    pub since: Option<u64>,
    /// Nanoseconds since the epoch, exclusive.
    pub until: Option<u64>,
}

impl LogQuery {
    fn wants(&self, record: &Record<'_>) -> bool {
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
    }
}

/// One record of output: a line without its line end, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub is_stderr: bool,
    /// The record ends without a line end.
    pub partial: bool,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    pub bytes: Vec<u8>,
}

impl From<Record<'_>> for LogLine {
    fn from(record: Record<'_>) -> LogLine {
        LogLine {
            is_stderr: record.stream == Stream::Stderr,
            partial: record.partial,
            time_ns: record.time,
            bytes: match record.payload.split_last() {
                // A whole record holds its line end.
                Some((b'\n', line)) if !record.partial => line.to_vec(),
                _ => record.payload.to_vec(),
            },
        }
    }
}

/// Tells readers that a log has grown.
#[derive(Clone, Default)]
pub struct LogWatch {
    /// By the directory that the log is in: a log goes on in new files.
    waiting: Arc<Mutex<HashMap<PathBuf, Arc<Notify>>>>,
    /// Made with the first follower, so that an engine nobody follows has no inotify instance.
    watcher: Arc<Mutex<Option<RecommendedWatcher>>>,
}

/// One follower's interest in a log; dropping the last one ends the watch.
struct Watching {
    watch: LogWatch,
    dir: PathBuf,
    grown: Arc<Notify>,
}

impl LogWatch {
    fn follow(&self, dir: &Path) -> Result<Watching, notify::Error> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if watcher.is_none() {
            let waiting = self.waiting.clone();
            *watcher = Some(notify::recommended_watcher(
                move |event: Result<notify::Event, _>| {
                    let Ok(event) = event else { return };
                    if matches!(event.kind, EventKind::Access(_)) {
                        return;
                    }
                    let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    for path in &event.paths {
                        let dir = path.parent().unwrap_or(path);
                        if let Some(grown) = waiting.get(dir) {
                            grown.notify_waiters();
                        }
                    }
                },
            )?);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = match waiting.get(dir) {
            Some(grown) => grown.clone(),
            None => {
                if let Some(watcher) = watcher.as_mut() {
                    watcher.watch(dir, RecursiveMode::NonRecursive)?;
                }
                let grown = Arc::new(Notify::new());
                waiting.insert(dir.to_owned(), grown.clone());
                grown
            }
        };
        Ok(Watching {
            watch: self.clone(),
            dir: dir.to_owned(),
            grown,
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // The order of the two locks is the same as in `follow`.
        let mut watcher = self
            .watch
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self
            .watch
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Two holders: the map and this one.
        if Arc::strong_count(&self.grown) <= 2 {
            waiting.remove(&self.dir);
            if let Some(watcher) = watcher.as_mut() {
                // The directory may be gone already, and its watch with it.
                let _ = watcher.unwatch(&self.dir);
            }
        }
    }
}

impl Container {
    /// The container's output, oldest first. The channel is bounded: a reader that stops reading
    /// stops only this stream.
    pub fn logs(&self, query: LogQuery) -> mpsc::Receiver<Result<LogLine, EngineError>> {
        let (lines, receiver) = mpsc::channel(BACKLOG);
        let container = self.clone();
        tokio::spawn(async move {
            if let Err(source) = container.send_logs(query, &lines).await {
                let error = EngineError::File {
                    action: "read the log",
                    path: container.log_path.display().to_string(),
                    source,
                };
                // A reader that has gone away needs no error.
                let _ = lines.send(Err(error)).await;
            }
        });
        receiver
    }

    async fn send_logs(
        &self,
        query: LogQuery,
        lines: &mpsc::Sender<Result<LogLine, EngineError>>,
    ) -> io::Result<()> {
        let mut view = self.watch();
        let watching = match (query.follow, self.log_path.parent()) {
            (true, Some(dir)) => Some(self.log_watch.follow(dir).map_err(io::Error::other)?),
            _ => None,
        };
        let base = self.log_path.clone();
        let Some(mut reader) = blocking(move || LogReader::open(&base, &query)).await? else {
            return Ok(());
        };
        let mut tail: Option<VecDeque<LogLine>> = query.tail.map(|_| VecDeque::new());
        let mut is_first = true;
        loop {
            // Looked at before the file: the end is published after the last byte is written.
            let has_ended = matches!(
                view.borrow_and_update().phase,
                Phase::Exited | Phase::Dead | Phase::Removing
            );
            // Armed before the file is read, so that growth in between wakes us.
            let grown = watching.as_ref().map(|watching| watching.grown.notified());
            tokio::pin!(grown);
            if let Some(grown) = grown.as_mut().as_pin_mut() {
                grown.enable();
            }
            loop {
                let is_more;
                (reader, is_more) = blocking(move || {
                    let is_more = reader.read_more()?;
                    Ok((reader, is_more))
                })
                .await?;
                if !is_more {
                    break;
                }
                while let Some(record) = reader.decoder.next_record().map_err(io::Error::other)? {
                    if !query.wants(&record) {
                        continue;
                    }
                    let line = LogLine::from(record);
                    match (&mut tail, query.tail) {
                        (Some(tail), Some(n)) => keep_last(tail, n, line),
                        _ => {
                            if lines.send(Ok(line)).await.is_err() {
                                return Ok(());
                            }
                        }
                    }
                }
            }
            // What stood in the file at first is the tail; from now on everything is wanted.
            for line in tail.take().into_iter().flatten() {
                if lines.send(Ok(line)).await.is_err() {
                    return Ok(());
                }
            }
            if !query.follow {
                return Ok(());
            }
            if is_first {
                // Since the opening it may have grown, or ended.
                is_first = false;
                reader.go_on();
                continue;
            }
            if has_ended {
                return Ok(());
            }
            tokio::select! {
                // Cancel-safe: a lost wake-up is made good by the next look at the file.
                () = async { match grown.as_mut().as_pin_mut() {
                    Some(grown) => grown.await,
                    None => std::future::pending().await,
                } } => {}
                changed = view.changed() => if changed.is_err() { return Ok(()) },
                () = lines.closed() => return Ok(()),
            }
        }
    }
}

/// Counts lines, not records: the parts of a long line are one.
fn keep_last(tail: &mut VecDeque<LogLine>, n_lines: usize, line: LogLine) {
    tail.push_back(line);
    let count = |tail: &VecDeque<LogLine>| {
        let whole = tail.iter().filter(|line| !line.partial).count();
        whole + usize::from(tail.back().is_some_and(|line| line.partial))
    };
    while count(tail) > n_lines {
        // Drop the oldest line with all its parts.
        while tail.pop_front().is_some_and(|line| line.partial) {}
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, partial: bool) -> LogLine {
        LogLine {
            is_stderr: false,
            partial,
            time_ns: 0,
            bytes: text.into(),
        }
    }

    #[test]
    fn a_tail_counts_whole_lines() {
        let mut tail = VecDeque::new();
        for (text, partial) in [("a", false), ("b1", true), ("b2", false), ("c", false)] {
            keep_last(&mut tail, 2, line(text, partial));
        }
        let texts: Vec<_> = tail
            .iter()
            .map(|line| String::from_utf8_lossy(&line.bytes))
            .collect();
        assert_eq!(texts, ["b1", "b2", "c"]);
        keep_last(&mut tail, 0, line("d", false));
        assert!(tail.is_empty());
    }
}
