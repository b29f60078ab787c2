//! Small artifacts that are no images: a manifest and its blobs, read into memory.
//!
//! A Compose project is published as one. What its blobs mean is for whoever asked.

use std::collections::BTreeMap;

use oci_spec::image::Descriptor;
use serde::Deserialize;

use super::RegistryError;
use super::repository::{Manifest, Repository};
use crate::engine::image::source::{MAX_NESTING, SourceError};
use crate::engine::image::{Digest, ImageError};

/// More than any project has files; each costs a request.
const MAX_BLOBS: usize = 200;

/// Of all blobs of an artifact together.
const MAX_BYTES: u64 = 16 << 20;

/// A whole artifact.
#[derive(Debug)]
pub struct Artifact {
    /// What the tag stands for: an index, or the manifest itself.
    pub digest: Digest,
    /// `artifactType`, or the type of the config where the manifest is older than that key.
    pub kind: String,
    /// In the manifest's order.
    pub blobs: Vec<ArtifactBlob>,
}

#[derive(Debug)]
pub struct ArtifactBlob {
    pub media_type: String,
    pub annotations: BTreeMap<String, String>,
    pub bytes: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// Fetches everything that belongs to an artifact of one of the kinds. Of an index the entry of such
/// a kind is taken.
pub async fn fetch(
    repository: &Repository,
    tag_or_digest: &str,
    kinds: &[String],
) -> Result<Artifact, ImageError> {
    let mut current = repository.manifest(tag_or_digest, false).await?;
    let digest = current.digest.clone();
    for _ in 0..MAX_NESTING {
        let document: Document =
            serde_json::from_slice(&current.bytes).map_err(|source| SourceError::Json {
                name: current.digest.to_string(),
                source,
            })?;
        let refuse = |found: &str| {
            let kind = kinds.first().map_or("another kind", |kind| kind);
            RegistryError::OtherKind {
                host: repository.host().to_owned(),
                what: format!("{}@{}", repository.name, current.digest),
                found: found.to_owned(),
                wanted: kind.to_owned(),
            }
        };
        if let Some(manifests) = &document.manifests {
            if document.layers.is_some() || document.config.is_some() {
                let name = current.digest.to_string();
                return Err(SourceError::Ambiguous { name }.into());
            }
            let is_wanted = |entry: &&Descriptor| {
                let kind = entry.artifact_type().as_ref().map(ToString::to_string);
                kind.is_some_and(|kind| kinds.contains(&kind))
            };
            let entry = manifests.iter().find(is_wanted);
            let entry = entry.ok_or_else(|| refuse("an index without such an entry"))?;
            let entry = Digest::parse(entry.digest().as_ref()).map_err(SourceError::from)?;
            current = repository.manifest(&entry.to_string(), true).await?;
            continue;
        }
        let config_type = document
            .config
            .map(|config| config.media_type().to_string());
        let kind = document.artifact_type.or(config_type).unwrap_or_default();
        if !kinds.contains(&kind) {
            return Err(refuse(&kind.chars().take(100).collect::<String>()).into());
        }
        let layers = document.layers.unwrap_or_default();
        let blobs = blobs(repository, &current, &layers).await?;
        return Ok(Artifact {
            digest,
            kind,
            blobs,
        });
    }
    Err(SourceError::Nesting.into())
}

async fn blobs(
    repository: &Repository,
    manifest: &Manifest,
    layers: &[Descriptor],
) -> Result<Vec<ArtifactBlob>, ImageError> {
    // Asked before anything is fetched. What a blob really has is compared with its digest.
    let n_bytes = layers
        .iter()
        .fold(0u64, |sum, l| sum.saturating_add(l.size()));
    if layers.len() > MAX_BLOBS || n_bytes > MAX_BYTES {
        return Err(RegistryError::TooLarge {
            host: repository.host().to_owned(),
            what: format!("artifact {}@{}", repository.name, manifest.digest),
            limit: MAX_BYTES,
        }
        .into());
    }
    let mut blobs = Vec::with_capacity(layers.len());
    for layer in layers {
        let digest = Digest::parse(layer.digest().as_ref()).map_err(SourceError::from)?;
        let what = format!("file {}", digest.short());
        blobs.push(ArtifactBlob {
            media_type: layer.media_type().to_string(),
            annotations: layer.annotations().iter().flatten().map(owned).collect(),
            bytes: repository.document(&digest, layer.size(), &what).await?,
        });
    }
    Ok(blobs)
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}
