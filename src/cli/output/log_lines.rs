//! Containers' output as lines with a coloured, aligned prefix.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Failure, Output, Palette, visible};
use crate::api::wire::frame::{LogFrame, OutputStream};

/// How lines are dressed.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogStyle {
    pub no_prefix: bool,
    pub no_color: bool,
    pub timestamps: bool,
}

/// A line of which no end has come is shown in parts beyond this, in bytes.
const LINE_BYTES: usize = 1 << 20;

/// Puts the records of many containers together to lines.
pub struct LogLines {
    style: LogStyle,
    palettes: [Palette; 2],
    labels: Vec<String>,
    width: usize,
    /// Lines whose end has not come yet, with the time of their beginning.
    begun: HashMap<(u16, OutputStream), (u64, Vec<u8>)>,
}

impl LogLines {
    pub fn new(style: LogStyle, output: Output) -> LogLines {
        let palette = |palette: Palette| Palette {
            is_on: palette.is_on && !style.no_color,
        };
        LogLines {
            style,
            palettes: [palette(output.ansi.stdout()), palette(output.ansi.stderr())],
            labels: Vec::new(),
            width: 0,
            begun: HashMap::new(),
        }
    }

    #[cfg(test)]
    fn with_palette(style: LogStyle, palette: Palette) -> LogLines {
        LogLines {
            style,
            palettes: [palette; 2],
            labels: Vec::new(),
            width: 0,
            begun: HashMap::new(),
        }
    }

    /// Takes a frame in; gives the bytes to write and the stream to write them to.
    pub fn take(&mut self, frame: &LogFrame) -> Vec<(OutputStream, Vec<u8>)> {
        match frame {
            LogFrame::Opened(opened) => {
                let label = visible(&opened.label).into_owned();
                self.width = self.width.max(label.chars().count());
                let index = usize::from(opened.index);
                if self.labels.len() <= index {
                    self.labels.resize(index + 1, String::new());
                }
                self.labels[index] = label;
                Vec::new()
            }
            LogFrame::Record {
                index,
                stream,
                time_ns,
                partial,
                bytes,
            } => self.record(*index, *stream, *time_ns, *partial, bytes),
            LogFrame::Closed(closed) => {
                let mut rest = Vec::new();
                for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                    if let Some((time_ns, line)) = self.begun.remove(&(closed.index, stream)) {
                        rest.push((stream, self.dress(closed.index, stream, time_ns, &line)));
                    }
                }
                rest
            }
            LogFrame::Failed(_) | LogFrame::End => Vec::new(),
        }
    }

    fn record(
        &mut self,
        index: u16,
        stream: OutputStream,
        time_ns: u64,
        partial: bool,
        bytes: &Bytes,
    ) -> Vec<(OutputStream, Vec<u8>)> {
        let key = (index, stream);
        if !partial && !self.begun.contains_key(&key) {
            return vec![(stream, self.dress(index, stream, time_ns, bytes))];
        }
        let (begun_at, mut line) = self.begun.remove(&key).unwrap_or((time_ns, Vec::new()));
        line.extend_from_slice(bytes);
        if partial && line.len() < LINE_BYTES {
            self.begun.insert(key, (begun_at, line));
            return Vec::new();
        }
        vec![(stream, self.dress(index, stream, begun_at, &line))]
    }

    /// Lines that never ended, when the stream has.
    pub fn finish(&mut self) -> Vec<(OutputStream, Vec<u8>)> {
        let mut begun: Vec<_> = self.begun.drain().collect();
        begun.sort_by_key(|(_, (time_ns, _))| *time_ns);
        begun
            .into_iter()
            .map(|((index, stream), (time_ns, line))| {
                (stream, self.dress(index, stream, time_ns, &line))
            })
            .collect()
    }

    fn dress(&self, index: u16, stream: OutputStream, time_ns: u64, line: &[u8]) -> Vec<u8> {
        let mut dressed = Vec::with_capacity(line.len() + 48);
        if !self.style.no_prefix {
            let label = self
                .labels
                .get(usize::from(index))
                .map_or("", String::as_str);
            let (on, off) = self.palettes[stream as usize].prefix(usize::from(index));
            // Compose leaves two spaces behind the longest name.
            let gap = self.width + 2 - label.chars().count().min(self.width);
            dressed.extend_from_slice(format!("{on}{label}{:gap$}| {off}", "").as_bytes());
        }
        if self.style.timestamps {
            dressed.extend_from_slice(format!("{} ", rfc3339(time_ns)).as_bytes());
        }
        dressed.extend_from_slice(line);
        dressed.push(b'\n');
        dressed
    }

    /// The name that a line about a container uses.
    pub fn label(&self, index: u16) -> &str {
        self.labels
            .get(usize::from(index))
            .map_or("", String::as_str)
    }
}

impl Output {
    /// Writes dressed lines, each to its stream; neighbours on one stream go out in one write.
    pub fn log(&self, lines: &[(OutputStream, Vec<u8>)]) -> Result<(), Failure> {
        for (stream, line) in lines {
            match stream {
                OutputStream::Stdout => self.out(line)?,
                OutputStream::Stderr => self.err(line)?,
            }
        }
        Ok(())
    }
}

/// Docker's time stamp: UTC with all nine digits.
fn rfc3339(time_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time_ns))
        .map(|time| format!("{time:.9}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::frame::{Closed, Opened};

    fn opened(index: u16, label: &str) -> LogFrame {
        LogFrame::Opened(Opened {
            index,
            id: String::new(),
            name: format!("demo-{label}"),
            label: label.to_owned(),
            service: String::new(),
        })
    }

    fn record(index: u16, partial: bool, bytes: &'static [u8]) -> LogFrame {
        LogFrame::Record {
            index,
            stream: OutputStream::Stdout,
            time_ns: 1_700_000_000_123_456_789,
            partial,
            bytes: Bytes::from_static(bytes),
        }
    }

    fn show(lines: &mut LogLines, frames: &[LogFrame]) -> String {
        let mut text = Vec::new();
        for frame in frames {
            for (_, line) in lines.take(frame) {
                text.extend_from_slice(&line);
            }
        }
        for (_, line) in lines.finish() {
            text.extend_from_slice(&line);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn prefixes_align_and_parts_of_lines_do_not_mix() {
        let mut lines = LogLines::with_palette(LogStyle::default(), Palette { is_on: false });
        let shown = show(
            &mut lines,
            &[
                opened(0, "database-1"),
                opened(1, "web-1"),
                record(0, true, b"half "),
                record(1, false, b"whole"),
                record(0, false, b"done"),
                record(1, true, b"cut off"),
                LogFrame::Closed(Closed {
                    index: 1,
                    exit_code: Some(0),
                }),
            ],
        );
        insta::assert_snapshot!(shown, @r"
        web-1       | whole
        database-1  | half done
        web-1       | cut off
        ");
    }

    #[test]
    fn time_stamps_and_colours() {
        let style = LogStyle {
            timestamps: true,
            ..LogStyle::default()
        };
        let mut lines = LogLines::with_palette(style, Palette { is_on: true });
        let shown = show(&mut lines, &[opened(0, "a-1"), record(0, false, b"x")]);
        assert_eq!(
            shown,
            "\x1b[36ma-1  | \x1b[0m2023-11-14T22:13:20.123456789Z x\n"
        );
        let style = LogStyle {
            no_prefix: true,
            ..LogStyle::default()
        };
        let mut lines = LogLines::with_palette(style, Palette { is_on: true });
        assert_eq!(
            show(&mut lines, &[opened(0, "a-1"), record(0, false, b"x")]),
            "x\n"
        );
    }
}
