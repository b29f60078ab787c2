//! up, down, ps, stop, start, restart, kill, scale: what they do to processes, and what they leave.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::harness::{TestEnv, kernel, wait_for};

crate::cases! {
    lifecycle:
    up_runs_the_processes_and_down_leaves_nothing,
    a_second_up_changes_nothing_and_writes_nothing,
    a_changed_service_is_recreated_alone,
    force_recreate_replaces_every_container,
    scale_adds_and_removes_replicas,
    orphans_are_named_and_removed_on_request,
    stop_and_start_keep_the_container,
    restart_gives_a_new_process_in_the_same_container,
    kill_sends_the_signal_that_is_asked_for,
    a_process_that_ignores_sigterm_is_killed_after_its_grace,
    ps_shows_exit_codes_and_only_running_containers_by_default,
    up_in_the_foreground_ends_when_the_services_end,
    ctrl_c_stops_the_services_of_a_foreground_up,
    up_of_one_service_starts_its_dependencies_only,
    no_deps_starts_the_service_alone,
    down_of_an_unknown_project_is_no_error,
    projects_do_not_see_each_other,
    a_command_that_is_not_in_the_image_leaves_nothing_running,
}

const TWO_SLEEPERS: &str = "
services:
  one:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
  two:
    image: IMAGE
    command: sleep 1002
    stop_grace_period: 0s
";

fn up_runs_the_processes_and_down_leaves_nothing(env: &TestEnv) {
    let project = env.project("base", TWO_SLEEPERS);
    project.up();
    let one = project.pid_of("sleep 1001");
    let two = project.pid_of("sleep 1002");
    for kind in ["mnt", "pid", "net", "ipc", "uts"] {
        assert_ne!(kernel::namespace(one, kind), kernel::namespace(1, kind));
        assert_ne!(kernel::namespace(one, kind), kernel::namespace(two, kind));
    }
    assert!(!kernel::cgroups(&env.tag()).is_empty());
    assert_eq!(env.shim_pids().len(), 2);
    project.down();
    assert!(kernel::pids_of("sleep 1001").is_empty());
    assert!(kernel::pids_of("sleep 1002").is_empty());
    env.expect_no_shims();
    assert_eq!(project.ps().len(), 0);
}

fn a_second_up_changes_nothing_and_writes_nothing(env: &TestEnv) {
    let project = env.project("again", TWO_SLEEPERS);
    project.up();
    let before = (
        project.pid_of("sleep 1001"),
        project.pid_of("sleep 1002"),
        ids(&project.ps()),
        modification_times(env),
    );
    let run = project.up();
    let after = (
        project.pid_of("sleep 1001"),
        project.pid_of("sleep 1002"),
        ids(&project.ps()),
        modification_times(env),
    );
    assert_eq!(before, after);
    let said = run.stdout + &run.stderr;
    assert!(said.contains("Running"), "it says so: {said}");
    assert!(
        !said.contains("Created") && !said.contains("Recreate"),
        "{said}"
    );
}

/// The stores of both roots, with their modification times; logs are written at any time.
fn modification_times(env: &TestEnv) -> Vec<(std::path::PathBuf, i64, i64)> {
    let mut times = Vec::new();
    for root in [env.data_root(), env.run_root()] {
        for file in kernel::files_under(&root) {
            let path = root.join(&file);
            // Upper directories and logs belong to the containers.
            let is_store = path
                .extension()
                .is_some_and(|extension| extension == "redb" || extension == "json");
            if let (true, Ok(metadata)) = (is_store, fs::symlink_metadata(&path)) {
                times.push((path, metadata.mtime(), metadata.mtime_nsec()));
            }
        }
    }
    assert!(!times.is_empty(), "an engine with containers has records");
    times
}

fn ids(rows: &[serde_json::Value]) -> Vec<String> {
    let mut ids: Vec<_> = rows.iter().map(|row| row["ID"].to_string()).collect();
    ids.sort();
    ids
}

fn a_changed_service_is_recreated_alone(env: &TestEnv) {
    let project = env.project("change", TWO_SLEEPERS);
    project.up();
    let two = project.pid_of("sleep 1002");
    project.write(&env.fill_in(&TWO_SLEEPERS.replace("sleep 1001", "sleep 1003")));
    project.up();
    project.pid_of("sleep 1003");
    assert!(kernel::pids_of("sleep 1001").is_empty());
    assert_eq!(project.pid_of("sleep 1002"), two);
    assert_eq!(project.ps().len(), 2);
}

