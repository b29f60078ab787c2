//! Extra processes in a running container, and the table of those that run.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::Process;
use tokio::sync::oneshot;

use super::{Container, Shim, ShimError};
use crate::engine::EngineError;
use crate::shim::protocol::{Answer, Bundle, Call, file};
use crate::sys::fd;

/// How the ids of execs begin that are kept apart: those are probes, which are nobody's once the
/// engine that sent them is gone.
pub(super) const APART: &str = "probe-";

/// Who waits for which exec of one container.
#[derive(Default)]
pub struct ExecTable {
    waiting: Mutex<HashMap<String, oneshot::Sender<i32>>>,
}

impl ExecTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<i32>>> {
        // Each access is one map operation; a panic elsewhere leaves nothing half-done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the exec is requested: its end may be told before its start.
    fn expect(&self, exec_id: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.lock().insert(exec_id.to_owned(), sender);
        receiver
    }

    fn forget(&self, exec_id: &str) {
        self.lock().remove(exec_id);
    }

    pub fn exited(&self, exec_id: &str, code: i32) {
        if let Some(sender) = self.lock().remove(exec_id) {
            let _ = sender.send(code);
        }
    }

    /// The container ended, and everything in it.
    pub fn all_exited(&self) {
        for (_, sender) in self.lock().drain() {
            let _ = sender.send(137);
        }
    }
}

/// A process to run in a container, in Docker's terms.
#[derive(Debug, Clone, Default)]
pub struct ExecConfig {
    pub argv: Vec<String>,
    pub tty: bool,
    /// Give it a stdin that the session writes into; else it is `/dev/null`.
    pub stdin: bool,
    /// Nobody will look at its output.
    pub detach: bool,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    /// `KEY=value` entries that are added to the container's environment.
    pub environment: Vec<String>,
    pub privileged: bool,
    /// `(columns, rows)`.
    pub size: Option<(u16, u16)>,
    /// Keep it and its offspring together, for [`ExecSignaller::kill_all`].
    pub apart: bool,
}

/// A running exec. Dropping it closes our ends of its pipes; the process goes on.
pub struct ExecSession {
    pub pid: i32,
    pub stdio: ExecStdio,
    exec_id: String,
    shim: Shim,
    exit: oneshot::Receiver<i32>,
}

/// Our ends of an exec's standard streams.
pub enum ExecStdio {
    /// The terminal's master side.
    Terminal(OwnedFd),
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// Nobody looks at it: its streams are `/dev/null`.
    Detached,
}

impl ExecSession {
    /// The exit code of the main process; 137 when the container ended under it.
    pub async fn wait(&mut self) -> i32 {
        (&mut self.exit).await.unwrap_or(137)
    }

    /// A handle for sending signals while somebody else waits.
    pub fn signaller(&self) -> ExecSignaller {
        ExecSignaller {
            exec_id: self.exec_id.clone(),
            shim: self.shim.clone(),
        }
    }
}

/// Sends signals to one exec.
#[derive(Clone)]
pub struct ExecSignaller {
    exec_id: String,
    shim: Shim,
}

impl ExecSignaller {
    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        let exec_id = self.exec_id.clone();
        self.shim
            .call(Call::SignalExec { exec_id, signal })
            .await
            .map(drop)
    }

    /// Kills it and, if it was started apart, everything that it has started.
    pub async fn kill_all(&self) -> Result<(), ShimError> {
        let exec_id = self.exec_id.clone();
        self.shim.call(Call::KillExec { exec_id }).await.map(drop)
    }
}

impl Container {
    /// Runs a process in the container.
    pub async fn exec(&self, config: &ExecConfig) -> Result<ExecSession, EngineError> {
        let view = self.view();
        let name = || view.record.config.name.clone();
        let Some(shim) = view.shim.clone().filter(|_| view.is_running()) else {
            return Err(EngineError::NotRunning { name: name() });
        };
        exec(&shim, &self.run_dir, &self.execs, config)
            .await
            .map_err(|source| EngineError::Shim {
                name: name(),
                source,
            })
    }
}

/// Runs a process through the given shim; also used by health probes.
pub(super) async fn exec(
    shim: &Shim,
    run_dir: &Path,
    execs: &ExecTable,
    config: &ExecConfig,
) -> Result<ExecSession, ShimError> {
    let bundle: Bundle = std::fs::read(run_dir.join(file::BUNDLE))
        .map_err(ShimError::Connect)
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|_| ShimError::Protocol))?;
    let process = process(&bundle, config).ok_or(ShimError::Protocol)?;
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).expect("getrandom(2) works on every supported kernel");
    let mut exec_id = hex::encode(random);
    if config.apart {
        exec_id.insert_str(0, APART);
    }
    let (given, kept) = stdio(config).map_err(ShimError::Connect)?;
    let exit = execs.expect(&exec_id);
    let call = Call::Exec {
        exec_id: exec_id.clone(),
        process: Box::new(process),
        user: config.user.clone().or(bundle.user),
        group_add: bundle.group_add,
        tty: config.tty,
        size: config.size,
        apart: config.apart,
    };
    let answer = match shim.call_with(call, given).await {
        Ok((Answer::Exec { pid }, fds)) => Ok((pid, fds)),
        Ok(_) => Err(ShimError::Protocol),
        Err(error) => Err(error),
    };
    let (pid, mut fds) = answer.inspect_err(|_| execs.forget(&exec_id))?;
    let stdio = match kept {
        Some(stdio) => stdio,
        None => ExecStdio::Terminal(fds.pop().ok_or(ShimError::Protocol)?),
    };
    Ok(ExecSession {
        pid,
        stdio,
        exec_id,
        shim: shim.clone(),
        exit,
    })
}

/// The exec's ends of its streams, and ours. A terminal is made by the shim, inside.
fn stdio(config: &ExecConfig) -> io::Result<(Vec<OwnedFd>, Option<ExecStdio>)> {
    if config.tty {
        return Ok((Vec::new(), None));
    }
    if config.detach {
        let streams = [fd::null()?, fd::null()?, fd::null()?];
        return Ok((streams.into(), Some(ExecStdio::Detached)));
    }
    let (input, stdin) = match config.stdin {
        true => {
            let (read, write) = fd::pipe()?;
            (read, Some(write))
        }
        false => (fd::null()?, None),
    };
    let (stdout, output) = fd::pipe()?;
    let (stderr, errors) = fd::pipe()?;
    let kept = ExecStdio::Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((vec![input, output, errors], Some(kept)))
}

/// The container's own process description with the exec's differences.
fn process(bundle: &Bundle, config: &ExecConfig) -> Option<Process> {
    let mut process = bundle.spec.process().clone()?;
    process.set_args(Some(config.argv.clone()));
    process.set_terminal(Some(config.tty));
    let mut env = process.env().clone().unwrap_or_default();
    if config.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    for entry in &config.environment {
        let key = entry.split('=').next().unwrap_or(entry);
        env.retain(|old| old.split('=').next() != Some(key));
        env.push(entry.clone());
    }
    process.set_env(Some(env));
    if let Some(dir) = &config.working_dir {
        process.set_cwd(dir.into());
    }
    if config.privileged {
        // As Docker: every capability, under the container's own filter and device rules.
        process.set_capabilities(Some(super::security::everything()));
    }
    Some(process)
}
