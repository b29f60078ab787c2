//! exec: a second process in a container, with or without a terminal.

use crate::harness::terminal::Terminal;
use crate::harness::{Project, TestEnv, kernel, wait_for};

crate::cases! {
    exec:
    exit_codes_are_passed_through,
    stdout_and_stderr_stay_apart,
    stdin_reaches_the_process_and_its_end_does,
    user_workdir_and_environment_are_set,
    a_detached_exec_goes_on,
    a_process_joins_every_namespace_of_the_container,
    a_terminal_has_its_size_and_follows_a_resize,
    ctrl_c_goes_to_the_process_and_not_to_the_client,
    the_terminal_is_restored_afterwards,
    a_signal_to_the_client_ends_with_its_code,
    exec_into_nothing_is_an_error,
    binary_output_is_not_changed,
    a_program_may_be_named_through_its_own_proc,
}

fn sleeper(env: &TestEnv, name: &str) -> Project {
    let project = env.project(
        name,
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    environment: {FROM_FILE: 'yes'}
    working_dir: /tmp
",
    );
    project.up();
    project
}

fn exit_codes_are_passed_through(env: &TestEnv) {
    let project = sleeper(env, "codes");
    let exec = |command: &[&str]| {
        let mut arguments = vec!["exec", "-T", "s"];
        arguments.extend(command);
        project.wharf(&arguments)
    };
    exec(&["true"]).ok();
    exec(&["false"]).fails_with(1);
    exec(&["sh", "-c", "exit 42"]).fails_with(42);
    exec(&["sh", "-c", "kill -9 $$"]).fails_with(137);
    exec(&["/etc/passwd"]).fails_with(126);
    exec(&["no-such-program"]).fails_with(127);
}

fn stdout_and_stderr_stay_apart(env: &TestEnv) {
    let project = sleeper(env, "apart");
    let run = project
        .wharf(&["exec", "-T", "s", "sh", "-c", "echo out; echo err >&2"])
        .ok();
    assert_eq!(run.stdout, "out\n");
    assert_eq!(run.stderr, "err\n");
}

fn stdin_reaches_the_process_and_its_end_does(env: &TestEnv) {
    let project = sleeper(env, "stdin");
    let mut command = project.command();
    command.args(["exec", "-T", "s", "wc", "-c"]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let block = vec![b'x'; 1 << 20];
    std::io::Write::write_all(&mut stdin, &block).expect("the process reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1048576");
}

fn user_workdir_and_environment_are_set(env: &TestEnv) {
    let project = sleeper(env, "options");
    assert_eq!(
        project.sh("s", "pwd; echo $FROM_FILE; id -u"),
        "/tmp\nyes\n0"
    );
    let run = project
        .wharf(&[
            "exec",
            "-T",
            "-u",
            "alice",
            "-w",
            "/etc",
            "-e",
            "EXTRA=1 2",
            "s",
            "sh",
            "-c",
            "pwd; echo $EXTRA; id -u; id -g; id -G",
        ])
        .ok();
    assert_eq!(
        run.lines(),
        ["/etc", "1 2", "1000", "1000", "1000 10 50"],
        "{run}"
    );
    let run = project
        .wharf(&[
            "exec",
            "-T",
            "-u",
            "4242:77",
            "s",
            "sh",
            "-c",
            "id -u; id -G",
        ])
        .ok();
    assert_eq!(run.lines(), ["4242", "77"]);
}

fn a_detached_exec_goes_on(env: &TestEnv) {
    let project = sleeper(env, "detached");
    project.wharf(&["exec", "-d", "s", "sleep", "2001"]).ok();
    let pid = project.pid_of("sleep 2001");
    assert_eq!(
        kernel::namespace(pid, "pid"),
        kernel::namespace(project.pid_of("sleep 1001"), "pid")
    );
    project.down();
    assert!(kernel::pids_of("sleep 2001").is_empty());
}

fn a_process_joins_every_namespace_of_the_container(env: &TestEnv) {
    let project = sleeper(env, "joins");
    project.wharf(&["exec", "-d", "s", "sleep", "2001"]).ok();
    let (init, exec) = (project.pid_of("sleep 1001"), project.pid_of("sleep 2001"));
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert_eq!(
            kernel::namespace(init, kind),
            kernel::namespace(exec, kind),
            "{kind}"
        );
    }
    let cgroup =
        |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    assert_eq!(cgroup(init), cgroup(exec));
    for field in [
        "CapEff",
        "CapBnd",
        "CapInh",
        "CapAmb",
        "Seccomp",
        "NoNewPrivs",
    ] {
        assert_eq!(
            kernel::status_field(init, field),
            kernel::status_field(exec, field),
            "{field}"
        );
    }
}

