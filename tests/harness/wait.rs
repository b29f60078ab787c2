//! The only place of the suites that lets time pass.

use std::time::{Duration, Instant};

/// Long enough for a machine that several suites share; a condition that holds ends the wait at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until there is an answer, with a short pause that grows to 20 ms.
///
/// Panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    match poll(PATIENCE, &mut answer) {
        Some(answer) => answer,
        None => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Asks for so long as it takes, at most `patience`.
pub fn poll<T>(patience: Duration, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(answer) = answer() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
