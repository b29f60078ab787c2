//! Removal of names, images, and of content that nothing needs any more.

use std::collections::HashSet;

use super::images::{ImageRecord, Inner, ReferenceRecord, Removed, SnapshotRecord, lock};
use super::{ImageError, Reference};
use crate::engine::store::{Batch, Table};

impl Inner {
    pub(super) fn remove(&self, name: &str, users: &[String]) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        {
            // Held until the records are gone, so that no lease is taken on what is going away.
            let leases = lock(&self.leases);
            let id = self.resolve(name)?;
            let names: Vec<(String, ReferenceRecord)> = self
                .store
                .list(Table::References)?
                .into_iter()
                .filter(|(_, record): &(String, ReferenceRecord)| record.image == id)
                .collect();
            let key = Reference::parse(name).map(|reference| reference.canonical());
            let by_name = names.iter().find(|(known, _)| Ok(known) == key.as_ref());
            let untagged: Vec<&(String, ReferenceRecord)> = match by_name {
                Some(one) => vec![one],
                None if names.len() > 1 => {
                    return Err(ImageError::SeveralNames {
                        image: id.short().to_owned(),
                        names: names.into_iter().map(|(_, record)| record.name).collect(),
                    });
                }
                None => names.iter().collect(),
            };
            let is_last = untagged.len() == names.len();
            if is_last && !users.is_empty() {
                return Err(ImageError::InUse {
                    image: name.to_owned(),
                    users: users.to_vec(),
                });
            }
            let mut batch = Batch::default();
            for (key, record) in untagged {
                batch.remove(Table::References, key);
                removed.untagged.push(record.name.clone());
            }
            if is_last && !leases.contains_key(&id) {
                batch.remove(Table::Images, &id.to_string());
                removed.deleted = Some(id.to_string());
            }
            self.store.commit(batch)?;
        }
        if removed.deleted.is_some() {
            self.collect_garbage()?;
        }
        Ok(removed)
    }

    /// Deletes layers and documents that no image has and no call has leased.
    pub(super) fn collect_garbage(&self) -> Result<(), ImageError> {
        let leases = lock(&self.leases);
        let mut needed: HashSet<String> = leases
            .keys()
            .map(|digest| digest.hex().to_owned())
            .collect();
        for (id, record) in self.store.list::<ImageRecord>(Table::Images)? {
            needed.extend(id.strip_prefix("sha256:").map(str::to_owned));
            needed.extend(record.manifest.iter().map(|digest| digest.hex().to_owned()));
            needed.extend(
                record
                    .chain_ids
                    .iter()
                    .map(|digest| digest.hex().to_owned()),
            );
        }
        // Records first: one without its directory is noticed and healed, a directory without
        // its record is removed at the next start.
        let mut batch = Batch::default();
        for (chain_id, _) in self.store.list::<SnapshotRecord>(Table::Snapshots)? {
            let hex = chain_id.trim_start_matches("sha256:");
            if !needed.contains(hex) {
                batch.remove(Table::Snapshots, &chain_id);
            }
        }
        self.store.commit(batch)?;
        for hex in self.content.snapshot_names()? {
            if !needed.contains(&hex) {
                self.content.remove_snapshot(&hex)?;
            }
        }
        for hex in self.content.blob_names()? {
            if !needed.contains(&hex) {
                self.content.remove_blob(&hex)?;
            }
        }
        Ok(())
    }
}
