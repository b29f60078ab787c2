//! wharf and a Docker Engine side by side, and one registry between them.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tempfile::TempDir;

pub const REGISTRY: &str = "127.0.0.1:5000";
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that a case uses; taken down in the order of the fields.
pub struct World {
    pub wharf: Wharf,
    pub docker: Docker,
    _registries: [Registry; 2],
    /// Seen by both.
    pub shared: TempDir,
}

impl World {
    /// `None` when no peer is named. Before any thread exists.
    pub fn make() -> Result<Option<World>, String> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (Some(exec), Some(shared)) = (
            variable("WHARF_BENCH_PEER_EXEC"),
            variable("WHARF_BENCH_PEER_SHARED"),
        ) else {
            return Ok(None);
        };
        let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .map_err(|error| format!("no namespaces of our own: {error}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|error| format!("the mounts stay shared: {error}"))?;
        said(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let docker = Docker { exec };
        let shared = tempfile::Builder::new()
            .prefix("wharf-peer-")
            .tempdir_in(shared)
            .map_err(failed("no shared directory"))?;
        let scratch = tempfile::Builder::new()
            .prefix("wharf-peer-")
            .tempdir_in("/var/tmp")
            .map_err(failed("no scratch directory"))?;
        let network = docker.network()?;
        let store = scratch.path().join("registry");
        fs::create_dir_all(&store).map_err(failed("no registry"))?;
        let registries = [
            Registry::start(&store, None)?,
            Registry::start(&store, Some(&network))?,
        ];
        Ok(Some(World {
            wharf: Wharf { scratch },
            docker,
            _registries: registries,
            shared,
        }))
    }
}

/// What a program prints, or what it says when it fails.
pub fn said(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{:?} does not start: {error}", command.get_program()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> Result<T, String> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return Ok(answer);
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("waited in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An engine of ours with its own roots.
pub struct Wharf {
    scratch: TempDir,
}

impl Wharf {
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let root = self.scratch.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command
            .args(arguments)
            .env("HOME", root)
            .env("WHARF_DATA_ROOT", root.join("d"))
            .env("WHARF_RUN_ROOT", root.join("r"));
        said(&mut command)
    }

    /// Starts a container of an image; returns the process in it.
    pub fn start(&self, image: &str) -> Result<u32, String> {
        let directory = self.scratch.path().join("project");
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let file = directory.join("compose.yaml");
        let text = format!(
            "name: peer\nservices: {{s: {{image: '{image}', command: [sleep, '1417'], network_mode: none, stop_grace_period: 0s}}}}\n"
        );
        fs::write(&file, text).map_err(|error| error.to_string())?;
        let file = file.to_str().ok_or("the path is not text")?;
        self.run(&["-f", file, "up", "-d"])?;
        wait_for("the container's process", || {
            let processes = fs::read_dir("/proc").ok()?.flatten();
            let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            pids.find(|pid: &u32| {
                let command = fs::read(format!("/proc/{pid}/cmdline"));
                command.is_ok_and(|command| command == COMMAND)
            })
        })
    }

    pub fn remove(&self) -> Result<(), String> {
        let file = self.scratch.path().join("project/compose.yaml");
        let file = file.to_str().ok_or("the path is not text")?;
        self.run(&["-f", file, "down"]).map(drop)
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        // A case may have failed before there was an engine.
        let _ = self.remove();
        let _ = self.run(&["engine", "stop"]);
    }
}

/// A Docker Engine, reached through a program that runs its arguments beside it.
pub struct Docker {
    exec: PathBuf,
}

/// Nobody else's on this machine.
const COMMAND: &[u8] = b"sleep\x001417\x00";
const CONTAINER: &str = "wharf-peer";

impl Docker {
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        said(Command::new(&self.exec).arg("docker").args(arguments))
    }

    /// By the builder that keeps nothing but images: what it made can be removed, and comes back as
    /// it is for others.
    pub fn build(&self, image: &str, context: &str) -> Result<(), String> {
        let mut command = Command::new(&self.exec);
        command.args(["env", "DOCKER_BUILDKIT=0", "docker", "build", "--no-cache"]);
        said(command.args(["-q", "-t", image, context])).map(drop)
    }

    /// As for wharf.
    pub fn start(&self, image: &str) -> Result<u32, String> {
        self.run(&["run", "-d", "--network", "none", "--name", CONTAINER, image])?;
        let pid = self.run(&["inspect", "-f", "{{.State.Pid}}", CONTAINER])?;
        let pid = pid.trim().parse().ok().filter(|pid| *pid > 0);
        pid.ok_or_else(|| "the container does not run".to_owned())
    }

    pub fn remove(&self) -> Result<(), String> {
        self.run(&["rm", "-f", CONTAINER]).map(drop)
    }

    /// Its network namespace is where it runs a program.
    fn network(&self) -> Result<fs::File, String> {
        let mut sleeper = Command::new(&self.exec)
            .args(["sleep", "60"])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", self.exec.display()))?;
        let process = PathBuf::from(format!("/proc/{}", sleeper.id()));
        let found = wait_for("the peer to run a program", || {
            let name = fs::read_to_string(process.join("comm")).ok()?;
            (name.trim() == "sleep").then_some(())
        });
        let network = found.and_then(|()| {
            fs::File::open(process.join("ns/net")).map_err(|error| error.to_string())
        });
        // It is our child and has done its work.
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        network
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It may not be there.
        let _ = self.remove();
    }
}

/// Debian's registry; ends with this value.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Registry {
    /// In a network namespace, this process's own by default. Several may share a store: what they
    /// keep in memory are no blobs.
    fn start(store: &Path, network: Option<&fs::File>) -> Result<Registry, String> {
        let config = store.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{REGISTRY}\"}}\n",
            store.join("store").display()
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let start = || -> io::Result<Child> {
            if let Some(network) = network {
                // Of this thread only, which ends with it.
                setns(network, CloneFlags::CLONE_NEWNET)?;
            }
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let begun = Instant::now();
            while TcpStream::connect(REGISTRY).is_err() {
                if begun.elapsed() > PATIENCE {
                    // The caller is told.
                    let _ = child.kill();
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(child)
        };
        let started = std::thread::scope(|scope| scope.spawn(start).join());
        started
            .map_err(|_| "a thread panicked".to_owned())?
            .map(Registry)
            .map_err(|error| format!("docker-registry does not run: {error}"))
    }
}
