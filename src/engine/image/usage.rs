//! What images take of the disk, as `du` counts: allocated blocks, each file once.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType};

use super::images::{ImageRecord, Images, Inner, SnapshotRecord};
use super::{Digest, ImageError};
use crate::engine::store::{Batch, Table};
use crate::sys::beneath;

/// Blocks are counted in this unit, whatever the file system's block size (`stat(2)`).
const STAT_BLOCK: u64 = 512;

/// What all images take, and each of them.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Bytes of all layers, recipes and documents, each once.
    pub total: u64,
    pub images: HashMap<String, ImageUsage>,
    /// Bytes by content, and what each image consists of.
    parts: HashMap<Digest, u64>,
    of_image: HashMap<String, Vec<Digest>>,
}

impl Usage {
    /// Bytes of what these images consist of, each part once.
    pub fn bytes_of<'a>(&self, images: impl Iterator<Item = &'a str>) -> u64 {
        let parts: HashSet<&Digest> = images
            .filter_map(|image| self.of_image.get(image))
            .flatten()
            .collect();
        parts
            .into_iter()
            .filter_map(|part| self.parts.get(part))
            .sum()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// Bytes of its layers, recipes and documents.
    pub size: u64,
    /// Bytes of those layers that other images have, too.
    pub shared: u64,
}

/// Bytes that a tree takes of the disk, directories included. What vanishes meanwhile is nothing.
pub(super) fn allocated(root: OwnedFd) -> u64 {
    let of = |stat: &rustix::fs::Stat| (stat.st_blocks as u64).saturating_mul(STAT_BLOCK);
    let mut total = rustix::fs::fstat(&root).map_or(0, |stat| of(&stat));
    let mut linked = HashSet::new();
    // A directory stays open while its sub-directories wait, so no path is ever built: layers may
    // be deeper than any path may be long.
    let root = Arc::new(root);
    let mut pending: Vec<(Arc<OwnedFd>, Option<OsString>)> = vec![(root, None)];
    while let Some((parent, name)) = pending.pop() {
        let dir = match name {
            None => parent,
            Some(name) => match beneath::open_child_directory(parent.as_fd(), &name) {
                Ok(dir) => Arc::new(dir),
                Err(_) => continue,
            },
        };
        for name in beneath::names(dir.as_fd()).unwrap_or_default() {
            let Ok(stat) = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if !is_directory && stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            total += of(&stat);
            if is_directory {
                pending.push((Arc::clone(&dir), Some(name)));
            }
        }
    }
    total
}

/// [`allocated`] by a path; 0 for what is not there.
pub fn allocated_under(path: &std::path::Path) -> u64 {
    beneath::open_root(path).map_or(0, allocated)
}

impl Images {
    /// Measures what was not measured yet; layers do not change, so each is measured once.
    pub fn usage(&self) -> Result<Usage, ImageError> {
        self.inner.usage()
    }
}

impl Inner {
    fn usage(&self) -> Result<Usage, ImageError> {
        let records = self.store.list::<ImageRecord>(Table::Images)?;
        let mut n_users: HashMap<&Digest, usize> = HashMap::new();
        for (_, record) in &records {
            for chain_id in &record.chain_ids {
                *n_users.entry(chain_id).or_default() += 1;
            }
        }
        let mut usage = Usage::default();
        for chain_id in n_users.keys().copied() {
            usage
                .parts
                .insert(chain_id.clone(), self.layer_bytes(chain_id)?);
        }
        for (id, record) in &records {
            let mut parts = record.chain_ids.clone();
            if record.rootfs.is_none() {
                for digest in Digest::parse(id).into_iter().chain(record.manifest.clone()) {
                    usage
                        .parts
                        .insert(digest.clone(), self.content.blob_bytes(&digest));
                    parts.push(digest);
                }
            }
            let mut of_image = ImageUsage::default();
            for part in &parts {
                let n_bytes = usage.parts.get(part).copied().unwrap_or(0);
                of_image.size += n_bytes;
                if n_users.get(part).is_some_and(|n| *n > 1) {
                    of_image.shared += n_bytes;
                }
            }
            usage.images.insert(id.clone(), of_image);
            usage.of_image.insert(id.clone(), parts);
        }
        usage.total = usage.parts.values().sum();
        Ok(usage)
    }

    fn layer_bytes(&self, chain_id: &Digest) -> Result<u64, ImageError> {
        let key = chain_id.to_string();
        // The measure is kept beside what may be a removal of the same record.
        let lease = self.lease(vec![chain_id.clone()]);
        let Some(record) = self.snapshot(chain_id)? else {
            return Ok(0);
        };
        if let Some(n_bytes) = record.disk_bytes {
            return Ok(n_bytes);
        }
        let Ok(root) = beneath::open_root(&self.content.snapshot_path(chain_id)) else {
            return Ok(0);
        };
        let n_bytes = allocated(root) + self.content.recipe_bytes(chain_id);
        let mut batch = Batch::default();
        batch.put(
            Table::Snapshots,
            &key,
            &SnapshotRecord {
                disk_bytes: Some(n_bytes),
                ..record
            },
        );
        self.store.commit(batch)?;
        drop(lease);
        Ok(n_bytes)
    }
}
