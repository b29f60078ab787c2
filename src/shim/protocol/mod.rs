//! What engine, spawner and shim say to each other.
//!
//! Transport: `SOCK_SEQPACKET` unix sockets, one JSON message a packet, file descriptors beside it
//! by `SCM_RIGHTS` in the order that the message documents. Messages are small (≤ 64 KiB); what can
//! be large (the bundle) is a file on the run directory's tmpfs.
//!
//! ```text
//! engine ──Spawn{dir} + [control fd, netns fd?, reserved ports…]──▶ spawner ──fork──▶ shim
//! engine ◀──Event::Started|StartFailed … Exited──  control  ──Request──▶ shim
//! ```
//!
//! The control socket dies with the engine. A later engine connects to `<dir>/shim.sock`
//! (`SO_PEERCRED` checked on both ends) and speaks the same protocol; the newest connection wins.
//! Compatibility: fields are only added, with defaults; `version` tells what a shim understands.

pub mod log;
pub mod parts;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The words in which a bundle asks for confinement: the engine chooses with them, the runtime
/// enforces them.
pub use crate::runtime::{capabilities, seccomp, sysctl};

/// The protocol's version; a shim answers requests of later engines as far as it knows them.
pub const VERSION: u32 = 1;

/// Files inside a container's run directory.
pub mod file {
    /// [`super::Bundle`] as JSON, written by the engine before the spawn.
    pub const BUNDLE: &str = "bundle.json";
    /// The shim's listening socket.
    pub const SOCKET: &str = "shim.sock";
    /// [`super::ShimRecord`], written by the shim (tmp + rename) when it is up.
    pub const SHIM: &str = "shim.json";
    /// [`super::StartRecord`], written by the shim before it reports `Started`.
    pub const START: &str = "start.json";
    /// [`super::ExitRecord`], written by the shim (tmp + rename) before it reports `Exited`.
    pub const EXIT: &str = "exit.json";
}

/// Everything a shim needs to make one container, beside the descriptors it is handed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    pub container_id: String,
    /// The OCI runtime specification of the container. `root.path` is unused: see `rootfs`.
    pub spec: oci_spec::runtime::Spec,
    pub rootfs: Rootfs,
    /// Where stdout and stderr are recorded; see [`log`] for the format.
    pub log_path: PathBuf,
    /// How much of it is kept; `None`: everything. See [`parts`].
    #[serde(default)]
    pub log_rotation: Option<parts::Rotation>,
    /// Begin a new part: the last one may end in half a record, because its writer was killed.
    #[serde(default)]
    pub is_log_torn: bool,
    /// `USER`, `user:`: name or uid, optionally `:group`. Resolved inside the container's root, from
    /// its own passwd and group files (HAZARDS S13–S15). `None` and empty are root.
    #[serde(default)]
    pub user: Option<String>,
    /// Supplementary groups by name or number, beside those of the group file.
    #[serde(default)]
    pub group_add: Vec<String>,
    /// Whether a specification without a `linux.seccomp` gets the default filter (which the spawner
    /// has compiled once for all) or none.
    #[serde(default)]
    pub default_seccomp: bool,
    /// Run our own init as process 1: it forwards signals and reaps.
    #[serde(default)]
    pub init: bool,
    /// Keep a stdin pipe open that clients may write into; else stdin is `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// The cgroup directories to create and enter, relative to each hierarchy's mount point.
    pub cgroup: PathBuf,
    /// How a stop proceeds when the shim has to finish it alone.
    pub stop_signal: i32,
    /// Milliseconds.
    pub stop_grace_ms: u64,
    /// Files placed into the root before the start; content stands in the run directory.
    #[serde(default)]
    pub files: Vec<InjectedFile>,
    /// How to start the engine again if it dies without goodbye: program arguments after the
    /// executable, which is `/proc/self/exe`.
    #[serde(default)]
    pub engine_command: Vec<String>,
    /// The engine's lock file; a held lock says that an engine lives.
    #[serde(default)]
    pub engine_lock: PathBuf,
}

/// The root file system of a container, assembled in the container's own mount namespace.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Rootfs {
    /// Layers from top to bottom, and the writable directories. All are the engine's own paths,
    /// except that a single `rootfs:` image names a directory of the host as its only layer.
    Overlay {
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
}

