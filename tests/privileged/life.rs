//! Crash safety and the ends of things: engines and shims killed, hung or full, boots that never
//! told of themselves, and what a removal, a probe or an idle engine leaves.

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Project, TestEnv, kernel, wait_for};

crate::cases! {
    life:
    an_idle_engine_ends_and_one_with_containers_stays,
    a_hung_shim_neither_delays_an_engine_nor_loses_its_container,
    a_boot_that_nobody_told_of_is_noticed,
    a_run_directory_that_is_gone_is_a_boot,
    after_a_boot_policies_start_in_order_of_dependency,
    the_back_off_and_the_count_survive_the_engine,
    on_failure_counts_across_engines,
    a_stop_in_the_pause_before_a_restart_holds,
    a_manual_stop_holds_across_engines,
    a_probe_that_hangs_is_killed_with_its_tree,
    health_survives_the_engine,
    a_kill_ends_a_stop_that_waits,
    what_a_crash_leaves_is_cleared,
    a_full_disk_refuses_and_heals,
    a_stale_socket_and_a_starting_engine_are_no_obstacle,
    nothing_of_the_callers_sticks,
    engines_killed_at_random_moments_leave_projects_that_converge,
    a_thousand_dropped_connections_leave_no_descriptor,
}

const SLEEPER: &str = "
services:
  s: {image: IMAGE, command: sleep 1001, init: true}
";

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it runs");
}

fn kill_engine(env: &TestEnv) {
    let pid = env.engine_pid().expect("an engine runs");
    signal(pid, Signal::SIGKILL);
    wait_for("the engine to be gone", || {
        (!kernel::processes().into_iter().any(|p| p.pid == pid)).then_some(())
    });
}

