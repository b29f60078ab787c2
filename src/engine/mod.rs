//! The daemon's resources: containers, images, networks, volumes, their records and recovery.
//!
//! Implements `reconcile::Backend` in process.
//! Reaches containers only through `shim::protocol`, the kernel only through `sys`.

pub mod network;
mod roots;
pub mod store;

pub use roots::*;
