//! How a layer's archive is put together again from its unpacked files.
//!
//! Of a layer only the snapshot is kept, yet `save` and `push` need the very bytes whose digest the
//! image config names. A recipe holds what the snapshot does not: headers, padding, and the content
//! of files that a later entry of the same archive replaced. It is some two per mille of the layer.
//! An archive that was put together and has the right digest also proves that no file of the
//! snapshot was damaged.
//!
//! ```text
//! magic (8) · bytes of the archive (8, little endian) · number of Replaced records (8)
//! one zstd frame of records:
//!   1  length u32, bytes                          as they stood in the archive
//!   2  path length u16, path, offset u64, length u64   a stretch of a file of the snapshot
//!   3  path length u16, path, length u64, bytes   Replaced: what the file held until here; stands
//!                                                 for the stretches of this path before this record
//! ```

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, OFlags};

use crate::sys::beneath;

const MAGIC: &[u8; 8] = b"WHARFRC1";
const HEADER_BYTES: u64 = 24;
const RAW: u8 = 1;
const STRETCH: u8 = 2;
const REPLACED: u8 = 3;
/// Raw bytes are gathered up to this before a record is written.
const RAW_BYTES: usize = 1 << 16;
/// A recipe is ours, but a damaged one must not make the engine allocate what it says.
const MAX_RAW_BYTES: u32 = 1 << 24;

/// Writes a recipe while the archive is read. Clones share it: the reader of the archive and the
/// extractor each know one half.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Recording>>);

/// Records are small: they are gathered before they are compressed.
type Out = BufWriter<zstd::Encoder<'static, BufWriter<File>>>;

struct Recording {
    out: Option<Out>,
    /// Bytes that are not part of a file, not written yet.
    raw: Vec<u8>,
    n_bytes: u64,
    n_replaced: u64,
    /// What is read now is the content of a file.
    in_file: bool,
    failure: Option<io::Error>,
}

