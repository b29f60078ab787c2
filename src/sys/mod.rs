//! The kernel, and all `unsafe`. Imports nothing of ours.

#![allow(unsafe_code)]

pub mod cgroup_bpf;
pub mod conntrack;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod route;
