//! Signal names and numbers as Docker takes them: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.

use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::engine::EngineError;

/// The first and last realtime signals that programs may use; the C library keeps 32 and 33.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Parses a signal; a number must be one that the kernel has.
pub fn parse_signal(text: &str) -> Result<i32, EngineError> {
    let invalid = || EngineError::InvalidSignal {
        signal: text.to_owned(),
    };
    let text_upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = text_upper.parse::<i32>() {
        return (1..=RTMAX)
            .contains(&number)
            .then_some(number)
            .ok_or_else(invalid);
    }
    let name = text_upper.strip_prefix("SIG").unwrap_or(&text_upper);
    let offset = |rest: &str| match rest {
        "" => Some(0),
        rest => rest.parse::<i32>().ok(),
    };
    let realtime = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest).map(|n| RTMIN + n)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest).map(|n| RTMAX + n)
    } else {
        return Signal::from_str(&format!("SIG{name}"))
            .map(|signal| signal as i32)
            .map_err(|_| invalid());
    };
    realtime
        .filter(|n| (RTMIN..=RTMAX).contains(n))
        .ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l14_signals_are_names_or_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGKILL", 9),
            ("sigusr1", 10),
            ("15", 15),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGFOO", "RTMIN+99", "RTMIN-3"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
