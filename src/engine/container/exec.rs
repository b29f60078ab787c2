//! Extra processes in a running container, and the table of those that run.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::Process;
use tokio::sync::oneshot;

use super::{Container, Shim, ShimError};
use crate::engine::EngineError;
use crate::shim::protocol::{Answer, Bundle, Call, file};

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
    pub user: Option<String>,
    pub working_dir: Option<String>,
    /// `KEY=value` entries that are added to the container's environment.
    pub environment: Vec<String>,
    pub privileged: bool,
    /// `(columns, rows)`.
    pub size: Option<(u16, u16)>,
}

/// A running exec. Dropping it closes our ends of its pipes; the process goes on.
pub struct ExecSession {
    pub pid: i32,
    /// The terminal's master side, or the writing end of stdin.
    pub input: Option<OwnedFd>,
    /// The terminal's master side is `input`; without a terminal these are the reading ends.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    exec_id: String,
    shim: Shim,
    exit: oneshot::Receiver<i32>,
}

impl ExecSession {
    /// The exit code of the main process; 137 when the container ended under it.
    pub async fn wait(&mut self) -> i32 {
        (&mut self.exit).await.unwrap_or(137)
    }

    pub async fn signal(&self, signal: i32) -> Result<(), ShimError> {
        let exec_id = self.exec_id.clone();
        self.shim.call(Call::SignalExec { exec_id, signal }).await.map(drop)
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
        let run_dir = self.run_dir.clone();
        exec(&shim, &run_dir, &self.execs, config)
            .await
            .map_err(|source| EngineError::Shim { name: name(), source })
    }
}

/// Runs a process through the given shim; also used by health probes.
pub(super) async fn exec(
    shim: &Shim,
    run_dir: &std::path::Path,
    execs: &ExecTable,
    config: &ExecConfig,
) -> Result<ExecSession, ShimError> {
    let bundle: Bundle = std::fs::read(run_dir.join(file::BUNDLE))
        .map_err(ShimError::Connect)
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|_| ShimError::Protocol))?;
    let process = process(&bundle, config).ok_or(ShimError::Protocol)?;
    let mut random = [0u8; 32];
    getrandom::fill(&mut random).expect("getrandom(2) works on every supported kernel");
    let exec_id = hex::encode(random);
    let exit = execs.expect(&exec_id);
    let pipe = || {
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| ShimError::Connect(error.into()))
    };
    let (mut given, mut kept) = (Vec::new(), None);
    if !config.tty {
        let (stdin, input) = pipe()?;
        let (stdout, output) = pipe()?;
        let (stderr, errors) = pipe()?;
        given = vec![stdin, output, errors];
        kept = Some((input, stdout, stderr));
    }
    let call = Call::Exec {
        exec_id: exec_id.clone(),
        process: Box::new(process),
        user: config.user.clone().or(bundle.user),
        group_add: bundle.group_add,
        tty: config.tty,
        size: config.size,
    };
    let answer = shim.call_with(call, given).await;
    let (pid, mut fds) = match answer {
        Ok((Answer::Exec { pid }, fds)) => (pid, fds),
        Ok(_) => {
            execs.forget(&exec_id);
            return Err(ShimError::Protocol);
        }
        Err(error) => {
            execs.forget(&exec_id);
            return Err(error);
        }
    };
    let (input, stdout, stderr) = match kept {
        Some((input, stdout, stderr)) => (Some(input), Some(stdout), Some(stderr)),
        None => (fds.pop(), None, None),
    };
    Ok(ExecSession {
        pid,
        input,
        stdout,
        stderr,
        exec_id,
        shim: shim.clone(),
        exit,
    })
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
    Some(process)
}
