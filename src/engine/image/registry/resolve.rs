//! From a name to an image: the manifest for a platform, and the config.

use oci_spec::image::Descriptor;
use serde::Deserialize;

use super::RegistryError;
use super::repository::{
    DOCKER_LIST, DOCKER_MANIFEST, Manifest, OCI_INDEX, OCI_MANIFEST, Repository,
};
use crate::engine::image::config::{self, CheckedConfig};
use crate::engine::image::platform::Platform;
use crate::engine::image::source::{MAX_NESTING, SourceError, choose, is_attestation};
use crate::engine::image::{Digest, ImageError};

/// What stands in place of a config in artifacts that are no images.
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// An image of a registry, its layers not read yet.
pub struct Resolved {
    /// What the tag stands for: an index, or the manifest itself.
    pub digest: Digest,
    pub manifest: (Digest, Vec<u8>),
    pub id: Digest,
    pub config_bytes: Vec<u8>,
    pub checked: CheckedConfig,
    /// Bottom to top.
    pub layers: Vec<Descriptor>,
}

/// What a registry has under a name, whatever it is.
pub struct Described {
    pub media_type: String,
    pub digest: Digest,
    pub n_bytes: u64,
    /// Of an index those of its entries, as they stand there.
    pub platforms: Vec<DescribedPlatform>,
}

/// Of an entry of an index, or of an image config. `oci_spec` calls the version and the features
/// otherwise than the specification.
#[derive(Deserialize)]
pub struct DescribedPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(default, rename = "os.version")]
    pub os_version: Option<String>,
    #[serde(default, rename = "os.features")]
    pub os_features: Vec<String>,
    #[serde(default)]
    pub variant: Option<String>,
}

#[derive(Deserialize)]
struct Entries {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    platform: Option<DescribedPlatform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// Goes from what the tag names down to the manifest for the platform, and fetches its config.
pub async fn resolve(
    repository: &Repository,
    top: Manifest,
    wanted: Option<&Platform>,
) -> Result<Resolved, ImageError> {
    let digest = top.digest.clone();
    let mut current = top;
    for _ in 0..MAX_NESTING {
        let document = parse(repository, &current)?;
        if let Some(manifests) = document.manifests {
            let candidates: Vec<Descriptor> = manifests
                .into_iter()
                .filter(|descriptor| !is_attestation(descriptor))
                .collect();
            let what = || SourceError::Missing {
                path: repository.host().into(),
                name: format!("image {}", repository.name),
            };
            let chosen = choose(&candidates, wanted, what)?;
            let chosen = Digest::parse(chosen.digest().as_ref()).map_err(SourceError::from)?;
            current = repository.manifest(&chosen.to_string(), true).await?;
            continue;
        }
        let not_an_image = |why: &str| not_an_image(repository, &current, why);
        let (Some(config), Some(layers)) = (document.config, document.layers) else {
            return Err(not_an_image("its manifest has no config or no layers").into());
        };
        let config_type = config.media_type().to_string();
        if config_type == EMPTY_CONFIG || document.artifact_type.is_some() {
            return Err(not_an_image("it is another kind of artifact").into());
        }
        for layer in &layers {
            check_layer_type(layer.media_type().as_ref()).map_err(|why| not_an_image(&why))?;
        }
        let id = Digest::parse(config.digest().as_ref()).map_err(SourceError::from)?;
        let what = format!("config {}", id.short());
        let config_bytes = repository.document(&id, config.size(), &what).await?;
        let checked = config::check(&config_bytes).map_err(SourceError::from)?;
        return Ok(Resolved {
            digest,
            manifest: (current.digest, current.bytes),
            id,
            config_bytes,
            checked,
            layers,
        });
    }
    Err(SourceError::Nesting.into())
}

/// Tells of a document what it is and for which platforms; an artifact is for none.
pub async fn describe(repository: &Repository, top: Manifest) -> Result<Described, ImageError> {
    let document = parse(repository, &top)?;
    let platforms = match (document.manifests, document.config) {
        (Some(_), _) => {
            let entries = serde_json::from_slice(&top.bytes);
            let entries: Entries = entries.map_err(|source| SourceError::Json {
                name: top.digest.to_string(),
                source,
            })?;
            let platforms = entries.manifests.into_iter();
            platforms.filter_map(|entry| entry.platform).collect()
        }
        (None, Some(config)) => {
            let id = Digest::parse(config.digest().as_ref()).map_err(SourceError::from)?;
            let what = format!("config {}", id.short());
            let config = repository.document(&id, config.size(), &what).await?;
            // The config of an artifact is anything.
            Vec::from_iter(serde_json::from_slice(&config).ok())
        }
        (None, None) => Vec::new(),
    };
    Ok(Described {
        media_type: top.media_type,
        digest: top.digest,
        n_bytes: top.bytes.len() as u64,
        platforms,
    })
}

fn not_an_image(repository: &Repository, manifest: &Manifest, why: &str) -> RegistryError {
    RegistryError::NotAnImage {
        host: repository.host().to_owned(),
        what: format!("{}@{}", repository.name, manifest.digest),
        why: why.to_owned(),
    }
}

/// Reads a manifest or index, refusing what two programs could read differently (CVE-2021-41190).
fn parse(repository: &Repository, manifest: &Manifest) -> Result<Document, ImageError> {
    let refuse = |why: &str| Err(not_an_image(repository, manifest, why).into());
    if manifest.media_type.starts_with(DOCKER_SCHEMA_1) {
        return refuse("it is in Docker's schema 1 of 2014, which registries have given up");
    }
    let document: Document =
        serde_json::from_slice(&manifest.bytes).map_err(|source| SourceError::Json {
            name: manifest.digest.to_string(),
            source,
        })?;
    if document.schema_version == Some(1) {
        return refuse("it is in Docker's schema 1 of 2014, which registries have given up");
    }
    if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
        return Err(SourceError::Ambiguous {
            name: manifest.digest.to_string(),
        }
        .into());
    }
    let known = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
    if let Some(claimed) = &document.media_type
        && known.contains(&manifest.media_type.as_str())
        && *claimed != manifest.media_type
    {
        return refuse("it calls itself something else than the registry does");
    }
    Ok(document)
}

/// A type that is not known is an error before anything is downloaded. How a layer is compressed is
/// told by its bytes.
fn check_layer_type(media_type: &str) -> Result<(), String> {
    let base = media_type.split(['+', ';']).next().unwrap_or_default();
    let is_known = matches!(
        base,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
    ) && !media_type.ends_with("+encrypted");
    match is_known {
        true => Ok(()),
        false => Err(format!(
            "a layer has the type {:?}",
            media_type.chars().take(100).collect::<String>()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_images_are_told_from_other_blobs() {
        for good in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert_eq!(check_layer_type(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "text/plain",
        ] {
            assert!(check_layer_type(bad).is_err(), "{bad}");
        }
    }
}
