//! Plan to done: drives a [`Backend`], waits on conditions, reports progress.
//!
//! Knows only the trait; prints nothing; runs inside the engine.

mod backend;
mod report;

pub use backend::*;
pub use report::*;
