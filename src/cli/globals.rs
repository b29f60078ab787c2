//! Flags that stand before the command, and what follows from them and the environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::output::{Ansi, Failure, Kind, Output, ProgressMode, StatusStream};
use super::project;
use crate::compose;
use crate::engine::Roots;
use crate::source::files::HostFiles;

#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// Compose file; repeat to merge several, `-` reads stdin
    ///
    /// Without it COMPOSE_FILE is used, else compose.yaml or docker-compose.yml of this directory or
    /// the nearest one above.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Project name; else COMPOSE_PROJECT_NAME, `name:` in the file, the directory's name
    #[arg(short = 'p', long, value_name = "NAME")]
    pub project_name: Option<String>,

    /// Directory that relative paths and the default name come from
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,

    /// File with variables in place of .env; repeat to read several, the last wins
    #[arg(long = "env-file", value_name = "FILE")]
    pub env_files: Vec<PathBuf>,

    /// Enable a profile; repeat for several, `*` for all
    #[arg(long = "profile", value_name = "PROFILE")]
    pub profiles: Vec<String>,

    /// Keep networks, volumes, secrets, configs and models that no enabled service uses
    #[arg(long)]
    pub all_resources: bool,

    /// Join the parts of names by `_` instead of `-`; else COMPOSE_COMPATIBILITY
    #[arg(long)]
    pub compatibility: bool,

    /// When to use colours and cursor movement; else COMPOSE_ANSI [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub ansi: Option<Ansi>,

    /// How progress is shown; else COMPOSE_PROGRESS [default: auto]
    #[arg(long, value_name = "STYLE")]
    pub progress: Option<ProgressMode>,

    /// Steps carried out at once; else COMPOSE_PARALLEL_LIMIT; -1 is without limit [default: -1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub parallel: Option<i64>,

    /// Socket of the engine, as unix:///path; nothing is started then
    #[arg(
        short = 'H',
        long,
        value_name = "SOCKET",
        env = "WHARF_HOST",
        global = true,
        hide_env = true,
        help_heading = "Engine"
    )]
    pub host: Option<String>,

    /// Where the engine keeps images, volumes and definitions [default: /var/lib/wharf]
    #[arg(
        long,
        value_name = "DIR",
        env = "WHARF_DATA_ROOT",
        global = true,
        hide_env = true,
        help_heading = "Engine"
    )]
    pub data_root: Option<PathBuf>,

    /// Where the engine keeps its socket and what is true until the next boot [default: /run/wharf]
    #[arg(
        long,
        value_name = "DIR",
        env = "WHARF_RUN_ROOT",
        global = true,
        hide_env = true,
        help_heading = "Engine"
    )]
    pub run_root: Option<PathBuf>,
}

/// What every command needs.
pub struct Context {
    pub globals: Globals,
    pub roots: Roots,
    /// False when the user named a socket: that engine is somebody else's to start.
    pub may_start_engine: bool,
    pub output: Output,
    pub current_dir: PathBuf,
    pub progress: ProgressMode,
    /// At most so many steps at once.
    pub parallel_limit: Option<usize>,
    /// The process's environment over the project's env files: what Compose's variables are looked
    /// up in, so that a switch may stand in `.env` beside the file (E5).
    variables: BTreeMap<String, String>,
}

impl Globals {
    pub fn context(self) -> Result<Context, Failure> {
        let current_dir = current_dir()?;
        let (default_data, default_run) = default_roots();
        let absolute = |path: Option<PathBuf>, default: PathBuf| {
            path.filter(|path| !path.as_os_str().is_empty())
                .map_or(default, |path| current_dir.join(path))
        };
        let run = absolute(self.run_root.clone(), default_run);
        let host = self.host.as_deref().filter(|host| !host.is_empty());
        let socket = match host {
            None => run.join("wharf.sock"),
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) => current_dir.join(path),
                None if host.starts_with(['/', '.']) => current_dir.join(host),
                None => {
                    return Err(Failure::new(
                        Kind::Usage,
                        format!("cannot reach an engine at {host:?}: only unix sockets are served"),
                    )
                    .hint("write -H unix:///run/wharf/wharf.sock"));
                }
            },
        };
        let roots = Roots {
            data: absolute(self.data_root.clone(), default_data),
            run,
            socket,
        };
        let variables = compose::variables(&project::options(&self, &current_dir), &HostFiles);
        let ansi = choice(self.ansi, &variables, "COMPOSE_ANSI")?;
        let progress = choice(self.progress, &variables, "COMPOSE_PROGRESS")?;
        let parallel = match (self.parallel, set(&variables, "COMPOSE_PARALLEL_LIMIT")) {
            (Some(given), _) => given,
            (None, None) => -1,
            (None, Some(text)) => text.trim().parse().map_err(|_| {
                Failure::new(
                    Kind::Usage,
                    format!("COMPOSE_PARALLEL_LIMIT must be a number, not {text:?}"),
                )
            })?,
        };
        Ok(Context {
            may_start_engine: host.is_none(),
            output: Output {
                ansi,
                status: match is_true(&variables, "COMPOSE_STATUS_STDOUT") {
                    true => StatusStream::Stdout,
                    false => StatusStream::Stderr,
                },
            },
            roots,
            current_dir,
            progress,
            parallel_limit: usize::try_from(parallel).ok().filter(|n| *n > 0),
            variables,
            globals: self,
        })
    }
}