fn force_recreate_replaces_every_container(env: &TestEnv) {
    let project = env.project("force", TWO_SLEEPERS);
    project.up();
    let before = ids(&project.ps());
    project.wharf(&["up", "-d", "--force-recreate"]).ok();
    let after = ids(&project.ps());
    assert_eq!(after.len(), 2);
    assert!(
        before.iter().all(|id| !after.contains(id)),
        "{before:?} {after:?}"
    );
    project.pid_of("sleep 1001");
    project.pid_of("sleep 1002");
}

fn scale_adds_and_removes_replicas(env: &TestEnv) {
    let project = env.project("scale", TWO_SLEEPERS);
    project.up();
    let first = project.pid_of("sleep 1001");
    project.wharf(&["up", "-d", "--scale", "one=4"]).ok();
    wait_for("four replicas", || {
        (kernel::pids_of("sleep 1001").len() == 4).then_some(())
    });
    assert!(
        kernel::pids_of("sleep 1001").contains(&first),
        "the first one stays"
    );
    let names: Vec<_> = project
        .ps()
        .iter()
        .map(|row| row["Name"].to_string())
        .collect();
    for n in 1..=4 {
        assert!(names.contains(&format!("\"scale-one-{n}\"")), "{names:?}");
    }
    project.wharf(&["up", "-d", "--scale", "one=1"]).ok();
    assert_eq!(kernel::pids_of("sleep 1001"), [first]);
}

fn orphans_are_named_and_removed_on_request(env: &TestEnv) {
    let project = env.project("orphan", TWO_SLEEPERS);
    project.up();
    let without_two = TWO_SLEEPERS
        .split("  two:")
        .next()
        .expect("a split has a first part");
    project.write(&env.fill_in(without_two));
    let run = project.up();
    assert!(run.stderr.contains("orphan-two-1"), "{run}");
    project.pid_of("sleep 1002");
    project.wharf(&["up", "-d", "--remove-orphans"]).ok();
    assert!(kernel::pids_of("sleep 1002").is_empty());
    project.pid_of("sleep 1001");
}

fn stop_and_start_keep_the_container(env: &TestEnv) {
    let project = env.project("stop", TWO_SLEEPERS);
    project.up();
    project.sh("one", "echo kept > /tmp/mark");
    let before = ids(&project.ps());
    project.wharf(&["stop"]).ok();
    assert!(kernel::pids_of("sleep 1001").is_empty());
    assert_eq!(ids(&project.ps()), before);
    assert_eq!(project.ps_field("stop-one-1", "State"), "exited");
    project.wharf(&["start"]).ok();
    project.pid_of("sleep 1001");
    assert_eq!(project.sh("one", "cat /tmp/mark"), "kept");
}

fn restart_gives_a_new_process_in_the_same_container(env: &TestEnv) {
    let project = env.project("restart", TWO_SLEEPERS);
    project.up();
    let (one, two) = (project.pid_of("sleep 1001"), project.pid_of("sleep 1002"));
    let before = ids(&project.ps());
    project.wharf(&["restart", "one"]).ok();
    assert_ne!(project.pid_of("sleep 1001"), one);
    assert_eq!(project.pid_of("sleep 1002"), two);
    assert_eq!(ids(&project.ps()), before);
}

fn kill_sends_the_signal_that_is_asked_for(env: &TestEnv) {
    let project = env.project(
        "kill",
        "
services:
  trap:
    image: IMAGE
    command: ['sh', '-c', 'trap \"echo got-usr1\" USR1; trap \"exit 7\" TERM; echo ready; while :; do sleep 1; done']
",
    );
    project.up();
    wait_for("the trap", || {
        project
            .wharf(&["logs"])
            .stdout
            .contains("ready")
            .then_some(())
    });
    project.wharf(&["kill", "-s", "USR1"]).ok();
    wait_for("the handler's line", || {
        project
            .wharf(&["logs"])
            .stdout
            .contains("got-usr1")
            .then_some(())
    });
    project.wharf(&["kill", "-s", "SIGTERM"]).ok();
    project.wait_for_state("kill-trap-1", "exited");
    assert_eq!(project.ps_field("kill-trap-1", "ExitCode"), 7);
}

fn a_process_that_ignores_sigterm_is_killed_after_its_grace(env: &TestEnv) {
    // Process 1 without a handler ignores SIGTERM: `sleep` is such a one.
    let project = env.project(
        "stubborn",
        "
services:
  one:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 1s
",
    );
    project.up();
    project.pid_of("sleep 1001");
    let start = std::time::Instant::now();
    project.wharf(&["stop"]).ok();
    assert!(
        start.elapsed() >= std::time::Duration::from_millis(900),
        "it had its second"
    );
    assert!(kernel::pids_of("sleep 1001").is_empty());
    assert_eq!(project.ps_field("stubborn-one-1", "ExitCode"), 137);
}

