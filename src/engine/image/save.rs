//! Images as an archive that Docker, podman and skopeo read: an OCI layout with Docker's own index
//! beside it.
//!
//! The same images always make the same bytes: members have no times and a fixed order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::AsFd;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::images::{ImageRecord, Images, Inner, ReferenceRecord};
use super::recipe::{Recipe, RecipeError};
use super::{Digest, ImageError, Reference};
use crate::engine::store::Table;
use crate::sys::beneath;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const BLOCK: usize = 512;

/// What will be in an archive. Everything was there when this was made, and stays while it lives.
pub struct Saving {
    images: Images,
    leased: Vec<Digest>,
    chosen: Vec<Chosen>,
}

struct Chosen {
    id: Digest,
    config: Vec<u8>,
    /// Names with a tag.
    names: Vec<Reference>,
    layers: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    chain_id: Digest,
    diff_id: Digest,
    /// Of the archive.
    n_bytes: u64,
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.images.inner.release(&self.leased);
    }
}

impl Images {
    /// Looks the images up. A name without a tag stands for all tags of its repository.
    pub fn saving(&self, names: &[String]) -> Result<Saving, ImageError> {
        let mut wanted: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for name in names {
            let tags = self.inner.tags_of_repository(name)?;
            if !tags.is_empty() {
                for (id, reference) in tags {
                    wanted.entry(id).or_default().push(reference);
                }
                continue;
            }
            let id = self.inner.resolve(name)?;
            let of_image = wanted.entry(id.clone()).or_default();
            // By an id the image is saved without its names.
            if let Ok(reference @ Reference::Registry { tag: Some(_), .. }) = Reference::parse(name)
                && self.inner.is_named(&reference, &id)?
            {
                of_image.push(reference);
            }
        }
        let leased: Vec<Digest> = wanted.keys().cloned().collect();
        let mut saving = Saving {
            images: self.clone(),
            leased: Vec::new(),
            chosen: Vec::new(),
        };
        for id in leased {
            // Its layers as well: the image may be removed while it is being sent.
            let record: ImageRecord = self
                .inner
                .store
                .get(Table::Images, &id.to_string())?
                .ok_or_else(|| ImageError::NotFound {
                    name: id.to_string(),
                })?;
            if record.rootfs.is_some() {
                return Err(ImageError::NotSaveable {
                    image: names.join(", "),
                });
            }
            let mut digests = record.chain_ids.clone();
            digests.push(id.clone());
            self.inner.hold(&digests);
            saving.leased.extend(digests);
            let config = self.inner.content.blob(&id)?;
            let checked = super::config::check(&config).map_err(|source| ImageError::Config {
                image: id.short().to_owned(),
                source,
            })?;
            let mut layers = Vec::new();
            for (chain_id, diff_id) in record.chain_ids.iter().zip(checked.diff_ids) {
                let recipe = self.inner.recipe(&id, chain_id)?;
                layers.push(Layer {
                    chain_id: chain_id.clone(),
                    diff_id,
                    n_bytes: recipe.n_bytes(),
                });
            }
            let mut names = wanted.remove(&id).unwrap_or_default();
            names.sort_by_key(Reference::canonical);
            names.dedup();
            saving.chosen.push(Chosen {
                id,
                config,
                names,
                layers,
            });
        }
        Ok(saving)
    }
}

impl Inner {
    /// The images under the tags of a repository that is named without a tag.
    fn tags_of_repository(&self, name: &str) -> Result<Vec<(Digest, Reference)>, ImageError> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let Ok(Reference::Registry {
            registry,
            repository,
            ..
        }) = Reference::parse(name)
        else {
            return Ok(Vec::new());
        };
        if last.contains([':', '@']) {
            return Ok(Vec::new());
        }
        let mut tags = Vec::new();
        for (_, record) in self.store.list::<ReferenceRecord>(Table::References)? {
            if let Ok(reference) = Reference::parse(&record.name)
                && matches!(
                    &reference,
                    Reference::Registry { registry: r, repository: p, tag: Some(_), .. }
                        if *r == registry && *p == repository
                )
            {
                tags.push((record.image, reference));
            }
        }
        Ok(tags)
    }

    fn is_named(&self, reference: &Reference, id: &Digest) -> Result<bool, ImageError> {
        let record: Option<ReferenceRecord> =
            self.store.get(Table::References, &reference.canonical())?;
        Ok(record.is_some_and(|record| record.image == *id))
    }

    /// How the archive of a layer is put together.
    pub(super) fn recipe(&self, id: &Digest, chain_id: &Digest) -> Result<Recipe, ImageError> {
        if !self.content.has_snapshot(chain_id) {
            return Err(ImageError::MissingLayer {
                image: id.short().to_owned(),
                layer: chain_id.short().to_owned(),
            });
        }
        Recipe::open(&self.content.recipe_path(chain_id)).map_err(|source| ImageError::Recipe {
            image: id.short().to_owned(),
            layer: chain_id.short().to_owned(),
            source,
        })
    }

    /// Writes the archive of a layer and checks it on the way: nothing else that is wrong with the
    /// content of its files gets past this.
    pub(super) fn write_layer(
        &self,
        id: &Digest,
        chain_id: &Digest,
        diff_id: &Digest,
        out: &mut dyn Write,
    ) -> Result<u64, ImageError> {
        let broken = |source| ImageError::Recipe {
            image: id.short().to_owned(),
            layer: chain_id.short().to_owned(),
            source,
        };
        let recipe = self.recipe(id, chain_id)?;
        let root = beneath::open_root(&self.content.snapshot_path(chain_id))
            .map_err(|error| broken(RecipeError::Read(error)))?;
        let scratch = || {
            let file = self.content.scratch_file();
            file.map_err(|error| io::Error::other(error.to_string()))
        };
        let mut hashing = HashingWriter {
            out,
            hasher: Sha256::new(),
            n_bytes: 0,
        };
        recipe
            .assemble(root.as_fd(), scratch, &mut hashing)
            .map_err(broken)?;
        let found = format!("sha256:{}", hex::encode(hashing.hasher.finalize()));
        if found != diff_id.to_string() {
            return Err(ImageError::DamagedLayer {
                image: id.short().to_owned(),
                layer: chain_id.short().to_owned(),
            });
        }
        Ok(hashing.n_bytes)
    }
}

