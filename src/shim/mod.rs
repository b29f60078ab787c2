//! The process beside a container: protocol, supervision, stdio, exit record.
//!
//! A shim is forked (not exec'd) by the *spawner*, a small single-threaded process that the engine
//! executes before its async runtime is up. It is the parent of the container's init; it survives the
//! engine and is found again by its socket.

mod connection;
mod ending;
mod execs;
mod outline;
mod output;
pub mod protocol;
mod record;
mod requests;
mod respawn;
pub mod spawner;
mod supervise;
#[cfg(test)]
mod tests;