impl Recorder {
    /// Records into an empty file.
    pub fn new(mut file: File) -> io::Result<Recorder> {
        file.write_all(&[0; HEADER_BYTES as usize])?;
        let out = zstd::Encoder::new(BufWriter::new(file), 1)?;
        let out = BufWriter::with_capacity(RAW_BYTES, out);
        Ok(Recorder(Arc::new(Mutex::new(Recording {
            out: Some(out),
            raw: Vec::new(),
            n_bytes: 0,
            n_replaced: 0,
            in_file: false,
            failure: None,
        }))))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Recording) -> io::Result<T>) -> io::Result<T> {
        let mut recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut recording).map_err(|error| {
            let told = told(error.kind());
            recording.failure.get_or_insert(error);
            told
        })
    }

    /// Fails once recording has failed.
    fn expect_sound(&self) -> io::Result<()> {
        let recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &recording.failure {
            Some(failure) => Err(told(failure.kind())),
            None => Ok(()),
        }
    }

    /// Why recording failed, if that is why reading failed.
    pub fn failure(&self) -> Option<io::Error> {
        let mut recording = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recording.failure.take()
    }

    /// What is read from now on is the content of a file.
    pub fn begin_file(&self, path: &Path, offset: u64, length: u64) -> io::Result<()> {
        self.with(|recording| {
            recording.flush_raw()?;
            recording.in_file = true;
            let mut record = Vec::with_capacity(path.as_os_str().len() + 19);
            record.push(STRETCH);
            push_path(&mut record, path)?;
            record.extend_from_slice(&offset.to_le_bytes());
            record.extend_from_slice(&length.to_le_bytes());
            recording.write(&record)
        })
    }

    pub fn end_file(&self) -> io::Result<()> {
        self.with(|recording| {
            recording.in_file = false;
            Ok(())
        })
    }

    /// Keeps the content of the files that are about to be removed with `name`.
    pub fn replacing(&self, dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<()> {
        let mut pending = vec![PathBuf::from(name)];
        while let Some(inner) = pending.pop() {
            let stat = match rustix::fs::statat(dir, &inner, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    let file = File::from(beneath::open_beneath(dir, &inner, flags)?);
                    let rest = inner.strip_prefix(name).unwrap_or(Path::new(""));
                    self.keep(&path.join(rest), file, stat.st_size as u64)?;
                }
                FileType::Directory => {
                    let inside = beneath::open_beneath(dir, &inner, flags | OFlags::DIRECTORY)?;
                    let names = beneath::names(inside.as_fd())?;
                    pending.extend(names.into_iter().map(|name| inner.join(name)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn keep(&self, path: &Path, mut file: File, length: u64) -> io::Result<()> {
        self.with(|recording| {
            recording.flush_raw()?;
            let mut record = vec![REPLACED];
            // `Path::join` with an empty path leaves a slash at the end.
            let path: PathBuf = path.components().collect();
            push_path(&mut record, &path)?;
            record.extend_from_slice(&length.to_le_bytes());
            recording.write(&record)?;
            let out = recording.out.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            let n = io::copy(&mut (&mut file).take(length), out)?;
            if n != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            recording.n_replaced += 1;
            Ok(())
        })
    }

    /// Completes the recipe; nothing is recorded any more.
    pub fn finish(&self) -> io::Result<()> {
        self.with(|recording| {
            recording.flush_raw()?;
            let out = recording.out.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let encoder = out.into_inner().map_err(|error| error.into_error())?;
            let mut file = encoder
                .finish()?
                .into_inner()
                .map_err(|error| error.into_error())?;
            file.seek(SeekFrom::Start(0))?;
            let mut header = MAGIC.to_vec();
            header.extend_from_slice(&recording.n_bytes.to_le_bytes());
            header.extend_from_slice(&recording.n_replaced.to_le_bytes());
            file.write_all(&header)
        })
    }
}

/// The caller's error travels through layers of readers; the one that is kept has its meaning.
fn told(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, "the recipe of the layer cannot be written")
}

impl Recording {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out
            .as_mut()
            .ok_or(io::ErrorKind::BrokenPipe)?
            .write_all(bytes)
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.raw);
        let length = u32::try_from(raw.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut head = vec![RAW];
        head.extend_from_slice(&length.to_le_bytes());
        self.write(&head)?;
        self.write(&raw)?;
        self.raw = raw;
        self.raw.clear();
        Ok(())
    }
}

fn push_path(record: &mut Vec<u8>, path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    // PATH_MAX bounds it long before.
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(bytes);
    Ok(())
}

/// Reads an archive and records what passes.
pub struct Tap<R> {
    inner: R,
    recorder: Recorder,
}

impl<R: BufRead> Tap<R> {
    pub fn new(inner: R, recorder: Recorder) -> Tap<R> {
        Tap { inner, recorder }
    }

    /// Records to the end of the archive and gives the reader back.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.inner)
    }
}

impl<R: BufRead> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let n = piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&piece[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Tap<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.recorder.expect_sound()?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, n_bytes: usize) {
        let piece = match self.inner.fill_buf() {
            Ok(piece) => &piece[..n_bytes],
            // What is consumed was in the buffer before, where it still is.
            Err(_) => &[],
        };
        // A failure is kept, and told by the next look at the buffer.
        let _ = self.recorder.with(|recording| {
            recording.n_bytes += n_bytes as u64;
            if recording.in_file {
                return Ok(());
            }
            recording.raw.extend_from_slice(piece);
            match recording.raw.len() >= RAW_BYTES {
                true => recording.flush_raw(),
                false => Ok(()),
            }
        });
        self.inner.consume(n_bytes);
    }
}

/// Why an archive cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("the recipe of the layer cannot be read")]
    Read(#[source] io::Error),
    #[error("the recipe of the layer is damaged")]
    Damaged,
    #[error("file {path:?} of the layer is damaged")]
    File { path: PathBuf, source: io::Error },
    #[error("cannot write the layer's archive")]
    Write(#[source] io::Error),
}

/// A complete recipe.
pub struct Recipe {
    file: File,
    n_bytes: u64,
    n_replaced: u64,
}

impl Recipe {
    pub fn open(path: &Path) -> Result<Recipe, RecipeError> {
        let file = File::open(path).map_err(RecipeError::Read)?;
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => RecipeError::Damaged,
                _ => RecipeError::Read(error),
            })?;
        if header[..8] != MAGIC[..] {
            return Err(RecipeError::Damaged);
        }
        let number =
            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        Ok(Recipe {
            file,
            n_bytes: number(8),
            n_replaced: number(16),
        })
    }

    /// Length of the archive.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    fn records(&self) -> Result<Records<'_>, RecipeError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(HEADER_BYTES))
            .map_err(RecipeError::Read)?;
        let decoder = zstd::Decoder::new(file).map_err(RecipeError::Read)?;
        Ok(Records(BufReader::with_capacity(1 << 16, decoder)))
    }

    /// Writes the archive. `scratch` is a file without a name, for an archive in which entries
    /// replaced each other. The caller compares the digest of what was written.
    pub fn assemble(
        &self,
        snapshot: BorrowedFd<'_>,
        scratch: impl FnOnce() -> io::Result<File>,
        out: &mut dyn Write,
    ) -> Result<(), RecipeError> {
        let mut replaced = match self.n_replaced {
            0 => Replaced::default(),
            _ => self.replaced(scratch().map_err(RecipeError::Write)?)?,
        };
        let mut buffer = vec![0; 1 << 17];
        let mut records = self.records()?;
        let mut position = 0;
        while let Some(record) = records.next()? {
            match record {
                Record::Raw(length) => records.pass(u64::from(length), &mut buffer, |bytes| {
                    out.write_all(bytes).map_err(RecipeError::Write)
                })?,
                Record::Replaced { length, .. } => {
                    records.pass(length, &mut buffer, |_| Ok(()))?;
                }
                Record::Stretch {
                    path,
                    offset,
                    length,
                } => {
                    let damaged = |source| RecipeError::File {
                        path: path.clone(),
                        source,
                    };
                    let (file, base) = match replaced.at(&path, position) {
                        Some((file, base)) => (file, base),
                        None => {
                            let fd = beneath::open_beneath(
                                snapshot,
                                &path,
                                OFlags::RDONLY | OFlags::NOFOLLOW,
                            );
                            (Arc::new(File::from(fd.map_err(damaged)?)), 0)
                        }
                    };
                    let mut at = base + offset;
                    let mut rest = length;
                    while rest > 0 {
                        let n = buffer
                            .len()
                            .min(usize::try_from(rest).unwrap_or(usize::MAX));
                        let n = file.read_at(&mut buffer[..n], at).map_err(damaged)?;
                        if n == 0 {
                            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
                        }
                        out.write_all(&buffer[..n]).map_err(RecipeError::Write)?;
                        at += n as u64;
                        rest -= n as u64;
                    }
                }
            }
            position += 1;
        }
        Ok(())
    }

    /// Gathers what was replaced, by path, in a scratch file.
    fn replaced(&self, mut scratch: File) -> Result<Replaced, RecipeError> {
        let mut by_path: HashMap<PathBuf, VecDeque<(u64, u64)>> = HashMap::new();
        let mut buffer = vec![0; 1 << 17];
        let mut records = self.records()?;
        let (mut position, mut base) = (0, 0);
        while let Some(record) = records.next()? {
            match record {
                Record::Raw(length) => {
                    records.pass(u64::from(length), &mut buffer, |_| Ok(()))?;
                }
                Record::Stretch { .. } => {}
                Record::Replaced { path, length } => {
                    records.pass(length, &mut buffer, |bytes| {
                        scratch.write_all(bytes).map_err(RecipeError::Write)
                    })?;
                    by_path.entry(path).or_default().push_back((position, base));
                    base += length;
                }
            }
            position += 1;
        }
        Ok(Replaced {
            scratch: Some(Arc::new(scratch)),
            by_path,
        })
    }
}

