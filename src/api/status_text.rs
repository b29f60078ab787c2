//! A container's status in Docker's words: `Up 3 seconds (healthy)`, `Exited (0) 2 minutes ago`.
//!
//! Shared by the REST conversion and the CLI's tables, so that both say the same.

use std::time::Duration;

use crate::plan::{Health, ObservedContainer, Phase};

/// The status line at the time `now_ns` (nanoseconds since the epoch).
pub fn status(container: &ObservedContainer, now_ns: u64) -> String {
    let since = |then: Option<u64>| human_duration(elapsed(then.unwrap_or(now_ns), now_ns));
    let code = container.exit_code.unwrap_or(0);
    match container.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Dead => "Dead".to_owned(),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Restarting => {
            format!("Restarting ({code}) {} ago", since(container.finished_at))
        }
        Phase::Paused => format!("Up {} (Paused)", since(container.started_at)),
        Phase::Exited => format!("Exited ({code}) {} ago", since(container.finished_at)),
        Phase::Running => {
            let up = format!("Up {}", since(container.started_at));
            match container.health {
                None => up,
                Some(Health::Starting) => format!("{up} (health: starting)"),
                Some(Health::Healthy) => format!("{up} (healthy)"),
                Some(Health::Unhealthy) => format!("{up} (unhealthy)"),
            }
        }
    }
}

/// Docker's word for a health state, empty for none.
pub fn health(container: &ObservedContainer) -> &'static str {
    match container.health {
        None => "",
        Some(Health::Starting) => "starting",
        Some(Health::Healthy) => "healthy",
        Some(Health::Unhealthy) => "unhealthy",
    }
}

/// The time between two instants in nanoseconds; a clock that was set back gives zero.
pub fn elapsed(then_ns: u64, now_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(then_ns))
}

/// A duration as Docker rounds it: `Less than a second`, `About a minute`, `3 weeks`.
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded half up, and everything longer counts in these hours.
    let hours = (duration.as_secs_f64() / 3600.0 + 0.5) as u64;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_as_docker_rounds_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (90 * 60, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (15 * 24 * 3600, "2 weeks"),
            (61 * 24 * 3600, "2 months"),
            (800 * 24 * 3600, "2 years"),
        ] {
            assert_eq!(
                human_duration(Duration::from_secs(seconds)),
                text,
                "{seconds} s"
            );
        }
    }
}
