//! Removal of names, images, and of content that nothing needs any more. The rules are Docker's.
//!
//! A mark-and-sweep: roots are the records of images and the leases of running calls. Leases are
//! taken before a call looks whether something exists, and the sweep holds their lock from the look
//! at the roots until everything is out of its place, so it never takes what a call has seen. They
//! live in memory: with an engine that dies die its leases, and what they protected is swept at the
//! next start.

use std::collections::HashSet;

use super::content::Aside;
use super::images::{ImageRecord, Images, Inner, ReferenceRecord, SnapshotRecord, lock};
use super::usage::allocated;
use super::{Digest, ImageError, Reference};
use crate::engine::store::{Batch, Table};

/// A container that was made from an image.
#[derive(Debug, Clone)]
pub struct ImageUser {
    pub image_id: String,
    /// As messages call it.
    pub container: String,
    pub is_running: bool,
}

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that were taken away, as Docker shows them.
    pub untagged: Vec<String>,
    /// Ids of images and chain ids of layers.
    pub deleted: Vec<String>,
    /// Bytes of disk.
    pub reclaimed: u64,
}

impl Removed {
    fn absorb(&mut self, other: Removed) {
        self.untagged.extend(other.untagged);
        self.deleted.extend(other.deleted);
        self.reclaimed += other.reclaimed;
    }
}

