//! What commands on a project share: the runtime, the connection, and the stream of reports.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::autostart;
use super::globals::Context;
use super::output::{Failure, Kind, Progress};
use super::project::Selected;
use crate::api::client::{Client, ClientError, Reports};
use crate::api::wire::Verb;
use crate::compose::ProjectName;
use crate::reconcile::Report;

/// Connections that are tried before an engine that dies again and again is reported.
const MAX_CONNECTIONS: u32 = 5;

/// Connects, starting the engine if need be, and runs the command's own part on one thread.
///
/// The kernel completes connections on behalf of an engine that is just dying; such a one is
/// noticed before the command is sent, and the next engine is asked.
pub fn with_engine<T, F>(context: &Context, command: impl FnOnce(Client) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    on_runtime(async { command(connect(context).await?).await })
}

async fn connect(context: &Context) -> Result<Client, Failure> {
    let unusable = |error| Failure::system("cannot use the engine's socket", &error);
    let mut n_connections = 0;
    loop {
        let stream = autostart::connect(context)?;
        n_connections += 1;
        stream.set_nonblocking(true).map_err(unusable)?;
        let stream = tokio::net::UnixStream::from_std(stream).map_err(unusable)?;
        let client = Client::from_stream(&context.roots.socket, stream).await?;
        match client.ping().await {
            Ok(()) => return Ok(client),
            Err(_) if n_connections < MAX_CONNECTIONS => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs a future on a runtime of one thread. Nothing that still runs is waited for at the end.
pub fn on_runtime<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::system("cannot start the event loop", &error))?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// The keyboard's and the session's wishes to end.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub fn new() -> Result<Interrupts, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::system("cannot listen for signals", &error))
        };
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next SIGINT or SIGTERM. Cancel safe.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
        }
    }
}

/// How a stream of reports ended.
#[derive(Debug)]
pub enum Ended {
    Done,
    /// The engine's reason, and what it left behind.
    Failed(Failure),
    Interrupted,
}

/// Shows reports until the last; an interrupt ends it early and leaves the command running.
pub async fn show(
    context: &Context,
    mut progress: Progress,
    reports: &mut Reports,
    interrupts: &mut Interrupts,
) -> Result<Ended, Failure> {
    let mut tick = tokio::time::interval(super::output::TICK);
    let ended = loop {
        let report = tokio::select! {
            report = reports.next() => report,
            _ = tick.tick() => {
                progress.tick();
                continue;
            }
            () = interrupts.next() => break Ended::Interrupted,
        };
        match report {
            Some(Ok(Report::Done { .. })) => break Ended::Done,
            Some(Ok(Report::Failed { error, kept })) => {
                let mut failure = Failure::from(error);
                if !kept.is_empty() {
                    failure = failure.hint(format!("still there: {}", kept.join(", ")));
                }
                break Ended::Failed(failure);
            }
            Some(Ok(Report::Plan { text })) => {
                let mut result = Ok(());
                progress.above(|| result = context.output.out(text.as_bytes()));
                result?;
            }
            Some(Ok(report)) => progress.show(&report),
            Some(Err(error)) => {
                progress.finish();
                return Err(error.into());
            }
            None => {
                progress.finish();
                return Err(ClientError::Gone {
                    call: "the command",
                }
                .into());
            }
        }
    };
    progress.finish();
    Ok(ended)
}

/// Runs one verb to its end. Ctrl-C gives it up: what is made so far stays, and the next command
/// goes on from there.
pub fn run(context: &Context, selected: Selected, verb: Verb) -> Result<(), Failure> {
    run_showing(context, progress(context), selected, verb)
}

/// The progress that the flags ask for.
pub fn progress(context: &Context) -> Progress {
    Progress::new(context.progress, context.output)
}

/// The same, without what happens to images if they are to be quiet.
pub fn progress_of_images(context: &Context, quiet: bool) -> Progress {
    match quiet {
        true => progress(context).without_images(),
        false => progress(context),
    }
}

/// As [`run`], with a progress of the command's own.
pub fn run_showing(
    context: &Context,
    progress: Progress,
    selected: Selected,
    verb: Verb,
) -> Result<(), Failure> {
    with_engine(context, async |client| {
        let mut interrupts = Interrupts::new()?;
        let Selected { name, project } = selected;
        let mut reports = client.command(&name, project, &verb).await?;
        match show(context, progress, &mut reports, &mut interrupts).await? {
            Ended::Done => Ok(()),
            Ended::Failed(failure) => Err(failure),
            Ended::Interrupted => {
                give_up(context, &client, &name).await?;
                Err(Failure::interrupted())
            }
        }
    })
}

/// Cancels the command that this CLI waited for.
pub async fn give_up(
    context: &Context,
    client: &Client,
    name: &ProjectName,
) -> Result<(), Failure> {
    if client.cancel(name).await? {
        context
            .output
            .note("interrupted: what was made so far is still there, see `wharf ps -a`");
    }
    Ok(())
}

/// The failure of a project that has nothing to act on.
pub fn nothing_runs(service: &str) -> Failure {
    Failure::new(Kind::Engine, format!("service {service:?} is not running"))
        .hint("`wharf ps -a` shows why, `wharf up -d` starts it")
}
