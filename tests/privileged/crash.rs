//! What dies and what must not: engines, shims and clients killed at bad moments.

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Project, TestEnv, kernel, wait_for};

crate::cases! {
    crash:
    a_killed_engine_is_back_and_has_adopted_everything,
    a_container_that_ends_without_an_engine_has_its_exit_code,
    no_output_is_lost_while_the_engine_is_dead,
    a_killed_shim_ends_its_container_and_the_policy_decides,
    fifty_clients_from_cold_give_one_engine,
    two_ups_at_once_agree,
    a_client_that_dies_changes_nothing,
    an_engine_killed_during_up_leaves_a_project_that_comes_up,
    an_engine_killed_during_down_leaves_a_project_that_goes_down,
    everything_killed_leaves_nothing_in_the_kernel,
    an_engine_with_nothing_to_do_can_be_stopped_and_started,
}

const SLEEPERS: &str = "
services:
  a: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}
  b: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s}
";

fn kill_9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    wait_for("the killed process to be gone", || {
        let alive = kernel::processes()
            .into_iter()
            // Until the last of its threads has closed its files it is there as a zombie.
            .any(|process| process.pid == pid);
        (!alive).then_some(())
    });
}

fn kill_engine(env: &TestEnv) {
    kill_9(env.engine_pid().expect("an engine runs"));
}

fn a_killed_engine_is_back_and_has_adopted_everything(env: &TestEnv) {
    let project = env.project("adopt", SLEEPERS);
    project.up();
    let before = (
        project.pid_of("sleep 1001"),
        project.pid_of("sleep 1002"),
        names(&project),
    );
    let old = env.engine_pid().expect("it runs");
    kill_engine(env);
    // Nobody asks for it: the shims start it.
    let new = wait_for("another engine", || env.engine_pid());
    assert_ne!(old, new);
    let after = (
        project.pid_of("sleep 1001"),
        project.pid_of("sleep 1002"),
        names(&project),
    );
    assert_eq!(before, after);
    for service in ["a", "b"] {
        assert_eq!(project.exec(service, &["echo", "alive"]), "alive");
    }
    let run = project.up();
    assert_eq!(project.pid_of("sleep 1001"), before.0, "{run}");
    project.down();
}

fn names(project: &Project) -> Vec<String> {
    let rows = project.ps();
    let mut names: Vec<_> = rows
        .iter()
        .map(|row| format!("{} {} {}", row["Name"], row["ID"], row["State"]))
        .collect();
    names.sort();
    names
}

fn a_container_that_ends_without_an_engine_has_its_exit_code(env: &TestEnv) {
    let project = env.project(
        "ends",
        "
services:
  s:
    image: IMAGE
    command: ['sh', '-c', 'while [ ! -e /go/go ]; do sleep 0.02; done; exit 23']
    volumes: ['ROOT/go:/go']
",
    );
    project.up();
    kill_engine(env);
    std::fs::write(env.path("go/go"), "").expect("up made the directory");
    project.wait_for_state("ends-s-1", "exited");
    assert_eq!(project.ps_field("ends-s-1", "ExitCode"), 23);
}

fn no_output_is_lost_while_the_engine_is_dead(env: &TestEnv) {
    let project = env.project(
        "output",
        "
services:
  s:
    image: IMAGE
    command: ['sh', '-c', 'i=0; while [ $$i -lt 200 ]; do echo line-$$i; i=$$((i+1)); sleep 0.01; done']
",
    );
    project.up();
    kill_engine(env);
    project.wait_for_state("output-s-1", "exited");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    let expected: Vec<_> = (0..200).map(|i| format!("line-{i}")).collect();
    assert_eq!(run.lines(), expected);
}

fn a_killed_shim_ends_its_container_and_the_policy_decides(env: &TestEnv) {
    let project = env.project(
        "shim",
        "
services:
  s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s, restart: always}
",
    );
    project.up();
    let first = project.pid_of("sleep 1001");
    let shims = env.shim_pids();
    assert!(!shims.is_empty(), "a container has a shim");
    for shim in shims {
        // The spawner may be among them, or the shim gone with its container.
        let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
    }
    wait_for("a container of its own again", || {
        match kernel::pids_of("sleep 1001")[..] {
            [pid] if pid != first => Some(()),
            _ => None,
        }
    });
    project.wait_for_state("shim-s-1", "running");
    assert_eq!(project.exec("s", &["echo", "alive"]), "alive");
}

fn spawn(project: &Project, arguments: &[&str]) -> Child {
    project
        .command()
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts")
}

fn all_succeed(children: Vec<Child>) {
    for mut child in children {
        let status = wait_for("a client to end", || child.try_wait().expect("our child"));
        assert!(status.success(), "{status}");
    }
}

