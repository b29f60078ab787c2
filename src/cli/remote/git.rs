//! Git repositories that a Compose file includes or extends.
//!
//! `URL#REF:DIRECTORY` is fetched with the `git` program. The repository is not trusted
//! (CVE-2025-62725): nothing of it is ever executed, no hook and no submodule; links come out as
//! plain files that hold their target's name, so that none can lead out of the cache; neither a URL,
//! a reference nor a directory can become an option of `git`.

use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::{Cache, RemoteError};

/// A reference taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GitReference<'r> {
    url: &'r str,
    /// A branch, a tag or a commit; the default branch when absent.
    reference: Option<&'r str>,
    pub(super) directory: PathBuf,
}

/// `URL[#REF[:DIRECTORY]]`, and `github.com/…` and `git@…` without a scheme.
pub(super) fn parse(text: &str) -> Result<GitReference<'_>, RemoteError> {
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

/// Whether what is named can never change.
pub(super) fn is_fixed(wanted: &GitReference<'_>) -> bool {
    wanted
        .reference
        .is_some_and(|r| r.len() == 40 && r.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The name of a repository's tree in the cache. The directory in it has no part in it.
pub(super) fn key(wanted: &GitReference<'_>) -> String {
    let mut hash = Sha256::new();
    hash.update(wanted.url.as_bytes());
    hash.update([0]);
    hash.update(wanted.reference.unwrap_or_default().as_bytes());
    hex::encode(hash.finalize())
}

/// Fetches one commit into a tree of the cache.
pub(super) fn fetch(
    wanted: &GitReference<'_>,
    cache: &Cache,
    tree: &Path,
) -> Result<(), RemoteError> {
    cache.replace(tree, |new| check_out(wanted, new))
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
