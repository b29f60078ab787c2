//! `up -d`, `up -d` again and `down` of 1, 10 and 50 services: wharf beside the kernel's own floor and
//! beside Docker Compose, alternating in one run, because ratios survive a busy machine and
//! milliseconds do not.
//!
//! Root. Variables:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WHARF_BENCH_FLOOR` | the floor program, or its Cargo directory; without it no floor is measured |
//! | `WHARF_BENCH_PEER_EXEC` | a program that runs its arguments where `docker` and `docker-compose` work |
//! | `WHARF_BENCH_PEER_SHARED` | a directory that has the same path there and here |
//! | `WHARF_BENCH_SERVICES` | numbers of services, default `1,10,50` |
//! | `WHARF_BENCH_ROUNDS` | rounds, default 5 |
//!
//! wharf's side runs in a mount and a network namespace of its own, with its roots under `/var/tmp`.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const BUSYBOX: &str = "/bin/busybox";

fn main() -> ExitCode {
    // `cargo test --benches` runs benches, too, without this flag: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "lifecycle: {message}");
            ExitCode::FAILURE
        }
    }
}

/// One of the three things that are timed.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Up,
    UpAgain,
    Down,
}

impl Work {
    const ALL: [Work; 3] = [Work::Up, Work::UpAgain, Work::Down];

    fn name(self) -> &'static str {
        match self {
            Work::Up => "up -d",
            Work::UpAgain => "up -d again",
            Work::Down => "down",
        }
    }
}

/// Milliseconds of each round, by what was timed.
#[derive(Default)]
struct Samples {
    up: Vec<f64>,
    up_again: Vec<f64>,
    down: Vec<f64>,
}

impl Samples {
    fn of(&self, work: Work) -> Spread {
        let samples = match work {
            Work::Up => &self.up,
            Work::UpAgain => &self.up_again,
            Work::Down => &self.down,
        };
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Spread {
            min: sorted.first().copied(),
            median: sorted.get(sorted.len() / 2).copied(),
        }
    }
}

/// What is said about a row of samples; nothing when there are none.
struct Spread {
    min: Option<f64>,
    median: Option<f64>,
}

impl Spread {
    fn ratio_to(&self, other: &Spread) -> String {
        match (self.median, other.median) {
            (Some(a), Some(b)) if b > 0.0 => format!("{:.1}×", a / b),
            _ => "–".to_owned(),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.median) {
            (Some(min), Some(median)) => f.pad(&format!("{min:.1} / {median:.1}")),
            _ => f.pad("–"),
        }
    }
}

fn bench() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    if !Path::new(BUSYBOX).exists() {
        return Err(format!(
            "needs {BUSYBOX}: scripts/test-setup.sh installs it"
        ));
    }
    let mut out = io::stdout().lock();
    let mut say = |line: fmt::Arguments<'_>| {
        // Who closes our output does not want the rest.
        let _ = writeln!(out, "{line}");
    };
    let scratch = tempfile::Builder::new()
        .prefix("wharf-bench-")
        .tempdir_in("/var/tmp")
        .map_err(|error| format!("no scratch directory: {error}"))?;
    let rootfs = scratch.path().join("rootfs");
    make_rootfs(&rootfs).map_err(|error| format!("no root file system: {error}"))?;

    let floor = Floor::find(scratch.path(), &rootfs)?;
    if floor.is_none() {
        say(format_args!("no floor: WHARF_BENCH_FLOOR is not set"));
    }
    let peer = Peer::find(&rootfs)?;
    if peer.is_none() {
        say(format_args!(
            "no Docker Compose: WHARF_BENCH_PEER_EXEC and WHARF_BENCH_PEER_SHARED are not set"
        ));
    }
    leave_the_machine()?;
    let wharf = Wharf::new(scratch.path(), &rootfs);

    let counts = numbers("WHARF_BENCH_SERVICES", &[1, 10, 50])?;
    let n_rounds = numbers("WHARF_BENCH_ROUNDS", &[5])?[0];
    // Engines are warm in both columns: the first command starts ours, the peer's runs already.
    wharf.round(1, &mut Samples::default())?;

    say(format_args!(
        "\nmilliseconds, min / median of {n_rounds} alternating rounds; ratios of medians\n"
    ));
    say(format_args!(
        "{:>8}  {:<12} {:>18} {:>18} {:>20} {:>12} {:>14}",
        "services", "", "wharf", "kernel floor", "Docker Compose", "wharf/floor", "Compose/wharf"
    ));
    for n in counts {
        let (mut ours, mut least, mut theirs) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..n_rounds {
            wharf.round(n, &mut ours)?;
            if let Some(floor) = &floor {
                floor.round(n, &mut least)?;
            }
            if let Some(peer) = &peer {
                peer.round(n, &mut theirs)?;
            }
        }
        for work in Work::ALL {
            let (ours, least, theirs) = (ours.of(work), least.of(work), theirs.of(work));
            say(format_args!(
                "{n:>8}  {:<12} {ours:>18} {least:>18} {theirs:>20} {:>12} {:>14}",
                work.name(),
                ours.ratio_to(&least),
                theirs.ratio_to(&ours),
            ));
        }
    }
    Ok(())
}

