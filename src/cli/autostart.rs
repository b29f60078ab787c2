//! Connects to the engine, and starts it when nobody answers (HAZARDS L5, L6).
//!
//! ```text
//! connect ──ok──▶ done
//!    │ nobody
//!    ▼
//! flock(<run>/start.lock) ─▶ connect again ──ok──▶ done      (somebody else started it meanwhile)
//!    │ nobody
//!    ▼
//! spawn `wharf engine run --announce` ─▶ read its stdout: "ok\n" or the reason ─▶ connect
//! ```
//!
//! All of it runs before the command's runtime, on plain blocking calls. A stale socket file is no
//! failure: the engine replaces it under a lock of its own.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};

use super::globals::Context;
use super::output::{Failure, Kind};
use crate::engine::Roots;

/// The longest explanation that is read from an engine that does not start, in bytes.
const REASON_BYTES: u64 = 64 << 10;
/// The engine's word that it serves.
pub const READY: &[u8] = b"ok\n";
/// The engine's search path: that of a system service, whoever starts it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Connects; starts the engine if nobody answers and it is ours to start.
pub fn connect(context: &Context) -> Result<UnixStream, Failure> {
    let socket = &context.roots.socket;
    match dial(socket)? {
        Some(stream) => Ok(stream),
        None if context.may_start_engine => start(&context.roots),
        None => Err(Failure::new(
            Kind::Engine,
            format!("no engine answers at {}", socket.display()),
        )
        .hint("leave -H and WHARF_HOST away to use, and start, the default engine")),
    }
}

/// Connects without starting anything; `None` if nobody answers.
pub fn dial(socket: &Path) -> Result<Option<UnixStream>, Failure> {
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => {
            let failure = Failure::new(
                Kind::Engine,
                format!(
                    "cannot connect to the engine at {}: {error}",
                    socket.display()
                ),
            );
            Err(match error.kind() {
                ErrorKind::PermissionDenied => {
                    failure.hint("the engine belongs to root: use sudo, or join its group")
                }
                _ => failure,
            })
        }
    }
}

fn start(roots: &Roots) -> Result<UnixStream, Failure> {
    let doing = |what: &str, path: &Path, error: &std::io::Error| {
        let failure = Failure::new(
            Kind::Engine,
            format!(
                "cannot start the engine: {what} {}: {error}",
                path.display()
            ),
        );
        match error.kind() {
            ErrorKind::PermissionDenied => failure.hint("run it as root, for instance with sudo"),
            _ => failure,
        }
    };
    // Everybody may pass through to the socket, whose own mode says who may use it (S47).
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&roots.run)
        .map_err(|error| doing("cannot make the directory", &roots.run, &error))?;
    let lock_path = roots.run.join("start.lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| doing("cannot open", &lock_path, &error))?;
    loop {
        match flock(&lock, FlockOperation::LockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::INTR) => (),
            Err(errno) => return Err(doing("cannot lock", &lock_path, &errno.into())),
        }
    }
    // Whoever held the lock before has probably done it.
    if let Some(stream) = dial(&roots.socket)? {
        return Ok(stream);
    }
    let log_path = roots.run.join("engine.log");
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(|error| doing("cannot open", &log_path, &error))?;
    spawn(roots, log)
        .map_err(|error| doing("cannot run", Path::new("/proc/self/exe"), &error))??;
    dial(&roots.socket)?.ok_or_else(|| {
        Failure::new(Kind::Engine, "the engine started, but does not answer")
            .hint("`wharf engine logs` shows what it said")
    })
}

/// Starts the engine and waits for its word. The outer error is the spawn's, the inner the engine's.
fn spawn(roots: &Roots, log: File) -> std::io::Result<Result<(), Failure>> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--data-root")
        .arg(&roots.data)
        .arg("--run-root")
        .arg(&roots.run)
        .args(["engine", "run", "--announce"])
        // Nothing of the shell, job or session that happens to be first may stick to the engine.
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    for (name, value) in std::env::vars_os() {
        let kept = name.to_str().is_some_and(|name| {
            (name.starts_with("WHARF_")
                && !matches!(name, "WHARF_HOST" | "WHARF_DATA_ROOT" | "WHARF_RUN_ROOT"))
                || matches!(
                    name,
                    "HOME" | "XDG_RUNTIME_DIR" | "XDG_DATA_HOME" | "RUST_BACKTRACE"
                )
                // Without these the engine would not reach a registry that its user reaches.
                || matches!(
                    name.to_ascii_uppercase().as_str(),
                    "HTTP_PROXY" | "HTTPS_PROXY" | "ALL_PROXY" | "NO_PROXY"
                )
                || matches!(name, "SSL_CERT_FILE" | "SSL_CERT_DIR")
        });
        if kept {
            command.env(name, value);
        }
    }
    let mut engine = command.spawn()?;
    let mut word = Vec::new();
    if let Some(pipe) = engine.stdout.take() {
        let mut pipe = BufReader::new(pipe.take(REASON_BYTES));
        pipe.read_until(b'\n', &mut word)?;
        // After `ok` nothing follows, but the pipe need not end: the engine's own children may hold
        // it. A reason ends with the engine's death.
        if word != READY {
            pipe.read_to_end(&mut word)?;
        }
    }
    Ok(judge(&word))
}

/// The engine's word: `ok`, or a message and `hint: ` lines.
fn judge(word: &[u8]) -> Result<(), Failure> {
    if word == READY {
        return Ok(());
    }
    let word = String::from_utf8_lossy(word);
    let (hints, message): (Vec<&str>, Vec<&str>) = word
        .lines()
        .filter(|line| !line.trim().is_empty())
        .partition(|line| line.starts_with("hint: "));
    if message.is_empty() {
        return Err(
            Failure::new(Kind::Engine, "the engine ended before it was ready")
                .hint("`wharf engine logs` shows what it said"),
        );
    }
    let message = message.join("; ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let mut failure = Failure::new(Kind::Engine, format!("cannot start the engine: {message}"));
    failure.hints = hints
        .iter()
        .map(|hint| hint["hint: ".len()..].to_owned())
        .collect();
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_own_words_are_passed_on() {
        assert_eq!(judge(b"ok\n"), Ok(()));
        let failure = judge(b"another engine holds /run/wharf\nhint: stop it first\n").unwrap_err();
        assert_eq!(
            failure.lines(),
            [
                "error: cannot start the engine: another engine holds /run/wharf",
                "hint: stop it first"
            ]
        );
        assert!(
            judge(b"")
                .unwrap_err()
                .error
                .contains("before it was ready")
        );
    }

    #[test]
    fn a_stale_socket_is_nobody_and_a_living_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("wharf.sock");
        assert!(dial(&socket).unwrap().is_none());
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(dial(&socket).unwrap().is_some());
        drop(listener);
        assert!(dial(&socket).unwrap().is_none());
    }
}
