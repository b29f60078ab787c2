//! When a container that ended is started again.
//!
//! The numbers are Docker's (moby `restartmanager`): 100 ms, doubling up to a minute, forgotten
//! after ten seconds of running. Pure: the driver keeps the time.

use std::time::Duration;

use super::record::RunRecord;
use crate::compose::RestartPolicy;

const FIRST_DELAY: Duration = Duration::from_millis(100);
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A run at least this long was a success: the next delay starts small again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Decides after a run of length `uptime` that ended with `exit_code`; updates the back-off.
/// `None`: the container stays down.
pub fn delay_after_exit(
    policy: RestartPolicy,
    manually_stopped: bool,
    exit_code: i32,
    uptime: Duration,
    run: &mut RunRecord,
) -> Option<Duration> {
    if manually_stopped {
        return None;
    }
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure(limit) => {
            exit_code != 0 && limit.is_none_or(|limit| run.restart_count < limit)
        }
    };
    if !again {
        return None;
    }
    let delay = if run.backoff_ms == 0 || uptime >= STABLE_AFTER {
        FIRST_DELAY
    } else {
        Duration::from_millis(run.backoff_ms.saturating_mul(2)).min(LONGEST_DELAY)
    };
    run.backoff_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    run.restart_count += 1;
    Some(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_for(
        policy: RestartPolicy,
        code: i32,
        uptime_ms: u64,
        run: &mut RunRecord,
    ) -> Option<u64> {
        delay_after_exit(policy, false, code, Duration::from_millis(uptime_ms), run)
            .map(|delay| delay.as_millis() as u64)
    }

    #[test]
    fn l16_delay_doubles_to_a_minute_and_is_forgotten_after_ten_seconds() {
        let mut run = RunRecord::default();
        let delays: Vec<_> = (0..12)
            .map(|_| run_for(RestartPolicy::Always, 1, 5, &mut run).unwrap())
            .collect();
        assert_eq!(
            delays,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000
            ]
        );
        assert_eq!(
            run_for(RestartPolicy::Always, 1, 10_000, &mut run),
            Some(100)
        );
    }

    #[test]
    fn l16_on_failure_counts_and_ignores_success() {
        let mut run = RunRecord::default();
        let policy = RestartPolicy::OnFailure(Some(2));
        assert_eq!(run_for(policy, 0, 5, &mut run), None);
        assert_eq!(run_for(policy, 1, 5, &mut run), Some(100));
        assert_eq!(run_for(policy, 1, 5, &mut run), Some(200));
        assert_eq!(run_for(policy, 1, 5, &mut run), None);
    }

    #[test]
    fn l16_a_manual_stop_and_the_policy_no_are_final() {
        let mut run = RunRecord::default();
        assert_eq!(run_for(RestartPolicy::No, 1, 5, &mut run), None);
        let policy = RestartPolicy::Always;
        assert_eq!(
            delay_after_exit(policy, true, 1, Duration::ZERO, &mut run),
            None
        );
    }
}
