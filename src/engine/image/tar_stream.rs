//! Tar archives as a stream of entries.
//!
//! The tar crate decodes header blocks; what spans blocks is read here, because it decides about
//! safety: a PAX size or path that overrides the header (CVE-2026-33055), values with embedded
//! newlines, NUL in names, and how much memory a header may take. Knows nothing of layers and
//! creates no file.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::pax::Extensions;
use tar::{EntryType, GnuExtSparseHeader, Header};

const BLOCK: u64 = 512;
/// Longest PAX header or GNU long name. A header with every extended attribute that Linux allows
/// on one file (64 KiB of names, values of that order) fits many times.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Extension headers in front of one entry; GNU tar writes at most three.
const MAX_EXTENSIONS_IN_A_ROW: usize = 16;
/// Data segments of a sparse file.
const MAX_SPARSE_SEGMENTS: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    #[error("the archive's header at byte {offset} is damaged: {what}")]
    Header { offset: u64, what: &'static str },
    #[error("an entry's {what} is larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("entry {path:?} has the type {code:?}, which no image layer uses")]
    UnknownType { path: String, code: char },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    Regular,
    Directory,
    Symlink,
    HardLink,
    CharDevice,
    BlockDevice,
    Fifo,
}

#[derive(Debug, Clone)]
pub struct TarEntry {
    pub kind: EntryKind,
    /// As written: may be absolute or contain `..`.
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Where the data begins in the archive.
    pub data_offset: u64,
    /// Length of the file on disk; differs from `size` for sparse files.
    pub file_size: u64,
    /// (offset in the file, length) of the data in order, for sparse files.
    pub sparse: Option<Vec<(u64, u64)>>,
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Major and minor number.
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where an archive comes from: something to read, and a way to pass over data.
pub trait TarSource: Read {
    fn pass_over(&mut self, n_bytes: u64) -> io::Result<()>;
}

/// A source that can only be read.
pub struct Streamed<R>(pub R);

impl<R: Read> Read for Streamed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for Streamed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, n_bytes: usize) {
        self.0.consume(n_bytes);
    }
}

