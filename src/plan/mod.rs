//! (desired [`Project`](crate::compose::Project), [`Observed`]) to [`Plan`].
//!
//! Pure: no I/O, no clock, no randomness. A plan is a value that can be printed and is so exact
//! that its execution has no choices left.

mod config;
mod observed;
mod step;

pub use config::*;
pub use observed::*;
pub use step::*;
