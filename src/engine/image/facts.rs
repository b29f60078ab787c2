//! What there is to know of images without using them: for listing, inspection and history.
//!
//! Reads records and the image config as it stands, so an image whose layers are damaged is listed
//! like any other and can be removed.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use super::images::{ImageRecord, Images, Inner, ReferenceRecord};
use super::{Digest, ImageError};
use crate::engine::store::Table;

/// One image as tables show it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// `sha256:…`.
    pub id: String,
    /// Names with a tag, and local sources, as Docker shows them.
    pub tags: Vec<String>,
    /// Names with a digest.
    pub digests: Vec<String>,
    /// When it was built, nanoseconds since the epoch; `None` if its config does not say.
    pub created_at: Option<u64>,
    /// When it was made present, nanoseconds since the epoch.
    pub added_at: u64,
    pub labels: BTreeMap<String, String>,
    /// Bottom to top.
    pub chain_ids: Vec<Digest>,
    pub manifest: Option<Digest>,
    /// The config as it came, `Null` if it cannot be read.
    pub config: Value,
    /// A directory of the host.
    pub is_rootfs: bool,
}

impl Facts {
    /// Without any name.
    pub fn is_dangling(&self) -> bool {
        self.tags.is_empty() && self.digests.is_empty()
    }

    /// The steps by which it was made, oldest first, with the chain id of the layer that each made.
    pub fn history(&self) -> Vec<(Step, Option<Digest>)> {
        let steps: Vec<Step> = self
            .config
            .get("history")
            .and_then(|history| Vec::deserialize(history).ok())
            .unwrap_or_default();
        let mut layers = self.chain_ids.iter().cloned();
        let mut history: Vec<_> = steps
            .into_iter()
            .map(|step| {
                let layer = if step.empty_layer {
                    None
                } else {
                    layers.next()
                };
                (step, layer)
            })
            .collect();
        // A config may say less than it has.
        history.extend(layers.map(|layer| (Step::default(), Some(layer))));
        history
    }
}

/// An entry of the config's history (image spec, "history").
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Step {
    pub created: Option<String>,
    pub created_by: Option<String>,
    pub comment: Option<String>,
    pub empty_layer: bool,
}

impl Step {
    /// Nanoseconds since the epoch.
    pub fn created_at(&self) -> Option<u64> {
        moment(self.created.as_deref()?)
    }
}

/// A time as RFC 3339 writes it, in nanoseconds since the epoch; `None` before it, as for Go's
/// zero time.
fn moment(text: &str) -> Option<u64> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_nanosecond()).ok()
}

impl Images {
    /// All images, those made present last first.
    pub fn facts(&self) -> Result<Vec<Facts>, ImageError> {
        let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
        for (_, record) in self
            .inner
            .store
            .list::<ReferenceRecord>(Table::References)?
        {
            let of_image = names.entry(record.image.clone()).or_default();
            of_image.extend(names_of(record));
        }
        let mut all = Vec::new();
        for (id, record) in self.inner.store.list::<ImageRecord>(Table::Images)? {
            let Ok(id) = Digest::parse(&id) else { continue };
            if !record.is_deleted {
                let names = names.remove(&id).unwrap_or_default();
                all.push(self.inner.facts(&id, record, names));
            }
        }
        all.sort_by_key(|facts| std::cmp::Reverse((facts.added_at, facts.id.clone())));
        Ok(all)
    }

    /// How many images there are.
    pub fn count(&self) -> Result<usize, ImageError> {
        let records = self.inner.store.list::<ImageRecord>(Table::Images)?;
        Ok(records
            .iter()
            .filter(|(_, record)| !record.is_deleted)
            .count())
    }

    /// One image by reference, or by id or the unique beginning of one.
    pub fn facts_of(&self, name: &str) -> Result<Facts, ImageError> {
        let id = self.inner.resolve(name)?;
        let record: Option<ImageRecord> = self.inner.store.get(Table::Images, &id.to_string())?;
        let record = record.ok_or_else(|| ImageError::NotFound {
            name: name.to_owned(),
        })?;
        let names = self
            .inner
            .store
            .list::<ReferenceRecord>(Table::References)?
            .into_iter()
            .filter(|(_, reference)| reference.image == id)
            .flat_map(|(_, reference)| names_of(reference))
            .collect();
        Ok(self.inner.facts(&id, record, names))
    }

    /// Bytes of file data in a layer; 0 if it is missing.
    pub fn layer_size(&self, chain_id: &Digest) -> Result<u64, ImageError> {
        Ok(self
            .inner
            .snapshot(chain_id)?
            .map_or(0, |record| record.n_bytes))
    }

    /// Where a layer is unpacked.
    pub fn layer_path(&self, chain_id: &Digest) -> std::path::PathBuf {
        self.inner.content.snapshot_path(chain_id)
    }
}

/// The name, and the one with the digest that a registry has under it.
fn names_of(record: ReferenceRecord) -> Vec<String> {
    let repository = match record.name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') && !repository.contains('@') => repository,
        _ => record.name.as_str(),
    };
    let digest = record.digest.filter(|_| !record.name.contains('@'));
    let pinned = digest.map(|digest| format!("{repository}@{digest}"));
    pinned.into_iter().chain([record.name]).collect()
}

impl Inner {
    fn facts(&self, id: &Digest, record: ImageRecord, mut names: Vec<String>) -> Facts {
        names.sort();
        names.dedup();
        let (digests, tags) = names.into_iter().partition(|name| name.contains('@'));
        let config: Value = match &record.rootfs {
            Some(_) => serde_json::to_value(super::images::rootfs_config()).unwrap_or_default(),
            None => match self.content.blob(id) {
                Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(image = %id, %error, "image is damaged");
                    Value::Null
                }
            },
        };
        let labels = config
            .pointer("/config/Labels")
            .and_then(|labels| BTreeMap::deserialize(labels).ok())
            .unwrap_or_default();
        Facts {
            id: id.to_string(),
            tags,
            digests,
            created_at: config
                .get("created")
                .and_then(Value::as_str)
                .and_then(moment),
            added_at: record.added_at,
            labels,
            chain_ids: record.chain_ids,
            manifest: record.manifest,
            config,
            is_rootfs: record.rootfs.is_some(),
        }
    }
}
