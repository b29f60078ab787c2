//! How long a registry that is busy is waited for.

use std::time::Duration;

use reqwest::StatusCode;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);
const MAX_ATTEMPTS: u32 = 6;
/// A registry that asks for more than this has a limit, not a hiccup: its user should hear of it.
const MAX_ASKED: Duration = Duration::from_secs(60);

/// Whether the same request may be answered otherwise a moment later.
pub fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The pauses between the attempts of one request, each longer than the one before.
#[derive(Debug, Default)]
pub struct Pauses {
    n_taken: u32,
}

impl Pauses {
    /// The next pause, or `None` when it is time to give up. `asked` is what the registry named.
    pub fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.n_taken += 1;
        if self.n_taken >= MAX_ATTEMPTS || asked.is_some_and(|asked| asked > MAX_ASKED) {
            return None;
        }
        let own = FIRST
            .saturating_mul(1 << (self.n_taken - 1).min(16))
            .min(LONGEST);
        Some(asked.unwrap_or_default().max(own.mul_f64(jitter())))
    }
}

/// Many clients that were cut off at once must not come back at once: 0.5 to 1.
fn jitter() -> f64 {
    let mut byte = [128u8];
    // Without randomness the middle is good enough.
    let _ = getrandom::fill(&mut byte);
    0.5 + f64::from(byte[0]) / 510.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let mut pauses = Pauses::default();
        let taken: Vec<Duration> = std::iter::from_fn(|| pauses.next(None)).collect();
        assert_eq!(taken.len(), 5);
        assert!(taken[0] >= FIRST / 2 && taken[0] <= FIRST, "{taken:?}");
        assert!(taken[4] >= Duration::from_secs(2) && taken[4] <= LONGEST);
    }

    #[test]
    fn what_a_registry_asks_for_is_obeyed_within_reason() {
        let mut pauses = Pauses::default();
        let asked = Duration::from_secs(3);
        assert_eq!(pauses.next(Some(asked)), Some(asked));
        assert_eq!(pauses.next(Some(Duration::from_secs(3600))), None);
    }
}
