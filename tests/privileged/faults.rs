//! Starts that fail at one system call after the other: nothing of them may stay (HAZARDS L15).
//!
//! `strace` makes the calls fail, from outside. It traces either the spawner, and thereby every shim
//! and every process that makes a container, or the engine, whose part are networks.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{TestEnv, kernel, wait::poll, wait_for};

crate::cases! {
    faults:
    mounts_that_fail_leave_nothing["strace"],
    namespaces_and_processes_that_fail_leave_nothing["strace"],
    privileges_that_fail_leave_nothing["strace"],
    files_and_sockets_that_fail_leave_nothing["strace"],
    what_fails_in_the_engine_leaves_nothing["strace"],
}

/// Two addresses for containers: a lease that is kept shows in the second start after it.
const COMPOSE: &str = "
services:
  s:
    image: IMAGE
    command: sleep 1001
    init: true
    stop_grace_period: 0s
    hostname: box
    user: alice
    ports: ['127.0.0.1:8080:80']
    volumes: ['data:/data', 'ROOT/bind:/bind:ro']
    tmpfs: [/scratch]
    configs: [{source: text, target: /etc/text}]
    sysctls: {net.ipv4.ip_unprivileged_port_start: 1}
    ulimits: {nofile: 100}
    mem_limit: 64m
networks:
  default:
    ipam: {config: [{subnet: 10.213.7.0/29, ip_range: 10.213.7.4/31}]}
volumes: {data: {}}
configs: {text: {content: hello}}
";

/// `strace` on a process; the nth call of this kind fails in each of its threads and in every process
/// that comes out of it.
struct Fault {
    tracer: Child,
}

