//! Damage: found by reading everything, healed by getting again only what is damaged.
//!
//! Documents are compared with their digests, layers by putting their archives together again,
//! which reads every file, and by looking up what an archive lists. What is missing altogether is noticed on every use, see
//! [`Images::damage`] with [`Depth::Presence`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;

use super::images::{ImageRecord, Images, Inner, ReferenceRecord, lock};
use super::remove::ImageUser;
use super::source;
use super::{Digest, ImageError, Reference, compare, config};
use crate::engine::store::{Batch, Table};
use crate::sys::beneath;

/// What is wrong with an image on disk: what has to be got again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// The image config, which is also the image's id.
    Config {
        digest: Digest,
    },
    Manifest {
        digest: Digest,
    },
    Layer {
        /// From the bottom.
        position: usize,
        chain_id: Digest,
        /// Why, with all causes.
        why: String,
    },
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Config { digest } => write!(f, "config {}", digest.short()),
            Damage::Manifest { digest } => write!(f, "manifest {}", digest.short()),
            Damage::Layer { position, why, .. } => write!(f, "layer {}: {why}", position + 1),
        }
    }
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Whether everything is there; documents are read.
    Presence,
    /// Every byte.
    Content,
}

/// What a check of one image found.
#[derive(Debug, Clone)]
pub struct Checked {
    pub id: String,
    pub names: Vec<String>,
    /// What is still damaged.
    pub damage: Vec<Damage>,
    /// What was damaged and has been got again.
    pub healed: Vec<Damage>,
    /// Why it could not be healed, with all causes.
    pub obstacle: Option<String>,
}

impl Images {
    /// What of an image is damaged. Nothing is changed.
    pub fn damage(&self, name: &str, depth: Depth) -> Result<Vec<Damage>, ImageError> {
        let id = self.inner.resolve(name)?;
        self.inner.damage(&id, depth, &mut HashMap::new())
    }

    /// Checks images, all when none is named. A damaged layer is taken away, so that whoever makes
    /// the image present again gets it anew and nothing else; a local source is asked at
    /// once. Layers of containers stay as they are: taking them away helps nobody.
    pub fn check(&self, names: &[String], users: &[ImageUser]) -> Result<Vec<Checked>, ImageError> {
        let mut ids = Vec::new();
        for name in names {
            ids.push(self.inner.resolve(name)?);
        }
        if names.is_empty() {
            for facts in self.facts()? {
                ids.extend(Digest::parse(&facts.id));
            }
        }
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        let mut known = HashMap::new();
        let mut verdicts = Vec::new();
        for id in ids {
            let names = self.facts_of(&id.to_string())?;
            let damage = self.inner.damage(&id, Depth::Content, &mut known)?;
            let mut checked = Checked {
                id: id.to_string(),
                names: names.tags.into_iter().chain(names.digests).collect(),
                damage: Vec::new(),
                healed: Vec::new(),
                obstacle: None,
            };
            if damage.is_empty() {
                verdicts.push(checked);
                continue;
            }
            match self.inner.heal(&id, &damage, users) {
                Ok(()) => {
                    // What was found out about these layers is true no more.
                    known.clear();
                    checked.damage = self.inner.damage(&id, Depth::Content, &mut known)?;
                    checked.healed = damage;
                    checked.healed.retain(|one| !checked.damage.contains(one));
                }
                Err(error) => {
                    checked.damage = damage;
                    checked.obstacle = Some(crate::engine::chain(&error));
                }
            }
            verdicts.push(checked);
        }
        Ok(verdicts)
    }
}

impl Inner {
    /// `known` carries verdicts on layers from image to image.
    fn damage(
        &self,
        id: &Digest,
        depth: Depth,
        known: &mut HashMap<Digest, Option<String>>,
    ) -> Result<Vec<Damage>, ImageError> {
        let record: ImageRecord =
            self.store
                .get(Table::Images, &id.to_string())?
                .ok_or_else(|| ImageError::NotFound {
                    name: id.to_string(),
                })?;
        let mut damage = Vec::new();
        if record.rootfs.is_some() {
            return Ok(damage);
        }
        let mut leased = record.chain_ids.clone();
        leased.push(id.clone());
        let _lease = self.lease(leased);
        if let Some(manifest) = &record.manifest
            && self.content.blob(manifest).is_err()
        {
            damage.push(Damage::Manifest {
                digest: manifest.clone(),
            });
        }
        let checked = self
            .content
            .blob(id)
            .ok()
            .and_then(|bytes| config::check(&bytes).ok());
        let Some(checked) = checked else {
            damage.push(Damage::Config { digest: id.clone() });
            return Ok(damage);
        };
        for (position, (chain_id, diff_id)) in
            record.chain_ids.iter().zip(&checked.diff_ids).enumerate()
        {
            let why = match known.get(chain_id) {
                Some(why) => why.clone(),
                None => {
                    let why = self.damage_of_layer(id, chain_id, diff_id, depth)?;
                    known.insert(chain_id.clone(), why.clone());
                    why
                }
            };
            if let Some(why) = why {
                damage.push(Damage::Layer {
                    position,
                    chain_id: chain_id.clone(),
                    why,
                });
            }
        }
        Ok(damage)
    }

