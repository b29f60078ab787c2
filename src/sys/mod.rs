//! The kernel, and all `unsafe`. Imports nothing of ours.

#![allow(unsafe_code)]

pub mod atomic_file;
pub mod beneath;
pub mod bpf;
pub mod bytes;
pub mod cgroup_bpf;
pub mod clone;
pub mod conntrack;
pub mod detached;
pub mod fallback;
pub mod fd;
pub mod home;
pub mod lock;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod pidfd;
pub mod process;
pub mod pty;
pub mod root;
pub mod route;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod socket;
pub mod watched;
pub mod writeback;