struct HashingWriter<'a> {
    out: &'a mut dyn Write,
    hasher: Sha256,
    n_bytes: u64,
}

impl Write for HashingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Saving {
    /// Writes the archive. A layer that turns out to be damaged ends it in the middle.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ImageError> {
        let sent = |source| ImageError::Send { source };
        let mut members: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut index = Vec::new();
        let mut docker = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for image in &self.chosen {
            let layer = |layer: &Layer| {
                json!({
                    "mediaType": LAYER,
                    "digest": layer.diff_id.to_string(),
                    "size": layer.n_bytes,
                })
            };
            let layers: Vec<Value> = image.layers.iter().map(layer).collect();
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": CONFIG,
                    "digest": image.id.to_string(),
                    "size": image.config.len(),
                },
                "layers": layers,
            });
            let manifest = manifest.to_string().into_bytes();
            let digest = Digest::of(&manifest);
            let descriptor = |name: Option<&Reference>| {
                let mut descriptor = json!({
                    "mediaType": MANIFEST,
                    "digest": digest.to_string(),
                    "size": manifest.len(),
                });
                if let Some(name @ Reference::Registry { tag: Some(tag), .. }) = name {
                    descriptor["annotations"] = json!({
                        "io.containerd.image.name": name.canonical(),
                        "org.opencontainers.image.ref.name": tag,
                    });
                }
                descriptor
            };
            if image.names.is_empty() {
                index.push(descriptor(None));
            }
            index.extend(image.names.iter().map(|name| descriptor(Some(name))));
            let names: Vec<String> = image.names.iter().map(Reference::to_string).collect();
            for (name, reference) in names.iter().zip(&image.names) {
                if let (
                    Some((repository, _)),
                    Reference::Registry { tag: Some(tag), .. },
                    Some(top),
                ) = (name.rsplit_once(':'), reference, image.layers.last())
                {
                    repositories
                        .entry(repository.to_owned())
                        .or_default()
                        .insert(tag.clone(), top.chain_id.hex().to_owned());
                }
            }
            let sources: serde_json::Map<String, Value> = image
                .layers
                .iter()
                .map(|one| (one.diff_id.to_string(), layer(one)))
                .collect();
            docker.push(json!({
                "Config": blob_name(&image.id),
                "RepoTags": if names.is_empty() { Value::Null } else { json!(names) },
                "Layers": image.layers.iter().map(|l| blob_name(&l.diff_id)).collect::<Vec<_>>(),
                "LayerSources": sources,
            }));
            members.insert(blob_name(&image.id), image.config.clone());
            members.insert(blob_name(&digest), manifest);
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": index});
        members.insert("index.json".to_owned(), index.to_string().into_bytes());
        members.insert(
            "manifest.json".to_owned(),
            Value::from(docker).to_string().into_bytes(),
        );
        members.insert(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        if !repositories.is_empty() {
            members.insert(
                "repositories".to_owned(),
                json!(repositories).to_string().into_bytes(),
            );
        }
        for name in ["blobs/", "blobs/sha256/"] {
            out.write_all(header(name, tar::EntryType::Directory, 0o755, 0).as_bytes())
                .map_err(sent)?;
        }
        let mut written = BTreeSet::new();
        for image in &self.chosen {
            for layer in &image.layers {
                if written.insert(layer.diff_id.clone()) {
                    self.layer(image, layer, out)?;
                }
            }
        }
        for (name, bytes) in &members {
            let header = header(name, tar::EntryType::Regular, 0o644, bytes.len() as u64);
            out.write_all(header.as_bytes()).map_err(sent)?;
            out.write_all(bytes).map_err(sent)?;
            pad(bytes.len() as u64, out).map_err(sent)?;
        }
        out.write_all(&[0; 2 * BLOCK]).map_err(sent)?;
        out.flush().map_err(sent)
    }

    fn layer(&self, image: &Chosen, layer: &Layer, out: &mut dyn Write) -> Result<(), ImageError> {
        let sent = |source| ImageError::Send { source };
        let name = blob_name(&layer.diff_id);
        let header = header(&name, tar::EntryType::Regular, 0o644, layer.n_bytes);
        out.write_all(header.as_bytes()).map_err(sent)?;
        let inner = &self.images.inner;
        let n_bytes = inner.write_layer(&image.id, &layer.chain_id, &layer.diff_id, out)?;
        if n_bytes != layer.n_bytes {
            return Err(ImageError::DamagedLayer {
                image: image.id.short().to_owned(),
                layer: layer.chain_id.short().to_owned(),
            });
        }
        pad(n_bytes, out).map_err(sent)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn header(name: &str, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header
        .set_path(name)
        .expect("names of members are short and relative");
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

fn pad(n_bytes: u64, out: &mut dyn Write) -> io::Result<()> {
    let rest = (n_bytes % BLOCK as u64) as usize;
    match rest {
        0 => Ok(()),
        rest => out.write_all(&[0; BLOCK][rest..]),
    }
}