fn numbers(variable: &str, default: &[usize]) -> Result<Vec<usize>, String> {
    let Ok(text) = std::env::var(variable) else {
        return Ok(default.to_vec());
    };
    let parse = |part: &str| {
        let number = part.trim().parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{variable}={text}: numbers from 1, please"))
    };
    text.split(',').map(parse).collect()
}

/// A root file system with a static `sleep`.
fn make_rootfs(rootfs: &Path) -> io::Result<()> {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(rootfs.join(directory))?;
    }
    // The floor program mounts over these and makes nothing.
    for file in ["hostname", "hosts", "resolv.conf"] {
        fs::write(rootfs.join("etc").join(file), "")?;
    }
    fs::copy(BUSYBOX, rootfs.join("bin/busybox"))?;
    for applet in ["sh", "sleep", "true"] {
        symlink("busybox", rootfs.join("bin").join(applet))?;
    }
    Ok(())
}

/// From here on, nothing that is mounted or linked is the machine's.
fn leave_the_machine() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("cannot unshare: {error}"))?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .map_err(|error| format!("cannot make mounts private: {error}"))?;
    timed(Command::new("ip").args(["link", "set", "lo", "up"])).map(|_| ())
}

/// Runs a command that has to succeed. Milliseconds from start to end.
fn timed(command: &mut Command) -> Result<f64, String> {
    let start = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let elapsed: Duration = start.elapsed();
    if output.status.success() {
        return Ok(elapsed.as_secs_f64() * 1e3);
    }
    Err(format!(
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// The same project for both engines, up to the image's name.
fn write_project(directory: &Path, n: usize, image: &str) -> Result<PathBuf, String> {
    let directory = directory.join(format!("c{n}"));
    let mut text = "services:\n".to_owned();
    for i in 1..=n {
        // The signal that no process can think about: what is timed is the engine.
        text += &format!(
            "  s{i}:\n    image: {image}\n    command: [sleep, '100000']\n    stop_signal: SIGKILL\n"
        );
    }
    let write = || {
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("compose.yaml"), text)
    };
    write().map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(directory.join("compose.yaml"))
}

/// Times the three commands of a Compose-like program.
fn compose_round(
    file: &Path,
    project: &str,
    program: impl Fn() -> Command,
    samples: &mut Samples,
) -> Result<(), String> {
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.arg("-p").arg(project).arg("-f").arg(file);
        timed(command.args(arguments))
    };
    samples.up.push(run(&["up", "-d"])?);
    samples.up_again.push(run(&["up", "-d"])?);
    samples.down.push(run(&["down"])?);
    Ok(())
}

struct Wharf {
    scratch: PathBuf,
    image: String,
}

impl Wharf {
    fn new(scratch: &Path, rootfs: &Path) -> Wharf {
        Wharf {
            scratch: scratch.to_owned(),
            image: format!("rootfs:{}", rootfs.display()),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command
            .env("WHARF_DATA_ROOT", self.scratch.join("data"))
            .env("WHARF_RUN_ROOT", self.scratch.join("run"));
        command
    }

    fn round(&self, n: usize, samples: &mut Samples) -> Result<(), String> {
        let file = write_project(&self.scratch, n, &self.image)?;
        compose_round(&file, &format!("bench{n}"), || self.command(), samples)
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        for n in fs::read_dir(&self.scratch).into_iter().flatten().flatten() {
            let file = n.path().join("compose.yaml");
            let Some(count) = n
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix('c').map(str::to_owned))
            else {
                continue;
            };
            if file.is_file() {
                let mut down = self.command();
                down.arg("-p")
                    .arg(format!("bench{count}"))
                    .arg("-f")
                    .arg(file);
                // Usually there is nothing left; a round that failed is reported already.
                let _ = timed(down.args(["down", "-v", "-t", "0"]));
            }
        }
        let _ = timed(self.command().args(["engine", "stop"]));
    }
}

/// The least that a correct container start costs on this kernel.
struct Floor {
    program: PathBuf,
    lower: String,
    state: PathBuf,
    /// Version 1 controllers are entered by the child itself; without them the program cannot place
    /// its processes.
    cgroups: &'static str,
}

impl Floor {
    fn find(scratch: &Path, rootfs: &Path) -> Result<Option<Floor>, String> {
        let Some(path) = std::env::var_os("WHARF_BENCH_FLOOR").map(PathBuf::from) else {
            return Ok(None);
        };
        let program = if path.is_dir() {
            build(&path, scratch)?
        } else {
            path
        };
        let second = scratch.join("second-layer");
        fs::create_dir_all(&second).map_err(|error| format!("{}: {error}", second.display()))?;
        Ok(Some(Floor {
            program,
            lower: format!("{}:{}", rootfs.display(), second.display()),
            state: scratch.join("floor"),
            cgroups: if Path::new("/sys/fs/cgroup/memory").exists() {
                "v1self"
            } else {
                "none"
            },
        }))
    }

    fn round(&self, n: usize, samples: &mut Samples) -> Result<(), String> {
        let output = Command::new(&self.program)
            .args([
                "run",
                "reps=1",
                "net=child",
                "clone=vfork",
                "q1=1",
                "full=1",
                "seccomp=10",
            ])
            .arg(format!("n={n}"))
            .arg(format!("cg={}", self.cgroups))
            .arg(format!("lower={}", self.lower))
            .arg(format!("state={}", self.state.display()))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let start = text.find('{').unwrap_or(text.len());
        let result: serde_json::Value = serde_json::from_str(&text[start..]).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{}: {error}\n{text}{said}", self.program.display())
        })?;
        samples.up.extend(result["wall_ms"]["med"].as_f64());
        samples
            .down
            .extend(result["teardown_ms"]["veth_gone"][0].as_f64());
        Ok(())
    }
}

