//! A container's log as one run of bytes, whatever parts it is kept in.
//!
//! Every call blocks. Knows the parts and their records, not who reads.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::log::LogQuery;
use crate::shim::protocol::log::{self, Decoder};
use crate::shim::protocol::parts;

/// Bytes read at once.
const CHUNK: usize = 128 * 1024;
/// By how much a file's time may be older than the records in it: the kernel's clock for files ticks.
const CLOCK_TICK: Duration = Duration::from_secs(1);

/// A place in a log.
#[derive(Clone, Copy)]
struct End {
    number: u64,
    /// Bytes.
    offset: u64,
}

/// Where a reader is.
pub(super) struct LogReader {
    base: PathBuf,
    number: u64,
    file: File,
    /// Bytes of the part that have been read.
    offset: u64,
    /// Where the log ended when it was opened: a writer that is faster than its reader must not keep
    /// one who wants what there was from coming to an end.
    end: Option<End>,
    /// Half a record at most stands in it between two calls.
    pub decoder: Decoder,
}

impl LogReader {
    /// At the beginning of the oldest part that can hold anything that is asked for, to read to
    /// where the log ends now; `None` if there is no log.
    pub fn open(base: &Path, query: &LogQuery) -> io::Result<Option<LogReader>> {
        let numbers = parts::list(base)?;
        let Some(newest) = numbers.last().copied() else {
            return Ok(None);
        };
        let end = End {
            number: newest,
            // One that is gone meanwhile is read to the end of what there is.
            offset: std::fs::metadata(parts::path(base, newest)).map_or(u64::MAX, |at| at.len()),
        };
        let first = first_part(base, &numbers, query)?;
        let reader = LogReader::open_from(base, first)?;
        Ok(reader.map(|reader| LogReader {
            end: Some(end),
            ..reader
        }))
    }

    /// From now on also what is written after the opening.
    pub fn go_on(&mut self) {
        self.end = None;
    }

