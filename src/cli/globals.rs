//! Flags that stand before the command, and what follows from them and the environment.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::output::{Ansi, Failure, Kind, Output, ProgressMode};
use crate::engine::Roots;

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

    /// When to use colours and cursor movement
    #[arg(
        long,
        value_name = "WHEN",
        env = "COMPOSE_ANSI",
        default_value = "auto",
        hide_env = true
    )]
    pub ansi: Ansi,

    /// How progress is shown
    #[arg(
        long,
        value_name = "STYLE",
        env = "COMPOSE_PROGRESS",
        default_value = "auto",
        hide_env = true
    )]
    pub progress: ProgressMode,

    /// Steps carried out at once; -1 is without limit
    #[arg(
        long,
        value_name = "N",
        env = "COMPOSE_PARALLEL_LIMIT",
        default_value = "-1",
        allow_negative_numbers = true,
        hide_env = true
    )]
    pub parallel: i64,

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
}

impl Globals {
    pub fn context(self) -> Result<Context, Failure> {
        let current_dir = std::env::current_dir().map_err(|error| {
            Failure::new(
                Kind::System,
                format!("the working directory is gone: {error}"),
            )
            .hint("change to a directory that exists")
        })?;
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
        Ok(Context {
            may_start_engine: host.is_none(),
            output: Output { ansi: self.ansi },
            roots,
            current_dir,
            globals: self,
        })
    }

    /// `--parallel`, as the engine takes it.
    pub fn parallel_limit(&self) -> Option<usize> {
        usize::try_from(self.parallel).ok().filter(|n| *n > 0)
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
pub fn is_set(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| {
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