/// Builds a copy: the sources may be somewhere that is not to be written to.
fn build(sources: &Path, scratch: &Path) -> Result<PathBuf, String> {
    let copy = scratch.join("floor-sources");
    timed(Command::new("cp").arg("-r").arg(sources).arg(&copy))?;
    timed(Command::new("chmod").args(["-R", "u+w"]).arg(&copy))?;
    let target = copy.join("target");
    timed(
        Command::new("cargo")
            .args(["build", "--quiet", "--release", "--target-dir"])
            .arg(&target)
            .current_dir(&copy),
    )?;
    Ok(target.join("release/floor"))
}

/// Docker Compose with an engine of its own, reached through a program that enters its namespaces.
struct Peer {
    exec: PathBuf,
    directory: tempfile::TempDir,
}

const PEER_IMAGE: &str = "wharf-bench";

impl Peer {
    fn find(rootfs: &Path) -> Result<Option<Peer>, String> {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        let (Some(exec), Some(shared)) = (
            variable("WHARF_BENCH_PEER_EXEC"),
            variable("WHARF_BENCH_PEER_SHARED"),
        ) else {
            return Ok(None);
        };
        let directory = tempfile::Builder::new()
            .prefix("wharf-bench-")
            .tempdir_in(&shared)
            .map_err(|error| format!("{}: {error}", shared.display()))?;
        let peer = Peer { exec, directory };
        let archive = peer.directory.path().join("image.tar");
        timed(
            Command::new("tar")
                .arg("-C")
                .arg(rootfs)
                .arg("-cf")
                .arg(&archive)
                .arg("."),
        )?;
        timed(
            Command::new(&peer.exec)
                .args(["docker", "import"])
                .arg(&archive)
                .arg(PEER_IMAGE),
        )?;
        Ok(Some(peer))
    }

    fn round(&self, n: usize, samples: &mut Samples) -> Result<(), String> {
        let file = write_project(self.directory.path(), n, PEER_IMAGE)?;
        let program = || {
            let mut command = Command::new(&self.exec);
            command.arg("docker-compose");
            command
        };
        compose_round(&file, &format!("wharfbench{n}"), program, samples)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A round that failed is reported already.
        let _ = timed(Command::new(&self.exec).args(["docker", "rmi", PEER_IMAGE]));
    }
}
