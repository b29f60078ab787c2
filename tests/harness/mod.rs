//! What the privileged suites stand on: a throw-away world per test, and eyes on the kernel.
//!
//! ```text
//! runner (libtest-mimic, machine's namespaces)
//!   └─ outer   unshares mount, network, ipc, uts and pid namespaces
//!        └─ init    pid 1 there: fresh /proc, private tmpfs, lo up; reaps
//!             └─ case    the test's function, with a `TestEnv`
//! ```
//!
//! When a case ends, its whole pid namespace ends: nothing that a broken engine leaves behind can
//! outlive its test or reach the machine. What it leaves behind *before* that is the leak report.

pub mod chaos;
pub mod env;
pub mod image;
pub mod isolation;
pub mod kernel;
pub mod listening;
pub mod proxy;
pub mod registry;
pub mod terminal;
pub mod wait;

pub use env::{Project, Run, TestEnv};
pub use wait::wait_for;
