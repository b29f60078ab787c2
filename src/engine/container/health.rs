//! Health probes: when to run one, and what its outcome means.
//!
//! Defaults and rules are Docker's (moby `daemon/health.go`): 30 s interval and timeout, three
//! failures, failures inside the start period do not count, the first success ends it, output
//! capped at 4096 bytes, and the time that the probe takes to start is not part of its timeout.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Shim;
use super::exec::{ExecConfig, ExecStdio, ExecTable, exec};
use crate::compose::Healthcheck;
use crate::plan::Health;

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Bytes of output that are kept of one probe.
const MAX_OUTPUT: usize = 4096;
/// Probes whose outcome is kept for `inspect`.
const MAX_RESULTS: usize = 5;

/// A check with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    argv: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    /// `None` when there is no test or it is switched off.
    pub fn new(check: &Healthcheck) -> Option<Check> {
        let test = check.test.as_ref()?;
        let (kind, rest) = test.split_first()?;
        let argv = match kind.as_str() {
            "CMD" if !rest.is_empty() => rest.to_vec(),
            "CMD-SHELL" if !rest.is_empty() => {
                let shell = ["/bin/sh".to_owned(), "-c".to_owned()];
                shell.iter().chain(rest).cloned().collect()
            }
            _ => return None,
        };
        // Zero means "the default" in Docker's API and in images.
        let or =
            |value: Option<Duration>, default| value.filter(|v| !v.is_zero()).unwrap_or(default);
        Some(Check {
            argv,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: check.start_period.unwrap_or(Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: check.retries.filter(|n| *n > 0).unwrap_or(RETRIES),
        })
    }
}

/// What a check's history says; pure, so that a table can test it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    health: Health,
    failures: u32,
}

impl Verdict {
    /// Takes in one outcome, which came `since_start` after the container's start.
    fn take(&mut self, check: &Check, success: bool, since_start: Duration) {
        if success {
            self.health = Health::Healthy;
            self.failures = 0;
            return;
        }
        if self.health == Health::Starting && since_start < check.start_period {
            return;
        }
        self.failures += 1;
        if self.failures >= check.retries {
            self.health = Health::Unhealthy;
        }
    }

    fn pause(&self, check: &Check, since_start: Duration) -> Duration {
        if self.health == Health::Starting && since_start < check.start_period {
            check.start_interval
        } else {
            check.interval
        }
    }
}

/// The outcome of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub health: Health,
    pub failing_streak: u32,
    pub results: Vec<ProbeResult>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub exit_code: i32,
    pub output: String,
}

/// What was found out before these probes.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub health: Health,
    pub failing_streak: u32,
    /// How long the container has run.
    pub uptime: Duration,
}

/// The task that probes one run of a container; dropping it ends the task.
pub struct Probes {
    outcomes: mpsc::UnboundedReceiver<Probe>,
    task: AbortHandle,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    /// Begins probing.
    pub fn begin(
        check: Check,
        shim: Shim,
        run_dir: PathBuf,
        execs: Arc<ExecTable>,
        known: Known,
    ) -> Probes {
        let (sender, outcomes) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let begin = Instant::now();
            let since_start = || known.uptime + begin.elapsed();
            let mut verdict = Verdict {
                health: known.health,
                failures: known.failing_streak,
            };
            let mut results = VecDeque::new();
            loop {
                tokio::time::sleep(verdict.pause(&check, since_start())).await;
                let result = probe(&check, &shim, &run_dir, &execs).await;
                verdict.take(&check, result.exit_code == 0, since_start());
                results.push_back(result);
                if results.len() > MAX_RESULTS {
                    results.pop_front();
                }
                let outcome = Probe {
                    health: verdict.health,
                    failing_streak: verdict.failures,
                    results: results.iter().cloned().collect(),
                };
                if sender.send(outcome).is_err() {
                    return;
                }
            }
        });
        Probes {
            outcomes,
            task: task.abort_handle(),
        }
    }

    pub async fn next(&mut self) -> Option<Probe> {
        self.outcomes.recv().await
    }
}

