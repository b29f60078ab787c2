//! The kernel, and all `unsafe`. Imports nothing of ours.

#![allow(unsafe_code)]
