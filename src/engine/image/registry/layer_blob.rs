//! A layer that is read while it is downloaded, and kept until its image is complete.
//!
//! ```text
//! registry ──▶ <data root>/downloads/<digest> ──▶ who unpacks it
//!    └──────────── the same bytes, at once ─────────────┘
//! ```
//!
//! What was fetched goes into a file and to the reader in one step. After a cut connection the
//! download goes on where it was (Range); after a killed engine the next pull reads the file first
//! and fetches the rest. Who unpacks compares digests; a file that turns out wrong is thrown away.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode, Url};
use rustix::fs::FlockOperation;
use tokio::runtime::Handle;

use super::error::TransportError;
use super::repository::Repository;
use super::{RegistryError, retry};
use crate::engine::image::Digest;
use crate::engine::image::content::Content;
use crate::engine::image::digest::Hashing;
use crate::engine::image::source::LayerOrigin;

/// A layer in a registry.
pub struct LayerBlob {
    pub repository: Arc<Repository>,
    pub digest: Digest,
    pub n_bytes: u64,
    /// Where it is kept instead, for layers that may not be distributed.
    pub urls: Vec<String>,
    pub content: Arc<Content>,
    pub runtime: Handle,
}

impl LayerOrigin for LayerBlob {
    fn open(&self) -> io::Result<(Box<dyn Read + Send + '_>, u64)> {
        let keep = |source| RegistryError::Keep {
            layer: self.digest.short().to_owned(),
            source,
        };
        let file = self
            .content
            .download(&self.digest)
            .map_err(|source| io::Error::other(keep(source)))?;
        // Another image may be fetching the same layer: it is waited for, and what it has is used.
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        let mut n_kept = file.metadata()?.len();
        if n_kept > self.n_bytes {
            file.set_len(0)?;
            n_kept = 0;
        }
        Ok((
            Box::new(Reader {
                blob: self,
                file,
                position: 0,
                n_kept,
                incoming: None,
                pending: Bytes::new(),
                pauses: retry::Pauses::default(),
                pace: retry::Pace::default(),
                n_urls_tried: 0,
            }),
            self.n_bytes,
        ))
    }

    fn status(&self) -> &'static str {
        "downloading"
    }

    fn fault(&self) -> Option<RegistryError> {
        let read = || -> io::Result<Digest> {
            let (blob, _) = self.open()?;
            Ok(Hashing::new(blob).finish()?.0)
        };
        match read() {
            Ok(found) if found == self.digest => None,
            Ok(found) => {
                let what = format!("layer {}", self.digest.short());
                let host = self.repository.host();
                Some(RegistryError::mismatch(host, &what, &self.digest, &found))
            }
            Err(error) => Some(
                error
                    .downcast()
                    .unwrap_or_else(|source| RegistryError::Keep {
                        layer: self.digest.short().to_owned(),
                        source,
                    }),
            ),
        }
    }

    fn forget(&self) {
        if let Err(error) = self.content.forget_download(&self.digest) {
            tracing::warn!(layer = %self.digest, %error, "cannot remove a download");
        }
    }
}

struct Reader<'a> {
    blob: &'a LayerBlob,
    file: File,
    position: u64,
    /// Bytes in the file.
    n_kept: u64,
    incoming: Option<Body>,
    /// What was fetched last and not read yet; it begins at `position` and is in the file, too.
    pending: Bytes,
    pauses: retry::Pauses,
    pace: retry::Pace,
    n_urls_tried: usize,
}

/// An answer that is being read.
struct Body {
    response: Response,
    /// Bytes in front that are there already: the registry did not want to begin in the middle.
    n_to_skip: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position >= self.blob.n_bytes {
            return Ok(0);
        }
        while self.position >= self.n_kept {
            // The registry may have made us begin anew, behind what was read already.
            let is_next = self.position == self.n_kept;
            let fetched = self.fetch().map_err(io::Error::other)?;
            if is_next {
                self.pending = fetched;
            }
        }
        let n = if self.pending.is_empty() {
            let n = usize::try_from(self.n_kept - self.position).unwrap_or(usize::MAX);
            let n = n.min(buffer.len());
            self.file.read_at(&mut buffer[..n], self.position)?
        } else {
            let n = self.pending.len().min(buffer.len());
            self.pending.copy_to_slice(&mut buffer[..n]);
            n
        };
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += n as u64;
        Ok(n)
    }
}

