//! `logging:` in the words of Docker's drivers, and what this engine makes of it.
//!
//! Output always goes to files of the engine's own, whatever driver is named, so that `logs` and an
//! attached `up` show it. The options that say how much is kept are obeyed; `none` keeps the little
//! that those who watch need. A driver that sends output elsewhere is not there: the container
//! runs, and the user is told once.

use crate::compose::Logging;
use crate::compose::units::parse_bytes;
use crate::shim::protocol::parts::Rotation;

const MIB: u64 = 1 << 20;
/// Without options: much, but not the whole disk (HAZARDS L30).
const DEFAULT: Rotation = Rotation {
    max_bytes: 128 * MIB,
    max_parts: 8,
};
/// Docker's default for its driver `local`.
const LOCAL: Rotation = Rotation {
    max_bytes: 20 * MIB,
    max_parts: 5,
};
/// For who is looking on while it is written.
const NONE: Rotation = Rotation {
    max_bytes: MIB,
    max_parts: 2,
};

/// Options of Docker's file drivers that are about what is kept, and how.
const OWN: [&str; 5] = [
    "max-size",
    "max-file",
    "compress",
    "mode",
    "max-buffer-size",
];
/// Options about what is added to each line for programs that read Docker's files.
const DECORATION: [&str; 6] = [
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "cache-disabled",
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoggingError {
    #[error("unknown log opt {option:?} for the log driver {driver}")]
    Unknown { driver: String, option: String },
    #[error("invalid value {value:?} for the log opt {option}")]
    Value { option: &'static str, value: String },
}

impl LoggingError {
    pub fn hint(&self) -> String {
        match self {
            LoggingError::Unknown { .. } => format!("the options are {}", OWN.join(", ")),
            LoggingError::Value { option, .. } => match *option {
                "max-size" => "write a size such as 10m: whole files of it are kept".to_owned(),
                "max-file" => "write a number of files, 1 or more".to_owned(),
                _ => "write `blocking` or `non-blocking`".to_owned(),
            },
        }
    }
}

/// How much of a container's output is kept.
pub fn rotation(logging: Option<&Logging>) -> Result<Rotation, LoggingError> {
    let Some(logging) = logging else {
        return Ok(DEFAULT);
    };
    let driver = driver(logging);
    let mut rotation = match driver {
        "local" => LOCAL,
        "none" => return Ok(NONE),
        _ => DEFAULT,
    };
    if is_foreign(driver) {
        // Its options are its own.
        return Ok(rotation);
    }
    let value = |option: &'static str| {
        let value = logging.options.get(option)?;
        let wrong = LoggingError::Value {
            option,
            value: value.clone(),
        };
        Some((value.as_str(), wrong))
    };
    for option in logging.options.keys() {
        if !OWN.contains(&option.as_str()) && !DECORATION.contains(&option.as_str()) {
            return Err(LoggingError::Unknown {
                driver: driver.to_owned(),
                option: option.clone(),
            });
        }
    }
    if let Some((text, wrong)) = value("max-size") {
        match parse_bytes(text).ok().and_then(|n| u64::try_from(n).ok()) {
            Some(bytes) if bytes > 0 => {
                rotation.max_bytes = bytes;
                // As Docker's json-file: one file, unless told otherwise.
                if driver != "local" {
                    rotation.max_parts = 1;
                }
            }
            // Docker's word for no limit.
            _ if text == "-1" => rotation.max_bytes = u64::MAX,
            _ => return Err(wrong),
        }
    }
    if let Some((text, wrong)) = value("max-file") {
        rotation.max_parts = text.parse().ok().filter(|n| *n > 0).ok_or(wrong)?;
    }
    if let Some((text, wrong)) = value("mode")
        && text != "blocking"
        && text != "non-blocking"
    {
        return Err(wrong);
    }
    Ok(rotation)
}

/// What to tell a user whose driver is not there.
pub fn remark(container: &str, logging: Option<&Logging>) -> Option<String> {
    let driver = driver(logging?);
    is_foreign(driver).then(|| {
        format!(
            "container {container}: the log driver {driver:?} is not there; its output is kept \
             here, and `logs` shows it"
        )
    })
}

fn driver(logging: &Logging) -> &str {
    match logging.driver.as_deref() {
        None | Some("" | "default") => "json-file",
        Some(driver) => driver,
    }
}

fn is_foreign(driver: &str) -> bool {
    !matches!(driver, "json-file" | "local" | "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logging(driver: &str, options: &[(&str, &str)]) -> Logging {
        Logging {
            driver: (!driver.is_empty()).then(|| driver.to_owned()),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[test]
    fn options_say_how_much_is_kept() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            (u64, u32),
        );
        let cases: [Case; 7] = [
            ("", &[], (128 * MIB, 8)),
            ("json-file", &[("max-size", "64k")], (64 << 10, 1)),
            (
                "json-file",
                &[("max-size", "10m"), ("max-file", "3")],
                (10 * MIB, 3),
            ),
            ("", &[("max-file", "3")], (128 * MIB, 3)),
            ("local", &[("max-size", "1m")], (MIB, 5)),
            ("json-file", &[("max-size", "-1")], (u64::MAX, 8)),
            ("syslog", &[("syslog-address", "udp://x")], (128 * MIB, 8)),
        ];
        for (driver, options, (max_bytes, max_parts)) in cases {
            let kept = rotation(Some(&logging(driver, options)));
            assert_eq!(
                kept,
                Ok(Rotation {
                    max_bytes,
                    max_parts
                }),
                "{driver} {options:?}"
            );
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for (option, value) in [
            ("max-size", "ten"),
            ("max-size", "0"),
            ("max-size", "-5m"),
            ("max-file", "0"),
            ("max-file", "x"),
            ("mode", "quick"),
            ("max-siez", "1m"),
        ] {
            assert!(
                rotation(Some(&logging("", &[(option, value)]))).is_err(),
                "{option}={value}"
            );
        }
    }

    #[test]
    fn a_driver_that_is_not_there_is_told_of() {
        for (driver, is_told) in [
            ("", false),
            ("none", false),
            ("local", false),
            ("gelf", true),
        ] {
            assert_eq!(
                remark("x", Some(&logging(driver, &[]))).is_some(),
                is_told,
                "{driver}"
            );
        }
    }
}