    fn damage_of_layer(
        &self,
        id: &Digest,
        chain_id: &Digest,
        diff_id: &Digest,
        depth: Depth,
    ) -> Result<Option<String>, ImageError> {
        if self.snapshot(chain_id)?.is_none() {
            return Ok(Some("it is missing".to_owned()));
        }
        if depth == Depth::Presence {
            return Ok(None);
        }
        let unreadable = |error: io::Error| Ok(Some(error.to_string()));
        let root = match beneath::open_root(&self.content.snapshot_path(chain_id)) {
            Ok(root) => root,
            Err(error) => return unreadable(error),
        };
        let (reader, mut writer) = match io::pipe() {
            Ok(pipe) => pipe,
            Err(error) => return unreadable(error),
        };
        // The archive is put together on one thread and read on another.
        let (written, compared) = std::thread::scope(|scope| {
            let comparing = scope.spawn(|| compare::first_difference(reader, root.as_fd()));
            let written = self.write_layer(id, chain_id, diff_id, &mut writer);
            drop(writer);
            let compared = comparing.join();
            (written, compared)
        });
        match written {
            Ok(_) => {}
            Err(ImageError::Recipe { source, .. }) => {
                return Ok(Some(crate::engine::chain(&source)));
            }
            Err(ImageError::DamagedLayer { .. }) => {
                return Ok(Some("its content does not match its digest".to_owned()));
            }
            Err(error) => return Err(error),
        }
        match compared {
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(path))) => Ok(Some(format!("{path:?} is not what it was"))),
            Ok(Err(error)) => Ok(Some(crate::engine::chain(&error))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Forgets what is damaged, then asks a local source for it.
    fn heal(&self, id: &Digest, damage: &[Damage], users: &[ImageUser]) -> Result<(), ImageError> {
        self.forget(damage, users)?;
        let references = self.store.list::<ReferenceRecord>(Table::References)?;
        let of_image = references
            .into_iter()
            .filter(|(_, record)| record.image == *id);
        let mut failure = ImageError::NoSource {
            image: id.short().to_owned(),
        };
        for (_, record) in of_image {
            let Ok(reference) = Reference::parse(&record.name) else {
                continue;
            };
            let found = match source::find(&reference, None, &self.content) {
                Ok(Some(found)) if found.id == *id => found,
                Ok(_) => continue,
                Err(error) => {
                    failure = error.into();
                    continue;
                }
            };
            let stamp = record.stamp;
            self.install(found, &reference, stamp, Batch::default(), &|_| ())?;
            return Ok(());
        }
        Err(failure)
    }

    /// Takes damaged layers and their records away. Refused for layers of which a container is made:
    /// it would lose its files in the middle.
    fn forget(&self, damage: &[Damage], users: &[ImageUser]) -> Result<(), ImageError> {
        let steady = lock(&self.leases);
        let mut batch = Batch::default();
        let damaged: Vec<&Digest> = damage
            .iter()
            .filter_map(|one| match one {
                Damage::Layer { chain_id, .. } => Some(chain_id),
                _ => None,
            })
            .collect();
        for (image, record) in self.store.list::<ImageRecord>(Table::Images)? {
            let has_damaged = record
                .chain_ids
                .iter()
                .any(|chain| damaged.contains(&chain));
            if !has_damaged {
                continue;
            }
            if let Some(user) = users.iter().find(|user| user.image_id == image) {
                return Err(ImageError::InUse {
                    image: image.chars().skip("sha256:".len()).take(12).collect(),
                    container: user.container.clone(),
                    is_running: user.is_running,
                    is_named: false,
                });
            }
        }
        // Out of their places first: a record without its directory is a missing layer to everybody,
        // so that whatever interrupts this, the next pull gets it again.
        let mut set_aside = Vec::new();
        for chain_id in damaged {
            set_aside.extend(self.content.set_aside(chain_id.hex())?);
            batch.remove(Table::Snapshots, &chain_id.to_string());
        }
        self.store.commit(batch)?;
        drop(steady);
        for aside in set_aside {
            self.content.delete(aside)?;
        }
        Ok(())
    }
}