async fn probe(
    check: &Check,
    shim: &Shim,
    run_dir: &std::path::Path,
    execs: &ExecTable,
) -> ProbeResult {
    let config = ExecConfig {
        argv: check.argv.clone(),
        apart: true,
        ..ExecConfig::default()
    };
    let failed = |output: String| ProbeResult {
        exit_code: -1,
        output,
    };
    let mut session = match exec(shim, run_dir, execs, &config).await {
        Ok(session) => session,
        Err(error) => return failed(crate::engine::chain(&error)),
    };
    let (mut stdout, mut stderr) = match std::mem::replace(&mut session.stdio, ExecStdio::Detached)
    {
        ExecStdio::Pipes { stdout, stderr, .. } => (reader(stdout), reader(stderr)),
        ExecStdio::Terminal(_) | ExecStdio::Detached => (None, None),
    };
    let mut output = Vec::new();
    let finished = tokio::time::timeout(check.timeout, async {
        // The probe's end decides, not the end of its output: a child it left behind may keep the
        // pipes open for ever.
        let [mut a, mut b] = [[0u8; 1024]; 2];
        loop {
            tokio::select! {
                code = session.wait() => break code,
                // Cancel-safe: a read that is not ready has taken nothing.
                n = read(&mut stdout, &mut a) => keep(&mut output, &mut stdout, &a, n),
                n = read(&mut stderr, &mut b) => keep(&mut output, &mut stderr, &b, n),
            }
        }
    })
    .await;
    match finished {
        Ok(code) => {
            drain(&mut output, &stdout);
            drain(&mut output, &stderr);
            ProbeResult {
                exit_code: code,
                output: String::from_utf8_lossy(&output).into_owned(),
            }
        }
        Err(_elapsed) => {
            // A shim that is gone has taken the probe with it.
            let _ = session.signaller().kill_all().await;
            failed(format!(
                "health check exceeded its timeout of {:?}",
                check.timeout
            ))
        }
    }
}

fn reader(fd: OwnedFd) -> Option<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd).ok()
}

async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn keep(output: &mut Vec<u8>, pipe: &mut Option<pipe::Receiver>, buffer: &[u8], n: usize) {
    if n == 0 {
        *pipe = None;
    }
    let room = MAX_OUTPUT.saturating_sub(output.len());
    output.extend_from_slice(&buffer[..n.min(room)]);
}

/// What the probe wrote just before it ended is still in the pipe.
fn drain(output: &mut Vec<u8>, pipe: &Option<pipe::Receiver>) {
    let Some(pipe) = pipe else { return };
    let mut buffer = [0u8; 1024];
    // Straight from the descriptor: the runtime may not have heard yet that it is readable.
    while let Ok(n) = rustix::io::read(pipe, &mut buffer) {
        let room = MAX_OUTPUT.saturating_sub(output.len());
        if n == 0 || room == 0 {
            return;
        }
        output.extend_from_slice(&buffer[..n.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start_period_s: u64, retries: u32) -> Check {
        let written = Healthcheck {
            test: Some(vec!["CMD".into(), "true".into()]),
            start_period: Some(Duration::from_secs(start_period_s)),
            retries: Some(retries),
            ..Healthcheck::default()
        };
        Check::new(&written).unwrap()
    }

    fn after(check: &Check, outcomes: &[(bool, u64)]) -> (Health, u32) {
        let mut verdict = Verdict {
            health: Health::Starting,
            failures: 0,
        };
        for (success, second) in outcomes {
            verdict.take(check, *success, Duration::from_secs(*second));
        }
        (verdict.health, verdict.failures)
    }

    #[test]
    fn l17_failures_in_the_start_period_do_not_count() {
        let check = check(10, 2);
        assert_eq!(
            after(&check, &[(false, 1), (false, 5), (false, 9)]),
            (Health::Starting, 0)
        );
        assert_eq!(
            after(&check, &[(false, 1), (false, 11)]),
            (Health::Starting, 1)
        );
        assert_eq!(
            after(&check, &[(false, 11), (false, 12)]),
            (Health::Unhealthy, 2)
        );
    }

    #[test]
    fn l17_the_first_success_ends_the_start_period() {
        let check = check(10, 1);
        assert_eq!(after(&check, &[(true, 1)]), (Health::Healthy, 0));
        assert_eq!(
            after(&check, &[(true, 1), (false, 2)]),
            (Health::Unhealthy, 1)
        );
        assert_eq!(
            after(&check, &[(false, 12), (true, 13)]),
            (Health::Healthy, 0)
        );
    }

    #[test]
    fn l17_the_pause_is_short_only_while_starting() {
        let check = check(10, 1);
        let starting = Verdict {
            health: Health::Starting,
            failures: 0,
        };
        assert_eq!(
            starting.pause(&check, Duration::from_secs(3)),
            START_INTERVAL
        );
        assert_eq!(starting.pause(&check, Duration::from_secs(12)), INTERVAL);
    }

    #[test]
    fn a_check_that_is_switched_off_is_none() {
        for test in [vec![], vec!["NONE".to_owned()], vec!["CMD".to_owned()]] {
            let written = Healthcheck {
                test: Some(test),
                ..Healthcheck::default()
            };
            assert_eq!(Check::new(&written), None);
        }
    }
}
