//! wharf: a Compose file becomes running containers, on the kernel's own primitives.
//!
//! The modules are rooms of one house, listed in reading order. Data goes down, events come up:
//!
//! ```text
//! cli ──▶ api ──▶ engine ──▶ shim::protocol        shim ──▶ runtime ──▶ sys
//!  │       └────▶ reconcile ──▶ plan ──▶ compose ──▶ source
//!  └─▶ compose          ▲
//!                engine ┘ (implements its `Backend`)
//! ```
//!
//! `tests/architecture.rs` keeps these arrows true.

pub mod source;

pub mod compose;

pub mod plan;

pub mod reconcile;

pub mod engine;

pub mod api;

pub mod runtime;

pub mod shim;

pub mod sys;

pub mod boot;

pub mod cli;
