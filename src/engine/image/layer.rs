//! One layer: a (compressed) tar becomes a directory that overlay can stack.
//!
//! ```text
//! blob ─▶ digest ─▶ inflate ─▶ limits ─▶ diff id ─▶ tar entries ─▶ Extractor ─▶ staging directory
//! ```
//!
//! The archive is hostile: every path is resolved by the kernel inside the staging directory, all
//! sizes are bounded, and nothing made here is visible before both digests were compared. Time is
//! linear in the archive. Must not know where blobs come from or where snapshots live.
//!
//! What depends on the layers below (hard links into them, metadata of directories that the
//! archive only implies) is done afterwards by [`Extracted::complete`], so that layers can be
//! extracted in parallel.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::Digest;
use super::copy::CopyError;
use super::digest::Hashing;
use super::extract::{Extracted, Extractor};
use super::recipe::{Recorder, Tap};
use super::tar_stream::{Streamed, TarError, TarStream};

/// What one layer may ask of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest public images (machine learning) have layers of some 20 GiB.
    pub max_bytes: u64,
    /// Inflated bytes that the layers of an image have together whatever the ratio: small layers
    /// may be all zeros.
    pub free_bytes: u64,
    /// Beyond that, inflated bytes per compressed byte. File systems of real images stay below
    /// 20; gzip can reach 1032, zstd far more.
    pub max_ratio: u64,
    /// Directory entries; a full desktop distribution has about a million.
    pub max_entries: u64,
    /// Components of a path. A real tree of npm modules reaches some 60.
    pub max_depth: usize,
    /// Extended attributes of the whole layer.
    pub max_xattr_bytes: u64,
    /// Paths of directories, whiteouts and open links, which are kept in memory until the end of
    /// the layer. A million directories take some 60 MiB.
    pub max_path_bytes: u64,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        max_bytes: 128 << 30,
        free_bytes: 1 << 30,
        max_ratio: 200,
        max_entries: 4_000_000,
        max_depth: 512,
        max_xattr_bytes: 64 << 20,
        max_path_bytes: 256 << 20,
    };
}

/// Limits, and what is left of those that all layers of an image share.
pub struct Allowance {
    limits: Limits,
    free_bytes: AtomicU64,
}

impl Allowance {
    pub fn new(limits: Limits) -> Allowance {
        Allowance {
            free_bytes: AtomicU64::new(limits.free_bytes),
            limits,
        }
    }

    fn take(&self, n_bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(n_bytes);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.free_bytes.fetch_update(set, fetch, take).is_ok()
    }
}

/// What one attempt at a layer has taken; given back when it comes to nothing.
struct Share<'a> {
    allowance: &'a Allowance,
    n_bytes: Cell<u64>,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let n_bytes = self.n_bytes.get();
        self.allowance
            .free_bytes
            .fetch_add(n_bytes, Ordering::Relaxed);
    }
}

impl<'a> Share<'a> {
    fn of(allowance: &'a Allowance) -> Share<'a> {
        Share {
            allowance,
            n_bytes: Cell::new(0),
        }
    }

    fn cover(&self, n_bytes: u64) -> bool {
        let missing = n_bytes.saturating_sub(self.n_bytes.get());
        let covered = missing == 0 || self.allowance.take(missing);
        if covered {
            self.n_bytes.set(self.n_bytes.get() + missing);
        }
        covered
    }

    fn keep(&self) {
        self.n_bytes.set(0);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("it is compressed with {format}, which is not supported")]
    Compression { format: &'static str },
    #[error("entry {path:?} leads out of the layer")]
    Escape { path: String },
    #[error("entry {path:?} is not a possible path: {why}")]
    Path { path: String, why: &'static str },
    #[error("cannot make {path:?}")]
    Make { path: PathBuf, source: io::Error },
    #[error("hard link {path:?} points to {target:?}, which exists in no layer")]
    DanglingLink { path: PathBuf, target: PathBuf },
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error("cannot record how the layer's archive is put together")]
    Recipe(#[source] io::Error),
    #[error("the layer exceeds the limit of {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    #[error("the layer's content does not match its {what}: expected {expected}, found {found}")]
    Mismatch {
        what: &'static str,
        expected: String,
        found: String,
    },
}

/// Travels through `Read` as an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("the layer exceeds the limit of {limit} {what}")]
struct LimitReached {
    what: &'static str,
    limit: u64,
}

/// Of the archive in memory at once.
const PIECE_BYTES: usize = 1 << 17;

/// What is known about a layer before it is read.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Digest of the blob as it is stored; `None` when only its content is identified.
    pub blob: Option<Digest>,
    /// Length of the blob in bytes.
    pub blob_bytes: Option<u64>,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
}

/// Where a layer goes: an empty directory, and an empty file for its recipe.
pub struct Target {
    pub directory: OwnedFd,
    pub recipe: File,
}

/// What passed through the compressed side so far.
struct Meter<'a> {
    n_bytes: u64,
    hasher: Option<Sha256>,
    on_bytes: &'a dyn Fn(u64),
}

struct Metered<'a, R> {
    inner: R,
    meter: Rc<RefCell<Meter<'a>>>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let mut meter = self.meter.borrow_mut();
        meter.n_bytes += n as u64;
        if let Some(hasher) = &mut meter.hasher {
            hasher.update(&buffer[..n]);
        }
        (meter.on_bytes)(meter.n_bytes);
        Ok(n)
    }
}