/// Everything dies at once, as when the power goes.
fn cut_power(env: &TestEnv) {
    wait_for("everything to be dead", || {
        let alive = kernel::processes();
        for process in &alive {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        alive.is_empty().then_some(())
    });
    assert!(env.engine_pid().is_none());
}

fn start_with_idle_timeout(env: &TestEnv, seconds: &str) -> i32 {
    let mut command = env.command();
    command
        .args(["engine", "start"])
        .env("WHARF_IDLE_TIMEOUT", seconds);
    crate::harness::env::run(command).ok();
    env.engine_pid().expect("it was started")
}

fn an_idle_engine_ends_and_one_with_containers_stays(env: &TestEnv) {
    start_with_idle_timeout(env, "1");
    wait_for("the idle engine to end", || {
        env.engine_pid().is_none().then_some(())
    });
    assert!(!env.run_root().join("wharf.sock").exists());
    assert_eq!(
        kernel::cgroups(&env.tag()),
        Vec::<std::path::PathBuf>::new()
    );

    let engine = start_with_idle_timeout(env, "1");
    let project = env.project("idle", SLEEPER);
    project.up();
    let begin = Instant::now();
    wait_for("three idle times", || {
        (begin.elapsed() > Duration::from_secs(3)).then_some(())
    });
    assert_eq!(env.engine_pid(), Some(engine), "it looks after a container");
    project.down();
    wait_for("the engine to end after the last container", || {
        env.engine_pid().is_none().then_some(())
    });
}

fn a_hung_shim_neither_delays_an_engine_nor_loses_its_container(env: &TestEnv) {
    let project = env.project("hung", SLEEPER);
    project.up();
    let container = project.pid_of("sleep 1001");
    let shims = env.shim_pids();
    shims.iter().for_each(|shim| signal(*shim, Signal::SIGSTOP));
    kill_engine(env);
    let begin = Instant::now();
    project.wait_for_state("hung-s-1", "running");
    assert!(begin.elapsed() < Duration::from_secs(5), "{begin:?}");
    shims.iter().for_each(|shim| signal(*shim, Signal::SIGCONT));
    assert_eq!(project.exec("s", &["echo", "alive"]), "alive");
    assert_eq!(project.pid_of("sleep 1001"), container);
    // An end that came before the engine is heard of, too.
    let shims = env.shim_pids();
    kill_engine_and(env, || {
        signal(container, Signal::SIGKILL);
        shims.iter().for_each(|shim| signal(*shim, Signal::SIGSTOP));
    });
    let _ = project.ps();
    shims.iter().for_each(|shim| signal(*shim, Signal::SIGCONT));
    project.wait_for_state("hung-s-1", "exited");
    assert_eq!(project.ps_field("hung-s-1", "ExitCode"), 137);
}

fn kill_engine_and(env: &TestEnv, act: impl FnOnce()) {
    let pid = env.engine_pid().expect("an engine runs");
    signal(pid, Signal::SIGKILL);
    act();
    wait_for("the engine to be gone", || {
        (!kernel::processes().into_iter().any(|p| p.pid == pid)).then_some(())
    });
}

const ACROSS_BOOTS: &str = "
services:
  plain: {image: IMAGE, command: sleep 1001, init: true}
  again: {image: IMAGE, command: sleep 1002, init: true, restart: always}
  stopped: {image: IMAGE, command: sleep 1003, init: true, restart: unless-stopped}
";

fn expect_after_boot(project: &Project, name: &str) {
    project.wait_for_state(&format!("{name}-again-1"), "running");
    project.pid_of("sleep 1002");
    assert_eq!(
        project.ps_field(&format!("{name}-plain-1"), "State"),
        "exited"
    );
    assert_eq!(
        project.ps_field(&format!("{name}-plain-1"), "ExitCode"),
        255
    );
    assert_eq!(
        project.ps_field(&format!("{name}-stopped-1"), "State"),
        "exited"
    );
    assert!(kernel::pids_of("sleep 1001").is_empty());
    assert!(kernel::pids_of("sleep 1003").is_empty());
}

/// HAZARDS L38, with a run directory that is not a tmpfs.
fn a_boot_that_nobody_told_of_is_noticed(env: &TestEnv) {
    let project = env.project("boot", ACROSS_BOOTS);
    project.up();
    project.wharf(&["stop", "stopped"]).ok();
    cut_power(env);
    fs::write(env.run_root().join("boot_id"), "another\n").expect("the run directory is there");
    expect_after_boot(&project, "boot");
}

/// HAZARDS L38, with a tmpfs.
fn a_run_directory_that_is_gone_is_a_boot(env: &TestEnv) {
    let project = env.project("tmpfs", ACROSS_BOOTS);
    project.up();
    project.wharf(&["stop", "stopped"]).ok();
    cut_power(env);
    fs::remove_dir_all(env.run_root()).expect("the run directory is there");
    expect_after_boot(&project, "tmpfs");
}

/// HAZARDS L16. The healthcheck's file is on the machine, so the containers' own words tell in which
/// order they came.
fn after_a_boot_policies_start_in_order_of_dependency(env: &TestEnv) {
    let marks = env.path("marks");
    fs::create_dir_all(&marks).expect("it is ours");
    let project = env.project(
        "order",
        "
x-s: &s {image: IMAGE, init: true, volumes: ['ROOT/marks:/m'], stop_grace_period: 0s}
services:
  db:
    <<: *s
    restart: always
    command: sh -c 'sleep 0.5; touch /m/ready; exec sleep 1001'
    healthcheck: {test: [CMD, test, -e, /m/ready], interval: 50ms, start_period: 60s, start_interval: 50ms}
  web:
    <<: *s
    restart: unless-stopped
    depends_on: {db: {condition: service_healthy}}
    command: sh -c 'test -e /m/ready && touch /m/web-after-db; exec sleep 1002'
  top:
    <<: *s
    restart: always
    depends_on: [web, once, off]
    command: sleep 1003
  # Neither of these comes again, which holds nobody up.
  once: {<<: *s, command: 'true'}
  off: {<<: *s, command: sleep 1004, restart: unless-stopped}
  stopped:
    <<: *s
    restart: always
    depends_on: {db: {condition: service_healthy}}
    command: sleep 1005
",
    );
    project.up();
    project.wharf(&["stop", "off"]).ok();
    for boot in ["first", "second"] {
        cut_power(env);
        for mark in ["ready", "web-after-db"] {
            let _ = fs::remove_file(marks.join(mark));
        }
        fs::write(env.run_root().join("boot_id"), boot).expect("the run directory is there");
        // What is stopped while it waits for its turn has none.
        project.wharf(&["stop", "stopped"]).ok();
        if boot == "first" {
            // Nor does an engine that dies meanwhile forget whose turn is to come.
            kill_engine_if_any(env);
            let _ = project.ps();
        }
        for container in ["db", "web", "top"] {
            project.wait_for_state(&format!("order-{container}-1"), "running");
        }
        for mark in ["ready", "web-after-db"] {
            wait_for(mark, || marks.join(mark).exists().then_some(()));
        }
        let [web, top] = ["sleep 1002", "sleep 1003"].map(|command| project.pid_of(command));
        assert!(kernel::start_ticks(top) >= kernel::start_ticks(web));
        for gone in ["sleep 1004", "sleep 1005"] {
            assert!(kernel::pids_of(gone).is_empty(), "{gone}");
        }
    }
}

fn run_record(env: &TestEnv) -> serde_json::Value {
    let containers = fs::read_dir(env.run_root().join("containers")).expect("there is one");
    let dir = containers.flatten().next().expect("there is one").path();
    let text = fs::read(dir.join("run.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// HAZARDS L16: a crash loop must not become a busy loop when the engine crashes, too.
fn the_back_off_and_the_count_survive_the_engine(env: &TestEnv) {
    let project = env.project(
        "loop",
        "
services:
  s: {image: IMAGE, command: sh -c 'exit 3', restart: always}
",
    );
    project.up();
    wait_for("a pause of 800 ms", || {
        (run_record(env)["backoff_ms"].as_u64() >= Some(800)).then_some(())
    });
    let count = run_record(env)["restart_count"].as_u64();
    kill_engine(env);
    let _ = project.ps();
    let after = run_record(env);
    assert!(after["backoff_ms"].as_u64() >= Some(800), "{after}");
    assert!(after["restart_count"].as_u64() >= count, "{after}");
    project.wharf(&["stop"]).ok();
    assert_eq!(project.ps_field("loop-s-1", "State"), "exited");
}

fn on_failure_counts_across_engines(env: &TestEnv) {
    fs::create_dir_all(env.path("lives")).expect("it is ours");
    let project = env.project(
        "thrice",
        "
services:
  s:
    image: IMAGE
    restart: 'on-failure:3'
    command: sh -c 'echo x >> /lives/s; exit 4'
    volumes: ['ROOT/lives:/lives']
",
    );
    project.up();
    let lives = || {
        let text = fs::read_to_string(env.path("lives/s")).unwrap_or_default();
        text.lines().count()
    };
    wait_for("two lives", || (lives() >= 2).then_some(()));
    kill_engine(env);
    project.wait_for_state("thrice-s-1", "exited");
    assert_eq!(lives(), 4, "one start and three restarts");
}

fn a_stop_in_the_pause_before_a_restart_holds(env: &TestEnv) {
    let project = env.project(
        "pause",
        "
services:
  s: {image: IMAGE, command: sh -c 'exit 3', restart: always}
",
    );
    project.up();
    project.wait_for_state("pause-s-1", "restarting");
    project.wharf(&["stop"]).ok();
    assert_eq!(project.ps_field("pause-s-1", "State"), "exited");
    kill_engine_if_any(env);
    assert_eq!(project.ps_field("pause-s-1", "State"), "exited");
    assert_eq!(run_record(env)["restart_pending"], false);
}

fn kill_engine_if_any(env: &TestEnv) {
    if env.engine_pid().is_some() {
        kill_engine(env);
    }
}

fn a_manual_stop_holds_across_engines(env: &TestEnv) {
    let project = env.project(
        "manual",
        "
services:
  a: {image: IMAGE, command: sleep 1001, init: true, restart: unless-stopped}
  f: {image: IMAGE, command: sleep 1002, init: true, restart: on-failure}
  k: {image: IMAGE, command: sleep 1003, init: true, restart: always}
",
    );
    project.up();
    project.wharf(&["stop", "a", "f"]).ok();
    project.wharf(&["kill", "k"]).ok();
    project.wait_for_state("manual-k-1", "exited");
    kill_engine_if_any(env);
    for service in ["a", "f", "k"] {
        let name = format!("manual-{service}-1");
        assert_eq!(project.ps_field(&name, "State"), "exited");
    }
    for i in 1..=3 {
        assert!(kernel::pids_of(&format!("sleep 100{i}")).is_empty());
    }
}

/// HAZARDS L17.
fn a_probe_that_hangs_is_killed_with_its_tree(env: &TestEnv) {
    let project = env.project(
        "probe",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    init: true
    healthcheck:
      test: [CMD-SHELL, '(setsid sleep 2001 &); sleep 2002 & sleep 2003']
      interval: 200ms
      timeout: 300ms
      retries: 2
",
    );
    project.up();
    wait_for("unhealthy", || {
        (project.ps_field("probe-s-1", "Health") == "unhealthy").then_some(())
    });
    project.wharf(&["stop", "-t", "5"]).ok();
    for i in 1..=3 {
        assert!(kernel::pids_of(&format!("sleep 200{i}")).is_empty());
    }
    // While it runs at most the probe of the moment is there.
    project.wharf(&["start"]).ok();
    wait_for("unhealthy again", || {
        (project.ps_field("probe-s-1", "Health") == "unhealthy").then_some(())
    });
    assert!(kernel::pids_of("sleep 2001").len() <= 1);
}

fn health_survives_the_engine(env: &TestEnv) {
    let project = env.project(
        "ill",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    init: true
    healthcheck: {test: 'test -e /well', interval: 300ms, retries: 2}
",
    );
    project.up();
    let health = || project.ps_field("ill-s-1", "Health");
    wait_for("unhealthy", || (health() == "unhealthy").then_some(()));
    kill_engine(env);
    assert_eq!(health(), "unhealthy", "it was not reset");
    project.sh("s", "touch /well");
    wait_for("probing to go on", || (health() == "healthy").then_some(()));
}

fn a_kill_ends_a_stop_that_waits(env: &TestEnv) {
    let project = env.project(
        "stops",
        "
services:
  s: {image: IMAGE, command: ['sh', '-c', 'trap \"\" TERM; while :; do sleep 1; done']}
",
    );
    project.up();
    let begin = Instant::now();
    let mut long = project
        .command()
        .args(["stop", "-t", "60"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it is built");
    wait_for("the first stop to be under way", || {
        (begin.elapsed() > Duration::from_millis(300)).then_some(())
    });
    // It does not wait for the other command's turn.
    project.wharf(&["kill"]).ok();
    wait_for("the long stop to end", || {
        long.try_wait().expect("our child")
    });
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_eq!(project.ps_field("stops-s-1", "ExitCode"), 137);
}

fn what_a_crash_leaves_is_cleared(env: &TestEnv) {
    env.wharf(&["engine", "start"]).ok();
    kill_engine(env);
    let id = "a".repeat(64);
    for dir in [
        env.data_root().join("containers").join(&id).join("upper"),
        env.run_root().join("containers").join(&id),
        env.data_root().join("trash").join(&id).join("upper"),
    ] {
        fs::create_dir_all(dir).expect("it is ours");
    }
    env.wharf(&["engine", "start"]).ok();
    for (root, dir) in [
        (env.data_root(), "containers"),
        (env.run_root(), "containers"),
        (env.data_root(), "trash"),
    ] {
        let left = fs::read_dir(root.join(dir)).expect("it is there").count();
        assert_eq!(left, 0, "in {dir}");
    }
}

/// HAZARDS L39.
fn a_full_disk_refuses_and_heals(env: &TestEnv) {
    fs::create_dir_all(env.data_root()).expect("it is ours");
    let mounted = nix::mount::mount(
        Some("small"),
        &env.data_root(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=4m"),
    );
    mounted.expect("the mount namespace is ours");
    let project = env.project("full", SLEEPER);
    project.up();
    let fill = env.data_root().join("fill");
    let mut file = fs::File::create(&fill).expect("there is room");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    assert_eq!(project.exec("s", &["echo", "alive"]), "alive");
    // Whatever it can do now, it answers, and what it cannot do it says in words.
    let more = env.project(
        "more",
        "
services:
  s: {image: IMAGE, command: sleep 1002, init: true, deploy: {replicas: 20}}
",
    );
    let run = more.wharf(&["up", "-d"]);
    assert!(
        run.code == 0 || run.stderr.contains("disk is full"),
        "{run}"
    );
    project.down();
    assert_eq!(project.ps().len(), 0);
    fs::remove_file(&fill).expect("it is there");
    more.up();
    assert_eq!(more.ps().len(), 20);
    more.wharf(&["down", "-t", "2"]).ok();
    env.wharf(&["engine", "stop"]).ok();
    nix::mount::umount(&env.data_root()).expect("nothing uses it");
}

/// HAZARDS L6.
fn a_stale_socket_and_a_starting_engine_are_no_obstacle(env: &TestEnv) {
    fs::create_dir_all(env.run_root()).expect("it is ours");
    drop(UnixListener::bind(env.run_root().join("wharf.sock")).expect("it is ours"));
    env.wharf(&["engine", "start"]).ok();
    // A command and a shim start an engine in the same moment: both get the one.
    let project = env.project("race", SLEEPER);
    project.up();
    for _ in 0..5 {
        kill_engine(env);
        project.wharf(&["ps"]).ok();
        wait_for("one engine", || {
            (env.engine_pids().len() == 1).then_some(())
        });
    }
}

/// HAZARDS S20.
fn nothing_of_the_callers_sticks(env: &TestEnv) {
    let project = env.project("clean", SLEEPER);
    let wharf = env!("CARGO_BIN_EXE_wharf");
    let script = format!(
        "trap '' INT CHLD HUP USR1; umask 077; ulimit -c 0; ulimit -s 4096; exec 9</etc/passwd; \
         exec nice -n 7 {wharf} --project-directory {} -p clean up -d",
        project.directory.display()
    );
    let mut command = std::process::Command::new("sh");
    let like = env.command();
    command.args(["-c", &script]).env_clear().envs(
        like.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    crate::harness::env::run(command).ok();
    let engine = env.engine_pid().expect("it was started");
    let container = project.pid_of("sleep 1001");
    for pid in [engine, container] {
        let ignored = kernel::status_field(pid, "SigIgn").expect("it runs");
        let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
        assert_eq!(ignored & !(1 << 12), 0, "only SIGPIPE in the engine");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let nice = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(16));
        assert_eq!(nice, Some("0"), "{stat}");
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        for fd in fds.flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default();
            assert_ne!(target, std::path::Path::new("/etc/passwd"));
        }
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs");
        assert_eq!(cwd, std::path::Path::new("/"));
    }
    assert_eq!(project.sh("s", "umask"), "0022");
}

const LOOP: &str = "
services:
  a: {image: IMAGE, command: sleep 100N, init: true, volumes: ['vol:/data', '/anonymous']}
  b: {image: IMAGE, command: sleep 200N, init: true, depends_on: [a], restart: always}
  c:
    image: IMAGE
    command: sleep 300N
    init: true
    depends_on: {a: {condition: service_started, restart: true}}
    deploy: {replicas: 3}
volumes: {vol: {}}
";

/// The moments are those of a fixed sequence, so that a failure can be repeated; what the machine
/// makes of them differs from run to run all the same.
fn engines_killed_at_random_moments_leave_projects_that_converge(env: &TestEnv) {
    let project = env.project("storm", &LOOP.replace('N', "0"));
    let commands: [&[&str]; 4] = [
        &["up", "-d"],
        &["up", "-d", "--force-recreate"],
        &["up", "-d", "--scale", "c=1"],
        &["down", "-v", "-t", "1"],
    ];
    let mut random = 12345u32;
    for round in 0..16usize {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let version = if round % 2 == 0 { "0" } else { "1" };
        project.write(&env.fill_in(&LOOP.replace('N', version)));
        let mut client = project
            .command()
            .args(commands[(random >> 16) as usize % commands.len()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it is built");
        let (begin, moment) = (
            Instant::now(),
            Duration::from_millis(u64::from(random >> 8) % 250),
        );
        wait_for("the moment", || (begin.elapsed() > moment).then_some(()));
        if env.engine_pid().is_some() {
            kill_engine(env);
        }
        wait_for("the client to end", || {
            client.try_wait().expect("our child")
        });
        project.up();
        let rows = project.ps();
        assert_eq!(rows.len(), 5, "round {round}: {rows:?}");
        for row in &rows {
            assert_eq!(row["State"], "running", "round {round}: {rows:?}");
        }
        assert_eq!(kernel::pids_of(&format!("sleep 300{version}")).len(), 3);
    }
    project.wharf(&["down", "-v", "-t", "1"]).ok();
    let volumes = fs::read_dir(env.data_root().join("volumes")).expect("it is there");
    assert_eq!(volumes.count(), 0, "no anonymous volume was lost sight of");
}

/// HAZARDS S50.
fn a_thousand_dropped_connections_leave_no_descriptor(env: &TestEnv) {
    use std::io::Write;
    let project = env.project("drop", SLEEPER);
    project.up();
    let engine = env.engine_pid().expect("it runs");
    let descriptors = || {
        let fds = fs::read_dir(format!("/proc/{engine}/fd")).expect("it runs");
        fds.count()
    };
    let logs = "GET /wharf/v1/projects/drop/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n";
    let body = r#"{"argv":["sh","-c","sleep 0.2; echo hi"]}"#;
    let exec = format!(
        "POST /wharf/v1/containers/drop-s-1/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: tcp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let attach = "POST /wharf/v1/containers/drop-s-1/attach HTTP/1.1\r\nHost: x\r\n\
                  Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
    let half = "GET /_ping HT";
    // What is made once and kept belongs to the baseline.
    project.wharf(&["logs"]).ok();
    project.exec("s", &["true"]);
    let before = descriptors();
    for round in 0..250 {
        for request in [logs, &exec, attach, half] {
            let socket = env.run_root().join("wharf.sock");
            let mut stream =
                std::os::unix::net::UnixStream::connect(socket).expect("the engine listens");
            stream.write_all(request.as_bytes()).expect("it listens");
            if round % 3 == 0 {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
                let _ = std::io::Read::read(&mut stream, &mut [0; 64]);
            }
        }
    }
    wait_for("the descriptors to be back", || {
        // The followers' inotify with its queues is made once, and kept.
        (descriptors() <= before + 4).then_some(())
    });
    assert_eq!(env.engine_pid(), Some(engine));
    assert_eq!(project.exec("s", &["echo", "alive"]), "alive");
}
