//! One OCI container: spec to namespaces, mounts, cgroup, seccomp, init. Used by the shim only.
//!
//! ```text
//! shim (host namespaces)                       child (single-threaded, a copy of the shim)
//!   start::spawn ── clone3 into the cgroup ──▶  waits for the go-ahead on its channel
//!                                               specification → sources → rootfs → mounts →
//!                                               masks → pivot
//!                 ◀── Console + descriptor ──   terminal
//!                 ◀── Failed ────────────────   or: identity → capabilities → seccomp → execve
//!                 ◀── end of file ───────────   the channel closed by execve: it runs
//! ```
//!
//! In a pid namespace that it joins, the last line is another process's, a sibling that the child
//! makes when all else is done.
//!
//! Must not know: engines, sockets between processes other than its own channel, log files.

pub mod capabilities;
pub mod cgroup;
pub mod channel;
pub mod command;
mod credentials;
mod dev;
pub mod exec;
pub mod failure;
mod init;
mod mask;
mod mounts;
pub mod namespaces;
pub mod process;
mod procfs;
pub mod rlimits;
pub mod rootfs;
pub mod seccomp;
pub mod start;
pub mod sysctl;
mod user;