/// Where the command was started. Of a directory that was deleted since, the place where it was:
/// often another stands there by now, which is the one that the user's prompt names, and most
/// commands need none.
fn current_dir() -> Result<PathBuf, Failure> {
    let gone = |error: std::io::Error| {
        Failure::new(
            Kind::System,
            format!("the working directory is gone: {error}"),
        )
        .hint("change to a directory that exists")
    };
    let error = match std::env::current_dir() {
        Ok(dir) => return Ok(dir),
        Err(error) => error,
    };
    // proc(5): the kernel adds this to the name of what is unlinked.
    std::fs::read_link("/proc/self/cwd")
        .ok()
        .and_then(|link| {
            let path = link.into_os_string().into_encoded_bytes();
            Some(PathBuf::from(OsString::from_vec(
                path.strip_suffix(b" (deleted)")?.to_owned(),
            )))
        })
        .filter(|path| path.is_absolute())
        .ok_or_else(|| gone(error))
}

impl Context {
    /// A boolean variable of the environment or the project's `.env`.
    pub fn is_set(&self, name: &str) -> bool {
        is_true(&self.variables, name)
    }

    /// A variable of the environment or the project's `.env` that is not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        set(&self.variables, name)
    }
}

fn set<'v>(variables: &'v BTreeMap<String, String>, name: &str) -> Option<&'v str> {
    variables
        .get(name)
        .map(String::as_str)
        .filter(|text| !text.is_empty())
}

/// What a flag says, else a variable, else the default.
fn choice<T: ValueEnum + Default>(
    flag: Option<T>,
    variables: &BTreeMap<String, String>,
    name: &str,
) -> Result<T, Failure> {
    match (flag, set(variables, name)) {
        (Some(given), _) => Ok(given),
        (None, None) => Ok(T::default()),
        (None, Some(text)) => T::from_str(text, true).map_err(|_| {
            let known: Vec<String> = T::value_variants()
                .iter()
                .filter_map(|variant| Some(variant.to_possible_value()?.get_name().to_owned()))
                .collect();
            Failure::new(Kind::Usage, format!("{name} cannot be {text:?}"))
                .hint(format!("it is one of {}", known.join(", ")))
        }),
    }
}

/// Rootful: the system's places; rootless: the user's.
fn default_roots() -> (PathBuf, PathBuf) {
    if rustix::process::geteuid().is_root() {
        return ("/var/lib/wharf".into(), "/run/wharf".into());
    }
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let data = variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| "/var/tmp".into());
    let run = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| {
        PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()))
    });
    (data.join("wharf"), run.join("wharf"))
}

/// A boolean variable as Compose reads it.
fn is_true(variables: &BTreeMap<String, String>, name: &str) -> bool {
    variables.get(name).is_some_and(|value| {
        matches!(
            value.to_ascii_lowercase().as_str(),
            "1" | "true" | "t" | "yes" | "y" | "on"
        )
    })
}

/// `-t`: whole seconds; a negative number waits for ever in Compose, which nothing here does.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let n: u64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    Ok(Duration::from_secs(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_the_flag_or_the_variable_or_the_default() {
        let variables =
            |value: &str| BTreeMap::from([("COMPOSE_ANSI".to_owned(), value.to_owned())]);
        let chosen = |flag, value| choice(flag, &variables(value), "COMPOSE_ANSI").ok();
        assert_eq!(chosen(Some(Ansi::Always), "never"), Some(Ansi::Always));
        assert_eq!(chosen(None, "never"), Some(Ansi::Never));
        assert_eq!(chosen(None, ""), Some(Ansi::Auto));
        let failure = choice::<Ansi>(None, &variables("blue"), "COMPOSE_ANSI").err();
        assert_eq!(
            failure.map(|f| (f.error, f.hints)),
            Some((
                "COMPOSE_ANSI cannot be \"blue\"".to_owned(),
                vec!["it is one of never, always, auto".to_owned()]
            ))
        );
    }

    #[test]
    fn truth_is_written_in_many_ways() {
        for (value, expected) in [
            ("1", true),
            ("True", true),
            ("on", true),
            ("0", false),
            ("", false),
        ] {
            let variables = BTreeMap::from([("X".to_owned(), value.to_owned())]);
            assert_eq!(is_true(&variables, "X"), expected, "{value}");
        }
        assert!(!is_true(&BTreeMap::new(), "X"));
    }
}