fn ps_shows_exit_codes_and_only_running_containers_by_default(env: &TestEnv) {
    let project = env.project(
        "codes",
        "
services:
  ok:
    image: IMAGE
    command: 'true'
  seven:
    image: IMAGE
    command: sh -c 'exit 7'
  stays:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
",
    );
    project.up();
    project.wait_for_state("codes-ok-1", "exited");
    project.wait_for_state("codes-seven-1", "exited");
    assert_eq!(project.ps_field("codes-ok-1", "ExitCode"), 0);
    assert_eq!(project.ps_field("codes-seven-1", "ExitCode"), 7);
    let table = project.wharf(&["ps"]).ok();
    assert!(table.stdout.starts_with("NAME"), "{table}");
    assert!(table.stdout.contains("codes-stays-1"), "{table}");
    assert!(!table.stdout.contains("codes-seven-1"), "{table}");
    let all = project.wharf(&["ps", "-a"]).ok();
    assert!(all.stdout.contains("Exited (7)"), "{all}");
    let quiet = project.wharf(&["ps", "-q"]).ok();
    assert_eq!(quiet.lines().len(), 1, "{quiet}");
}

fn up_in_the_foreground_ends_when_the_services_end(env: &TestEnv) {
    let project = env.project(
        "front",
        "
services:
  out:
    image: IMAGE
    command: sh -c 'echo to-stdout; echo to-stderr >&2'
",
    );
    let run = project.wharf(&["up"]).ok();
    assert!(run.stdout.contains("to-stdout"), "{run}");
    assert!(!run.stdout.contains("to-stderr"), "{run}");
    assert!(run.stderr.contains("to-stderr"), "{run}");
}

fn ctrl_c_stops_the_services_of_a_foreground_up(env: &TestEnv) {
    let project = env.project(
        "ctrlc",
        "
services:
  trap:
    image: IMAGE
    command: ['sh', '-c', 'trap \"echo stopping; exit 0\" TERM; echo ready; while :; do sleep 0.1; done']
",
    );
    let mut command = project.command();
    command.arg("up");
    let mut terminal = crate::harness::terminal::Terminal::start(&command, 24, 80);
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect("stopping");
    terminal.wait();
    assert_eq!(project.ps_field("ctrlc-trap-1", "State"), "exited");
    assert_eq!(project.ps_field("ctrlc-trap-1", "ExitCode"), 0);
}

const CHAIN: &str = "
services:
  base:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
  top:
    image: IMAGE
    command: sleep 1002
    stop_grace_period: 0s
    depends_on: [base]
  other:
    image: IMAGE
    command: sleep 1003
    stop_grace_period: 0s
";

fn up_of_one_service_starts_its_dependencies_only(env: &TestEnv) {
    let project = env.project("some", CHAIN);
    project.wharf(&["up", "-d", "top"]).ok();
    project.pid_of("sleep 1001");
    project.pid_of("sleep 1002");
    assert!(kernel::pids_of("sleep 1003").is_empty());
}

fn no_deps_starts_the_service_alone(env: &TestEnv) {
    let project = env.project("alone", CHAIN);
    project.wharf(&["up", "-d", "--no-deps", "top"]).ok();
    project.pid_of("sleep 1002");
    assert!(kernel::pids_of("sleep 1001").is_empty());
    assert_eq!(project.ps().len(), 1);
}

fn down_of_an_unknown_project_is_no_error(env: &TestEnv) {
    let project = env.project("nothing", TWO_SLEEPERS);
    project.down();
}

fn projects_do_not_see_each_other(env: &TestEnv) {
    let a = env.project("aa", TWO_SLEEPERS);
    let b = env.project("bb", &TWO_SLEEPERS.replace("sleep 10", "sleep 20"));
    a.up();
    b.up();
    a.down();
    b.pid_of("sleep 2001");
    assert_eq!(a.ps().len(), 0);
    assert_eq!(b.ps().len(), 2);
}

fn a_command_that_is_not_in_the_image_leaves_nothing_running(env: &TestEnv) {
    let project = env.project(
        "notfound",
        "
services:
  broken:
    image: IMAGE
    command: /no/such/program
",
    );
    let run = project.wharf(&["up", "-d"]);
    assert_ne!(run.code, 0, "{run}");
    assert!(run.stderr.contains("/no/such/program"), "{run}");
    env.expect_no_shims();
}
