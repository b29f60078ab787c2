//! The content store on disk.
//!
//! ```text
//! <data root>/blobs/sha256/<hex>    manifests and image configs, verified
//! <data root>/snapshots/<hex>       one unpacked layer per chain id, as overlay takes it
//! <data root>/recipes/<hex>         how that layer's archive is put together again
//! <data root>/staging/<n>           what is being made; removed at start
//! <data root>/downloads/<hex>       layers on their way from a registry, the next attempt goes on
//! ```
//!
//! Content appears under its final name by a rename after everything is on disk, so a name that
//! exists is complete, also after a power cut. Which content is needed is not known here.
//!
//! Layer blobs are not kept: the snapshot and its recipe are their content, and sources are
//! streamed into it.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Digest;
use super::layer::Target;
use crate::sys::beneath;

/// Manifests and configs are read into memory; registries refuse manifests above 4 MiB too.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Below this much free space no layer is begun: the state store and running containers need what
/// is left more.
const RESERVE_BYTES: u64 = 32 << 20;

/// What an interrupted pull has brought is kept for so long.
const DOWNLOAD_LIFE: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("only {free_bytes} bytes are free at {path:?}; images need at least {RESERVE_BYTES}")]
    Full { path: PathBuf, free_bytes: u64 },
    #[error("cannot prepare the content store at {path:?}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot write {what} to the content store")]
    Write { what: String, source: io::Error },
    #[error("cannot read blob {digest}")]
    Read { digest: Digest, source: io::Error },
    #[error("blob {digest} is damaged: its content has the digest {found}")]
    Damaged { digest: Digest, found: Digest },
    #[error("cannot remove {what} from the content store")]
    Remove { what: String, source: io::Error },
}

pub struct Content {
    blobs: PathBuf,
    snapshots: PathBuf,
    recipes: PathBuf,
    staging: PathBuf,
    downloads: PathBuf,
    n_staged: AtomicU64,
}

/// A snapshot without a place, to be deleted.
pub struct Aside(String);

/// A directory that is being filled, and its recipe; removed when dropped.
pub struct Staged {
    parent: OwnedFd,
    name: String,
    path: PathBuf,
}

impl Content {
    /// Makes the directories, only for the engine's own eyes (CVE-2021-41091: set-uid programs in
    /// layers), and clears what an earlier engine left unfinished.
    pub fn open(data_root: &Path) -> Result<Content, ContentError> {
        let content = Content {
            blobs: data_root.join("blobs/sha256"),
            snapshots: data_root.join("snapshots"),
            recipes: data_root.join("recipes"),
            staging: data_root.join("staging"),
            downloads: data_root.join("downloads"),
            n_staged: AtomicU64::new(0),
        };
        let (data_root, blobs_root) = (data_root.to_owned(), data_root.join("blobs"));
        for dir in [
            &data_root,
            &blobs_root,
            &content.blobs,
            &content.snapshots,
            &content.recipes,
            &content.staging,
            &content.downloads,
        ] {
            private_directory(dir).map_err(|source| ContentError::Open {
                path: dir.clone(),
                source,
            })?;
        }
        for name in content.names(&content.staging)? {
            remove(&content.staging, &name)?;
        }
        content.forget_old_downloads()?;
        Ok(content)
    }

