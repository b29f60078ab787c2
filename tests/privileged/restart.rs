//! Restart policies: who comes back after what.

use std::fs;

use crate::harness::{TestEnv, kernel, wait_for};

crate::cases! {
    restart:
    always_comes_back_after_success_and_after_failure,
    on_failure_comes_back_only_after_failure,
    on_failure_gives_up_after_the_given_count,
    a_stop_by_the_user_is_obeyed,
    a_killed_process_is_started_again,
}

/// Starts a service that counts its lives in a file.
fn counting(env: &TestEnv, name: &str, policy: &str, code: u8) -> crate::harness::Project {
    fs::create_dir_all(env.path("lives")).expect("it is ours");
    let project = env.project(
        name,
        &format!(
            "
services:
  s:
    image: IMAGE
    restart: '{policy}'
    command: sh -c 'echo x >> /lives/{name}; exit {code}'
    volumes: ['ROOT/lives:/lives']
"
        ),
    );
    project.up();
    project
}

fn lives(env: &TestEnv, name: &str) -> usize {
    let text = fs::read_to_string(env.path("lives").join(name)).unwrap_or_default();
    text.lines().count()
}

fn always_comes_back_after_success_and_after_failure(env: &TestEnv) {
    let _ok = counting(env, "ok", "always", 0);
    let _bad = counting(env, "bad", "unless-stopped", 1);
    for name in ["ok", "bad"] {
        wait_for("three lives", || (lives(env, name) >= 3).then_some(()));
    }
}

fn on_failure_comes_back_only_after_failure(env: &TestEnv) {
    let ok = counting(env, "ok", "on-failure", 0);
    counting(env, "bad", "on-failure", 1);
    wait_for("three lives", || (lives(env, "bad") >= 3).then_some(()));
    ok.wait_for_state("ok-s-1", "exited");
    assert_eq!(lives(env, "ok"), 1);
}

fn on_failure_gives_up_after_the_given_count(env: &TestEnv) {
    let project = counting(env, "twice", "on-failure:2", 4);
    wait_for("three lives", || (lives(env, "twice") == 3).then_some(()));
    project.wait_for_state("twice-s-1", "exited");
    assert_eq!(lives(env, "twice"), 3);
    assert_eq!(project.ps_field("twice-s-1", "ExitCode"), 4);
}

const SLEEPER: &str = "
services:
  s:
    image: IMAGE
    restart: always
    command: sleep 1001
    stop_grace_period: 0s
";

fn a_stop_by_the_user_is_obeyed(env: &TestEnv) {
    let project = env.project("obey", SLEEPER);
    project.up();
    project.pid_of("sleep 1001");
    project.wharf(&["stop"]).ok();
    project.wait_for_state("obey-s-1", "exited");
    assert!(kernel::pids_of("sleep 1001").is_empty());
    project.wharf(&["start"]).ok();
    project.pid_of("sleep 1001");
}

fn a_killed_process_is_started_again(env: &TestEnv) {
    let project = env.project("again", SLEEPER);
    project.up();
    let first = project.pid_of("sleep 1001");
    kill(first);
    wait_for("another process", || {
        kernel::pids_of("sleep 1001")
            .into_iter()
            .find(|pid| *pid != first)
    });
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
}