    /// The first part that exists from `number` on.
    fn open_from(base: &Path, number: u64) -> io::Result<Option<LogReader>> {
        loop {
            let numbers = parts::list(base)?;
            let Some(next) = numbers.into_iter().find(|found| *found >= number) else {
                return Ok(None);
            };
            match File::open(parts::path(base, next)) {
                Ok(file) => {
                    return Ok(Some(LogReader {
                        base: base.to_owned(),
                        number: next,
                        file,
                        offset: 0,
                        end: None,
                        decoder: Decoder::new(),
                    }));
                }
                // Deleted since it was listed; there is a later one then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the decoder more bytes. `false` when there are none for now.
    pub fn read_more(&mut self) -> io::Result<bool> {
        loop {
            if self.read_chunk()? {
                return Ok(true);
            }
            if self
                .end
                .as_ref()
                .is_some_and(|end| end.number <= self.number)
            {
                return Ok(false);
            }
            let Some(next) = LogReader::open_from(&self.base, self.number + 1)? else {
                return Ok(false);
            };
            // Complete now, but what was written between the two looks is still to be read.
            if self.read_chunk()? {
                return Ok(true);
            }
            // Half a record at the end of a complete part is a killed writer's.
            *self = LogReader {
                end: self.end,
                ..next
            };
        }
    }

    fn read_chunk(&mut self) -> io::Result<bool> {
        let left = match self.end {
            Some(end) if end.number == self.number => end.offset.saturating_sub(self.offset),
            Some(end) if end.number < self.number => 0,
            _ => u64::MAX,
        };
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut file = (&mut self.file).take(left.min(CHUNK as u64));
        self.offset += file.read_to_end(&mut chunk)? as u64;
        self.decoder.push(&chunk);
        Ok(!chunk.is_empty())
    }
}

/// From which part on a query has to be answered.
fn first_part(base: &Path, numbers: &[u64], query: &LogQuery) -> io::Result<u64> {
    let mut n_lines = 0;
    for number in numbers.iter().rev() {
        let path = parts::path(base, *number);
        if let Some(since) = query.since
            && last_written(&path)?.is_some_and(|time| time < since)
        {
            // Everything in here, and in the parts before, is older.
            return Ok(number + 1);
        }
        if let Some(tail) = query.tail {
            n_lines += count_lines(&path)?;
            if n_lines >= tail {
                return Ok(*number);
            }
        }
    }
    Ok(0)
}

/// Nanoseconds since the epoch, not earlier than the last record's; `None` if the part is gone.
fn last_written(path: &Path) -> io::Result<Option<u64>> {
    let modified = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata?.modified()?,
    };
    let since_epoch = (modified + CLOCK_TICK)
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(u64::try_from(since_epoch.as_nanos()).ok())
}

/// Whole lines, of any time: more than are asked for is right, fewer is not.
fn count_lines(path: &Path) -> io::Result<usize> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file?,
    };
    let mut n_lines = 0;
    let mut buffer = Vec::new();
    loop {
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut buffer)?;
        let mut at = 0;
        while let Some((record, size)) = log::decode(&buffer[at..]).map_err(io::Error::other)? {
            n_lines += usize::from(!record.partial);
            at += size;
        }
        buffer.drain(..at);
        if read == 0 {
            return Ok(n_lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::protocol::log::{Record, Stream, encode};

    fn write(base: &Path, number: u64, lines: &[&str]) {
        let mut bytes = Vec::new();
        for line in lines {
            let record = Record {
                stream: Stream::Stdout,
                partial: false,
                time: 1,
                payload: line.as_bytes(),
            };
            encode(&record, &mut bytes);
        }
        use std::io::Write;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(parts::path(base, number))
            .unwrap();
        file.write_all(&bytes).unwrap();
    }

    fn rest(reader: &mut LogReader) -> Vec<String> {
        let mut lines = Vec::new();
        while reader.read_more().unwrap() {
            while let Some(record) = reader.decoder.next_record().unwrap() {
                lines.push(
                    String::from_utf8_lossy(record.payload)
                        .trim_end()
                        .to_owned(),
                );
            }
        }
        lines
    }

    #[test]
    fn parts_are_read_as_one_and_a_deleted_one_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("log");
        assert!(
            LogReader::open(&base, &LogQuery::default())
                .unwrap()
                .is_none()
        );
        write(&base, 4, &["a\n", "b\n"]);
        write(&base, 5, &["c\n"]);
        let mut reader = LogReader::open(&base, &LogQuery::default())
            .unwrap()
            .unwrap();
        write(&base, 5, &["d\n"]);
        assert_eq!(rest(&mut reader), ["a", "b", "c"], "what there was");
        reader.go_on();
        write(&base, 6, &["e\n"]);
        write(&base, 7, &["f\n"]);
        std::fs::remove_file(parts::path(&base, 5)).unwrap();
        std::fs::remove_file(parts::path(&base, 6)).unwrap();
        // What it has open it reads to the end.
        assert_eq!(rest(&mut reader), ["d", "f"]);
    }

    #[test]
    fn a_torn_end_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("log");
        write(&base, 0, &["whole\n", "torn\n"]);
        let file = std::fs::OpenOptions::new().write(true).open(&base).unwrap();
        let size = file.metadata().unwrap().len();
        file.set_len(size - 3).unwrap();
        write(&base, 1, &["next\n"]);
        let mut reader = LogReader::open(&base, &LogQuery::default())
            .unwrap()
            .unwrap();
        assert_eq!(rest(&mut reader), ["whole", "next"]);
    }

    #[test]
    fn old_parts_are_not_read_for_a_tail_or_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("log");
        write(&base, 1, &["a\n", "b\n"]);
        write(&base, 2, &["c\n"]);
        write(&base, 3, &["d\n"]);
        for (tail, expected) in [(0, 3), (1, 3), (2, 2), (3, 1), (9, 0)] {
            let query = LogQuery {
                tail: Some(tail),
                ..LogQuery::default()
            };
            assert_eq!(
                first_part(&base, &[1, 2, 3], &query).unwrap(),
                expected,
                "{tail}"
            );
        }
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        for number in [1, 2] {
            let file = File::open(parts::path(&base, number)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let minutes_ago = SystemTime::now() - Duration::from_secs(60);
        let since = minutes_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let query = LogQuery {
            since: u64::try_from(since.as_nanos()).ok(),
            ..LogQuery::default()
        };
        assert_eq!(first_part(&base, &[1, 2, 3], &query).unwrap(), 3);
    }
}