    /// The file that a layer is downloaded into, with what an earlier attempt has brought.
    pub fn download(&self, digest: &Digest) -> io::Result<std::fs::File> {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.downloads.join(digest.hex()))
    }

    pub fn forget_download(&self, digest: &Digest) -> io::Result<()> {
        match std::fs::remove_file(self.downloads.join(digest.hex())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// An image that was not asked for again for so long is not missed.
    fn forget_old_downloads(&self) -> Result<(), ContentError> {
        for name in self.names(&self.downloads)? {
            let metadata = std::fs::metadata(self.downloads.join(&name));
            let age = metadata.and_then(|m| m.modified()).ok();
            let age = age.and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > DOWNLOAD_LIFE) {
                remove(&self.downloads, &name)?;
            }
        }
        Ok(())
    }

    fn names(&self, dir: &Path) -> Result<Vec<String>, ContentError> {
        let open = |source| ContentError::Open {
            path: dir.to_owned(),
            source,
        };
        let fd = beneath::open_root(dir).map_err(open)?;
        let names = beneath::names(fd.as_fd()).map_err(open)?;
        Ok(names
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect())
    }

    /// Where the layer with this chain id is or would be.
    pub fn snapshot_path(&self, chain_id: &Digest) -> PathBuf {
        self.snapshots.join(chain_id.hex())
    }

    pub fn has_snapshot(&self, chain_id: &Digest) -> bool {
        self.snapshot_path(chain_id).is_dir()
    }

    /// Chain ids (hex) of all snapshots on disk, known or not.
    pub fn snapshot_names(&self) -> Result<Vec<String>, ContentError> {
        self.names(&self.snapshots)
    }

    pub fn recipe_names(&self) -> Result<Vec<String>, ContentError> {
        self.names(&self.recipes)
    }

    pub fn recipe_path(&self, chain_id: &Digest) -> PathBuf {
        self.recipes.join(chain_id.hex())
    }

    pub fn blob_names(&self) -> Result<Vec<String>, ContentError> {
        self.names(&self.blobs)
    }

    /// Takes a snapshot out of its place; it is deleted by [`Content::delete`], or at the next
    /// start. A half-deleted snapshot must not exist under its name, and deleting can take long.
    pub fn set_aside(&self, hex: &str) -> Result<Option<Aside>, ContentError> {
        let aside = self.staging_name("removed");
        match rustix::fs::rename(self.snapshots.join(hex), self.staging.join(&aside)) {
            Ok(()) => Ok(Some(Aside(aside))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(ContentError::Remove {
                what: format!("snapshot {hex}"),
                source: error.into(),
            }),
        }
    }

    pub fn delete(&self, aside: Aside) -> Result<(), ContentError> {
        remove(&self.staging, &aside.0)
    }

    pub fn open_aside(&self, aside: &Aside) -> io::Result<OwnedFd> {
        beneath::open_root(&self.staging.join(&aside.0))
    }

    /// Returns the bytes of disk that it took.
    pub fn remove_blob(&self, hex: &str) -> Result<u64, ContentError> {
        let n_bytes = file_bytes(&self.blobs.join(hex));
        remove(&self.blobs, hex).map(|()| n_bytes)
    }

    /// Returns the bytes of disk that it took.
    pub fn remove_recipe(&self, hex: &str) -> Result<u64, ContentError> {
        let n_bytes = file_bytes(&self.recipes.join(hex));
        remove(&self.recipes, hex).map(|()| n_bytes)
    }

    /// Bytes of disk that a document takes.
    pub fn blob_bytes(&self, digest: &Digest) -> u64 {
        file_bytes(&self.blobs.join(digest.hex()))
    }

    /// Bytes of disk that a recipe takes.
    pub fn recipe_bytes(&self, chain_id: &Digest) -> u64 {
        file_bytes(&self.recipe_path(chain_id))
    }

    fn staging_name(&self, kind: &str) -> String {
        format!("{kind}-{}", self.n_staged.fetch_add(1, Ordering::Relaxed))
    }

    /// A new empty directory.
    pub fn stage(&self) -> Result<Staged, ContentError> {
        let name = self.staging_name("layer");
        let write = |source| ContentError::Write {
            what: "a layer".to_owned(),
            source,
        };
        self.expect_room()?;
        let parent = beneath::open_root(&self.staging).map_err(write)?;
        rustix::fs::mkdirat(&parent, name.as_str(), Mode::RWXU)
            .map_err(|error| write(error.into()))?;
        Ok(Staged {
            parent,
            path: self.staging.join(&name),
            name,
        })
    }

    fn expect_room(&self) -> Result<(), ContentError> {
        let space = rustix::fs::statvfs(&self.staging).map_err(|error| ContentError::Write {
            what: "anything".to_owned(),
            source: error.into(),
        })?;
        let free_bytes = space.f_bavail.saturating_mul(space.f_frsize);
        if free_bytes < RESERVE_BYTES {
            return Err(ContentError::Full {
                path: self.staging.clone(),
                free_bytes,
            });
        }
        Ok(())
    }

    /// A new file without a name, for content that cannot be read in place.
    pub fn scratch_file(&self) -> Result<std::fs::File, ContentError> {
        self.expect_room()?;
        let fd = rustix::fs::open(
            &self.staging,
            OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        );
        fd.map(std::fs::File::from)
            .map_err(|error| ContentError::Write {
                what: "a temporary file".to_owned(),
                source: error.into(),
            })
    }

    /// Brings everything written so far to the disk. One call for a whole image: file by file
    /// takes eight times as long.
    pub fn sync(&self) -> Result<(), ContentError> {
        let write = |source| ContentError::Write {
            what: "the image".to_owned(),
            source,
        };
        let fd = beneath::open_root(&self.staging).map_err(write)?;
        rustix::fs::syncfs(&fd).map_err(|error| write(error.into()))
    }

    /// Gives a complete and synced layer its name. What has the name already is damaged, or was
    /// never recorded: it is removed.
    pub fn publish(&self, staged: Staged, chain_id: &Digest) -> Result<(), ContentError> {
        let write = |source: Errno| ContentError::Write {
            what: format!("layer {}", chain_id.short()),
            source: source.into(),
        };
        let into = self.snapshot_path(chain_id);
        let rename = |flags| {
            rustix::fs::renameat_with(
                &staged.parent,
                staged.name.as_str(),
                rustix::fs::CWD,
                &into,
                flags,
            )
        };
        rustix::fs::rename(
            self.staging.join(recipe_of(&staged.name)),
            self.recipe_path(chain_id),
        )
        .map_err(write)?;
        match rename(RenameFlags::NOREPLACE) {
            // The staged name is then that of the old one, which goes with `staged`.
            Err(Errno::EXIST) => rename(RenameFlags::EXCHANGE),
            result => result,
        }
        .map_err(write)
    }

    /// Makes the names that were published durable.
    pub fn sync_names(&self) -> Result<(), ContentError> {
        for dir in [&self.recipes, &self.snapshots, &self.blobs] {
            let synced = beneath::open_root(dir)
                .and_then(|fd| rustix::fs::fsync(&fd).map_err(io::Error::from));
            synced.map_err(|source| ContentError::Write {
                what: format!("the names in {}", dir.display()),
                source,
            })?;
        }
        Ok(())
    }

    /// Writes a document down, to be published after a sync. The caller has verified its digest.
    /// `None` if it is there already, and undamaged.
    pub fn stage_blob(
        &self,
        digest: &Digest,
        bytes: &[u8],
    ) -> Result<Option<StagedBlob>, ContentError> {
        if self.blob(digest).is_ok() {
            return Ok(None);
        }
        let path = self.staging.join(self.staging_name("blob"));
        let written = std::fs::File::create_new(&path).and_then(|mut file| file.write_all(bytes));
        written.map_err(|source| ContentError::Write {
            what: format!("blob {}", digest.short()),
            source,
        })?;
        Ok(Some(StagedBlob {
            path,
            digest: digest.clone(),
        }))
    }

    /// Gives a synced document its name; one that was damaged on disk is healed by this.
    pub fn publish_blob(&self, staged: &StagedBlob) -> Result<(), ContentError> {
        rustix::fs::rename(&staged.path, self.blobs.join(staged.digest.hex())).map_err(|error| {
            ContentError::Write {
                what: format!("blob {}", staged.digest.short()),
                source: error.into(),
            }
        })
    }

    /// Reads a document and checks it: nothing is parsed that does not match its digest.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let read = |source| ContentError::Read {
            digest: digest.clone(),
            source,
        };
        let file = std::fs::File::open(self.blobs.join(digest.hex())).map_err(read)?;
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ContentError::Damaged {
                digest: digest.clone(),
                found,
            });
        }
        Ok(bytes)
    }
}

