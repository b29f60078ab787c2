//! The REST surface: wire types, conversion, routes, streams; and the client.
//!
//! ```text
//! cli ──▶ client ──unix socket──▶ server ──▶ trait Host ◀── implemented by the engine
//!            └───────── wire ───────┘
//! ```
//!
//! The server knows an engine only as a [`Host`]; the client knows only [`wire`]. Neither prints.

pub mod client;
mod containers;
mod engine_host;
mod engine_images;
mod host;
pub mod images;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod memory_images;
mod path_pattern;
pub mod server;
#[cfg(test)]
mod socket_tests;
pub mod status_text;
mod verb;
pub mod wire;

pub use host::*;
