//! Health checks: probes run in the container, states follow the rules of the image format.

use crate::harness::{TestEnv, kernel, wait_for};

crate::cases! {
    health:
    a_probe_runs_inside_the_container,
    failures_in_the_start_period_do_not_count,
    a_healthy_container_turns_unhealthy_and_back,
    a_probe_over_its_timeout_is_ended_with_all_it_started,
    a_disabled_check_shows_no_health,
}

fn a_probe_runs_inside_the_container(env: &TestEnv) {
    let project = env.project(
        "inside",
        "
services:
  s:
    image: IMAGE
    hostname: probed
    command: sleep 1001
    stop_grace_period: 0s
    environment: {FROM_FILE: 'yes'}
    healthcheck:
      test: ['CMD-SHELL', 'test \"$$(hostname)\" = probed && test \"$$FROM_FILE\" = yes && touch /tmp/probe']
      interval: 100ms
      timeout: 5s
",
    );
    project.wharf(&["up", "-d", "--wait"]).ok();
    project.sh("s", "test -e /tmp/probe");
}

fn failures_in_the_start_period_do_not_count(env: &TestEnv) {
    let project = env.project(
        "period",
        "
services:
  s:
    image: IMAGE
    command: sh -c 'sleep 1; touch /tmp/ready; sleep 1001'
    stop_grace_period: 0s
    healthcheck:
      test: ['CMD', 'test', '-e', '/tmp/ready']
      interval: 50ms
      start_interval: 50ms
      start_period: 30s
      timeout: 5s
      retries: 2
",
    );
    project.wharf(&["up", "-d", "--wait"]).ok();
    assert_eq!(project.ps_field("period-s-1", "Health"), "healthy");
}

fn a_healthy_container_turns_unhealthy_and_back(env: &TestEnv) {
    let project = env.project(
        "turns",
        "
services:
  s:
    image: IMAGE
    command: sh -c 'touch /tmp/ready; sleep 1001'
    stop_grace_period: 0s
    healthcheck: {test: ['CMD', 'test', '-e', '/tmp/ready'], interval: 50ms, timeout: 5s, retries: 2}
",
    );
    project.wharf(&["up", "-d", "--wait"]).ok();
    let health = |state: &str| {
        wait_for(&format!("the container to be {state}"), || {
            (project.ps_field("turns-s-1", "Health") == state).then_some(())
        });
    };
    health("healthy");
    project.sh("s", "rm /tmp/ready");
    health("unhealthy");
    // An unhealthy container goes on running.
    assert_eq!(project.ps_field("turns-s-1", "State"), "running");
    project.sh("s", "touch /tmp/ready");
    health("healthy");
}

fn a_probe_over_its_timeout_is_ended_with_all_it_started(env: &TestEnv) {
    let project = env.project(
        "timeout",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    healthcheck: {test: ['CMD-SHELL', 'sleep 2002 & sleep 2001'], interval: 100ms, timeout: 200ms, retries: 1}
",
    );
    project.up();
    wait_for("the container to be unhealthy", || {
        (project.ps_field("timeout-s-1", "Health") == "unhealthy").then_some(())
    });
    // Probes go on; none of them may pile up.
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(kernel::pids_of("sleep 2001").len() + kernel::pids_of("sleep 2002").len());
        project.ps();
    }
    assert!(most <= 2, "{most} processes of probes at once");
}

fn a_disabled_check_shows_no_health(env: &TestEnv) {
    let project = env.project(
        "disabled",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    healthcheck: {disable: true, test: ['CMD', 'false']}
",
    );
    project.wharf(&["up", "-d", "--wait"]).ok();
    assert_eq!(project.ps_field("disabled-s-1", "Health"), "");
}