fn fifty_clients_from_cold_give_one_engine(env: &TestEnv) {
    let project = env.project("cold", SLEEPERS);
    let clients = (0..50).map(|_| spawn(&project, &["ps"])).collect();
    all_succeed(clients);
    let engines = env.engine_pids();
    assert_eq!(engines.len(), 1, "{engines:?}");
}

fn two_ups_at_once_agree(env: &TestEnv) {
    let project = env.project("twice", SLEEPERS);
    let clients = (0..4).map(|_| spawn(&project, &["up", "-d"])).collect();
    all_succeed(clients);
    project.pid_of("sleep 1001");
    project.pid_of("sleep 1002");
    assert_eq!(project.ps().len(), 2);
}

fn a_client_that_dies_changes_nothing(env: &TestEnv) {
    let project = env.project("client", SLEEPERS);
    let mut client = spawn(&project, &["up"]);
    project.pid_of("sleep 1001");
    project.pid_of("sleep 1002");
    client.kill().expect("it runs");
    client.wait().expect("our child");
    // It was killed, it did not stop: as a lost terminal or network connection.
    project.pid_of("sleep 1001");
    assert_eq!(project.ps_field("client-a-1", "State"), "running");
}

fn many(n: u32) -> String {
    let services: String = (0..n)
        .map(|i| format!("  s{i}: {{image: IMAGE, command: sleep 10{i:02}, stop_grace_period: 0s, ports: ['72{i:02}:80'], volumes: ['v{i}:/v']}}\n"))
        .collect();
    let volumes: String = (0..n).map(|i| format!("  v{i}:\n")).collect();
    format!("services:\n{services}volumes:\n{volumes}")
}

fn an_engine_killed_during_up_leaves_a_project_that_comes_up(env: &TestEnv) {
    let project = env.project("halfup", &many(8));
    // At several points on the way: after the n-th process has appeared.
    for n in [1, 3, 6] {
        let mut client = spawn(&project, &["up", "-d"]);
        wait_for("some processes", || {
            let running = kernel::processes()
                .iter()
                .filter(|process| process.command.starts_with("sleep 10"))
                .count();
            (running >= n).then_some(())
        });
        if let Some(engine) = env.engine_pid() {
            let _ = kill(Pid::from_raw(engine), Signal::SIGKILL);
        }
        let _ = wait_for("the client to end", || {
            client.try_wait().expect("our child")
        });
        project.up();
        assert_eq!(project.ps().len(), 8);
        for i in 0..8 {
            project.pid_of(&format!("sleep 10{i:02}"));
        }
        project.wharf(&["down", "-v", "-t", "0"]).ok();
    }
}

fn an_engine_killed_during_down_leaves_a_project_that_goes_down(env: &TestEnv) {
    let project = env.project("halfdown", &many(8));
    project.up();
    let mut client = spawn(&project, &["down", "-v", "-t", "0"]);
    wait_for("some processes to be gone", || {
        (0..8)
            .any(|i| kernel::pids_of(&format!("sleep 10{i:02}")).is_empty())
            .then_some(())
    });
    if let Some(engine) = env.engine_pid() {
        let _ = kill(Pid::from_raw(engine), Signal::SIGKILL);
    }
    let _ = wait_for("the client to end", || {
        client.try_wait().expect("our child")
    });
    project.wharf(&["down", "-v", "-t", "0"]).ok();
    assert_eq!(project.ps().len(), 0);
}

fn everything_killed_leaves_nothing_in_the_kernel(env: &TestEnv) {
    let project = env.project("all", &many(4));
    project.up();
    for _ in 0..20 {
        for process in kernel::processes() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
    wait_for("all processes to be gone", || {
        kernel::processes().is_empty().then_some(())
    });
    wait_for("ports to be free and veths to be gone", || {
        let veths = kernel::links()
            .iter()
            .filter(|link| link.contains("veth"))
            .count();
        (veths == 0 && kernel::bound_ports().is_empty()).then_some(())
    });
    // As after a crash of the machine: the next command finds a project that was running.
    project.up();
    assert_eq!(project.ps().len(), 4);
    project.pid_of("sleep 1003");
}

fn an_engine_with_nothing_to_do_can_be_stopped_and_started(env: &TestEnv) {
    env.wharf(&["engine", "start"]).ok();
    assert!(env.engine_pid().is_some());
    let status = env.wharf(&["engine", "status"]).ok();
    assert!(status.stdout.contains("running"), "{status}");
    env.wharf(&["engine", "stop"]).ok();
    wait_for("the engine to end", || {
        env.engine_pid().is_none().then_some(())
    });
    let status = env.wharf(&["engine", "status"]);
    assert!(!status.stdout.contains("is running"), "{status}");
}
