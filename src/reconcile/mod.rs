//! Plan to done: drives a [`Backend`], waits on conditions, reports progress.
//!
//! Knows only the trait; prints nothing; runs inside the engine.
//!
//! ```text
//! driver: observe ──▶ plan ──▶ execute (one task a step) ──▶ --wait
//!                                 └─▶ wait: events of the backend, never a clock
//! ```

mod backend;
mod driver;
mod execute;
mod failure;
mod report;
mod wait;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use backend::*;
pub use driver::{down, kill, pull, push, remove, restart, run, start, stop, up};
pub use failure::Failure;
pub use report::*;