impl Fault {
    fn inject(target: i32, call: &str, nth: u32, log: &Path) -> Fault {
        let tracer = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:error=ENOMEM:when={nth}")])
            .args(["-p", &target.to_string(), "-o"])
            .arg(log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        let fault = Fault { tracer };
        wait_for("strace to hold its target", || {
            let tracer = kernel::status_field(target, "TracerPid")?;
            (tracer != "0").then_some(())
        });
        fault
    }

    fn end(mut self) {
        let pid = Pid::from_raw(self.tracer.id().cast_signed());
        // It lets go of what it traces.
        kill(pid, Signal::SIGTERM).expect("it is our child");
        self.tracer.wait().expect("it is our child");
    }
}

/// What a container that does not run must not have.
fn traces_of_containers(env: &TestEnv) -> Vec<String> {
    let mut found = Vec::new();
    let tag = env.tag();
    let veth = format!("wv{tag}");
    found.extend(
        kernel::links()
            .into_iter()
            .filter(|link| link.starts_with(&veth)),
    );
    found.extend(
        kernel::cgroups(&tag)
            .into_iter()
            .filter(|dir| dir.file_name().is_some_and(|name| name.len() == 64))
            .map(|dir| dir.display().to_string()),
    );
    found.extend(
        kernel::bound_ports()
            .into_iter()
            .filter(|port| port.contains("8080")),
    );
    found.extend(env.shim_pids().iter().map(|pid| format!("shim {pid}")));
    found.extend(
        kernel::pids_of("sleep 1001")
            .iter()
            .map(|pid| format!("container {pid}")),
    );
    let engine = env.engine_pid().expect("an engine runs");
    let mounts = kernel::mounts_of(engine).expect("it runs");
    let root = env.data_root().display().to_string();
    found.extend(
        mounts
            .into_iter()
            .filter(|mount| mount.target.starts_with(&root))
            .map(|mount| mount.target),
    );
    for descriptor in std::fs::read_dir(format!("/proc/{engine}/fd"))
        .expect("it runs")
        .flatten()
    {
        let Ok(to) = std::fs::read_link(descriptor.path()) else {
            continue;
        };
        let to = to.display().to_string();
        if to.starts_with("net:[") || to.ends_with("/log") {
            found.push(to);
        }
    }
    found
}

/// Lets each call fail, first the first of its kind, then the second, until there is none to fail.
fn each_fails(env: &TestEnv, target: &str, calls: &[&str]) {
    std::fs::create_dir(env.path("bind")).expect("it is ours");
    let project = env.project("fault", COMPOSE);
    project.up();
    let target = match target {
        ENGINE => env.engine_pid(),
        name => kernel::processes()
            .into_iter()
            .find(|process| process.name == name)
            .map(|process| process.pid),
    };
    let target = target.expect("an engine runs, and has a spawner");
    let log = env.path("strace.log");
    let (mut n_failed, mut n_injected) = (0, 0);
    for call in calls {
        for nth in 1..=MOST {
            project.wharf(&["kill"]);
            project.wait_for_state("fault-s-1", "exited");
            let fault = Fault::inject(target, call, nth, &log);
            let started = project.wharf(&["up", "-d"]);
            let is_injected = std::fs::read_to_string(&log)
                .expect("strace wrote it")
                .contains("(INJECTED)");
            let what = format!("{call} {nth}");
            if started.code == 0 {
                assert_eq!(project.ps_field("fault-s-1", "State"), "running", "{what}");
            } else {
                assert!(is_injected, "{what}: {started}");
                assert!(!started.stderr.contains("panicked"), "{what}: {started}");
                n_failed += 1;
                let mut left = Vec::new();
                // A shim tells of the failure before its own end.
                let gone = poll(std::time::Duration::from_secs(5), || {
                    left = traces_of_containers(env);
                    left.is_empty().then_some(())
                });
                assert!(
                    gone.is_some(),
                    "{what}: {left:?}\n{started}\n{}",
                    env.engine_log()
                );
            }
            fault.end();
            if !is_injected {
                break;
            }
            n_injected += 1;
        }
    }
    // The engine and all that it has are as good as ever.
    project.wharf(&["up", "-d", "--force-recreate"]).ok();
    assert!(
        n_failed > calls.len() / 2,
        "{n_failed} of {n_injected} failed"
    );
}

const ENGINE: &str = "engine";
const SPAWNER: &str = "wharf-spawner";

/// Calls of one kind that are tried, at most.
const MOST: u32 = 6;

fn mounts_that_fail_leave_nothing(env: &TestEnv) {
    each_fails(
        env,
        SPAWNER,
        &[
            "fsopen",
            "fsconfig",
            "fsmount",
            "open_tree",
            "move_mount",
            "mount_setattr",
            "mount",
            "umount2",
            "pivot_root",
        ],
    );
}

fn namespaces_and_processes_that_fail_leave_nothing(env: &TestEnv) {
    each_fails(
        env,
        SPAWNER,
        &[
            "clone3",
            "clone",
            "unshare",
            "setns",
            "sethostname",
            "setsid",
            "execve",
            "pidfd_open",
            "pidfd_send_signal",
            "fork",
            "vfork",
            "wait4",
            "waitid",
        ],
    );
}

fn privileges_that_fail_leave_nothing(env: &TestEnv) {
    each_fails(
        env,
        SPAWNER,
        &[
            "setgroups",
            "setresuid",
            "setresgid",
            "setuid",
            "setgid",
            "capset",
            "prctl",
            "seccomp",
            "prlimit64",
            "keyctl",
            "bpf",
        ],
    );
}

fn files_and_sockets_that_fail_leave_nothing(env: &TestEnv) {
    each_fails(
        env,
        SPAWNER,
        &[
            "openat2",
            "openat",
            "mkdirat",
            "mkdir",
            "mknodat",
            "symlinkat",
            "fchownat",
            "fchdir",
            "chroot",
            "chdir",
            "pipe2",
            "socketpair",
            "socket",
            "bind",
            "listen",
            "sendmsg",
            "rename",
            "renameat",
            "write",
            "read",
        ],
    );
}

/// Netlink speaks by `sendto`, to shims and the spawner by `sendmsg`; the API does neither.
fn what_fails_in_the_engine_leaves_nothing(env: &TestEnv) {
    each_fails(
        env,
        ENGINE,
        &[
            "sendto",
            "sendmsg",
            "socket",
            "bind",
            "setns",
            "unshare",
            "mkdir",
            "socketpair",
        ],
    );
}
