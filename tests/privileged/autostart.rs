//! Where an engine is that a command has started (HAZARDS L5): where process 1 is, and not in the
//! namespaces, the directory, the session or the environment of whoever was first.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::harness::env::run;
use crate::harness::{TestEnv, kernel, wait_for};

crate::cases! {
    autostart:
    a_private_mount_namespace_is_left ["unshare", "mount"],
    a_private_run_directory_is_kept ["unshare", "mount"],
    a_shell_that_dies_takes_nothing_along,
    an_empty_environment_is_enough_and_a_directory_is_not_held ["mount", "umount"],
}

const SLEEPER: &str = "
services:
  s:
    image: IMAGE
    command: sleep 1001
    init: true
    volumes: ['ROOT/shown:/shown']
";

fn shell(env: &TestEnv, script: &str) -> Command {
    let like = env.command();
    let mut command = Command::new("sh");
    command.args(["-ec", script]).env_clear().envs(
        like.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command
}

fn a_private_mount_namespace_is_left(env: &TestEnv) {
    let shown = env.path("shown");
    fs::create_dir_all(&shown).expect("the test's directory is ours");
    fs::write(shown.join("everybodys"), "").expect("the test's directory is ours");
    let project = env.project("private", SLEEPER);
    // A unit with PrivateTmp, say: what it has mounted is its own, and ends with it.
    let script = format!(
        "exec unshare --mount --propagation private sh -ec '
             mount -t tmpfs none {}
             {} --project-directory {} -p private up -d'",
        shown.display(),
        env!("CARGO_BIN_EXE_wharf"),
        project.directory.display()
    );
    run(shell(env, &script)).ok();
    let machine = kernel::namespace(1, "mnt");
    for shim in env.shim_pids() {
        assert_eq!(kernel::namespace(shim, "mnt"), machine);
    }
    let engine = env.engine_pid().expect("it was started");
    let hidden = kernel::mounts_of(engine).expect("it runs");
    let target = shown.to_str().expect("test paths are text");
    assert!(!hidden.iter().any(|mount| mount.target == target));
    assert_eq!(project.sh("s", "ls /shown"), "everybodys");
}

/// Elsewhere nobody would find its socket.
fn a_private_run_directory_is_kept(env: &TestEnv) {
    fs::create_dir_all(env.path("shown")).expect("the test's directory is ours");
    fs::create_dir_all(env.run_root()).expect("the test's directory is ours");
    let project = env.project("own", SLEEPER);
    let wharf = format!(
        "{} --project-directory {} -p own",
        env!("CARGO_BIN_EXE_wharf"),
        project.directory.display()
    );
    let script = format!(
        "exec unshare --mount --propagation private sh -ec '
             mount -t tmpfs none {}
             {wharf} up -d
             {wharf} exec -T s echo reached
             {wharf} down -t 0
             {wharf} engine stop'",
        env.run_root().display(),
    );
    let told = run(shell(env, &script)).ok();
    assert!(told.stdout.contains("reached"), "{told}");
    assert!(!env.run_root().join("wharf.sock").exists());
}

fn a_shell_that_dies_takes_nothing_along(env: &TestEnv) {
    fs::create_dir_all(env.path("shown")).expect("the test's directory is ours");
    let project = env.project("shell", SLEEPER);
    let done = env.path("done");
    let script = format!(
        "{} --project-directory {} -p shell up -d; touch {}; sleep 9001",
        env!("CARGO_BIN_EXE_wharf"),
        project.directory.display(),
        done.display()
    );
    let mut job = shell(env, &script)
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .expect("there is a shell");
    wait_for("the project to be up", || done.exists().then_some(()));
    let engine = env.engine_pid().expect("it was started");
    let container = project.pid_of("sleep 1001");
    let group = Pid::from_raw(i32::try_from(job.id()).expect("pids are small"));
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGKILL] {
        // The first of them ends the group.
        let _ = killpg(group, signal);
    }
    job.wait().expect("it was ours");
    for pid in [engine, container] {
        kill(Pid::from_raw(pid), None).expect("it lives");
        assert_ne!(
            kernel::session(pid),
            kernel::session(std::process::id() as i32)
        );
    }
    assert_eq!(env.engine_pid(), Some(engine));
    assert_eq!(project.exec("s", &["echo", "alive"]), "alive");
}

fn an_empty_environment_is_enough_and_a_directory_is_not_held(env: &TestEnv) {
    fs::create_dir_all(env.path("shown")).expect("the test's directory is ours");
    let project = env.project("bare", SLEEPER);
    let gone = env.path("gone");
    fs::create_dir_all(&gone).expect("the test's directory is ours");
    let script = format!(
        "mount -t tmpfs none {gone}
         cd {gone}
         env -i {} --data-root {} --run-root {} --project-directory {} -p bare up -d
         cd /
         umount {gone}
         rmdir {gone}",
        env!("CARGO_BIN_EXE_wharf"),
        env.data_root().display(),
        env.run_root().display(),
        project.directory.display(),
        gone = gone.display(),
    );
    run(shell(env, &script)).ok();
    let engine = env.engine_pid().expect("it was started");
    let cwd = fs::read_link(format!("/proc/{engine}/cwd")).expect("it runs");
    assert_eq!(cwd, std::path::Path::new("/"));
    assert_eq!(project.exec("s", &["echo", "alive"]), "alive");
}
