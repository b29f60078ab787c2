//! The only place of the suites that lets time pass.

use std::time::{Duration, Instant};

/// Long enough for a machine that several suites share; a condition that holds ends the wait at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A limit of these suites, longer where everything is: an emulated machine says with
/// `WHARF_TEST_SLOWNESS` how many times as long things take there.
pub fn limit(usual: Duration) -> Duration {
    let slowness = std::env::var("WHARF_TEST_SLOWNESS")
        .ok()
        .and_then(|factor| factor.parse().ok())
        .unwrap_or(1);
    usual * slowness
}

/// Asks until there is an answer, with a short pause that grows to 20 ms.
///
/// Panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let patience = limit(PATIENCE);
    match poll(patience, &mut answer) {
        Some(answer) => answer,
        None => panic!("waited {patience:?} in vain for {what}"),
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
