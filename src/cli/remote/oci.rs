//! Compose projects that were published to a registry (`docker compose publish`).
//!
//! `oci://REGISTRY/NAME:TAG` is a manifest whose layers are files: Compose files, which are joined as
//! documents of one `compose.yaml` unless they are there to be extended, and env files. The media
//! types and annotations are those of Docker Compose. All files lie in one directory; a name is
//! never a path (CVE-2025-62725).

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Cache, Registries, RemoteError};
use crate::api::wire::registry::Artifact;

pub(super) const SCHEME: &str = "oci://";

/// The artifact's type, and the type of the config where registries know no artifact types.
const KINDS: [&str; 2] = [
    "application/vnd.docker.compose.project",
    "application/vnd.docker.compose.config.empty.v1+json",
];
const COMPOSE_FILE: &str = "application/vnd.docker.compose.file+yaml";
const ENV_FILE: &str = "application/vnd.docker.compose.envfile";

/// The file that stands for the artifact.
const MAIN_FILE: &str = "compose.yaml";

/// The name of an artifact's tree in the cache.
pub(super) fn key(name: &str) -> String {
    hex::encode(Sha256::digest(name.as_bytes()))
}

/// Whether what is named can never change.
pub(super) fn is_fixed(name: &str) -> bool {
    name.contains("@sha256:")
}

/// Fetches an artifact's files into a tree of the cache.
pub(super) fn fetch(
    registries: &dyn Registries,
    name: &str,
    cache: &Cache,
    tree: &Path,
) -> Result<(), RemoteError> {
    let artifact = registries
        .artifact(name, &KINDS)
        .map_err(RemoteError::Registry)?;
    let files = files(&artifact)?;
    cache.replace(tree, |new| {
        for (name, content) in &files {
            let path = new.join(name);
            std::fs::write(&path, content).map_err(|source| RemoteError::Keep { path, source })?;
        }
        Ok(())
    })
}

/// The files that an artifact consists of, by name.
fn files(artifact: &Artifact) -> Result<BTreeMap<String, Vec<u8>>, RemoteError> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for blob in &artifact.blobs {
        let annotation = |key: &str| blob.annotations.get(key);
        let is_base = annotation("com.docker.compose.extends").is_some();
        let name = match blob.media_type.as_str() {
            COMPOSE_FILE if is_base => beside_main(annotation("com.docker.compose.file"))?,
            COMPOSE_FILE => MAIN_FILE.to_owned(),
            ENV_FILE => beside_main(annotation("com.docker.compose.envfile"))?,
            // A later publisher's addition is no reason to refuse the rest.
            _ => continue,
        };
        let content = blob
            .bytes()
            .ok_or_else(|| RemoteError::Damaged(name.clone()))?;
        match files.get_mut(&name) {
            None => {
                files.insert(name, content);
            }
            Some(main) if name == MAIN_FILE => {
                main.extend_from_slice(b"\n---\n");
                main.extend_from_slice(&content);
            }
            Some(_) => return Err(RemoteError::SameName(name)),
        }
    }
    Ok(files)
}

/// The name of a file that is not the main one.
fn beside_main(name: Option<&String>) -> Result<String, RemoteError> {
    let name = name.cloned().unwrap_or_default();
    let is_plain = !matches!(name.as_str(), "" | "." | "..")
        && name.len() <= 255
        && !name.contains(['/', '\\'])
        && !name.chars().any(char::is_control);
    match is_plain {
        true if name == MAIN_FILE => Err(RemoteError::SameName(name)),
        true => Ok(name),
        false => Err(RemoteError::FileName(name)),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::api::wire::registry::ArtifactBlob;

    fn blob(media_type: &str, annotations: &[(&str, &str)], content: &str) -> ArtifactBlob {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        ArtifactBlob {
            media_type: media_type.to_owned(),
            annotations: annotations.iter().map(owned).collect(),
            content: STANDARD.encode(content),
        }
    }

    fn of(blobs: Vec<ArtifactBlob>) -> Result<Vec<(String, String)>, String> {
        let artifact = Artifact {
            digest: String::new(),
            kind: KINDS[0].to_owned(),
            blobs,
        };
        let files = files(&artifact).map_err(|error| error.to_string())?;
        let text = |bytes| String::from_utf8(bytes).expect("it is text");
        Ok(files
            .into_iter()
            .map(|(name, bytes)| (name, text(bytes)))
            .collect())
    }

    #[test]
    fn files_are_joined_or_stand_alone() {
        let found = of(vec![
            blob(
                COMPOSE_FILE,
                &[("com.docker.compose.file", "compose.yaml")],
                "a: 1",
            ),
            blob(
                COMPOSE_FILE,
                &[("com.docker.compose.file", "override.yaml")],
                "a: 2",
            ),
            blob(
                COMPOSE_FILE,
                &[
                    ("com.docker.compose.extends", "true"),
                    ("com.docker.compose.file", "base.yaml"),
                ],
                "b: 1",
            ),
            blob(ENV_FILE, &[("com.docker.compose.envfile", "x.env")], "A=1"),
            blob("application/vnd.oci.empty.v1+json", &[], "{}"),
        ]);
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            found,
            Ok(vec![
                named("base.yaml", "b: 1"),
                named("compose.yaml", "a: 1\n---\na: 2"),
                named("x.env", "A=1"),
            ])
        );
    }

    #[test]
    fn a_name_is_never_a_path() {
        for bad in ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "a\nb"] {
            let extends = [
                ("com.docker.compose.extends", "true"),
                ("com.docker.compose.file", bad),
            ];
            for hostile in [
                blob(COMPOSE_FILE, &extends, "a: 1"),
                blob(ENV_FILE, &[("com.docker.compose.envfile", bad)], "A=1"),
            ] {
                let refused = of(vec![hostile]);
                assert!(
                    refused
                        .as_ref()
                        .is_err_and(|text| text.contains("no plain name")),
                    "{bad:?}: {refused:?}"
                );
            }
        }
        // An env file does not take a Compose file's place, nor the other way round.
        let main = || blob(COMPOSE_FILE, &[], "a: 1");
        let env = || {
            blob(
                ENV_FILE,
                &[("com.docker.compose.envfile", MAIN_FILE)],
                "A=1",
            )
        };
        assert!(of(vec![main(), env()]).is_err());
        assert!(of(vec![env(), main()]).is_err_and(|text| text.contains("two files")));
    }
}