impl Reader<'_> {
    /// The next bytes, which are in the file when this returns; what the caller does not take is
    /// read from there.
    fn fetch(&mut self) -> Result<Bytes, RegistryError> {
        let repository = &self.blob.repository;
        loop {
            let Some(body) = &mut self.incoming else {
                self.incoming = self.connect()?;
                continue;
            };
            let next = async { repository.unless_cancelled(body.response.chunk()).await };
            let begun = Instant::now();
            let failure = match self.blob.runtime.block_on(next)? {
                Ok(Some(mut chunk)) => {
                    let n = body.n_to_skip.min(chunk.len() as u64);
                    body.n_to_skip -= n;
                    chunk.advance(n as usize);
                    if chunk.is_empty() {
                        continue;
                    }
                    if self.n_kept + chunk.len() as u64 > self.blob.n_bytes {
                        return Err(RegistryError::Mismatch {
                            host: repository.host().to_owned(),
                            what: format!("layer {}", self.blob.digest.short()),
                            expected: format!("{} bytes", self.blob.n_bytes),
                            found: "more".to_owned(),
                        });
                    }
                    self.keep(&chunk)?;
                    // It goes on: the next cut has all patience again.
                    self.pauses = retry::Pauses::default();
                    match self.pace.came(chunk.len() as u64, begun.elapsed()) {
                        retry::Verdict::GoOn => {}
                        retry::Verdict::Reconnect => self.incoming = None,
                        retry::Verdict::GiveUp => {
                            return Err(RegistryError::Unreachable {
                                host: repository.host().to_owned(),
                                source: TransportError::new("it sends next to nothing"),
                            });
                        }
                    }
                    return Ok(chunk);
                }
                Ok(None) => TransportError::new("the connection ended too early"),
                Err(error) => TransportError::from(error),
            };
            self.incoming = None;
            match self.pauses.next(None) {
                Some(pause) => self.blob.runtime.block_on(repository.pause(pause))?,
                None => {
                    return Err(RegistryError::Unreachable {
                        host: repository.host().to_owned(),
                        source: failure,
                    });
                }
            }
        }
    }

    fn keep(&mut self, chunk: &[u8]) -> Result<(), RegistryError> {
        self.file
            .write_all_at(chunk, self.n_kept)
            .map_err(|source| RegistryError::Keep {
                layer: self.blob.digest.short().to_owned(),
                source,
            })?;
        self.n_kept += chunk.len() as u64;
        Ok(())
    }

    /// Asks for the rest. `None`: ask again.
    fn connect(&mut self) -> Result<Option<Body>, RegistryError> {
        let repository = &self.blob.repository;
        let what = format!("layer {}", self.blob.digest.short());
        let url = match self.n_urls_tried {
            0 => repository.url(&format!("blobs/{}", self.blob.digest)),
            n => match self.blob.urls.get(n - 1).map(|url| Url::parse(url)) {
                Some(Ok(url)) => url,
                Some(Err(_)) => {
                    self.n_urls_tried += 1;
                    return Ok(None);
                }
                None => {
                    return Err(RegistryError::NotFound {
                        host: repository.host().to_owned(),
                        what,
                        said: String::new(),
                    });
                }
            },
        };
        let answer = self
            .blob
            .runtime
            .block_on(repository.blob(url, self.n_kept, &what));
        let response = match answer {
            Ok(response) => response,
            Err(RegistryError::NotFound { .. }) if self.n_urls_tried < self.blob.urls.len() => {
                self.n_urls_tried += 1;
                return Ok(None);
            }
            // Of several other places any will do.
            Err(error) if 0 < self.n_urls_tried && self.n_urls_tried < self.blob.urls.len() => {
                if matches!(error, RegistryError::Cancelled) {
                    return Err(error);
                }
                self.n_urls_tried += 1;
                return Ok(None);
            }
            // What is kept reaches beyond the end of what the registry has: begin anew.
            Err(RegistryError::Status { status: 416, .. }) if self.n_kept > 0 => {
                self.n_kept = 0;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let n_to_skip = match response.status() {
            StatusCode::PARTIAL_CONTENT if begins_at(&response) == Some(self.n_kept) => 0,
            // A part that was not asked for is of no use.
            StatusCode::PARTIAL_CONTENT => {
                return Err(RegistryError::Status {
                    host: repository.host().to_owned(),
                    what,
                    status: 206,
                    said: ": it is not the part that was asked for".to_owned(),
                });
            }
            _ => self.n_kept,
        };
        let n_expected = match n_to_skip == self.n_kept {
            true => self.blob.n_bytes,
            false => self.blob.n_bytes - self.n_kept,
        };
        match response.content_length() {
            Some(n) if n != n_expected => Err(RegistryError::Mismatch {
                host: repository.host().to_owned(),
                what,
                expected: format!("{n_expected} bytes"),
                found: format!("{n} bytes"),
            }),
            _ => Ok(Some(Body {
                response,
                n_to_skip,
            })),
        }
    }
}

/// `Content-Range: bytes 100-199/200`.
fn begins_at(response: &Response) -> Option<u64> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let range = value.strip_prefix("bytes")?.trim_start_matches([' ', '=']);
    range.split('-').next()?.parse().ok()
}
