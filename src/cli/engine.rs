//! `wharf engine`: the daemon, which nobody has to call.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::fd::OwnedFd;

use clap::{Args, Subcommand};

use super::autostart;
use super::command::{on_runtime, with_engine};
use super::globals::Context;
use super::output::{Failure, Kind, visible};
use crate::api::client::Client;
use crate::api::status_text::{elapsed, human_duration};
use crate::engine::Roots;

/// Look after the engine
///
/// The engine owns all containers. It starts with the first command that needs it, and containers
/// survive its end, so there is seldom a reason to call these.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
    wharf engine status     whether it runs, and what this kernel gives it\n  \
    wharf engine stop       end it; containers run on and are adopted by the next\n  \
    wharf engine logs       what it had to say"
)]
pub struct Engine {
    #[command(subcommand)]
    command: EngineCommand,
}

#[derive(Debug, Subcommand)]
enum EngineCommand {
    /// Start the engine if it does not run
    Start,
    /// End the engine; containers run on
    Stop {
        /// Stop all containers first
        #[arg(long)]
        containers: bool,
    },
    /// Whether the engine runs, where, since when
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What the engine wrote to its log
    Logs {
        /// Lines from the end
        #[arg(short = 'n', long, value_name = "N", default_value = "200")]
        tail: usize,
    },
    /// Become the engine, in the foreground
    #[command(hide = true)]
    Run {
        /// Write `ok` or the reason to stdout, then leave stdout alone
        #[arg(long)]
        announce: bool,
    },
}

/// What the engine's own start needs of the command line.
#[derive(Debug)]
pub struct Boot {
    pub roots: Roots,
    /// Write `ok\n` once the socket is served, or a message and `hint: …` lines and end. `None`
    /// when nobody waits, and stderr is the place for reasons.
    pub ready: Option<OwnedFd>,
}

impl Boot {
    /// Leaves the caller's session and takes the readiness pipe off stdout.
    pub(super) fn prepare(context: &Context, announce: bool) -> Result<Boot, Failure> {
        let roots = context.roots.clone();
        if !announce {
            return Ok(Boot { roots, ready: None });
        }
        // Fails only for a leader of a process group, who has no terminal to lose here: the spawn
        // in `autostart` makes none.
        _ = rustix::process::setsid();
        let failed =
            |error: std::io::Error| Failure::system("cannot set up the engine's output", &error);
        let stdout = std::io::stdout();
        let ready =
            rustix::io::fcntl_dupfd_cloexec(stdout, 3).map_err(|errno| failed(errno.into()))?;
        // From here on stdout is the log, like stderr.
        nix::unistd::dup2_stdout(std::io::stderr()).map_err(|errno| failed(errno.into()))?;
        Ok(Boot {
            roots,
            ready: Some(ready),
        })
    }
}

impl Engine {
    /// `Some(announce)` if this process is to become the engine.
    pub(super) fn run_flag(&self) -> Option<bool> {
        match self.command {
            EngineCommand::Run { announce } => Some(announce),
            _ => None,
        }
    }

    pub fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            EngineCommand::Start => start(context),
            EngineCommand::Stop { containers } => stop(context, containers),
            EngineCommand::Status { json } => status(context, json),
            EngineCommand::Logs { tail } => logs(context, tail),
            // `main` has taken this road already.
            EngineCommand::Run { .. } => Ok(()),
        }
    }
}

fn start(context: &Context) -> Result<(), Failure> {
    let status = with_engine(context, async |client| Ok(client.status().await?))?;
    context
        .output
        .line(&format!("engine runs as process {}", status.pid))
}

/// Runs with a connection to an engine that is there; none is started.
fn existing<T, F>(context: &Context, call: impl FnOnce(Client) -> F) -> Result<Option<T>, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let Some(stream) = autostart::dial(&context.roots.socket)? else {
        return Ok(None);
    };
    drop(stream);
    on_runtime(async { call(Client::connect(&context.roots.socket).await?).await }).map(Some)
}

fn stop(context: &Context, containers: bool) -> Result<(), Failure> {
    let pid = existing(context, async |client| {
        let pid = client.status().await?.pid;
        client.shutdown(containers).await?;
        Ok(pid)
    })?;
    let Some(pid) = pid else {
        return context.output.line("the engine does not run");
    };
    // Its end is the end of its process; the identity cannot be reused while the handle is open.
    if let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        && let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
    {
        let mut wait = [rustix::event::PollFd::new(
            &process,
            rustix::event::PollFlags::IN,
        )];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut wait, None) {}
    }
    context.output.line("the engine has ended")
}

fn status(context: &Context, json: bool) -> Result<(), Failure> {
    let Some(status) = existing(context, async |client| Ok(client.status().await?))? else {
        return Err(Failure::new(Kind::Engine, "the engine does not run")
            .hint("the next command that needs it starts it"));
    };
    if json {
        let text = serde_json::to_string_pretty(&status)
            .map_err(|error| Failure::new(Kind::System, format!("cannot print: {error}")))?;
        return context.output.line(&text);
    }
    let up = human_duration(elapsed(status.started_at, super::clock::now_ns()));
    let mut text = format!(
        "Version:     {}\nProcess:     {}\nUp:          {}\nContainers:  {} ({} running)\n\
         Socket:      {}\nData root:   {}\nRun root:    {}\n",
        status.version,
        status.pid,
        up,
        status.n_containers,
        status.n_running,
        status.socket.display(),
        status.data_root.display(),
        status.run_root.display(),
    );
    if !status.features.is_empty() {
        text.push_str("Features:\n");
    }
    for (feature, finding) in &status.features {
        text.push_str(&format!("  {}: {}\n", visible(feature), visible(finding)));
    }
    context.output.out(text.as_bytes())
}

/// Reads from the end: the log can be long, its last lines are what one wants.
fn logs(context: &Context, tail: usize) -> Result<(), Failure> {
    const LINE_BYTES: u64 = 4096;
    let path = context.roots.run.join("engine.log");
    let mut file = File::open(&path).map_err(|error| {
        Failure::new(
            Kind::System,
            format!("cannot open {}: {error}", path.display()),
        )
        .hint("an engine that was started by hand or by systemd logs to where its stderr goes")
    })?;
    let failed = |error| Failure::system("cannot read the engine's log", &error);
    let length = file.metadata().map_err(failed)?.len();
    let start = length.saturating_sub((tail as u64).saturating_mul(LINE_BYTES));
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut lines = std::collections::VecDeque::new();
    for line in BufReader::new(file)
        .split(b'\n')
        .skip(usize::from(start > 0))
    {
        lines.push_back(line.map_err(failed)?);
        if lines.len() > tail {
            lines.pop_front();
        }
    }
    for line in lines {
        context.output.line(&String::from_utf8_lossy(&line))?;
    }
    Ok(())
}
