//! logs: every byte that a container wrote is there, in order, and the options select as said.

use std::io::Read;
use std::process::Stdio;

use crate::harness::{TestEnv, wait_for};

crate::cases! {
    logs:
    a_last_line_without_line_break_is_kept,
    short_lives_lose_no_line,
    binary_output_comes_back_byte_for_byte,
    a_long_line_is_one_line,
    stdout_and_stderr_stay_apart,
    tail_counts_lines_per_service,
    timestamps_and_since_select_by_time,
    the_prefix_names_the_container_unless_it_is_switched_off,
    follow_shows_what_comes_and_ends_with_the_container,
    logs_of_a_stopped_container_stay_until_down,
}

fn one(env: &TestEnv, name: &str, script: &str) -> crate::harness::Project {
    env.project(
        name,
        &format!(
            "
services:
  s:
    image: IMAGE
    command:
      - sh
      - -c
      - {script:?}
    stop_grace_period: 0s
"
        ),
    )
}

fn a_last_line_without_line_break_is_kept(env: &TestEnv) {
    let project = one(env, "last", "printf 'first\\nlast-without-break'");
    project.up();
    project.wait_for_state("last-s-1", "exited");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(run.lines(), ["first", "last-without-break"], "{run}");
}

fn short_lives_lose_no_line(env: &TestEnv) {
    let mut compose = "services:".to_owned();
    for n in 0..20 {
        compose += &format!("\n  s{n}:\n    image: IMAGE\n    command: echo life-{n}-ends\n");
    }
    let project = env.project("short", &compose);
    project.up();
    wait_for("all to have exited", || {
        let rows = project.ps();
        let n_exited = rows.iter().filter(|row| row["State"] == "exited").count();
        (n_exited == 20).then_some(())
    });
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    let mut lines = run.lines();
    lines.sort_unstable();
    let mut expected: Vec<_> = (0..20).map(|n| format!("life-{n}-ends")).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

fn binary_output_comes_back_byte_for_byte(env: &TestEnv) {
    let project = one(
        env,
        "binary",
        "printf '\\000\\001\\377\\376\\n\\033[31mred\\n'",
    );
    project.up();
    project.wait_for_state("binary-s-1", "exited");
    let output = project
        .command()
        .args(["logs", "--no-log-prefix"])
        .output()
        .expect("it starts");
    assert_eq!(output.stdout, b"\x00\x01\xff\xfe\n\x1b[31mred\n");
}

fn a_long_line_is_one_line(env: &TestEnv) {
    // Longer than any pipe or buffer on the way.
    let project = one(
        env,
        "long",
        "head -c 300000 /dev/zero | tr '\\0' x; echo; echo end",
    );
    project.up();
    project.wait_for_state("long-s-1", "exited");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    let lines = run.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0].len(), 300_000);
    assert_eq!(lines[1], "end");
}

fn stdout_and_stderr_stay_apart(env: &TestEnv) {
    let project = one(env, "apart", "echo out; echo err >&2");
    project.up();
    project.wait_for_state("apart-s-1", "exited");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(run.stdout, "out\n");
    assert_eq!(run.stderr, "err\n");
}

fn tail_counts_lines_per_service(env: &TestEnv) {
    let project = one(env, "tail", "for i in 1 2 3 4 5; do echo line-$$i; done");
    project.up();
    project.wait_for_state("tail-s-1", "exited");
    let run = project
        .wharf(&["logs", "--no-log-prefix", "--tail", "2"])
        .ok();
    assert_eq!(run.lines(), ["line-4", "line-5"]);
    let run = project
        .wharf(&["logs", "--no-log-prefix", "--tail", "0"])
        .ok();
    assert_eq!(run.stdout, "");
    let run = project
        .wharf(&["logs", "--no-log-prefix", "--tail", "all"])
        .ok();
    assert_eq!(run.lines().len(), 5);
}

fn timestamps_and_since_select_by_time(env: &TestEnv) {
    let project = one(env, "since", "echo early; sleep 1.2; echo late; sleep 1001");
    project.up();
    wait_for("the late line", || {
        let run = project.wharf(&["logs"]);
        run.stdout.contains("late").then_some(())
    });
    let run = project.wharf(&["logs", "--no-log-prefix", "-t"]).ok();
    let stamps: Vec<_> = run
        .lines()
        .iter()
        .map(|line| {
            line.split(' ')
                .next()
                .expect("a split has a first part")
                .to_owned()
        })
        .collect();
    assert_eq!(stamps.len(), 2, "{run}");
    assert!(
        stamps
            .iter()
            .all(|stamp| stamp.contains('T') && stamp.ends_with('Z')),
        "{run}"
    );
    assert!(stamps[0] < stamps[1]);
    let run = project
        .wharf(&["logs", "--no-log-prefix", "--since", &stamps[1]])
        .ok();
    assert_eq!(run.lines(), ["late"], "{run}");
    let run = project
        .wharf(&["logs", "--no-log-prefix", "--since", "10m"])
        .ok();
    assert_eq!(run.lines(), ["early", "late"]);
}

fn the_prefix_names_the_container_unless_it_is_switched_off(env: &TestEnv) {
    let project = one(env, "prefix", "echo hello");
    project.up();
    project.wait_for_state("prefix-s-1", "exited");
    let run = project.wharf(&["logs"]).ok();
    let line = run
        .lines()
        .first()
        .map(|line| (*line).to_owned())
        .expect("one line");
    assert!(
        line.starts_with("s-1") && line.ends_with("| hello"),
        "{run}"
    );
    assert!(!run.stdout.contains('\x1b'), "no colour into a pipe: {run}");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(run.stdout, "hello\n");
}

fn follow_shows_what_comes_and_ends_with_the_container(env: &TestEnv) {
    let project = one(
        env,
        "follow",
        "echo before; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo after; exit 0",
    );
    project.up();
    wait_for("the first line", || {
        project
            .wharf(&["logs"])
            .stdout
            .contains("before")
            .then_some(())
    });
    let mut follower = project
        .command()
        .args(["logs", "-f", "--no-log-prefix"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut output = follower.stdout.take().expect("it is piped");
    let mut first = [0; 7];
    output.read_exact(&mut first).expect("the first line comes");
    assert_eq!(&first, b"before\n");
    project.sh("s", "touch /tmp/go");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("the output ends");
    assert_eq!(rest, "after\n");
    let status = wait_for("the follower to end", || {
        follower.try_wait().expect("our child")
    });
    assert!(status.success());
}

fn logs_of_a_stopped_container_stay_until_down(env: &TestEnv) {
    let project = one(env, "stay", "echo hello");
    project.up();
    project.wait_for_state("stay-s-1", "exited");
    project.wharf(&["engine", "stop"]).ok();
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(run.stdout, "hello\n");
}
