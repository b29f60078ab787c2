//! When a registry is asked for an image: Compose's `pull_policy`.

use std::fmt;
use std::time::Duration;

use crate::compose::units;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When it is not there.
    #[default]
    Missing,
    Always,
    Never,
    /// It is built, not pulled.
    Build,
    /// When it is not there, or was asked for longer ago than this.
    Every(Duration),
}

#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a pull policy such as always, missing, never or every_12h")]
pub struct PullPolicyError {
    text: String,
}

const DAY: Duration = Duration::from_secs(86_400);

impl PullPolicy {
    pub fn parse(text: Option<&str>) -> Result<PullPolicy, PullPolicyError> {
        let text = text.unwrap_or_default();
        Ok(match text {
            "" | "missing" | "if_not_present" | "policy" => PullPolicy::Missing,
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            "build" => PullPolicy::Build,
            "daily" => PullPolicy::Every(DAY),
            "weekly" => PullPolicy::Every(DAY * 7),
            _ => text
                .strip_prefix("every_")
                .and_then(units::duration)
                .filter(|age| !age.is_zero())
                .map(PullPolicy::Every)
                .ok_or_else(|| PullPolicyError {
                    text: text.chars().take(100).collect(),
                })?,
        })
    }
}

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PullPolicy::Missing => f.write_str("missing"),
            PullPolicy::Always => f.write_str("always"),
            PullPolicy::Never => f.write_str("never"),
            PullPolicy::Build => f.write_str("build"),
            PullPolicy::Every(age) => write!(f, "every_{}s", age.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composes_words() {
        for (text, expected) in [
            ("", PullPolicy::Missing),
            ("missing", PullPolicy::Missing),
            ("if_not_present", PullPolicy::Missing),
            ("always", PullPolicy::Always),
            ("never", PullPolicy::Never),
            ("build", PullPolicy::Build),
            ("daily", PullPolicy::Every(DAY)),
            ("weekly", PullPolicy::Every(DAY * 7)),
            ("every_12h", PullPolicy::Every(DAY / 2)),
            ("every_1d", PullPolicy::Every(DAY)),
        ] {
            assert_eq!(PullPolicy::parse(Some(text)).unwrap(), expected, "{text}");
        }
        for bad in ["sometimes", "every_", "every_0s", "every_x"] {
            assert!(PullPolicy::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
