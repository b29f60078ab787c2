//! Image references: what may stand after `image:`.
//!
//! Registry names are normalised as Docker does; beside them stand the local sources. Knows
//! grammar only, touches no file.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
/// Docker's limit on `registry/repository`.
const MAX_NAME_BYTES: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    Registry {
        /// Host with optional port; `docker.io` when none is named.
        registry: String,
        /// `library/nginx`.
        repository: String,
        /// `latest` when neither tag nor digest is named.
        tag: Option<String>,
        digest: Option<Digest>,
    },
    /// A directory of the host, used read-only as the only layer.
    Rootfs(PathBuf),
    OciLayout {
        dir: PathBuf,
        tag: Option<String>,
    },
    OciArchive {
        file: PathBuf,
        tag: Option<String>,
    },
    DockerArchive {
        file: PathBuf,
        tag: Option<String>,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("the image reference is empty")]
    Empty,
    #[error("image reference {reference:?} needs an absolute path after {scheme:?}")]
    RelativePath {
        reference: String,
        scheme: &'static str,
    },
    #[error("{reference:?} is not a valid image reference: repository names are lower case")]
    UpperCase { reference: String },
    #[error("{reference:?} is not a valid image reference: bad {part}")]
    Grammar {
        reference: String,
        part: &'static str,
    },
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        for scheme in ["rootfs:", "oci:", "oci-archive:", "docker-archive:"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return local(text, scheme, rest);
            }
        }
        registry(text)
    }

    /// The same repository's image under another tag.
    pub fn tagged(&self, wanted: &str) -> Result<Reference, ReferenceError> {
        let bad = || ReferenceError::Grammar {
            reference: format!("{self} with tag {wanted:.100?}"),
            part: "tag",
        };
        match self {
            Reference::Registry {
                registry,
                repository,
                ..
            } if is_valid_tag(wanted) => Ok(Reference::Registry {
                registry: registry.clone(),
                repository: repository.clone(),
                tag: Some(wanted.to_owned()),
                digest: None,
            }),
            _ => Err(bad()),
        }
    }
}

fn local(text: &str, scheme: &'static str, rest: &str) -> Result<Reference, ReferenceError> {
    if !rest.starts_with('/') || rest.contains('\0') {
        return Err(ReferenceError::RelativePath {
            reference: text.to_owned(),
            scheme,
        });
    }
    if scheme == "rootfs:" {
        return Ok(Reference::Rootfs(PathBuf::from(rest)));
    }
    // The tag of an archive may be a whole registry reference with colons of its own, so the path
    // ends at the first one.
    let (path, tag) = match rest.split_once(':') {
        Some((_, "")) => {
            return Err(ReferenceError::Grammar {
                reference: text.to_owned(),
                part: "tag",
            });
        }
        Some((path, tag)) => (PathBuf::from(path), Some(tag.to_owned())),
        None => (PathBuf::from(rest), None),
    };
    Ok(match scheme {
        "oci:" => Reference::OciLayout { dir: path, tag },
        "oci-archive:" => Reference::OciArchive { file: path, tag },
        _ => Reference::DockerArchive { file: path, tag },
    })
}

fn registry(text: &str) -> Result<Reference, ReferenceError> {
    let bad = |part| ReferenceError::Grammar {
        reference: text.to_owned(),
        part,
    };
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (
            name,
            Some(Digest::parse(digest).map_err(|_| bad("digest"))?),
        ),
        None => (text, None),
    };
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    // A bare 64-digit name would be taken for an image id.
    if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad("repository (it looks like an image id)"));
    }
    let is_host = |part: &str| {
        part.contains(['.', ':'])
            || part == "localhost"
            || part.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    let (registry, repository) = match name.split_once('/') {
        Some((host, rest)) if is_host(host) => (host, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = match registry {
        "index.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if !is_valid_host(registry) {
        return Err(bad("registry"));
    }
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceError::UpperCase {
            reference: text.to_owned(),
        });
    }
    if registry.len() + 1 + repository.len() > MAX_NAME_BYTES
        || !repository.split('/').all(is_valid_component)
    {
        return Err(bad("repository"));
    }
    if let Some(tag) = tag
        && !is_valid_tag(tag)
    {
        return Err(bad("tag"));
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some("latest".to_owned()),
        (None, Some(_)) => None,
    };
    Ok(Reference::Registry {
        registry: registry.to_owned(),
        repository,
        tag,
        digest,
    })
}

fn is_valid_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    port.is_none_or(is_port)
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn is_port(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u16>().is_ok()
}

/// Alphanumeric runs separated by one `.`, one or two `_`, or any number of `-`.
fn is_valid_component(component: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_plain(*first) || !is_plain(*last) {
        return false;
    }
    let mut separator = String::new();
    for &byte in bytes {
        if is_plain(byte) {
            let is_good = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|byte| byte == b'-');
            if !is_good {
                return false;
            }
            separator.clear();
        } else {
            separator.push(char::from(byte));
        }
    }
    true
}

