//! The texts that were read, and places in them.
//!
//! Owns every file's text for as long as diagnostics may point into it. Knows no syntax.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of a [`SourceMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

/// A byte range of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

/// One text and the name it was read under.
#[derive(Debug, Clone)]
pub struct SourceFile {
    pub path: Arc<Path>,
    text: Arc<str>,
    /// Byte offsets of the first character of each line.
    lines: Vec<u32>,
    /// Characters before each [`BLOCK`] of bytes; none where every character is one byte. A whole
    /// project may stand on one line, so columns are not counted from its beginning.
    characters: Vec<u32>,
}

const BLOCK: usize = 1024;

impl SourceFile {
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many characters begin before a byte offset.
    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / BLOCK;
        match self.characters.get(block) {
            None => offset,
            Some(before) => {
                let rest = &self.text.as_bytes()[block * BLOCK..offset];
                *before as usize + n_characters(rest)
            }
        }
    }

    /// Zero-based index of the line that holds a byte offset.
    fn line_of(&self, offset: u32) -> usize {
        self.lines.partition_point(|start| *start <= offset).max(1) - 1
    }

    /// Byte range of a zero-based line, without its line break.
    fn line_range(&self, line: usize) -> (usize, usize) {
        let start = self.lines[line] as usize;
        let end = self
            .lines
            .get(line + 1)
            .map_or(self.text.len(), |next| *next as usize);
        let line = self.text[start..end].trim_end_matches(['\n', '\r']);
        (start, start + line.len())
    }
}

/// Characters that begin in a part of a text.
fn n_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// Every text of one load, in the order of reading.
#[derive(Debug, Clone, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
    /// Directory that is cut off the front of displayed paths: the user's current one.
    root: Option<PathBuf>,
}

/// Line and column count from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl SourceMap {
    pub fn new(root: Option<PathBuf>) -> Self {
        SourceMap {
            files: Vec::new(),
            root,
        }
    }

    /// Takes a text in. Offsets are 32 bits wide; [`super::files`] caps files far below that.
    pub fn add(&mut self, path: PathBuf, text: String) -> FileId {
        let mut lines = vec![0];
        lines.extend(text.match_indices('\n').map(|(at, _)| at as u32 + 1));
        let mut characters = Vec::new();
        if !text.is_ascii() {
            let mut before = 0;
            for block in text.as_bytes().chunks(BLOCK) {
                characters.push(before);
                before += n_characters(block) as u32;
            }
            characters.push(before);
        }
        self.files.push(SourceFile {
            path: path.into(),
            text: text.into(),
            lines,
            characters,
        });
        FileId(self.files.len() as u32 - 1)
    }

    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// The text of a file, shared, so that the map may grow while it is read.
    pub fn shared_text(&self, id: FileId) -> Arc<str> {
        Arc::clone(&self.file(id).text)
    }

    /// A span that covers the first character of a file.
    pub fn start_of(&self, file: FileId) -> Span {
        Span {
            file,
            start: 0,
            end: 0,
        }
    }

    pub fn place(&self, span: Span) -> Place {
        let file = self.file(span.file);
        let line = file.line_of(span.start);
        let (start, end) = file.line_range(line);
        let upto = (span.start as usize).min(end);
        let column = file.characters_before(upto) - file.characters_before(start);
        Place {
            line: line as u32 + 1,
            column: column as u32 + 1,
        }
    }

    /// The path as a person in the current directory would write it.
    pub fn display_path<'a>(&self, path: &'a Path) -> &'a Path {
        self.root
            .as_deref()
            .and_then(|root| path.strip_prefix(root).ok())
            .unwrap_or(path)
    }

    /// The first line of a span, without its line break.
    pub fn line(&self, span: Span) -> &str {
        let file = self.file(span.file);
        let (start, end) = file.line_range(file.line_of(span.start));
        &file.text[start..end]
    }

    /// First line of the span: its 1-based number, text, and the span's byte range in it.
    pub(super) fn excerpt(&self, span: Span) -> (usize, &str, std::ops::Range<usize>) {
        let file = self.file(span.file);
        let line = file.line_of(span.start);
        let (start, end) = file.line_range(line);
        let from = (span.start as usize).clamp(start, end) - start;
        let upto = (span.end as usize).clamp(start + from, end) - start;
        let text = &file.text[start..end];
        let upto = if upto == from && from < text.len() {
            from + text[from..].chars().next().map_or(1, char::len_utf8)
        } else {
            from + text[from..upto].trim_end().len()
        };
        (line + 1, text, from..upto)
    }
}
