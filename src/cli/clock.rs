//! Points in time as users write them, and as tables show them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}

/// A point in time for `--since` and `--until`: an age (`42m`, `1h30m`), a date and time with or
/// without zone, or seconds since the epoch with an optional fraction. Nanoseconds since the epoch.
pub fn point(text: &str) -> Result<u64, String> {
    point_before(text, now_ns())
}

fn point_before(text: &str, now_ns: u64) -> Result<u64, String> {
    let unreadable =
        || format!("{text:?} is no point in time: write an age like 42m, or 2026-01-31T13:00:00Z");
    if let Some(age) = go_duration_ns(text) {
        return Ok(now_ns.saturating_sub(age));
    }
    if let Some(at) = epoch_ns(text) {
        return Ok(at);
    }
    let at = if let Ok(at) = text.parse::<jiff::Timestamp>() {
        at
    } else {
        let local: jiff::civil::DateTime = text.parse().map_err(|_| unreadable())?;
        local
            .to_zoned(jiff::tz::TimeZone::system())
            .map_err(|_| unreadable())?
            .timestamp()
    };
    u64::try_from(at.as_nanosecond()).map_err(|_| unreadable())
}

/// `1700000000` and `1700000000.25`.
fn epoch_ns(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = seconds.parse().ok()?;
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Go's `time.ParseDuration`, positive only: `1h2m3.5s`, `300ms`.
pub fn go_duration_ns(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[end..];
        total += number * unit;
    }
    Some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_have_many_spellings() {
        const NOW: u64 = 1_700_000_000_000_000_000;
        for (text, expected) in [
            ("10s", NOW - 10_000_000_000),
            ("1h30m", NOW - 5400 * 1_000_000_000),
            ("1.5s", NOW - 1_500_000_000),
            ("1700000000", NOW),
            ("1700000000.25", NOW + 250_000_000),
            ("2023-11-14T22:13:20Z", NOW),
            ("2023-11-14T23:13:20+01:00", NOW),
        ] {
            assert_eq!(point_before(text, NOW), Ok(expected), "{text}");
        }
        for text in ["", "yesterday", "5x", "1700000000.1234567890", "-5m"] {
            assert!(point_before(text, NOW).is_err(), "{text:?}");
        }
    }
}