/// A regular file that the engine provides inside the container (secret or config with content).
/// It is bind-mounted from an engine-owned tmpfs file, never written through the image's paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InjectedFile {
    /// Absolute path of the content outside the container.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
}

/// Engine to spawner. Descriptors: control socket, then (if `has_netns`) the network namespace,
/// then any number of sockets that the shim merely holds until the container is gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// The container's run directory.
    pub dir: PathBuf,
    pub has_netns: bool,
}

/// Engine to shim. Every request carries an id that its [`Reply`] repeats.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub call: Call,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "call")]
pub enum Call {
    /// Answered with [`Answer::State`]; the first call of an engine that adopts.
    State,
    /// Send a signal to the init process, or to every process of the cgroup.
    Signal {
        signal: i32,
        all: bool,
    },
    /// Signal, then SIGKILL to the whole cgroup after the grace period. Answered at once; `Exited`
    /// follows. The shim completes it even if the engine dies.
    Stop {
        signal: i32,
        grace_ms: u64,
    },
    Pause,
    Resume,
    /// Run a process in the container. Descriptors, unless `tty`: stdin, stdout, stderr.
    /// Answered with [`Answer::Exec`]; with `tty` the pty's master side comes beside the answer.
    Exec {
        exec_id: String,
        process: Box<oci_spec::runtime::Process>,
        /// As [`Bundle::user`].
        #[serde(default)]
        user: Option<String>,
        #[serde(default)]
        group_add: Vec<String>,
        tty: bool,
        /// `(columns, rows)`.
        size: Option<(u16, u16)>,
        /// Keep it and all that it starts apart from the rest, so that [`Call::KillExec`] finds
        /// them.
        #[serde(default)]
        apart: bool,
    },
    SignalExec {
        exec_id: String,
        signal: i32,
    },
    /// SIGKILL to an exec and, if it was started `apart`, to all that it has started, wherever in
    /// the process tree that has gone.
    KillExec {
        exec_id: String,
    },
    /// Ask for the writing end of the container's stdin (or the pty's master side): comes beside
    /// the answer.
    Attach,
    /// Close the shim's own copy of the stdin pipe, so that the container sees EOF once the
    /// attached clients are gone.
    CloseStdin,
    /// `(columns, rows)` of the container's terminal.
    Resize {
        size: (u16, u16),
    },
    /// The exit record has been taken: the shim may end.
    Release,
    /// The engine leaves on purpose: do not start it again.
    Goodbye,
}

/// Shim to engine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "message")]
pub enum Message {
    Reply { id: u64, answer: Answer },
    Event { event: Event },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    Done,
    State(State),
    Exec { pid: i32 },
    Failed(Failure),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The container's program has been executed.
    Started(StartRecord),
    /// Nothing runs and nothing is left but the run directory's files.
    StartFailed {
        failure: Failure,
    },
    /// The OOM killer took a process of the container (the container may go on).
    OomKilled,
    /// The init process has ended, all output is in the log, the cgroup is gone.
    Exited {
        record: ExitRecord,
    },
    ExecExited {
        exec_id: String,
        code: i32,
    },
}

/// Why the container or an exec could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// The chain of causes, lower case, no full stop.
    pub message: String,
    /// errno of the last cause, 0 if there is none.
    pub errno: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Docker's exit code 127.
    CommandNotFound,
    /// Docker's exit code 126.
    CommandNotExecutable,
    /// The specification asks for what the container or this kernel cannot give.
    Invalid,
    /// A system call failed.
    System,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub start: Option<StartRecord>,
    pub exit: Option<ExitRecord>,
    pub paused: bool,
    /// Execs that still run.
    pub execs: Vec<String>,
    /// Bytes of output that could not be written to the log (a full disk).
    #[serde(default)]
    pub log_dropped_bytes: u64,
}

/// A running container's identity. The pid alone is not one: pids are recycled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Init in the host's pid namespace.
    pub pid: i32,
    /// `starttime` of `/proc/<pid>/stat`, clock ticks since boot.
    pub start_ticks: u64,
    /// Nanoseconds since the epoch.
    pub started_at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 0–255; 128 + signal when a signal ended it.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub finished_at: u64,
}

/// A living shim's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    pub version: u32,
    pub pid: i32,
    /// `starttime` of `/proc/<pid>/stat`, clock ticks since boot.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}