impl Images {
    /// Takes a name away, or an image with all its names when it is given by id. With its last name
    /// an image goes, and with it the layers that no other image needs.
    ///
    /// An image that containers were made from stays, unless `force` and none of them runs; then it
    /// is hidden, and its layers stay for as long as the containers. `users` are all containers.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        users: &[ImageUser],
    ) -> Result<Removed, ImageError> {
        let mut removed = self.inner.untag_and_unlist(name, force, users)?;
        if !removed.deleted.is_empty() {
            removed.absorb(self.inner.sweep(Some(users))?);
        }
        Ok(removed)
    }

    /// Removes every image that the predicate names and no container was made from. Goes on after
    /// an image that cannot be removed.
    pub fn prune(
        &self,
        users: &[ImageUser],
        is_unwanted: impl Fn(&super::Facts) -> bool,
    ) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        for facts in self.facts()? {
            let is_used = users.iter().any(|user| user.image_id == facts.id);
            if is_used || !is_unwanted(&facts) {
                continue;
            }
            match self.inner.untag_and_unlist(&facts.id, true, users) {
                Ok(one) => removed.absorb(one),
                // Somebody else was faster.
                Err(ImageError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        removed.absorb(self.inner.sweep(Some(users))?);
        Ok(removed)
    }
}

impl Inner {
    fn untag_and_unlist(
        &self,
        name: &str,
        force: bool,
        users: &[ImageUser],
    ) -> Result<Removed, ImageError> {
        // Held until the records are gone, so that no lease is taken on what is going away.
        let leases = lock(&self.leases);
        let id = self.resolve(name)?;
        let names: Vec<(String, ReferenceRecord)> = self
            .store
            .list::<ReferenceRecord>(Table::References)?
            .into_iter()
            .filter(|(_, record)| record.image == id)
            .collect();
        let key = Reference::parse(name).map(|reference| reference.canonical());
        let by_name = names.iter().find(|(known, _)| Ok(known) == key.as_ref());
        let users = |is_running: bool| {
            let id = id.to_string();
            let mut of_image = users.iter().filter(move |user| user.image_id == id);
            of_image.find(|user| user.is_running == is_running)
        };
        let in_use = |can_force: bool, container: &str| {
            Err(ImageError::InUse {
                image: match by_name {
                    Some(_) => name.to_owned(),
                    None => id.short().to_owned(),
                },
                container: container.to_owned(),
                is_running: !can_force,
                is_named: by_name.is_some(),
            })
        };
        let mut removed = Removed::default();
        let mut batch = Batch::default();
        let untagged: Vec<&(String, ReferenceRecord)> = match by_name {
            Some(one) => vec![one],
            None if names.len() > 1 && !force && !is_one_repository(&names) => {
                return Err(ImageError::SeveralNames {
                    image: id.short().to_owned(),
                    names: names.into_iter().map(|(_, record)| record.name).collect(),
                });
            }
            None => names.iter().collect(),
        };
        let is_last = untagged.len() == names.len();
        let mut is_kept = !is_last || leases.contains_key(&id);
        if is_last {
            match (users(true), users(false)) {
                // By name and by force only the name goes: what runs keeps its image.
                (Some(_), _) if by_name.is_some() && force => is_kept = true,
                (Some(user), _) => return in_use(false, &user.container),
                (None, Some(user)) if !force => return in_use(true, &user.container),
                _ => {}
            }
        }
        let goes = |name: &str| untagged.iter().any(|(_, record)| record.name == name);
        let stays = names.iter().filter(|(_, record)| !goes(&record.name));
        let mut pinned: Vec<String> = untagged.iter().filter_map(|(_, r)| r.pinned()).collect();
        for (_, record) in stays {
            let kept = record.pinned();
            pinned.retain(|name| Some(name) != kept.as_ref());
        }
        for (key, record) in &untagged {
            batch.remove(Table::References, key);
            removed.untagged.push(record.name.clone());
        }
        // A digest is a name, too, which goes with the last tag of its repository.
        pinned.retain(|name| !removed.untagged.contains(name));
        pinned.sort();
        pinned.dedup();
        removed.untagged.extend(pinned);
        if !is_kept {
            match users(false) {
                Some(_) => {
                    let record: Option<ImageRecord> =
                        self.store.get(Table::Images, &id.to_string())?;
                    if let Some(record) = record {
                        let record = ImageRecord {
                            is_deleted: true,
                            ..record
                        };
                        batch.put(Table::Images, &id.to_string(), &record);
                    }
                }
                None => batch.remove(Table::Images, &id.to_string()),
            }
            removed.deleted.push(id.to_string());
        }
        self.store.commit(batch)?;
        Ok(removed)
    }

    /// At start: what an earlier engine left.
    pub(super) fn collect_garbage(&self) -> Result<(), ImageError> {
        self.sweep(None).map(drop)
    }

    /// Deletes layers and documents that no image has and no call has leased. With the containers
    /// known, also the images that were kept for containers which are gone.
    fn sweep(&self, users: Option<&[ImageUser]>) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        let mut set_aside: Vec<Aside> = Vec::new();
        {
            let leases = lock(&self.leases);
            let mut needed: HashSet<String> = leases
                .keys()
                .map(|digest| digest.hex().to_owned())
                .collect();
            // Records first: one without its directory is noticed and healed, a directory without
            // its record is removed at the next start.
            let mut batch = Batch::default();
            for (id, record) in self.store.list::<ImageRecord>(Table::Images)? {
                let is_over = record.is_deleted
                    && users.is_some_and(|users| users.iter().all(|user| user.image_id != id))
                    && Digest::parse(&id).is_ok_and(|id| !leases.contains_key(&id));
                if is_over {
                    batch.remove(Table::Images, &id);
                    continue;
                }
                needed.extend(id.strip_prefix("sha256:").map(str::to_owned));
                needed.extend(record.manifest.iter().map(|digest| digest.hex().to_owned()));
                let chain = record.chain_ids.iter();
                needed.extend(chain.map(|digest| digest.hex().to_owned()));
            }
            for (chain_id, _) in self.store.list::<SnapshotRecord>(Table::Snapshots)? {
                let hex = chain_id.trim_start_matches("sha256:");
                if !needed.contains(hex) {
                    batch.remove(Table::Snapshots, &chain_id);
                }
            }
            self.store.commit(batch)?;
            for hex in self.content.snapshot_names()? {
                if !needed.contains(&hex)
                    && let Some(aside) = self.content.set_aside(&hex)?
                {
                    set_aside.push(aside);
                    removed.deleted.push(format!("sha256:{hex}"));
                }
            }
            for hex in self.content.recipe_names()? {
                if !needed.contains(&hex) {
                    removed.reclaimed += self.content.remove_recipe(&hex)?;
                }
            }
            for hex in self.content.blob_names()? {
                if !needed.contains(&hex) {
                    removed.reclaimed += self.content.remove_blob(&hex)?;
                }
            }
        }
        // Nothing finds these any more; a pull need not wait for their deletion.
        for aside in set_aside {
            removed.reclaimed += self.content.open_aside(&aside).map_or(0, allocated);
            self.content.delete(aside)?;
        }
        Ok(removed)
    }
}

/// Docker removes an image by its id together with its names if those are tags of one repository
/// and there is one of them; further names are digests of the same.
fn is_one_repository(names: &[(String, ReferenceRecord)]) -> bool {
    let repository = |name: &str| match Reference::parse(name) {
        Ok(Reference::Registry {
            registry,
            repository,
            ..
        }) => Some((registry, repository)),
        _ => None,
    };
    let n_tags = names
        .iter()
        .filter(|(_, record)| !record.name.contains('@'))
        .count();
    let mut repositories = names.iter().map(|(_, record)| repository(&record.name));
    let first = repositories.next().flatten();
    n_tags <= 1 && first.is_some() && repositories.all(|other| other == first)
}