fn is_valid_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !tag.is_empty()
        && tag.len() <= 128
        && is_word(tag.as_bytes()[0])
        && tag
            .bytes()
            .all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

impl Reference {
    /// The form that identifies it in the store: nothing is left out.
    pub fn canonical(&self) -> String {
        match self {
            Reference::Registry {
                registry,
                repository,
                ..
            } => format!("{registry}/{repository}{}", self.suffix()),
            _ => self.to_string(),
        }
    }

    /// The same source, naming the image `tag` in it; unchanged where sources have no tags.
    pub fn with_tag(&self, tag: &str) -> Reference {
        let mut reference = self.clone();
        match &mut reference {
            Reference::OciLayout { tag: t, .. }
            | Reference::OciArchive { tag: t, .. }
            | Reference::DockerArchive { tag: t, .. } => *t = Some(tag.to_owned()),
            Reference::Registry { .. } | Reference::Rootfs(_) => {}
        }
        reference
    }

    fn suffix(&self) -> String {
        match self {
            Reference::Registry {
                digest: Some(digest),
                ..
            } => format!("@{digest}"),
            Reference::Registry { tag: Some(tag), .. } => format!(":{tag}"),
            _ => String::new(),
        }
    }
}

/// The form that Docker shows: without the default registry and its `library/`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_tag =
            |f: &mut fmt::Formatter<'_>, scheme: &str, path: &Path, tag: &Option<String>| {
                write!(f, "{scheme}{}", path.display())?;
                match tag {
                    Some(tag) => write!(f, ":{tag}"),
                    None => Ok(()),
                }
            };
        match self {
            Reference::Registry {
                registry,
                repository,
                ..
            } => {
                if registry == DEFAULT_REGISTRY {
                    let short = repository.strip_prefix("library/").unwrap_or(repository);
                    write!(f, "{short}{}", self.suffix())
                } else {
                    write!(f, "{registry}/{repository}{}", self.suffix())
                }
            }
            Reference::Rootfs(dir) => write!(f, "rootfs:{}", dir.display()),
            Reference::OciLayout { dir, tag } => with_tag(f, "oci:", dir, tag),
            Reference::OciArchive { file, tag } => with_tag(f, "oci-archive:", file, tag),
            Reference::DockerArchive { file, tag } => with_tag(f, "docker-archive:", file, tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_names_are_normalised_as_docker_does() {
        let digest = Digest::of(b"");
        let cases = [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            (
                "bitnami/redis",
                "docker.io/bitnami/redis:latest",
                "bitnami/redis:latest",
            ),
            (
                "docker.io/nginx",
                "docker.io/library/nginx:latest",
                "nginx:latest",
            ),
            (
                "index.docker.io/library/nginx",
                "docker.io/library/nginx:latest",
                "nginx:latest",
            ),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000/x:y",
                "localhost:5000/x:y",
                "localhost:5000/x:y",
            ),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            (
                "a__b/c-d---e.f",
                "docker.io/a__b/c-d---e.f:latest",
                "a__b/c-d---e.f:latest",
            ),
        ];
        for (text, canonical, shown) in cases {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.canonical(), canonical, "{text}");
            assert_eq!(reference.to_string(), shown, "{text}");
            assert_eq!(Reference::parse(canonical).unwrap(), reference, "{text}");
        }
        let pinned = Reference::parse(&format!("nginx:1@{digest}")).unwrap();
        assert_eq!(
            pinned.canonical(),
            format!("docker.io/library/nginx@{digest}")
        );
    }

    #[test]
    fn local_sources_take_absolute_paths_and_a_tag() {
        assert_eq!(
            Reference::parse("rootfs:/").unwrap(),
            Reference::Rootfs(PathBuf::from("/"))
        );
        assert_eq!(
            Reference::parse("oci:/a/b:v1").unwrap(),
            Reference::OciLayout {
                dir: PathBuf::from("/a/b"),
                tag: Some("v1".to_owned())
            }
        );
        assert_eq!(
            Reference::parse("docker-archive:/f.tar:docker.io/library/x:y").unwrap(),
            Reference::DockerArchive {
                file: PathBuf::from("/f.tar"),
                tag: Some("docker.io/library/x:y".to_owned())
            }
        );
        assert!(matches!(
            Reference::parse("oci-archive:f.tar"),
            Err(ReferenceError::RelativePath { .. })
        ));
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in [
            "",
            "Nginx",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a_-b",
            "a...b",
            "a:",
            "a:-x",
            "a@sha256:0",
            "a b",
            "ghcr.io/../x",
            "host:port/x",
            "host:99999999/x",
            "x\n",
            &"0".repeat(64),
            &"a/".repeat(200),
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