impl<R: Read> TarSource for Streamed<R> {
    fn pass_over(&mut self, n_bytes: u64) -> io::Result<()> {
        if n_bytes < BLOCK {
            // Padding, which nearly every entry has.
            let mut padding = [0; BLOCK as usize];
            return self.0.read_exact(&mut padding[..n_bytes as usize]);
        }
        let n = io::copy(&mut (&mut self.0).take(n_bytes), &mut io::sink())?;
        if n < n_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// A file, in which data is passed over by seeking.
pub struct Seekable {
    file: File,
    length: u64,
}

impl Seekable {
    pub fn new(file: File) -> io::Result<Seekable> {
        let length = file.metadata()?.len();
        Ok(Seekable { file, length })
    }
}

impl Read for Seekable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl TarSource for Seekable {
    fn pass_over(&mut self, n_bytes: u64) -> io::Result<()> {
        let n_bytes = i64::try_from(n_bytes).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        // Seeking past the end succeeds, so a truncated archive must be noticed here.
        if self.file.seek(SeekFrom::Current(n_bytes))? > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Iterates over entries; while an entry is current, reading from this reads its data.
pub struct TarStream<S> {
    source: S,
    offset: u64,
    /// Data of the current entry that was not read yet.
    remaining: u64,
    padding: u64,
}

impl<S: TarSource> TarStream<S> {
    pub fn new(source: S) -> TarStream<S> {
        TarStream {
            source,
            offset: 0,
            remaining: 0,
            padding: 0,
        }
    }

    pub fn into_inner(self) -> S {
        self.source
    }

    /// The next entry, or `None` at the end-of-archive mark or a clean end of the source.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, TarError> {
        let rest = self.remaining + self.padding;
        if rest > 0 {
            self.source.pass_over(rest).map_err(read_error)?;
            self.offset += rest;
            (self.remaining, self.padding) = (0, 0);
        }
        let mut extensions = Extensions::default();
        let mut n_extensions = 0;
        loop {
            let header_offset = self.offset;
            let damaged = |what| TarError::Header {
                offset: header_offset,
                what,
            };
            let Some(header) = self.read_header()? else {
                return match n_extensions {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated),
                };
            };
            let size = number(header.entry_size(), &header.as_old().size).ok_or(damaged("size"))?;
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                    n_extensions += 1;
                    if n_extensions > MAX_EXTENSIONS_IN_A_ROW {
                        return Err(damaged("too many extension headers"));
                    }
                    let value = self.read_extension(size)?;
                    match kind {
                        EntryType::XHeader => extensions.parse_pax(&value).map_err(damaged)?,
                        EntryType::GNULongName => extensions.long_name = Some(until_nul(value)),
                        _ => extensions.long_link = Some(until_nul(value)),
                    }
                }
                // Global headers carry comments (git archive); no writer of layers puts more
                // there, and Docker ignores them too.
                EntryType::XGlobalHeader => {
                    self.read_extension(size)?;
                }
                _ => {
                    return self
                        .entry(&header, size, extensions, header_offset)
                        .map(Some);
                }
            }
        }
    }

    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error)),
            }
        }
        let offset = self.offset;
        self.offset += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block[..148]
            .iter()
            .chain(&block[156..])
            .map(|byte| u32::from(*byte))
            .sum::<u32>()
            + 8 * u32::from(b' ');
        if header.cksum().ok() != Some(sum) {
            return Err(TarError::Header {
                offset,
                what: "checksum",
            });
        }
        Ok(Some(header))
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::TooLarge {
                what: "extension header",
                limit: MAX_EXTENSION_BYTES,
            });
        }
        let padded = size.next_multiple_of(BLOCK);
        let mut value = vec![0; padded as usize];
        self.source.read_exact(&mut value).map_err(read_error)?;
        self.offset += padded;
        value.truncate(size as usize);
        Ok(value)
    }

    fn entry(
        &mut self,
        header: &Header,
        header_size: u64,
        extensions: Extensions,
        offset: u64,
    ) -> Result<TarEntry, TarError> {
        let damaged = |what| TarError::Header { offset, what };
        let path = extensions
            .sparse_name
            .or(extensions.path)
            .or(extensions.long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extensions
            .link
            .or(extensions.long_link)
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
            .unwrap_or_default();
        if path.contains(&0) || link.contains(&0) {
            return Err(damaged("NUL in a name"));
        }
        let kind = match header.entry_type() {
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Regular if path.ends_with(b"/") => EntryKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::Regular,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink,
            EntryType::Link => EntryKind::HardLink,
            EntryType::Char => EntryKind::CharDevice,
            EntryType::Block => EntryKind::BlockDevice,
            EntryType::Fifo => EntryKind::Fifo,
            other => {
                return Err(TarError::UnknownType {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    code: char::from(other.as_byte()),
                });
            }
        };
        let id = |from_pax: Option<u64>, from_header: io::Result<u64>, field: &[u8], what| {
            let value = match from_pax {
                Some(value) => value,
                None => number(from_header, field).ok_or(damaged(what))?,
            };
            // 2³²-1 means "unchanged" to chown, so it can be nobody's id.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or(damaged(what))
        };
        let fields = header.as_old();
        let uid = id(extensions.uid, header.uid(), &fields.uid, "uid")?;
        let gid = id(extensions.gid, header.gid(), &fields.gid, "gid")?;
        let mode = number(header.mode().map(u64::from), &fields.mode);
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            // Negative or absurd times are written by broken tools; the epoch is as good.
            None => (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        };
        // Only files have data. Some writers give links the size of their target without data.
        let mut size = match kind {
            EntryKind::Regular => extensions.size.unwrap_or(header_size),
            EntryKind::Directory if extensions.size.unwrap_or(header_size) > 0 => {
                return Err(damaged("a directory with data"));
            }
            _ => 0,
        };
        let mut file_size = size;
        let mut sparse = None;
        if header.entry_type() == EntryType::GNUSparse {
            let (map, real_size) = self.gnu_sparse_map(header, offset)?;
            (sparse, file_size) = (Some(map), real_size);
        } else if kind == EntryKind::Regular
            && (extensions.sparse_major == Some(1) || extensions.sparse_map.is_some())
        {
            let real_size = extensions.sparse_size.ok_or(damaged("sparse size"))?;
            let map = match extensions.sparse_map {
                Some(map) => map,
                None => {
                    let (map, n_bytes) = self.pax_sparse_map(size, offset)?;
                    size -= n_bytes;
                    map
                }
            };
            (sparse, file_size) = (Some(map), real_size);
        }
        if let Some(map) = &sparse
            && !is_sound_map(map, size, file_size)
        {
            return Err(damaged("sparse map"));
        }
        self.remaining = size;
        self.padding = size
            .checked_next_multiple_of(BLOCK)
            .ok_or(damaged("size"))?
            - size;
        Ok(TarEntry {
            kind,
            path,
            link,
            size,
            data_offset: self.offset,
            file_size,
            sparse,
            mode: mode.ok_or(damaged("mode"))? as u32 & 0o7777,
            uid,
            gid,
            mtime,
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => (
                    header.device_major().ok().flatten().unwrap_or(0),
                    header.device_minor().ok().flatten().unwrap_or(0),
                ),
                // Not even looked at: empty fields are costly errors, and every file has them.
                _ => (0, 0),
            },
            xattrs: extensions.xattrs,
        })
    }

    /// The old GNU format: four segments in the header, the rest in blocks behind it.
    fn gnu_sparse_map(
        &mut self,
        header: &Header,
        offset: u64,
    ) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let damaged = |_| TarError::Header {
            offset,
            what: "sparse map",
        };
        let gnu = header.as_gnu().ok_or(TarError::Header {
            offset,
            what: "sparse map",
        })?;
        let mut map = Vec::new();
        for segment in gnu.sparse.iter().filter(|segment| !segment.is_empty()) {
            map.push((
                segment.offset().map_err(damaged)?,
                segment.length().map_err(damaged)?,
            ));
        }
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut block = GnuExtSparseHeader::new();
            self.source
                .read_exact(block.as_mut_bytes())
                .map_err(read_error)?;
            self.offset += BLOCK;
            for segment in block.sparse.iter().filter(|segment| !segment.is_empty()) {
                map.push((
                    segment.offset().map_err(damaged)?,
                    segment.length().map_err(damaged)?,
                ));
            }
            if map.len() > MAX_SPARSE_SEGMENTS {
                return Err(TarError::TooLarge {
                    what: "sparse map",
                    limit: MAX_SPARSE_SEGMENTS as u64,
                });
            }
            is_extended = block.is_extended();
        }
        Ok((map, gnu.real_size().map_err(damaged)?))
    }

    /// PAX format 1.0: decimal lines at the start of the data, padded to a block.
    fn pax_sparse_map(
        &mut self,
        size: u64,
        offset: u64,
    ) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let damaged = TarError::Header {
            offset,
            what: "sparse map",
        };
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = String::new();
        let mut n_bytes = 0;
        loop {
            let wanted = numbers
                .first()
                .map(|n| n.saturating_mul(2).saturating_add(1));
            if wanted.is_some_and(|wanted| numbers.len() as u64 >= wanted) {
                break;
            }
            if wanted.is_some_and(|wanted| wanted > 2 * MAX_SPARSE_SEGMENTS as u64)
                || n_bytes + BLOCK > size
            {
                return Err(damaged);
            }
            let mut block = [0; BLOCK as usize];
            self.source.read_exact(&mut block).map_err(read_error)?;
            n_bytes += BLOCK;
            self.offset += BLOCK;
            for byte in block {
                match byte {
                    b'0'..=b'9' if digits.len() < 20 => digits.push(char::from(byte)),
                    b'\n' => match digits.parse() {
                        Ok(number) => {
                            numbers.push(number);
                            digits.clear();
                        }
                        Err(_) => return Err(damaged),
                    },
                    // What follows the last number is padding.
                    0 => break,
                    _ => return Err(damaged),
                }
            }
        }
        let map = numbers[1..]
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        Ok((map, n_bytes))
    }
}

