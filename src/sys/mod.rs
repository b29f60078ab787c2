//! The kernel, and all `unsafe`. Imports nothing of ours.

#![allow(unsafe_code)]

pub mod atomic_file;
pub mod bpf;
pub mod bytes;
pub mod clone;
pub mod fd;
pub mod lock;
pub mod mount;
pub mod pidfd;
pub mod process;
pub mod pty;
pub mod root;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod socket;