fn terminal(project: &Project, script: &str) -> Terminal {
    let mut command = project.command();
    command.args(["exec", "s", "sh", "-c", script]);
    Terminal::start(&command, 31, 97)
}

fn a_terminal_has_its_size_and_follows_a_resize(env: &TestEnv) {
    let project = sleeper(env, "size");
    let mut terminal = terminal(
        &project,
        "trap 'stty size' WINCH; tty; stty size; while read -r line; do echo got:$line; done",
    );
    terminal.expect("/dev/pts/0");
    terminal.expect("31 97");
    terminal.resize(50, 120);
    // The shell runs its trap when `read` returns.
    wait_for("the new size", || {
        terminal.send("\n");
        terminal.screen().contains("50 120").then_some(())
    });
    terminal.send("\x04");
    terminal.wait();
}

fn ctrl_c_goes_to_the_process_and_not_to_the_client(env: &TestEnv) {
    let project = sleeper(env, "ctrlc");
    let mut terminal = terminal(
        &project,
        "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done",
    );
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.wait().code(), Some(9));
}

fn the_terminal_is_restored_afterwards(env: &TestEnv) {
    let project = sleeper(env, "restored");
    let mut inner = project.command();
    inner.args(["exec", "s", "true"]);
    let program = inner.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = inner
        .get_args()
        .map(|a| a.to_string_lossy().into_owned())
        .collect();
    let line = format!("{program} {}", arguments.join(" "));
    let mut command = std::process::Command::new("sh");
    for (key, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.args([
        "-c",
        &format!("stty -a > ROOT/before; {line}; stty -a > ROOT/after")
            .replace("ROOT", &env.path("").display().to_string()),
    ]);
    let mut terminal = Terminal::start(&command, 24, 80);
    terminal.wait();
    let read = |name: &str| std::fs::read_to_string(env.path(name)).expect("stty wrote it");
    assert!(read("before").contains("icanon"));
    assert_eq!(read("before"), read("after"));
}

fn a_signal_to_the_client_ends_with_its_code(env: &TestEnv) {
    let project = sleeper(env, "signal");
    let mut command = project.command();
    command.args(["exec", "-T", "s", "sleep", "2001"]);
    let mut child = command.spawn().expect("it starts");
    wait_for("the process in the container", || {
        // The client has other words before these.
        kernel::pids_of("sleep 2001").first().copied()
    });
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    let status = wait_for("the client to end", || child.try_wait().expect("our child"));
    assert!(!status.success());
}

fn exec_into_nothing_is_an_error(env: &TestEnv) {
    let project = sleeper(env, "nothing");
    project
        .wharf(&["exec", "-T", "unknown", "true"])
        .fails_saying(&["unknown"]);
    project.wharf(&["stop"]).ok();
    let run = project.wharf(&["exec", "-T", "s", "true"]);
    assert_ne!(run.code, 0, "{run}");
    assert!(run.stderr.contains("not running"), "{run}");
}

fn binary_output_is_not_changed(env: &TestEnv) {
    let project = sleeper(env, "binary");
    let output = project
        .command()
        .args(["exec", "-T", "s", "printf", "\\000\\001\\377\\r\\n\\n"])
        .output()
        .expect("it starts");
    assert_eq!(output.stdout, b"\x00\x01\xff\r\n\n");
}

/// Who looks for the program is not yet in the pid namespace that the program will be in, where
/// there is no `/proc/self` for it.
fn a_program_may_be_named_through_its_own_proc(env: &TestEnv) {
    let project = env.project(
        "self",
        "
services:
  s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}
  joins:
    image: IMAGE
    command: /proc/self/root/bin/sleep 1002
    pid: service:s
    stop_grace_period: 0s
  wrong:
    image: IMAGE
    command: /proc/self/root/bin/no-such-program
    pid: service:s
    profiles: [wrong]
",
    );
    project.up();
    project.pid_of("/proc/self/root/bin/sleep 1002");
    assert_eq!(
        project.exec("s", &["/proc/self/root/bin/echo", "hello"]),
        "hello"
    );
    project
        .wharf(&["exec", "-T", "s", "/proc/self/root/no-such-program"])
        .fails_with(127);
    project
        .wharf(&["up", "-d", "wrong"])
        .fails_saying(&["/proc/self/root/bin/no-such-program", "no such file"]);
    project.wharf(&["--profile", "wrong", "down"]).ok();
}
