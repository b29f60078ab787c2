//! depends_on: who starts when, and in what order things stop.
//!
//! Containers write the kernel's monotonic clock into a shared directory; the order is read there.

use std::fs;

use crate::harness::{TestEnv, kernel};

crate::cases! {
    order:
    a_chain_starts_in_dependency_order_and_stops_in_reverse,
    completed_successfully_waits_for_exit_code_zero,
    a_failed_prerequisite_stops_the_up_and_names_it,
    healthy_waits_for_the_probe,
    a_chain_of_five_by_health_starts_without_polling_delay,
    an_unhealthy_dependency_fails_the_up,
    required_false_goes_on_without_the_dependency,
    wait_returns_when_all_are_healthy,
    wait_timeout_is_an_error,
    restart_true_restarts_the_dependents,
    a_cycle_is_refused_with_its_path,
}

/// The services in the order of their marks in the file, one a line.
fn marks(env: &TestEnv, file: &str) -> Vec<String> {
    let text = fs::read_to_string(env.path("marks").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn make_marks(env: &TestEnv) {
    fs::create_dir_all(env.path("marks")).expect("it is ours");
}

/// A service that marks its start and its stop.
fn marking(name: &str, rest: &str) -> String {
    format!(
        "
  {name}:
    image: IMAGE
    command:
      - sh
      - -c
      - |
        trap 'echo {name} >> /marks/stop; exit 0' TERM
        echo {name} >> /marks/start
        while :; do sleep 0.05; done
    volumes: ['ROOT/marks:/marks']
{rest}"
    )
}

fn a_chain_starts_in_dependency_order_and_stops_in_reverse(env: &TestEnv) {
    make_marks(env);
    // Started means that the process runs; its first write may still come late. A health check on
    // the mark makes the order of the writes the order of the starts.
    let probe = "    healthcheck: {test: ['CMD-SHELL', 'grep -q NAME /marks/start'], interval: 50ms, timeout: 5s, retries: 100}\n";
    let mut compose = "services:".to_owned();
    for (name, needs) in [("a", ""), ("b", "a"), ("c", "b")] {
        let mut rest = probe.replace("NAME", name);
        if !needs.is_empty() {
            rest += &format!("    depends_on: {{{needs}: {{condition: service_healthy}}}}\n");
        }
        compose += &marking(name, &rest);
    }
    let project = env.project("chain", &compose);
    project.wharf(&["up", "-d", "--wait"]).ok();
    assert_eq!(marks(env, "start"), ["a", "b", "c"]);
    project.wharf(&["stop"]).ok();
    assert_eq!(marks(env, "stop"), ["c", "b", "a"]);
    project.down();
}

fn completed_successfully_waits_for_exit_code_zero(env: &TestEnv) {
    make_marks(env);
    let project = env.project(
        "completed",
        "
services:
  first:
    image: IMAGE
    command: sh -c 'sleep 0.3; echo first >> /marks/start'
    volumes: ['ROOT/marks:/marks']
  second:
    image: IMAGE
    command: sh -c 'echo second >> /marks/start; sleep 1001'
    volumes: ['ROOT/marks:/marks']
    stop_grace_period: 0s
    depends_on:
      first: {condition: service_completed_successfully}
",
    );
    project.up();
    crate::harness::wait_for("both marks", || {
        (marks(env, "start").len() == 2).then_some(())
    });
    assert_eq!(marks(env, "start"), ["first", "second"]);
}

fn a_failed_prerequisite_stops_the_up_and_names_it(env: &TestEnv) {
    let project = env.project(
        "prereq",
        "
services:
  first:
    image: IMAGE
    command: sh -c 'exit 3'
  second:
    image: IMAGE
    command: sleep 1001
    depends_on:
      first: {condition: service_completed_successfully}
",
    );
    let run = project.wharf(&["up", "-d"]).fails_saying(&["first"]);
    assert!(run.stderr.contains('3'), "the exit code is named: {run}");
    assert!(kernel::pids_of("sleep 1001").is_empty());
}

fn healthy_waits_for_the_probe(env: &TestEnv) {
    make_marks(env);
    let project = env.project(
        "healthy",
        "
services:
  slow:
    image: IMAGE
    command: sh -c 'sleep 0.5; echo slow >> /marks/start; touch /tmp/ready; sleep 1001'
    volumes: ['ROOT/marks:/marks']
    stop_grace_period: 0s
    healthcheck: {test: ['CMD', 'test', '-e', '/tmp/ready'], interval: 100ms, timeout: 5s, retries: 100}
  after:
    image: IMAGE
    command: sh -c 'echo after >> /marks/start; sleep 1002'
    volumes: ['ROOT/marks:/marks']
    stop_grace_period: 0s
    depends_on:
      slow: {condition: service_healthy}
",
    );
    project.wharf(&["up", "-d"]).ok();
    crate::harness::wait_for("both marks", || {
        (marks(env, "start").len() == 2).then_some(())
    });
    assert_eq!(marks(env, "start"), ["slow", "after"]);
}

fn a_chain_of_five_by_health_starts_without_polling_delay(env: &TestEnv) {
    let mut compose = "services:".to_owned();
    for n in 1..=5 {
        compose += &format!(
            "
  s{n}:
    image: IMAGE
    command: sleep 100{n}
    stop_grace_period: 0s
    healthcheck: {{test: ['CMD', 'true'], interval: 200ms, timeout: 5s}}
"
        );
        if n > 1 {
            compose += &format!(
                "    depends_on: {{s{}: {{condition: service_healthy}}}}\n",
                n - 1
            );
        }
    }
    let project = env.project("five", &compose);
    let start = std::time::Instant::now();
    project.wharf(&["up", "-d"]).ok();
    let elapsed = start.elapsed();
    project.pid_of("sleep 1005");
    // Four probes of 200 ms are the least. A poll of a second per link would be over four seconds.
    assert!(elapsed.as_millis() < 3000, "{elapsed:?}");
}

fn an_unhealthy_dependency_fails_the_up(env: &TestEnv) {
    let project = env.project(
        "sick",
        "
services:
  sick:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    healthcheck: {test: ['CMD', 'false'], interval: 50ms, timeout: 5s, retries: 2}
  after:
    image: IMAGE
    command: sleep 1002
    depends_on:
      sick: {condition: service_healthy}
",
    );
    project
        .wharf(&["up", "-d"])
        .fails_saying(&["sick", "unhealthy"]);
    assert!(kernel::pids_of("sleep 1002").is_empty());
}

fn required_false_goes_on_without_the_dependency(env: &TestEnv) {
    let project = env.project(
        "optional",
        "
services:
  sick:
    image: IMAGE
    command: sh -c 'exit 3'
  after:
    image: IMAGE
    command: sleep 1002
    stop_grace_period: 0s
    depends_on:
      sick: {condition: service_completed_successfully, required: false}
",
    );
    project.wharf(&["up", "-d"]).ok();
    project.pid_of("sleep 1002");
}

fn wait_returns_when_all_are_healthy(env: &TestEnv) {
    let project = env.project(
        "wait",
        "
services:
  slow:
    image: IMAGE
    command: sh -c 'sleep 0.5; touch /tmp/ready; sleep 1001'
    stop_grace_period: 0s
    healthcheck: {test: ['CMD', 'test', '-e', '/tmp/ready'], interval: 100ms, timeout: 5s, retries: 100}
",
    );
    project.wharf(&["up", "-d", "--wait"]).ok();
    assert_eq!(project.ps_field("wait-slow-1", "Health"), "healthy");
}

fn wait_timeout_is_an_error(env: &TestEnv) {
    let project = env.project(
        "never",
        "
services:
  never:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    healthcheck: {test: ['CMD', 'false'], interval: 100ms, timeout: 5s, retries: 10000}
",
    );
    let run = project.wharf(&["up", "-d", "--wait", "--wait-timeout", "1"]);
    assert_ne!(run.code, 0, "{run}");
    // What runs, goes on: `--wait` decides about the answer only.
    project.pid_of("sleep 1001");
}

fn restart_true_restarts_the_dependents(env: &TestEnv) {
    let project = env.project(
        "follow",
        "
services:
  base:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
  follower:
    image: IMAGE
    command: sleep 1002
    stop_grace_period: 0s
    depends_on:
      base: {condition: service_started, restart: true}
  other:
    image: IMAGE
    command: sleep 1003
    stop_grace_period: 0s
    depends_on: [base]
",
    );
    project.up();
    let (follower, other) = (project.pid_of("sleep 1002"), project.pid_of("sleep 1003"));
    project.wharf(&["restart", "base"]).ok();
    assert_ne!(project.pid_of("sleep 1002"), follower);
    assert_eq!(project.pid_of("sleep 1003"), other);
}

fn a_cycle_is_refused_with_its_path(env: &TestEnv) {
    let project = env.project(
        "cycle",
        "
services:
  a: {image: IMAGE, depends_on: [b]}
  b: {image: IMAGE, depends_on: [a]}
",
    );
    project.wharf(&["up", "-d"]).fails_saying(&["cycle"]);
    env.expect_no_shims();
}
