//! Starting the engine again after it died without goodbye. Many shims notice at once; one acts.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys::clone::{self, Side};
use crate::sys::lock::{self, Lock};
use crate::sys::{process, signal};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// How long an engine that was started may take until it connects.
const PATIENCE: Duration = Duration::from_secs(5);

/// The wish that an engine lives, until one connects.
#[derive(Debug)]
pub struct Respawn {
    next: Instant,
    backoff: Duration,
    /// Held by the shim that has started one.
    _turn: Option<Lock>,
}

impl Respawn {
    /// From the moment the connection broke.
    pub fn new(now: Instant) -> Respawn {
        // Shims of one engine notice in the same moment; their pids spread them.
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let jitter = Duration::from_millis(u64::from(pid.unsigned_abs() % 50));
        Respawn {
            next: now + jitter,
            backoff: FIRST,
            _turn: None,
        }
    }

    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Looks whether an engine lives, and starts one if not and if it is this shim's turn.
    pub fn act(&mut self, now: Instant, engine_lock: &Path, command: &[String]) {
        self._turn = None;
        self.next = now + self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST);
        let mut turn = engine_lock.as_os_str().to_owned();
        turn.push(".respawn");
        // An error (a removed run directory) is as good as an engine: nothing can be started.
        let Ok(Some(turn)) = lock::try_exclusive(&PathBuf::from(turn)) else {
            return;
        };
        if lock::is_held(engine_lock).unwrap_or(true) {
            return;
        }
        start(command, &engine_lock.with_file_name("engine.log"));
        self.next = now + PATIENCE;
        self._turn = Some(turn);
    }
}

/// Starts the engine as a process of nobody's: not our child, no descriptor of ours.
fn start(command: &[String], log: &Path) {
    // An orphan would come back to us as a subreaper.
    let _ = process::resign_as_subreaper();
    if let Ok(side) = clone::fork() {
        match side {
            Side::Child => {
                let _ = rustix::process::setsid();
                signal::reset();
                let _ = crate::sys::fd::cloexec_from_3();
                // The log of every engine of this run directory; without it the word is lost, and
                // the engine runs all the same.
                let log = std::fs::OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(log);
                let log = log.map_or_else(|_| Stdio::null(), Stdio::from);
                let spawned = Command::new("/proc/self/exe")
                    .args(command)
                    .current_dir("/")
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(log)
                    .spawn();
                clone::exit(i32::from(spawned.is_err()))
            }
            Side::Parent(pid) => {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        }
    }
    let _ = process::become_subreaper();
}
