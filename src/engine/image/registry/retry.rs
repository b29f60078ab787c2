//! How long a registry that is busy is waited for.

use std::time::Duration;

use reqwest::StatusCode;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(8);
const MAX_ATTEMPTS: u32 = 6;
/// A registry that asks for more than this has a limit, not a hiccup: its user should hear of it.
const MAX_ASKED: Duration = Duration::from_secs(60);

/// Waiting for less than this much in this time is no download: a registry that lets bytes drip
/// would hold a pull for ever (HAZARDS S41). The slowest modem brings a hundred times as much.
const STALL_BYTES: u64 = 4 << 10;
const STALL_TIME: Duration = Duration::from_secs(60);
/// A connection may go bad; one that is bad every time is the registry's fault.
const MAX_STALLS: u32 = 3;

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

/// What `Retry-After` says: a number of seconds, or a date (RFC 9110, 10.2.3).
pub fn asked_for(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    // A moment that has passed asks for nothing.
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// Many clients that were cut off at once must not come back at once: 0.5 to 1.
fn jitter() -> f64 {
    let mut byte = [128u8];
    // Without randomness the middle is good enough.
    let _ = getrandom::fill(&mut byte);
    0.5 + f64::from(byte[0]) / 510.0
}

/// How fast a layer comes. Counts the time that it was waited for, not that of unpacking.
#[derive(Debug, Default)]
pub struct Pace {
    waited: Duration,
    n_bytes: u64,
    n_stalls: u32,
}

/// What to do about a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    /// Ask for the rest on another connection.
    Reconnect,
    GiveUp,
}

impl Pace {
    pub fn came(&mut self, n_bytes: u64, waited: Duration) -> Verdict {
        self.n_bytes += n_bytes;
        self.waited += waited;
        if self.n_bytes >= STALL_BYTES {
            *self = Pace::default();
        }
        if self.waited < STALL_TIME {
            return Verdict::GoOn;
        }
        let n_stalls = self.n_stalls + 1;
        *self = Pace {
            n_stalls,
            ..Pace::default()
        };
        match n_stalls < MAX_STALLS {
            true => Verdict::Reconnect,
            false => Verdict::GiveUp,
        }
    }
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
    fn what_drips_is_given_up_and_what_is_slow_is_not() {
        let second = Duration::from_secs(1);
        let mut dripping = Pace::default();
        let verdicts = (0..200).map(|_| dripping.came(1, second));
        let verdicts: Vec<Verdict> = verdicts.filter(|v| *v != Verdict::GoOn).collect();
        assert_eq!(
            verdicts,
            [Verdict::Reconnect, Verdict::Reconnect, Verdict::GiveUp]
        );
        // A kilobyte in ten seconds, for hours.
        let mut slow = Pace::default();
        assert!((0..2000).all(|_| slow.came(1024, 10 * second) == Verdict::GoOn));
        // A stall that passes is forgotten.
        let mut passing = Pace::default();
        for _ in 0..10 {
            assert_eq!(passing.came(1, 61 * second), Verdict::Reconnect);
            assert_eq!(passing.came(1 << 20, second), Verdict::GoOn);
        }
    }

    #[test]
    fn a_moment_is_named_by_its_distance_or_its_date() {
        let now: jiff::Timestamp = "2026-11-27T17:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("Fri, 27 Nov 2026 17:00:05 GMT", Some(5)),
            ("Fri, 27 Nov 2026 16:59:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(
                asked_for(value, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }

    #[test]
    fn what_a_registry_asks_for_is_obeyed_within_reason() {
        let mut pauses = Pauses::default();
        let asked = Duration::from_secs(3);
        assert_eq!(pauses.next(Some(asked)), Some(asked));
        assert_eq!(pauses.next(Some(Duration::from_secs(3600))), None);
    }
}