/// A document that has no name yet; removed when dropped.
pub struct StagedBlob {
    path: PathBuf,
    digest: Digest,
}

impl Drop for StagedBlob {
    fn drop(&mut self) {
        // After its publication there is nothing left under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Allocated, as `du` counts; 0 for what is not there.
fn file_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

fn recipe_of(name: &str) -> String {
    format!("{name}.recipe")
}

impl Staged {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a layer is unpacked into; once only.
    pub fn target(&self) -> Result<Target, ContentError> {
        let open = || -> io::Result<Target> {
            let recipe = rustix::fs::openat(
                &self.parent,
                recipe_of(&self.name),
                OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )?;
            Ok(Target {
                directory: beneath::open_child_directory(
                    self.parent.as_fd(),
                    OsStr::new(&self.name),
                )?,
                recipe: recipe.into(),
            })
        };
        open().map_err(|source| ContentError::Write {
            what: "a layer".to_owned(),
            source,
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left under the name. What cannot be removed now is
        // removed at the next start.
        let _ = rustix::fs::unlinkat(
            &self.parent,
            recipe_of(&self.name),
            rustix::fs::AtFlags::empty(),
        );
        if let Err(error) = beneath::remove_tree(self.parent.as_fd(), OsStr::new(&self.name)) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove an unfinished layer");
        }
    }
}

fn remove(dir: &Path, name: &str) -> Result<(), ContentError> {
    beneath::open_root(dir)
        .and_then(|fd| beneath::remove_tree(fd.as_fd(), OsStr::new(name)))
        .map_err(|source| ContentError::Remove {
            what: name.to_owned(),
            source,
        })
}

/// Makes a directory that only the engine may enter, or repairs the mode of an existing one.
pub fn private_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let fd = beneath::open_root(path)?;
    Ok(rustix::fs::fchmod(&fd, Mode::RWXU)?)
}