/// A number of a header; a field with nothing in it is zero, as every reader has it.
fn number(value: io::Result<u64>, field: &[u8]) -> Option<u64> {
    match value {
        Ok(value) => Some(value),
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Some(0),
        Err(_) => None,
    }
}

/// Segments in order, within the file, and together exactly the data.
fn is_sound_map(map: &[(u64, u64)], data_size: u64, file_size: u64) -> bool {
    let mut end = 0u64;
    let mut total = 0u64;
    for &(offset, length) in map {
        let Some(segment_end) = offset.checked_add(length) else {
            return false;
        };
        if offset < end || segment_end > file_size {
            return false;
        }
        end = segment_end;
        total += length;
    }
    total == data_size
}

impl<S: TarSource> Read for TarStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if n == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buffer[..n])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= n as u64;
        self.offset += n as u64;
        Ok(n)
    }
}

impl<S: TarSource + BufRead> TarStream<S> {
    /// The next piece of the current entry's data where the source has it in memory; empty at the
    /// end of the data. Followed by [`TarStream::consume`].
    pub fn piece(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let piece = self.source.fill_buf()?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let n = piece
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&piece[..n])
    }

    pub fn consume(&mut self, n_bytes: usize) {
        self.source.consume(n_bytes);
        self.remaining -= n_bytes as u64;
        self.offset += n_bytes as u64;
    }
}

fn read_error(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated,
        _ => TarError::Read(error),
    }
}

fn until_nul(mut value: Vec<u8>) -> Vec<u8> {
    if let Some(end) = value.iter().position(|byte| *byte == 0) {
        value.truncate(end);
    }
    value
}
