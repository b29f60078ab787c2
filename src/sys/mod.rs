//! The kernel, and all `unsafe`. Imports nothing of ours.

#![allow(unsafe_code)]

pub mod beneath;
pub mod detached;
