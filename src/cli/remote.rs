//! Files of other machines: git repositories that a Compose file includes or extends.
//!
//! `URL#REF:DIRECTORY` is fetched with the `git` program into a cache of the user's. The repository
//! is not trusted (CVE-2025-62725): nothing of it is ever executed, no hook and no submodule; links
//! come out as plain files that hold their target's name, so that none can lead out of the cache;
//! neither a URL, a reference nor a directory can become an option of `git`. Only commands that
//! change things fetch; the others see what is in the cache.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::source::Files;
use crate::source::files::HostFiles;

/// The machine's files, and copies of those on others.
#[derive(Debug, Clone)]
pub struct RemoteFiles {
    /// Where repositories are kept; `None` when the user has no home.
    cache: Option<PathBuf>,
    may_fetch: bool,
}

/// A reference taken apart.
#[derive(Debug, PartialEq, Eq)]
struct GitReference<'r> {
    url: &'r str,
    /// A branch, a tag or a commit; the default branch when absent.
    reference: Option<&'r str>,
    directory: PathBuf,
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
    #[error("cannot keep it in {path}")]
    Keep {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl From<RemoteError> for io::Error {
    fn from(error: RemoteError) -> io::Error {
        // The loader prints the error alone, so the cause goes into the text.
        let text = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let kind = match error {
            RemoteError::Escape(_) => io::ErrorKind::PermissionDenied,
            RemoteError::Url(_) | RemoteError::Reference(_) => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, text)
    }
}

impl RemoteFiles {
    /// Sees what is in the user's cache, and fetches nothing.
    pub fn cached() -> Self {
        RemoteFiles {
            cache: user_cache(),
            may_fetch: false,
        }
    }

    /// Fetches into the user's cache.
    pub fn fetching() -> Self {
        RemoteFiles {
            may_fetch: true,
            ..RemoteFiles::cached()
        }
    }

    /// The same with another cache.
    pub fn with_cache(self, cache: PathBuf) -> Self {
        RemoteFiles {
            cache: Some(cache),
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
    Some(cache.join("wharf/git"))
}

impl Files for RemoteFiles {
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
        if reference.starts_with("oci://") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let wanted = parse(reference)?;
        let tree = cache.join(key(&wanted));
        if self.may_fetch && !(is_commit(wanted.reference) && tree.is_dir()) {
            fetch(&wanted, cache, &tree)?;
        } else if !tree.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "it is not in the cache",
            ));
        }
        Ok(file_in(&tree, &wanted.directory)?)
    }
}

/// `URL[#REF[:DIRECTORY]]`, and `github.com/…` and `git@…` without a scheme.
fn parse(text: &str) -> Result<GitReference<'_>, RemoteError> {
    let (url, fragment) = match text.split_once('#') {
        Some((url, fragment)) => (url, fragment),
        None => (text, ""),
    };
    let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let scheme_is_known = ["https://", "http://", "ssh://", "git://", "file://", "git@"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
        || url.starts_with("github.com/");
    // A host that begins with a dash would become an option of ssh (CVE-2017-1000117).
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if !scheme_is_known || host.starts_with('-') || url.chars().any(char::is_control) {
        return Err(RemoteError::Url(crate::compose::without_credentials(url)));
    }
    // A subset of git's own rules: no leading dash, no `..`, no revision syntax.
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
    if reference.starts_with(['-', '/', '.'])
        || reference.contains("..")
        || !reference.chars().all(is_legal)
    {
        return Err(RemoteError::Reference(reference.to_owned()));
    }
    let directory_path = Path::new(directory.trim_start_matches("./"));
    for component in directory_path.components() {
        let is_plain = match component {
            Component::Normal(name) => !name.eq_ignore_ascii_case(".git"),
            Component::CurDir => true,
            _ => false,
        };
        if !is_plain {
            return Err(RemoteError::Escape(directory.to_owned()));
        }
    }
    Ok(GitReference {
        url,
        reference: (!reference.is_empty()).then_some(reference),
        directory: directory_path.to_owned(),
    })
}

fn is_commit(reference: Option<&str>) -> bool {
    reference.is_some_and(|r| r.len() == 40 && r.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The name of a repository's tree in the cache. The directory in it has no part in it.
fn key(wanted: &GitReference<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(wanted.url.as_bytes());
    hash.update([0]);
    hash.update(wanted.reference.unwrap_or_default().as_bytes());
    hex::encode(hash.finalize())
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

/// Fetches one commit into a new tree, which takes the old one's place when it is whole.
fn fetch(wanted: &GitReference<'_>, cache: &Path, tree: &Path) -> Result<(), RemoteError> {
    let keep = |path: &Path| {
        let path = path.to_owned();
        move |source| RemoteError::Keep { path, source }
    };
    std::fs::create_dir_all(cache).map_err(keep(cache))?;
    // A name that nobody else has: two commands may fetch the same at once.
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).map_err(|error| keep(cache)(io::Error::other(error)))?;
    let new = cache.join(format!(".new-{}", hex::encode(random)));
    std::fs::create_dir(&new).map_err(keep(&new))?;
    let result = check_out(wanted, &new).and_then(|()| {
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

fn check_out(wanted: &GitReference<'_>, into: &Path) -> Result<(), RemoteError> {
    let url = match wanted.url.starts_with("github.com/") {
        true => format!("https://{}", wanted.url),
        false => wanted.url.to_owned(),
    };
    git("init", into, &["init", "--quiet", "--template="])?;
    let reference = wanted.reference.unwrap_or("HEAD");
    git(
        "fetch",
        into,
        &[
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--",
            &url,
            reference,
        ],
    )?;
    git(
        "checkout",
        into,
        &["checkout", "--quiet", "--detach", "FETCH_HEAD"],
    )?;
    // Only the files are wanted; what is left of the repository could still name programs.
    let metadata = into.join(".git");
    std::fs::remove_dir_all(&metadata).map_err(|source| RemoteError::Keep {
        path: metadata,
        source,
    })
}

fn git(verb: &'static str, directory: &Path, arguments: &[&str]) -> Result<(), RemoteError> {
    let output = Command::new("git")
        // Links become files that hold the name of their target.
        .args(["-c", "core.symlinks=false"])
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.protectNTFS=true"])
        .args(["-c", "fetch.fsckObjects=true"])
        .args(arguments)
        .current_dir(directory)
        // `ext::` and its kin run programs.
        .env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_LFS_SKIP_SMUDGE", "1")
        // A server that sends nothing does not keep the command for ever.
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1000")
        .env("GIT_HTTP_LOW_SPEED_TIME", "30")
        // Else a hook or an alias that runs us would have us work in its repository.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_OBJECT_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .map_err(RemoteError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let last = message.lines().rev().find(|line| !line.trim().is_empty());
    Err(RemoteError::Git {
        verb,
        // Credentials of the URL may stand in the message.
        message: crate::compose::without_credentials(last.unwrap_or_default()),
    })
}
