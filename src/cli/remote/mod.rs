//! Files of other machines that a Compose file includes or extends, or that `-f` names: git
//! repositories and artifacts of registries.
//!
//! Both are fetched into a cache of the user's, and confined to it: what a reference leads to is
//! always a plain file in its own tree. Only commands that change things fetch; the others see what
//! is in the cache (CVE-2025-62725).

mod git;
mod oci;

use std::io;
use std::path::{Path, PathBuf};

use crate::api::wire::registry::Artifact;
use crate::source::Files;
use crate::source::files::HostFiles;

/// The machine's files, and copies of those on others.
#[derive(Clone)]
pub struct RemoteFiles<'a> {
    /// `None` when the user has no home.
    cache: Option<Cache>,
    may_fetch: bool,
    registries: Option<&'a dyn Registries>,
}

/// Who can ask registries.
pub trait Registries {
    /// A whole artifact of one of the kinds.
    fn artifact(&self, reference: &str, kinds: &[&str]) -> io::Result<Artifact>;
}

#[derive(Debug, thiserror::Error)]
enum RemoteError {
    #[error("{0:?} is no URL that git may fetch from")]
    Url(String),
    #[error("{0:?} is no git reference")]
    Reference(String),
    #[error("the path {0:?} leads out of the repository")]
    Escape(String),
    #[error("no Compose file in {0}")]
    NoFile(String),
    #[error("git {verb} failed: {message}")]
    Git { verb: &'static str, message: String },
    #[error("cannot run git")]
    Run(#[source] io::Error),
    #[error("{0}")]
    Registry(#[source] io::Error),
    #[error("the artifact has a file {0:?}, which is no plain name")]
    FileName(String),
    #[error("the artifact has two files {0:?}")]
    SameName(String),
    #[error("the artifact's file {0:?} is damaged")]
    Damaged(String),
    #[error("cannot keep it in {path}")]
    Keep {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<RemoteError> for io::Error {
    fn from(error: RemoteError) -> io::Error {
        if let RemoteError::Registry(error) = error {
            return error;
        }
        // The loader prints the error alone, so the cause goes into the text.
        let text = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let kind = match error {
            RemoteError::Escape(_) | RemoteError::FileName(_) => io::ErrorKind::PermissionDenied,
            RemoteError::Url(_) | RemoteError::Reference(_) => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, text)
    }
}

impl RemoteFiles<'_> {
    /// Sees what is in the user's cache, and fetches nothing.
    pub fn cached() -> Self {
        RemoteFiles {
            cache: user_cache().map(Cache),
            may_fetch: false,
            registries: None,
        }
    }

    /// Fetches into the user's cache, repositories only.
    pub fn fetching() -> Self {
        RemoteFiles {
            may_fetch: true,
            ..RemoteFiles::cached()
        }
    }

    /// The same with another cache.
    pub fn with_cache(self, cache: PathBuf) -> Self {
        RemoteFiles {
            cache: Some(Cache(cache)),
            ..self
        }
    }
}

impl<'a> RemoteFiles<'a> {
    /// Fetches artifacts of registries, too.
    pub fn with_registries(self, registries: &'a dyn Registries) -> Self {
        RemoteFiles {
            registries: Some(registries),
            ..self
        }
    }
}

fn user_cache() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("wharf"))
}

impl Files for RemoteFiles<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostFiles.read(path)
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        HostFiles.read_stdin()
    }

    fn is_file(&self, path: &Path) -> bool {
        HostFiles.is_file(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        HostFiles.is_dir(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        HostFiles.canonicalize(path)
    }

    fn remote(&self, reference: &str) -> io::Result<PathBuf> {
        let Some(cache) = &self.cache else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let absent = || io::Error::new(io::ErrorKind::NotFound, "it is not in the cache");
        if let Some(name) = reference.strip_prefix(oci::SCHEME) {
            let tree = cache.tree("oci", &oci::key(name));
            match (self.may_fetch, self.registries) {
                (true, _) if oci::is_fixed(name) && tree.is_dir() => {}
                (true, Some(registries)) => oci::fetch(registries, name, cache, &tree)?,
                (true, None) => return Err(io::ErrorKind::Unsupported.into()),
                (false, _) if tree.is_dir() => {}
                (false, _) => return Err(absent()),
            }
            return Ok(file_in(&tree, Path::new(""))?);
        }
        let wanted = git::parse(reference)?;
        let tree = cache.tree("git", &git::key(&wanted));
        if self.may_fetch && !(git::is_fixed(&wanted) && tree.is_dir()) {
            git::fetch(&wanted, cache, &tree)?;
        } else if !tree.is_dir() {
            return Err(absent());
        }
        Ok(file_in(&tree, &wanted.directory)?)
    }
}

/// The Compose file that a directory of a tree stands for, or the file itself. Neither may be a
/// link, nor lie behind one: the tree holds none, and what somebody else put there is refused.
fn file_in(tree: &Path, directory: &Path) -> Result<PathBuf, RemoteError> {
    let shown = || match directory.as_os_str().is_empty() {
        true => "the repository".to_owned(),
        false => directory.display().to_string(),
    };
    let mut path = tree.to_owned();
    for component in directory.components() {
        path.push(component);
        if path.is_symlink() {
            return Err(RemoteError::Escape(shown()));
        }
    }
    if path.is_file() {
        return Ok(path);
    }
    crate::compose::DEFAULT_FILES
        .iter()
        .map(|name| path.join(name))
        .find(|file| file.is_file() && !file.is_symlink())
        .ok_or_else(|| RemoteError::NoFile(shown()))
}

/// A directory of trees, each of which is replaced as a whole.
#[derive(Debug, Clone)]
struct Cache(PathBuf);

impl Cache {
    fn tree(&self, kind: &str, key: &str) -> PathBuf {
        self.0.join(kind).join(key)
    }

    /// Has a new tree filled, which takes the old one's place when it is whole.
    fn replace(
        &self,
        tree: &Path,
        fill: impl FnOnce(&Path) -> Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        let keep = |path: &Path| {
            let path = path.to_owned();
            move |source| RemoteError::Keep { path, source }
        };
        let directory = tree.parent().unwrap_or(&self.0);
        std::fs::create_dir_all(directory).map_err(keep(directory))?;
        // A name that nobody else has: two commands may fetch the same at once.
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|error| keep(directory)(io::Error::other(error)))?;
        let new = directory.join(format!(".new-{}", hex::encode(random)));
        std::fs::create_dir(&new).map_err(keep(&new))?;
        let result = fill(&new).and_then(|()| {
            let old = new.with_extension("old");
            if let Err(source) = std::fs::rename(tree, &old)
                && source.kind() != io::ErrorKind::NotFound
            {
                return Err(keep(tree)(source));
            }
            let moved = std::fs::rename(&new, tree);
            _ = std::fs::remove_dir_all(&old);
            match moved {
                // Somebody else was faster; theirs is as new as ours.
                Err(_) if tree.is_dir() => Ok(()),
                Err(source) => Err(keep(tree)(source)),
                Ok(()) => Ok(()),
            }
        });
        if new.exists() {
            _ = std::fs::remove_dir_all(&new);
        }
        result
    }
}
