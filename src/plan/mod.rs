//! (desired [`Project`](crate::compose::Project), [`Observed`]) to [`Plan`].
//!
//! Pure: no I/O, no clock, no randomness. A plan is a value that can be printed and is so exact
//! that its execution has no choices left.
//!
//! ```text
//! Project ──graph──▶ Scope (services in dependency order)
//!    │                 │
//!    ├──hash──▶ "same as before?"        Observed ──▶ Machine (look-ups)
//!    ▼                 ▼                                 │
//! resources ──▶ diff: the fate of every container ◀──────┘
//!                      │
//! convert ──▶ up, down, stop, start: steps and edges ──▶ Plan ──▶ explain
//! ```

mod build;
mod cause;
mod config;
pub mod convert;
mod diff;
mod down;
mod error;
mod explain;
mod files;
mod graph;
pub mod hash;
mod images;
pub mod labels;
mod login;
mod machine;
mod observed;
mod options;
mod rebuild;
mod resources;
mod start;
mod step;
mod stop;
mod up;
mod wait;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use config::*;
pub use down::{down, removable_images};
pub use error::PlanError;
pub use explain::duration;
pub use images::{pull, push};
pub use login::{Login, Logins};
pub use observed::*;
pub use options::*;
pub use rebuild::project_from_labels;
pub use start::{restart, start};
pub use step::*;
pub use stop::{kill, remove, stop};
pub use up::{refresh_images, run, up};
pub use wait::{Reach, WaitTarget, wait_targets};
