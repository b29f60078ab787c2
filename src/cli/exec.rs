//! `wharf exec`.

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::command::{nothing_runs, with_engine};
use super::globals::Context;
use super::output::{Failure, Kind};
use super::project;
use super::ps::service_of;
use super::terminal::{self, RawMode, stdin_chunks};
use crate::api::client::{Client, ExecEvent, ExecInput, ExecOutput};
use crate::api::wire::exec::ExecConfig;
use crate::compose::ProjectName;
use crate::plan::{ObservedContainer, Phase};

/// Run a command in a running container
///
/// With a terminal when you sit at one, else with plain pipes that carry any bytes. The exit code is
/// the command's; 126 says that it cannot be executed, 127 that it is not there.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf exec web sh                        a shell\n  \
    wharf exec -T db pg_dump app > dump.sql  bytes through pipes\n  \
    wharf exec -u root -w /srv web ls -l     as another user, in another directory\n  \
    wharf exec --index 2 web hostname        in the second container of a scaled service")]
pub struct Exec {
    /// Service whose container to use
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// Command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
    /// Run it in the background and return at once
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Set a variable, KEY=VALUE; KEY alone passes yours on
    #[arg(short = 'e', long = "env", value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Number of the container in a scaled service [default: the lowest that runs]
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    pub index: u32,
    /// No terminal, plain pipes
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY")]
    pub no_tty: bool,
    /// Keep stdin open; it is anyway
    #[arg(short = 'i', long, hide = true)]
    pub interactive: bool,
    /// Allocate a terminal; done anyway when you sit at one
    #[arg(short = 't', long, hide = true)]
    pub tty: bool,
    /// With all privileges
    #[arg(long)]
    pub privileged: bool,
    /// User to run as: name or uid, optionally :group
    #[arg(short = 'u', long, value_name = "USER")]
    pub user: Option<String>,
    /// Directory to run in
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
}

impl Exec {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let name = project::name(context)?;
        let tty = !self.no_tty && !self.detach && terminal::is_interactive();
        let config = self.config(tty, |variable| std::env::var(variable).ok());
        with_engine(context, async |client| {
            let container = find(&client, &name, &self.service, self.index).await?;
            if config.detach {
                return Ok(client.exec_detached(&container.id, &config).await?);
            }
            let signals = Signals::new()?;
            let (input, output) = client.exec(&container.id, &config).await?;
            // After the engine's answer: a refusal is printed on a terminal that is in order.
            let raw = if tty { Some(RawMode::enter()?) } else { None };
            let code = converse(context, input, output, signals, tty).await;
            drop(raw);
            match code? {
                0 => Ok(()),
                code => Err(Failure::exit(code)),
            }
        })
    }

    fn config(&self, tty: bool, environment: impl Fn(&str) -> Option<String>) -> ExecConfig {
        let passed = |entry: &String| match entry.contains('=') {
            true => Some(entry.clone()),
            // As in Docker: a variable that is not set here is not set there.
            false => environment(entry).map(|value| format!("{entry}={value}")),
        };
        let mut env: Vec<String> = self.env.iter().filter_map(passed).collect();
        if tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.extend(environment("TERM").map(|term| format!("TERM={term}")));
        }
        ExecConfig {
            argv: self.command.clone(),
            tty,
            stdin: !self.detach,
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            env,
            privileged: self.privileged,
            size: if tty { terminal::size() } else { None },
            detach: self.detach,
        }
    }
}

async fn find(
    client: &Client,
    project: &ProjectName,
    service: &str,
    index: u32,
) -> Result<ObservedContainer, Failure> {
    let number = |container: &ObservedContainer| {
        container
            .label("com.docker.compose.container-number")
            .parse::<u32>()
            .unwrap_or(u32::MAX)
    };
    let containers = client.containers(Some(project), false).await?;
    let found = containers
        .into_iter()
        .filter(|container| {
            service_of(container) == service
                && matches!(container.phase, Phase::Running | Phase::Paused)
                && container.label("com.docker.compose.oneoff") != "True"
                && (index == 0 || number(container) == index)
        })
        .min_by_key(number);
    found.ok_or_else(|| match index {
        0 => nothing_runs(service),
        index => Failure::new(
            Kind::Engine,
            format!("service {service:?} is not running container #{index}"),
        ),
    })
}

/// What is passed on to the process. In raw mode Ctrl-C and its kin are bytes, not signals.
struct Signals {
    forwarded: Vec<(&'static str, Signal)>,
    resized: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::system("cannot listen for signals", &error))
        };
        Ok(Signals {
            forwarded: vec![
                ("SIGINT", listen(SignalKind::interrupt())?),
                ("SIGTERM", listen(SignalKind::terminate())?),
                ("SIGHUP", listen(SignalKind::hangup())?),
                ("SIGQUIT", listen(SignalKind::quit())?),
                ("SIGUSR1", listen(SignalKind::user_defined1())?),
                ("SIGUSR2", listen(SignalKind::user_defined2())?),
            ],
            resized: listen(SignalKind::window_change())?,
        })
    }

    /// Cancel safe: a signal that was not handed out stays pending in its stream.
    async fn next(&mut self) -> Event {
        let resized = self.resized.recv();
        let mut resized = std::pin::pin!(resized);
        std::future::poll_fn(|cx| {
            for (name, signal) in &mut self.forwarded {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(Event::Signal(name));
                }
            }
            resized.as_mut().poll(cx).map(|_| Event::Resized)
        })
        .await
    }
}

enum Event {
    Signal(&'static str),
    Resized,
}

/// Carries bytes, sizes and signals until the process has ended; gives its exit code.
async fn converse(
    context: &Context,
    input: ExecInput,
    mut output: ExecOutput,
    mut signals: Signals,
    tty: bool,
) -> Result<i32, Failure> {
    let feed = input.clone();
    tokio::spawn(async move {
        let mut chunks = stdin_chunks();
        while let Some(chunk) = chunks.recv().await {
            feed.stdin(chunk).await;
        }
        feed.stdin_eof().await;
    });
    loop {
        tokio::select! {
            event = output.next() => match event? {
                ExecEvent::Stdout(bytes) => context.output.out(&bytes)?,
                ExecEvent::Stderr(bytes) => context.output.err(&bytes)?,
                ExecEvent::Exited(code) => return Ok(code),
            },
            event = signals.next() => match event {
                Event::Signal(name) => input.signal(name).await,
                Event::Resized if tty => if let Some(size) = terminal::size() {
                    input.resize(size).await;
                },
                Event::Resized => (),
            },
        }
    }
}
