//! `wharf login`.

use std::io::{BufRead, IsTerminal, Read};

use clap::Args;

use super::command::with_engine;
use super::credentials::{ConfigFile, registry_of_server};
use super::globals::Context;
use super::output::{Failure, Kind};
use super::terminal;
use crate::api::wire::Login as Credentials;

/// No password or token is longer.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Log in to a registry
///
/// The login is checked, then kept where the docker CLI keeps its own: with a credential helper if
/// one is configured, else in ~/.docker/config.json.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    wharf login                                   Docker Hub, asks for name and password\n  \
    wharf login -u me registry.example.com        asks for the password\n  \
    pass show reg | wharf login -u me --password-stdin registry.example.com")]
pub struct Login {
    /// Registry, as it stands in image names [default: Docker Hub]
    #[arg(value_name = "SERVER", default_value = "", hide_default_value = true)]
    pub server: String,
    /// Name to log in with
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or access token; seen by everybody who can list processes
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin"
    )]
    pub password: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
}

impl Login {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let registry = registry_of_server(&self.server).to_owned();
        let mut file = ConfigFile::read()?;
        if self.username.is_none()
            && self.password.is_none()
            && let Some(known) = file.login(&registry)?
        {
            context
                .output
                .note("Authenticating with existing credentials...");
            match check(context, &registry, &known) {
                Ok(_) => return context.output.line("Login Succeeded"),
                // Whoever can answer is asked for better ones.
                Err(failure) if !std::io::stdin().is_terminal() => return Err(failure),
                Err(failure) => context.output.warn(&failure.error),
            }
        }
        let mut login = self.ask(context, &registry)?;
        // A token service may hand out a token that is kept in place of the password.
        let token = check(context, &registry, &login)?;
        if !token.is_empty() {
            login.identity_token = token;
            login.password = String::new();
        }
        let is_hidden = file.store(&registry, &login)?;
        if !is_hidden {
            context.output.warn(&format!(
                "the password is kept unencrypted in {}; a credential helper (\"credsStore\") keeps it better",
                file.path().display()
            ));
        }
        context.output.line("Login Succeeded")
    }

    fn ask(self, context: &Context, registry: &str) -> Result<Credentials, Failure> {
        let refuse = |text: &str| {
            Err(Failure::new(Kind::Engine, text)
                .hint("write -u NAME --password-stdin, and the password into stdin"))
        };
        let is_terminal = std::io::stdin().is_terminal();
        let username = match self.username {
            Some(username) => username,
            None if !is_terminal => {
                return refuse("cannot ask for a name: stdin is not a terminal");
            }
            None => {
                context.output.prompt(&format!("Username for {registry}: "));
                line()?
            }
        };
        let password = match self.password {
            Some(password) => password,
            None if self.password_stdin => {
                let mut text = String::new();
                std::io::stdin()
                    .take(MAX_SECRET_BYTES)
                    .read_to_string(&mut text)
                    .map_err(|error| Failure::system("cannot read the password", &error))?;
                text.trim_end_matches(['\n', '\r']).to_owned()
            }
            None if !is_terminal => {
                return refuse("cannot ask for a password: stdin is not a terminal");
            }
            None => {
                context.output.prompt("Password: ");
                let hidden = terminal::Silent::enter()?;
                let password = line();
                drop(hidden);
                context.output.prompt("\n");
                password?
            }
        };
        if username.is_empty() || password.is_empty() {
            return refuse("a name and a password are needed");
        }
        Ok(Credentials {
            username,
            password,
            ..Credentials::default()
        })
    }
}

/// Has the engine show the login to the registry; returns an identity token, if there is one.
fn check(context: &Context, registry: &str, login: &Credentials) -> Result<String, Failure> {
    with_engine(context, async |client| {
        Ok(client.authenticate(registry, login).await?)
    })
}

fn line() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_SECRET_BYTES)
        .read_line(&mut line)
        .map_err(|error| Failure::system("cannot read the answer", &error))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
