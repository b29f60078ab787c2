//! Runs a test's function in a world of its own: the runner, outer and init roles.
//!
//! The roles are one program; a variable in the environment tells a process which it plays. Every
//! namespace is entered by `unshare` in a process that has one thread, before anything else.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use super::TestEnv;
use super::{kernel, wait};

/// One test of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    /// Programs that it uses beside busybox.
    pub needs: &'static [&'static str],
    pub run: fn(&TestEnv),
}

const ROLE: &str = "WHARF_TEST_ROLE";
const NAME: &str = "WHARF_TEST_CASE";
const DIRECTORY: &str = "WHARF_TEST_DIR";

/// How long one case may take.
const DEADLINE: Duration = Duration::from_secs(180);

/// Plays this process's role; `None` when it is the runner.
pub fn play_role(cases: &[Case]) -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let directory = PathBuf::from(std::env::var(DIRECTORY).expect("the runner names a directory"));
    let name = std::env::var(NAME).expect("the runner names a case");
    let code = match role.as_str() {
        "outer" => outer(&directory),
        "init" => init(&directory),
        "case" => {
            let case = cases.iter().find(|case| case.name == name);
            run_case(case.expect("the runner names a known case"), &directory)
        }
        other => panic!("no role {other}"),
    };
    Some(ExitCode::from(code))
}

/// The runner's part: starts the outer process and turns its end into a test result.
pub fn run(case: &Case) -> Result<(), Failed> {
    // Short, because a unix socket's path has at most 107 bytes.
    let directory = tempfile::Builder::new()
        .prefix("w")
        .rand_bytes(5)
        .tempdir_in("/tmp")?;
    let mut output = tempfile::tempfile()?;
    let mut child = again("outer", directory.path(), case.name)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    let deadline = wait::limit(DEADLINE);
    let timely = ends_within(child.id(), deadline)?;
    if !timely {
        // Takes the pid namespace with it, through init's parent-death signal.
        child.kill()?;
    }
    let status = child.wait()?;
    if timely && status.success() {
        return Ok(());
    }
    let text = read_all(&mut output)?;
    Err(if timely {
        format!("{status}\n{text}").into()
    } else {
        format!("not done after {deadline:?}\n{text}").into()
    })
}

fn again(role: &str, directory: &Path, name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("we were started from a file"));
    // Of a failed assertion, the message and the place are enough.
    command
        .env("RUST_BACKTRACE", "0")
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .env(NAME, name);
    command
}

fn read_all(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn ends_within(pid: u32, limit: Duration) -> std::io::Result<bool> {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a child's pid is positive");
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: 0,
    };
    let n_ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))?;
    Ok(n_ready == 1)
}

/// Leaves the machine's namespaces, then waits for what runs in the new ones.
fn outer(directory: &Path) -> u8 {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl takes a valid signal");
    unshare(
        CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWPID,
    )
    .expect("root may unshare");
    let name = std::env::var(NAME).expect("the runner names a case");
    let status = again("init", directory, &name)
        .status()
        .expect("init starts");
    // Everything of the case is dead now; what is left in the cgroup trees is seen by all tests.
    kernel::remove_cgroups(&TestEnv::tag_for(directory));
    exit_code(status)
}

fn exit_code(status: std::process::ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    }
}

/// Process 1 of the case's pid namespace: prepares it, starts the case, reaps until it ends.
fn init(directory: &Path) -> u8 {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl takes a valid signal");
    unshare(CloneFlags::CLONE_NEWNS).expect("root may unshare");
    // Nothing that is mounted from here on is seen outside, and nothing from outside is seen here.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("the mount namespace is ours");
    mount_new("proc", "/proc", None);
    // The roots of the engine: gone with the namespace, whatever happens.
    let directory_text = directory.to_str().expect("we chose its name");
    mount_new("tmpfs", directory_text, Some("mode=755,size=3g"));
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .expect("ip is installed");
    assert!(up.success(), "lo comes up");
    let name = std::env::var(NAME).expect("the runner names a case");
    let case_pid = nix::unistd::Pid::from_raw(start(again("case", directory, &name)).id() as i32);
    loop {
        // Reaps the orphans, too: engine and shims detach themselves and become our children.
        match waitpid(None, Some(WaitPidFlag::empty())).expect("the case is our child") {
            WaitStatus::Exited(pid, code) if pid == case_pid => return code as u8,
            WaitStatus::Signaled(pid, signal, _) if pid == case_pid => return 128 + signal as u8,
            _ => {}
        }
    }
}

/// Starts a process that the caller reaps by `waitpid`, together with others.
fn start(mut command: Command) -> std::process::Child {
    command.spawn().expect("our own program starts")
}

fn mount_new(kind: &str, target: &str, options: Option<&str>) {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .unwrap_or_else(|error| panic!("mounting {kind} on {target}: {error}"));
}

/// The test itself. A failed one is followed by what the engine has to say.
fn run_case(case: &Case, directory: &Path) -> u8 {
    let env = TestEnv::new(directory);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (case.run)(&env)));
    let outcome = match outcome {
        Ok(()) => env.finish(),
        Err(_) => Err(String::new()),
    };
    match outcome {
        Ok(()) => 0,
        Err(report) => {
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "{report}\n{}", env.engine_log());
            1
        }
    }
}

/// Programs of the list that are not on this machine.
pub fn missing_programs(needs: &[&'static str]) -> Vec<&'static str> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let exists = |program: &str| {
        let mut directories = path.split(':');
        directories.any(|directory| fs::metadata(Path::new(directory).join(program)).is_ok())
    };
    let mut missing = needs.to_vec();
    missing.retain(|program| !exists(program));
    missing
}
