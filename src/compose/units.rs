//! Bytes, durations, port ranges and shell words, as Compose writes them.

use std::time::Duration;

/// A text that is no quantity of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("invalid size: '{0}'")]
    Size(String),
    #[error("invalid duration {0:?}")]
    Duration(String),
    #[error("missing unit in duration {0:?}")]
    MissingUnit(String),
}

/// Bytes of `64m`, `1.5 GiB`, `1024`, `-1`; units are powers of 1024 in any case (C13).
pub fn parse_bytes(text: &str) -> Result<i64, UnitError> {
    let wrong = || UnitError::Size(text.to_owned());
    if let Ok(whole) = text.parse() {
        return Ok(whole);
    }
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(wrong()),
    };
    let bytes = number * 1024f64.powi(power);
    if bytes < i64::MAX as f64 {
        Ok(bytes as i64)
    } else {
        Err(wrong())
    }
}

/// Nanoseconds of `1m30s`, `1.5h`, `1w2d`, `0`: Go's durations and the units `d` and `w` (C14).
pub fn parse_duration(text: &str) -> Result<i64, UnitError> {
    let wrong = || UnitError::Duration(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(|| UnitError::MissingUnit(text.to_owned()))?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86400e9,
            "w" => 604800e9,
            _ => return Err(wrong()),
        };
        rest = &rest[end..];
        total += number * unit;
    }
    if total >= i64::MAX as f64 {
        return Err(wrong());
    }
    let total = total.round() as i64;
    Ok(if negative { -total } else { total })
}

/// Nanoseconds in Go's form: `1h0m0s`, `1m30s`, `1.5s`, `500ms`, `0s`.
pub fn format_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let fraction = |n: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", n / unit, n % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if n == 0 {
        return "0s".into();
    }
    if n < 1_000 {
        return format!("{sign}{n}ns");
    }
    if n < 1_000_000 {
        return format!("{sign}{}µs", fraction(n, 1_000));
    }
    if n < 1_000_000_000 {
        return format!("{sign}{}ms", fraction(n, 1_000_000));
    }
    let minutes = n / 60_000_000_000;
    let seconds = fraction(n % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// A canonical duration as a value; negative ones are nothing a container can wait for.
pub fn duration(text: &str) -> Option<Duration> {
    u64::try_from(parse_duration(text).ok()?)
        .ok()
        .map(Duration::from_nanos)
}

/// `80`, `80-90`: first and last port.
pub fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let port = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| s.parse().ok())
            .flatten()
    };
    match text.split_once('-') {
        None => port(text).map(|p| (p, p)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

/// `d:w` in decimal CPUs to billionths.
pub fn nano_cpus(cpus: f64) -> Option<u64> {
    (cpus.is_finite() && cpus >= 0.0).then_some((cpus * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_c13() {
        for (text, bytes) in [
            ("1024", Some(1024)),
            ("-1", Some(-1)),
            ("64m", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("1KiB", Some(1024)),
            ("2 gb", Some(2 << 30)),
            ("10B", Some(10)),
            ("", None),
            ("x", None),
            ("1x", None),
            ("1e400p", None),
        ] {
            assert_eq!(parse_bytes(text).ok(), bytes, "{text:?}");
        }
    }

    #[test]
    fn durations_c14() {
        for (text, form) in [
            ("90s", Some("1m30s")),
            ("1m30s", Some("1m30s")),
            ("1h", Some("1h0m0s")),
            ("1d2h", Some("26h0m0s")),
            ("1w", Some("168h0m0s")),
            ("500ms", Some("500ms")),
            ("1.5s", Some("1.5s")),
            ("0", Some("0s")),
            ("10us", Some("10µs")),
            ("10", None),
            ("", None),
            ("1x", None),
        ] {
            assert_eq!(
                parse_duration(text).ok().map(format_duration).as_deref(),
                form,
                "{text:?}"
            );
        }
    }
}