struct Bounded<'a, R> {
    inner: R,
    n_bytes: u64,
    share: Rc<Share<'a>>,
    meter: Rc<RefCell<Meter<'a>>>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.n_bytes += n as u64;
        let limits = &self.share.allowance.limits;
        if self.n_bytes > limits.max_bytes {
            return Err(io::Error::other(LimitReached {
                what: "bytes",
                limit: limits.max_bytes,
            }));
        }
        let n_stored = self.meter.borrow().n_bytes;
        let by_ratio = n_stored.saturating_mul(limits.max_ratio);
        if !self.share.cover(self.n_bytes.saturating_sub(by_ratio)) {
            return Err(io::Error::other(LimitReached {
                what: "inflated bytes per compressed byte",
                limit: limits.max_ratio,
            }));
        }
        Ok(n)
    }
}

/// Inflates what is not a layer, within the same limits.
pub fn inflate_bounded<'a>(
    blob: impl Read + 'a,
    allowance: &'a Allowance,
) -> Result<impl Read + 'a, LayerError> {
    let meter = Rc::new(RefCell::new(Meter {
        n_bytes: 0,
        hasher: None,
        on_bytes: &|_| (),
    }));
    Ok(Bounded {
        inner: inflate(Metered {
            inner: blob,
            meter: Rc::clone(&meter),
        })?,
        n_bytes: 0,
        share: Rc::new(Share::of(allowance)),
        meter,
    })
}

/// Inflates by what the bytes say; declared media types are often wrong.
pub fn inflate<'a>(blob: impl Read + 'a) -> Result<Box<dyn Read + 'a>, LayerError> {
    let mut blob = BufReader::with_capacity(1 << 17, blob);
    let start = blob.fill_buf().map_err(read_error)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(blob).map_err(read_error)?;
        return Ok(Box::new(decoder));
    }
    refuse_compression(start)?;
    Ok(Box::new(blob))
}

/// Tells what others compress with from what is no archive at all.
pub(super) fn refuse_compression(start: &[u8]) -> Result<(), LayerError> {
    let known = [
        (&b"\xfd7zXZ"[..], "xz"),
        (b"BZh", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    match known.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, format)) => Err(LayerError::Compression { format }),
        None => Ok(()),
    }
}

/// Reads a whole blob and fills the target. On success the digests have matched; on
/// failure the directory holds rubbish.
///
/// `on_bytes` is told how much of the blob has been read.
pub fn unpack(
    blob: impl Read,
    expected: &Expected,
    target: Target,
    allowance: &Allowance,
    on_bytes: &dyn Fn(u64),
) -> Result<Extracted, LayerError> {
    let recorder = Recorder::new(target.recipe).map_err(LayerError::Recipe)?;
    unpack_recorded(
        blob,
        expected,
        target.directory,
        allowance,
        on_bytes,
        &recorder,
    )
    .map_err(|error| match recorder.failure() {
        Some(failure) => LayerError::Recipe(failure),
        None => error,
    })
}

fn unpack_recorded(
    blob: impl Read,
    expected: &Expected,
    directory: OwnedFd,
    allowance: &Allowance,
    on_bytes: &dyn Fn(u64),
    recorder: &Recorder,
) -> Result<Extracted, LayerError> {
    let hasher = match &expected.blob {
        // An uncompressed blob is its own diff: one hash does for both.
        Some(blob) if *blob != expected.diff_id => Some(Sha256::new()),
        _ => None,
    };
    let meter = Rc::new(RefCell::new(Meter {
        n_bytes: 0,
        hasher,
        on_bytes,
    }));
    let inflated = inflate(Metered {
        inner: blob,
        meter: Rc::clone(&meter),
    })?;
    let share = Rc::new(Share::of(allowance));
    let diff = Hashing::new(Bounded {
        inner: inflated,
        n_bytes: 0,
        share: Rc::clone(&share),
        meter: Rc::clone(&meter),
    });
    // One large piece of the inflater and the hasher for many entries, which are written from
    // where they lie in it.
    let diff = BufReader::with_capacity(PIECE_BYTES, diff);
    let mut tar = TarStream::new(Streamed(Tap::new(diff, recorder.clone())));
    let mut extractor = Extractor::new(directory, allowance.limits, recorder.clone());
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        extractor.apply(entry, &mut tar)?;
    }
    // The digests cover what follows the end-of-archive mark as well.
    let Streamed(tap) = tar.into_inner();
    let diff = tap.finish().map_err(read_error)?;
    // The tap has read to the end.
    let (found, _) = diff.into_inner().finish().map_err(read_error)?;
    compare("diff id", &expected.diff_id, &found)?;
    let meter = &mut *meter.borrow_mut();
    if let Some(n_bytes) = expected.blob_bytes
        && n_bytes != meter.n_bytes
    {
        return Err(LayerError::Mismatch {
            what: "size",
            expected: n_bytes.to_string(),
            found: meter.n_bytes.to_string(),
        });
    }
    if let (Some(blob), Some(hasher)) = (&expected.blob, meter.hasher.take()) {
        let found = format!("sha256:{}", hex::encode(hasher.finalize()));
        if found != blob.to_string() {
            return Err(LayerError::Mismatch {
                what: "digest",
                expected: blob.to_string(),
                found,
            });
        }
    }
    let extracted = extractor.finish()?;
    share.keep();
    Ok(extracted)
}

fn compare(what: &'static str, expected: &Digest, found: &Digest) -> Result<(), LayerError> {
    if expected == found {
        return Ok(());
    }
    Err(LayerError::Mismatch {
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}

pub(super) fn read_error(error: io::Error) -> LayerError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<LimitReached>())
    {
        Some(reached) => LayerError::Limit {
            what: reached.what,
            limit: reached.limit,
        },
        None => LayerError::Read(error),
    }
}

fn tar_error(error: TarError) -> LayerError {
    match error {
        TarError::Read(error) => read_error(error),
        error => LayerError::Tar(error),
    }
}