/// What files held before they were replaced: (position of the record, offset in the scratch file).
#[derive(Default)]
struct Replaced {
    scratch: Option<Arc<File>>,
    by_path: HashMap<PathBuf, VecDeque<(u64, u64)>>,
}

impl Replaced {
    /// Where the content is that the path had at this position.
    fn at(&mut self, path: &Path, position: u64) -> Option<(Arc<File>, u64)> {
        let contents = self.by_path.get_mut(path)?;
        while contents.front().is_some_and(|(until, _)| *until < position) {
            contents.pop_front();
        }
        let (_, base) = contents.front()?;
        Some((Arc::clone(self.scratch.as_ref()?), *base))
    }
}

enum Record {
    Raw(u32),
    Stretch {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
    Replaced {
        path: PathBuf,
        length: u64,
    },
}

/// Reads records; the bytes of a record are the caller's to read.
struct Records<'a>(BufReader<zstd::Decoder<'static, BufReader<&'a File>>>);

fn recipe_error(error: io::Error) -> RecipeError {
    match error.raw_os_error() {
        Some(_) => RecipeError::Read(error),
        // The decoder does not understand what it reads, or it ends too early.
        None => RecipeError::Damaged,
    }
}

impl Records<'_> {
    fn next(&mut self) -> Result<Option<Record>, RecipeError> {
        let mut kind = [0];
        if self.0.read(&mut kind).map_err(recipe_error)? == 0 {
            return Ok(None);
        }
        Ok(Some(match kind[0] {
            RAW => {
                let length = u32::from_le_bytes(self.array()?);
                if length > MAX_RAW_BYTES {
                    return Err(RecipeError::Damaged);
                }
                Record::Raw(length)
            }
            STRETCH => Record::Stretch {
                path: self.path()?,
                offset: u64::from_le_bytes(self.array()?),
                length: u64::from_le_bytes(self.array()?),
            },
            REPLACED => Record::Replaced {
                path: self.path()?,
                length: u64::from_le_bytes(self.array()?),
            },
            _ => return Err(RecipeError::Damaged),
        }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecipeError> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(recipe_error)?;
        Ok(bytes)
    }

    fn path(&mut self) -> Result<PathBuf, RecipeError> {
        let mut bytes = vec![0; usize::from(u16::from_le_bytes(self.array()?))];
        self.0.read_exact(&mut bytes).map_err(recipe_error)?;
        Ok(PathBuf::from(OsString::from_vec(bytes)))
    }

    fn pass(
        &mut self,
        mut length: u64,
        buffer: &mut [u8],
        mut each: impl FnMut(&[u8]) -> Result<(), RecipeError>,
    ) -> Result<(), RecipeError> {
        while length > 0 {
            let n = buffer
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX));
            let n = self.0.read(&mut buffer[..n]).map_err(recipe_error)?;
            if n == 0 {
                return Err(RecipeError::Damaged);
            }
            each(&buffer[..n])?;
            length -= n as u64;
        }
        Ok(())
    }
}
