//! logs: every byte that a container wrote is there, in order, and the options select as said.

use std::io::{Read, Write};
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
    a_log_is_kept_to_its_size,
    followers_lose_nothing_when_a_log_goes_on_in_a_new_file,
    a_log_whose_writer_was_killed_goes_on,
    a_log_driver_that_is_not_there_is_told_of,
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

/// Lets a script go on that waits for it. Detached: the script may end, and with it the container,
/// before an exec that is waited for has said how it ended.
fn go(project: &crate::harness::Project) {
    project.wharf(&["exec", "-d", "s", "touch", "/tmp/go"]).ok();
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
    go(&project);
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

/// Counts for ever once `/tmp/go` is there, or to `LAST`.
const COUNT: &str = "while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 1 LAST";

fn rotated(env: &TestEnv, name: &str, script: &str, options: &str) -> crate::harness::Project {
    env.project(
        name,
        &format!(
            "
services:
  s:
    image: IMAGE
    command: [sh, -c, {script:?}]
    stop_grace_period: 0s
    logging:
      options: {options}
"
        ),
    )
}

/// Sizes of the files that the only container's log is in.
fn log_files(env: &TestEnv) -> Vec<u64> {
    let files = crate::harness::kernel::files_under(&env.data_root());
    files
        .iter()
        .filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with("containers") && (name == "log" || name.starts_with("log."))
        })
        .map(|file| {
            let path = env.data_root().join(file);
            path.metadata().map_or(0, |metadata| metadata.len())
        })
        .collect()
}

fn a_log_is_kept_to_its_size(env: &TestEnv) {
    let script = COUNT.replace("LAST", "50000");
    let project = rotated(env, "kept", &script, "{max-size: 64k, max-file: '3'}");
    project.up();
    go(&project);
    project.wait_for_state("kept-s-1", "exited");
    let sizes = log_files(env);
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 64 << 10), "{sizes:?}");
    // What is kept is the end, without a gap.
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    let kept: Vec<u64> = run
        .lines()
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    assert!(kept.len() > 4000, "{}", kept.len());
    let expected: Vec<u64> = (50_001 - kept.len() as u64..=50_000).collect();
    assert_eq!(kept, expected);
    let run = project
        .wharf(&["logs", "--no-log-prefix", "--tail", "3500"])
        .ok();
    let tail: Vec<u64> = run
        .lines()
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(tail, (46_501..=50_000).collect::<Vec<_>>());
}

fn followers_lose_nothing_when_a_log_goes_on_in_a_new_file(env: &TestEnv) {
    let script = COUNT.replace("LAST", "30000");
    // As many files as it takes: who is slow here loses nothing either.
    let project = rotated(env, "goes-on", &script, "{max-size: 16k, max-file: '200'}");
    project.up();
    let followers: Vec<_> = (0..4)
        .map(|_| {
            let mut follower = project.command();
            follower.args(["logs", "-f", "--no-log-prefix"]);
            follower.stdout(Stdio::piped()).stderr(Stdio::null());
            follower.spawn().expect("it starts")
        })
        .collect();
    go(&project);
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    for mut follower in followers {
        let mut text = String::new();
        let mut output = follower.stdout.take().expect("it is piped");
        output.read_to_string(&mut text).expect("the output ends");
        assert!(follower.wait().expect("our child").success());
        assert!(
            text == expected,
            "{} of {} bytes",
            text.len(),
            expected.len()
        );
    }
    assert!(log_files(env).len() > 20, "{:?}", log_files(env));
}

fn a_log_whose_writer_was_killed_goes_on(env: &TestEnv) {
    let script = "i=0; while :; do i=$$((i+1)); echo line $$i of this life; sleep 0.002; done";
    let project = one(env, "torn", script);
    project.up();
    for n_lives in 1..=3 {
        wait_for("some lines of this life", || {
            let run = project.wharf(&["logs"]).ok();
            let n_written = run
                .lines()
                .iter()
                .filter(|line| line.ends_with(" 20 of this life"))
                .count();
            (n_written == n_lives).then_some(())
        });
        let shims = env.shim_pids();
        assert_eq!(shims.len(), 1);
        let shim = nix::unistd::Pid::from_raw(shims[0]);
        nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
        project.wait_for_state("torn-s-1", "exited");
        // What a writer leaves that is killed in the middle of a record.
        let mut options = std::fs::OpenOptions::new();
        let mut log = options
            .append(true)
            .open(newest_log(env))
            .expect("it is there");
        log.write_all(&[200, 0, 0, 0, 1, 0, 0])
            .expect("it can be written");
        project.wharf(&["start"]).ok();
    }
    project.wharf(&["stop"]).ok();
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    let lines = run.lines();
    // Each killed writer may have left one line unfinished, no more.
    let is_whole = |line: &&&str| line.starts_with("line ") && line.ends_with(" of this life");
    let n_broken = lines.len() - lines.iter().filter(is_whole).count();
    assert!(n_broken <= 4, "{n_broken}");
    let n_lives = lines
        .iter()
        .filter(|line| **line == "line 1 of this life")
        .count();
    assert_eq!(n_lives, 4);
}

/// The file that the only container's log is written to.
fn newest_log(env: &TestEnv) -> std::path::PathBuf {
    let files = crate::harness::kernel::files_under(&env.data_root());
    let number = |file: &std::path::Path| -> Option<u64> {
        let name = file.file_name()?.to_str()?.strip_prefix("log")?;
        match name.strip_prefix('.') {
            None => name.is_empty().then_some(0),
            Some(number) => number.parse().ok(),
        }
    };
    let newest = files
        .iter()
        .filter(|file| file.starts_with("containers"))
        .filter_map(|file| Some((number(file)?, file)))
        .max();
    env.data_root().join(newest.expect("there is a log").1)
}

fn a_log_driver_that_is_not_there_is_told_of(env: &TestEnv) {
    let project = env.project(
        "driver",
        "
services:
  s:
    image: IMAGE
    command: echo hello
    logging: {driver: gelf, options: {gelf-address: 'udp://192.0.2.1:12201'}}
",
    );
    let run = project.up();
    assert!(
        run.stderr.contains("the log driver \"gelf\" is not there"),
        "{run}"
    );
    project.wait_for_state("driver-s-1", "exited");
    assert_eq!(
        project.wharf(&["logs", "--no-log-prefix"]).ok().stdout,
        "hello\n"
    );

    let project = rotated(env, "wrong", "echo", "{max-size: much}");
    let run = project.wharf(&["up", "-d"]);
    assert_ne!(run.code, 0);
    run.fails_saying(&["\"much\"", "max-size", "10m"]);
}
