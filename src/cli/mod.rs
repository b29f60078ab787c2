//! The command line: one file per command, and `output/`.
//!
//! Reads files, environment and terminal as the user, sends one request, renders the answer. Holds
//! no state. Runs on one thread: most commands are over in a few milliseconds.

mod autostart;
mod clock;
mod command;
pub mod config;
mod credentials;
mod down;
mod engine;
mod exec;
mod globals;
mod image;
mod images;
mod kill;
mod login;
mod logout;
mod logs;
mod ls;
mod output;
mod project;
mod ps;
mod pull;
mod push;
pub mod remote;
mod restart;
mod schema;
mod start;
mod stop;
mod system;
mod terminal;
mod up;
mod version;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::api::wire::registry::ImageTransfer;
pub use engine::Boot;
use globals::{Context, Globals};
use output::{Failure, Output};

/// wharf: declarative multi-container orchestrator, in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    about = "Run the containers of a Compose file, with nothing else installed",
    long_about = "Run the containers of a Compose file, with nothing else installed.\n\n\
        The commands, flags and files are Compose's. The engine behind them starts by itself with \
        the first command and needs no set-up.",
    after_help = "Examples:\n  \
        wharf up -d             start the project of this directory in the background\n  \
        wharf up --plan         say what `up` would do and why, and do nothing\n  \
        wharf logs -f web       follow the output of a service\n  \
        wharf exec web sh       a shell in a running container\n  \
        wharf down -v           stop and remove everything, volumes included",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    Down(down::Down),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Stop(stop::Stop),
    Start(start::Start),
    Restart(restart::Restart),
    Kill(kill::Kill),
    Pull(pull::Pull),
    Push(push::Push),
    Login(login::Login),
    Logout(logout::Logout),
    Images(images::Images),
    Image(image::Image),
    System(system::System),
    #[command(
        alias = "convert",
        long_about = "Print the project as the files, the environment and the defaults make it\n\n\
            Merged, interpolated, checked, in canonical form. Needs no engine. Mistakes are shown \
            with their place, all at once.",
        after_help = "Examples:\n  \
            wharf config -q              check only; the exit code tells\n  \
            wharf config --services      names, dependencies first\n  \
            wharf config --explain services.web.ports   which line of which file says so\n  \
            wharf config --hash web      what tells whether a container has to be replaced"
    )]
    Config(config::ConfigArgs),
    Schema(schema::Schema),
    Ls(ls::Ls),
    Version(version::Version),
    Engine(engine::Engine),
}

/// Runs one command. `boot` becomes the engine; it is called at most once, before any thread or
/// runtime exists, and its exit code is the process's.
pub fn main(boot: impl FnOnce(Boot) -> ExitCode) -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let context = match cli.globals.context() {
        Ok(context) => context,
        Err(failure) => return ended(Output::default(), Err(failure)),
    };
    if let Command::Engine(engine) = &cli.command
        && let Some(announce) = engine.run_flag()
    {
        return match Boot::prepare(&context, announce) {
            Ok(prepared) => boot(prepared),
            Err(failure) => ended(context.output, Err(failure)),
        };
    }
    let output = context.output;
    ended(output, run(cli.command, &context))
}

fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Up(up) => up.run(context),
        Command::Down(down) => down.run(context),
        Command::Ps(ps) => ps.run(context),
        Command::Logs(logs) => logs.run(context),
        Command::Exec(exec) => exec.run(context),
        Command::Stop(stop) => stop.run(context),
        Command::Start(start) => start.run(context),
        Command::Restart(restart) => restart.run(context),
        Command::Kill(kill) => kill.run(context),
        Command::Pull(pull) => pull.run(context),
        Command::Push(push) => push.run(context),
        Command::Login(login) => login.run(context),
        Command::Logout(logout) => logout.run(context),
        Command::Images(images) => images.run(context),
        Command::Image(image) => image.run(context),
        Command::System(system) => system.run(context),
        Command::Config(arguments) => print_config(&arguments, context),
        Command::Schema(schema) => schema.run(context),
        Command::Ls(ls) => ls.run(context),
        Command::Version(version) => version.run(context),
        Command::Engine(engine) => engine.run(context),
    }
}

fn print_config(arguments: &config::ConfigArgs, context: &Context) -> Result<(), Failure> {
    let hash = |project: &crate::compose::Project, service: &str| {
        project
            .services
            .get(service)
            .map(crate::plan::hash::service_hash)
    };
    // Services often share an image.
    let known: RefCell<BTreeMap<String, Result<String, String>>> = RefCell::default();
    let digest = |reference: &str| {
        let looked_up = known.borrow().get(reference).cloned();
        looked_up.unwrap_or_else(|| {
            let found = pinned(context, reference);
            known
                .borrow_mut()
                .insert(reference.to_owned(), found.clone());
            found
        })
    };
    let lookups = config::Lookups {
        hash: &hash,
        digest: &digest,
    };
    let code = config::run(
        project::options(&context.globals, &context.current_dir),
        arguments,
        &remote::RemoteFiles::cached(),
        &lookups,
        context.output.ansi.stderr().is_on,
        &mut std::io::stdout().lock(),
        &mut std::io::stderr().lock(),
    )
    .map_err(|error| Failure::system("cannot write", &error))?;
    match code {
        0 => Ok(()),
        code => Err(Failure::exit(code.into())),
    }
}

/// The reference with the digest that its registry has for it now. What is on this machine only
/// stays as it is.
fn pinned(context: &Context, reference: &str) -> Result<String, String> {
    if credentials::registry_of(reference).is_none() {
        return Ok(reference.to_owned());
    }
    let transfer = ImageTransfer {
        reference: reference.to_owned(),
        logins: credentials::for_references(context, std::iter::once(reference)),
        ..ImageTransfer::default()
    };
    command::with_engine(context, async |client| {
        Ok(client.remote_digest(&transfer).await?)
    })
    .map(|digest| format!("{}@{digest}", credentials::full_name(reference)))
    .map_err(|failure| failure.error)
}

fn ended(output: Output, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.fail(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and versions go to stdout and are no failure; the rest is Compose's exit code 16.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        _ = write!(anstream::stderr(), "{}", text.ansi());
        let missing_command = matches!(
            error.kind(),
            clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | clap::error::ErrorKind::InvalidSubcommand
        );
        ExitCode::from(if missing_command { 1 } else { 16 })
    } else {
        _ = write!(anstream::stdout(), "{}", text.ansi());
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests;
