//! Starting, ending, talking to.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{Rig, eventually, is_privileged};
use crate::shim::protocol::{Answer, Call, FailureKind, file};
use crate::sys::fd;

#[test]
fn privileged_exit_codes_and_output() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let (record, out, err) = rig.run("echo out; echo err >&2; printf tail; exit 7");
    assert_eq!((record.code, record.signal), (7, None));
    assert_eq!((out.as_str(), err.as_str()), ("out\ntail", "err\n"));
    let (record, _, _) = rig.run("kill -9 $$; sleep 5");
    // Process 1 is immune to its own signals, so the shell goes on and is not killed by it.
    assert_eq!(record.code, 0);
}

#[test]
fn privileged_what_a_process_sees_of_itself() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let (_, out, err) = rig.run("cat /proc/self/status; ls -l /proc/self/fd; pwd; hostname; env");
    let field = |name: &str| {
        out.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name} in {out}{err}"))
            .trim()
            .to_owned()
    };
    assert_eq!(field("CapEff:"), "00000000a80425fb");
    assert_eq!(field("CapBnd:"), "00000000a80425fb");
    assert_eq!(field("CapPrm:"), "00000000a80425fb");
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    assert_eq!(field("SigIgn:"), "0000000000000000");
    assert_eq!(field("SigBlk:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "0");
    assert_eq!(field("Umask:"), "0022");
    assert!(out.contains("\nbox\n"), "{out}");
    assert!(out.contains("HOME=/root"), "{out}");
    // The one that `ls` itself reads the directory with is closed when it asks for its target.
    let fds: Vec<&str> = out.lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(fds.len(), 3, "{fds:?}");
}

fn seccomp_mode(out: &str) -> &str {
    out.lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
        .unwrap_or("none")
        .trim()
}

#[test]
fn privileged_the_filter_is_on_and_no_new_privileges_too() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let (_, out, _) = rig.run("cat /proc/self/status");
    assert_eq!(seccomp_mode(&out), "2");
    let (_, out, _) = rig.run_with("cat /proc/self/status", |bundle| {
        bundle["default_seccomp"] = json!(false);
        bundle["spec"]["process"]["noNewPrivileges"] = json!(true);
    });
    assert_eq!(seccomp_mode(&out), "0");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
}

#[test]
fn privileged_users_groups_and_their_pipes() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    // L33: the pipe is reopened by somebody who does not own it.
    let script = "id; echo again > /dev/stdout; echo $HOME; grep Cap /proc/self/status";
    let (record, out, err) = rig.run_with(script, |bundle| bundle["user"] = json!("app"));
    assert_eq!(record.code, 0, "{out}{err}");
    assert!(
        out.contains("uid=1000(app) gid=1001(app) groups=10(wheel),1001(app)"),
        "{out}"
    );
    assert!(
        out.contains("again\n") && out.contains("/home/app\n"),
        "{out}"
    );
    assert!(out.contains("CapEff:\t0000000000000000"), "{out}");
    let failure = rig.fails(|bundle| bundle["user"] = json!("nobody-here"));
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert_eq!(
        failure.message,
        "unable to find user nobody-here: no matching entries in passwd file"
    );
}

#[test]
fn privileged_missing_commands_have_their_codes_and_texts() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let fails = |args: Value| rig.fails(|bundle| bundle["spec"]["process"]["args"] = args);
    let failure = fails(json!(["foo"]));
    assert_eq!(failure.kind, FailureKind::CommandNotFound);
    assert_eq!(
        failure.message,
        r#"exec: "foo": executable file not found in $PATH"#
    );
    assert_eq!(
        fails(json!(["/etc/passwd"])).kind,
        FailureKind::CommandNotExecutable
    );
    assert_eq!(
        fails(json!(["/etc"])).message,
        r#"exec: "/etc": is a directory"#
    );
    assert_eq!(fails(json!([])).kind, FailureKind::Invalid);
}

#[test]
fn privileged_short_lives_lose_nothing() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let begin = Instant::now();
    for round in 0..200 {
        let code = round % 250;
        let (record, out, _) = rig.run(&format!("printf {round}; exit {code}"));
        assert_eq!((record.code, out), (code, round.to_string()));
    }
    let each = begin.elapsed() / 200;
    assert!(
        each < Duration::from_millis(500),
        "{each:?} for one container"
    );
}

#[test]
fn privileged_a_burst_is_logged_to_the_last_byte() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let (_, out, _) =
        rig.run("dd if=/dev/zero bs=1000 count=20000 2>/dev/null | tr '\\0' x; echo; echo end");
    let (_, again, _) = rig.run("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    assert!(out.ends_with("end\n"), "{} bytes", out.len());
    assert_eq!(again.lines().count(), 3000);
    assert!(again.ends_with("line 2999\n"));
}

#[test]
fn privileged_stop_escalates() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut obeys = rig.spawn(
        "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done",
        |_| {},
    );
    obeys.started();
    obeys.expect_output("up");
    obeys.done(Call::Stop {
        signal: libc::SIGTERM,
        grace_ms: 10_000,
    });
    assert_eq!(obeys.exited().code, 3);
    assert!(obeys.output().0.ends_with("bye\n"));
    obeys.release();

    let mut ignores = rig.spawn(
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
        |_| {},
    );
    ignores.started();
    ignores.expect_output("up");
    let begin = Instant::now();
    ignores.done(Call::Stop {
        signal: libc::SIGTERM,
        grace_ms: 200,
    });
    let record = ignores.exited();
    assert_eq!((record.code, record.signal), (137, Some(9)));
    assert!(begin.elapsed() >= Duration::from_millis(200));
    ignores.release();

    let mut paused = rig.spawn("echo up; sleep 1000", |_| {});
    paused.started();
    paused.done(Call::Pause);
    let (answer, _) = paused.call(Call::State, &[]);
    assert!(matches!(answer, Answer::State(state) if state.paused));
    paused.done(Call::Stop {
        signal: libc::SIGTERM,
        grace_ms: 100,
    });
    assert_eq!(paused.exited().code, 137);
    paused.release();
}

#[test]
fn privileged_everything_in_the_cgroup_ends_with_init() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    // Without a pid namespace of its own nothing but the cgroup finds the orphans (L13).
    let (record, out, _) =
        rig.run_with("(sleep 1000 & sleep 1000 &) ; echo $$; exit 5", |bundle| {
            let all = bundle["spec"]["linux"]["namespaces"]
                .as_array_mut()
                .unwrap();
            all.retain(|namespace| namespace["type"] != "pid");
        });
    assert_eq!(record.code, 5);
    assert_ne!(out.trim(), "1");
}

#[test]
fn privileged_init_forwards_and_reaps() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let script = "trap 'echo got; exit 9' USR1; (sleep 0 & sleep 0 &); echo up; \
                  while :; do sleep 0.05; done";
    let mut running = rig.spawn(script, |bundle| bundle["init"] = json!(true));
    let pid = running.started().pid;
    running.expect_output("up");
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(comm, "wharf-init\n");
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    assert_eq!(fds, 0, "process 1 holds descriptors");
    let zombies = || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children
            .split_whitespace()
            .filter(|child| {
                std::fs::read_to_string(format!("/proc/{child}/stat"))
                    .is_ok_and(|stat| stat.contains(") Z"))
            })
            .count()
    };
    eventually("zombies stay", || zombies() == 0);
    running.done(Call::Signal {
        signal: libc::SIGUSR1,
        all: false,
    });
    assert_eq!(running.exited().code, 9);
    running.release();
    let (record, ..) = rig.run_with("kill -SEGV $$", |bundle| bundle["init"] = json!(true));
    assert_eq!((record.code, record.signal), (139, None));
    let failure = rig.fails(|bundle| {
        bundle["init"] = json!(true);
        bundle["spec"]["process"]["args"] = json!(["nothing"]);
    });
    assert_eq!(failure.kind, FailureKind::CommandNotFound);
}

fn exec_call(id: &str, args: Value, tty: bool) -> Call {
    let caps = json!(["CAP_KILL"]);
    let process = serde_json::from_value(json!({
        "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/tmp", "terminal": tty,
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
    }))
    .unwrap();
    let size = tty.then_some((91, 17));
    Call::Exec {
        exec_id: id.into(),
        process: Box::new(process),
        user: None,
        group_add: Vec::new(),
        tty,
        size,
        apart: false,
    }
}

#[test]
fn privileged_exec_joins_and_reports() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("echo up; sleep 1000", |_| {});
    let init = running.started().pid;
    let (read, write) = fd::pipe().unwrap();
    let null = fd::null().unwrap();
    let script = "pwd; hostname; grep -e CapEff -e Seccomp: -e SigIgn /proc/self/status; ls /proc/self/fd; exit 42";
    let call = exec_call("one", json!(["sh", "-c", script]), false);
    let (answer, _) = running.call(call, &[null.as_fd(), write.as_fd(), write.as_fd()]);
    let Answer::Exec { pid } = answer else {
        panic!("{answer:?}")
    };
    assert_ne!(pid, init);
    drop(write);
    let mut out = String::new();
    std::fs::File::from(read).read_to_string(&mut out).unwrap();
    assert!(out.starts_with("/tmp\nbox\n"), "{out}");
    assert!(out.contains("CapEff:\t0000000000000020"), "{out}");
    assert!(
        out.contains("Seccomp:\t2") && out.contains("SigIgn:\t0000000000000000"),
        "{out}"
    );
    assert!(out.ends_with("0\n1\n2\n3\n"), "{out}");
    assert_eq!(running.exec_exited(), 42);

    let call = exec_call("two", json!(["nope"]), false);
    let (answer, _) = running.call(call, &[null.as_fd(), null.as_fd(), null.as_fd()]);
    assert!(
        matches!(answer, Answer::Failed(ref failure) if failure.kind == FailureKind::CommandNotFound),
        "{answer:?}"
    );

    let call = exec_call("three", json!(["sleep", "1000"]), false);
    let (answer, _) = running.call(call, &[null.as_fd(), null.as_fd(), null.as_fd()]);
    let Answer::Exec { pid } = answer else {
        panic!("{answer:?}")
    };
    let of = |pid: i32, what: &str| std::fs::read_link(format!("/proc/{pid}/ns/{what}")).unwrap();
    for what in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        assert_eq!(of(pid, what), of(init, what));
    }
    let cgroup = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup(pid), cgroup(init));
    running.done(Call::SignalExec {
        exec_id: "three".into(),
        signal: libc::SIGTERM,
    });
    assert_eq!(running.exec_exited(), 143);

    let call = exec_call("four", json!(["sh", "-c", "tty; stty size; exit 6"]), true);
    let (answer, fds) = running.call(call, &[]);
    assert!(matches!(answer, Answer::Exec { .. }), "{answer:?}");
    let mut out = Vec::new();
    // EIO is the end of a terminal.
    let _ = std::fs::File::from(fds.into_iter().next().unwrap()).read_to_end(&mut out);
    let out = String::from_utf8_lossy(&out).into_owned();
    assert!(out.contains("/dev/pts/0") && out.contains("17 91"), "{out}");
    assert_eq!(running.exec_exited(), 6);

    for round in 0..100 {
        let call = exec_call("many", json!(["sh", "-c", format!("exit {round}")]), false);
        let (answer, _) = running.call(call, &[null.as_fd(), null.as_fd(), null.as_fd()]);
        assert!(matches!(answer, Answer::Exec { .. }), "{answer:?}");
        assert_eq!(running.exec_exited(), round);
    }
    running.done(Call::Signal {
        signal: libc::SIGKILL,
        all: true,
    });
    assert_eq!(running.exited().code, 137);
    running.release();
}

#[test]
fn privileged_terminals_and_standard_input() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("tty; stty size; read line; echo \"<$line>\"", |bundle| {
        bundle["spec"]["process"]["terminal"] = json!(true);
        bundle["spec"]["process"]["consoleSize"] = json!({"width": 80, "height": 24});
    });
    running.started();
    running.expect_output("24 80");
    running.done(Call::Resize { size: (100, 30) });
    let (_, fds) = running.call(Call::Attach, &[]);
    let mut master = std::fs::File::from(fds.into_iter().next().unwrap());
    master.write_all(b"hello\n").unwrap();
    assert_eq!(running.exited().code, 0);
    let (out, _) = running.output();
    assert!(
        out.contains("/dev/pts/0") || out.contains("/dev/console"),
        "{out}"
    );
    assert!(out.contains("<hello>"), "{out}");
    running.release();

    let mut running = rig.spawn("cat; echo end", |bundle| bundle["open_stdin"] = json!(true));
    running.started();
    let (_, fds) = running.call(Call::Attach, &[]);
    let mut stdin = std::fs::File::from(fds.into_iter().next().unwrap());
    stdin.write_all(b"some input").unwrap();
    running.done(Call::CloseStdin);
    drop(stdin);
    assert_eq!(running.exited().code, 0);
    assert_eq!(running.output().0, "some inputend\n");
    running.release();
}

#[test]
fn privileged_the_engine_may_go_and_come() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("echo up; read line; exit 4", |bundle| {
        bundle["open_stdin"] = json!(true)
    });
    let record = running.started();
    running.control = crate::sys::socket::pair().unwrap().0;
    running.reconnect();
    let (answer, _) = running.call(Call::State, &[]);
    assert!(
        matches!(answer, Answer::State(ref state) if state.start.as_ref() == Some(&record)),
        "{answer:?}"
    );
    // It ends while no engine is there; the next one finds the record.
    let (_, stdin) = running.call(Call::Attach, &[]);
    running.control = crate::sys::socket::pair().unwrap().0;
    std::fs::File::from(stdin.into_iter().next().unwrap())
        .write_all(b"\n")
        .unwrap();
    let path = running.dir.join("run").join(file::EXIT);
    eventually("no exit record", || path.exists());
    running.reconnect();
    let (answer, _) = running.call(Call::State, &[]);
    assert!(
        matches!(answer, Answer::State(ref state) if state.exit.as_ref().unwrap().code == 4),
        "{answer:?}"
    );
    running.release();
}

#[test]
fn privileged_a_dead_shim_takes_the_container_along() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    for user in ["", "app"] {
        let mut running = rig.spawn("echo up; sleep 1000", |bundle| bundle["user"] = json!(user));
        let record = running.started();
        running.expect_output("up");
        let shim = rustix::process::Pid::from_raw(running.shim_pid()).unwrap();
        let shim = crate::sys::pidfd::open(shim).unwrap();
        crate::sys::pidfd::send_signal(&shim, libc::SIGKILL).unwrap();
        eventually("the container lives on", || {
            crate::sys::process::start_ticks(record.pid).ok() != Some(record.start_ticks)
                || std::fs::read_to_string(format!("/proc/{}/stat", record.pid))
                    .is_ok_and(|stat| stat.contains(") Z"))
        });
        let cgroup = std::path::Path::new("wharf-shim-test").join(&running.id);
        let cgroup = crate::runtime::cgroup::Cgroup::open(&cgroup).unwrap();
        eventually("processes are left", || !cgroup.is_populated());
        cgroup.remove().unwrap();
        running.assert_nothing_left();
    }
}

#[test]
fn privileged_a_dead_engine_is_started_again() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let marker = rig.path().join("started");
    // All that can be executed here is a test of this binary; a further filter names the marker.
    let mut running = rig.spawn("echo up; sleep 1000", |bundle| {
        let test = "shim::tests::lifecycle::respawned_engine";
        bundle["engine_command"] = json!(["--ignored", "--exact", test, marker]);
        bundle["engine_lock"] = json!(rig.path().join("lock"));
    });
    running.started();
    let lock = crate::sys::lock::try_exclusive(&rig.path().join("lock")).unwrap();
    running.control = crate::sys::socket::pair().unwrap().0;
    std::thread::sleep(Duration::from_millis(400));
    assert!(
        !marker.exists(),
        "an engine was started beside a living one"
    );
    drop(lock);
    eventually("no engine was started", || marker.exists());
    let told = std::fs::read_to_string(&marker).unwrap();
    let (parent, fds) = told.split_once('\n').unwrap();
    assert_ne!(
        parent,
        running.shim_pid().to_string(),
        "the engine is the shim's child"
    );
    assert_eq!(fds.matches("/dev/null").count(), 2, "{fds}");
    assert!(fds.contains("/engine.log"), "its last words: {fds}");
    assert!(
        !fds.contains("socket") && !fds.contains("pipe") && !fds.contains("/log"),
        "{fds}"
    );
    running.reconnect();
    running.done(Call::Goodbye);
    running.done(Call::Signal {
        signal: libc::SIGKILL,
        all: true,
    });
    running.exited();
    running.release();
}

/// The engine of the test above.
#[test]
#[ignore = "run by a shim"]
fn respawned_engine() {
    let Some(marker) =
        std::env::args().find(|arg| arg.starts_with('/') && arg.ends_with("/started"))
    else {
        return;
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let parent = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned();
    let fds: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            Some(
                std::fs::read_link(entry.path())
                    .ok()?
                    .to_string_lossy()
                    .into_owned(),
            )
        })
        .collect();
    crate::sys::atomic_file::write(
        marker.as_ref(),
        format!("{parent}\n{}", fds.join(" ")).as_bytes(),
    )
    .unwrap();
}

#[test]
fn privileged_an_idle_shim_is_small() {
    if !is_privileged() {
        return;
    }
    // The spawner inherits this process, so it is measured in one where nothing else happens.
    if std::env::var_os("WHARF_TEST_ALONE").is_none() {
        let name = "shim::tests::lifecycle::privileged_an_idle_shim_is_small";
        let alone = std::process::Command::new("/proc/self/exe")
            .args(["--exact", name, "--nocapture"])
            .env("WHARF_TEST_ALONE", "1")
            .output()
            .unwrap();
        assert!(
            alone.status.success(),
            "{}",
            String::from_utf8_lossy(&alone.stderr)
        );
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("echo up; sleep 1000", |_| {});
    running.started();
    let pid = running.shim_pid();
    let kib = |line: &str| -> u64 { line.split_whitespace().nth(1).unwrap().parse().unwrap() };
    let measure = || {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mut writable = false;
        let mut total = 0;
        for line in maps.lines() {
            let head = line.split_whitespace().next().unwrap_or_default();
            if head.contains('-') && !head.ends_with(':') {
                // Text counts as dirty while a binary that was just built is not on the disk.
                writable = line.contains(" rw");
            } else if head == "Private_Dirty:" && writable {
                total += kib(line);
            }
        }
        (
            total,
            kib(status
                .lines()
                .find(|line| line.starts_with("VmPTE:"))
                .unwrap()),
        )
    };
    // This is a debug build on a thread's arena, whose top glibc never gives back (132 KiB).
    eventually("the shim does not become small", || {
        let (dirty, tables) = measure();
        dirty + tables <= 200 + 132
    });
    running.done(Call::Signal {
        signal: libc::SIGKILL,
        all: false,
    });
    running.exited();
    running.release();
}

#[test]
fn privileged_a_shim_that_is_told_to_end_stops_its_container() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn(
        "trap 'exit 3' INT; echo up; while :; do sleep 0.05; done",
        |bundle| {
            bundle["stop_signal"] = json!(libc::SIGINT);
        },
    );
    running.started();
    running.expect_output("up");
    crate::sys::signal::kill(running.shim_pid(), libc::SIGTERM).unwrap();
    assert_eq!(running.exited().code, 3);
    running.release();
}

#[test]
fn privileged_propagation_is_what_was_asked_for() {
    if !is_privileged() {
        return;
    }
    use crate::sys::mount::{self, Change, Depth, Propagation};
    // The spawner forks from this thread, so this namespace is "the host's" for its containers.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS)
        .unwrap();
    let change = |propagation| Change {
        propagation: Some(propagation),
        ..Change::default()
    };
    mount::set_root_attributes(Depth::Tree, change(Propagation::Private)).unwrap();
    let rig = Rig::new();
    let shared = rig.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let tmpfs = |place: &std::path::Path| {
        rustix::mount::mount(
            "tmpfs",
            place,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            c"",
        )
        .unwrap();
    };
    tmpfs(&shared);
    let flags = rustix::fs::OFlags::PATH;
    let fd = rustix::fs::open(&shared, flags, rustix::fs::Mode::empty()).unwrap();
    mount::set_attributes(&fd, Depth::Single, change(Propagation::Shared)).unwrap();
    std::fs::create_dir(shared.join("outside")).unwrap();
    std::fs::create_dir(shared.join("inside")).unwrap();
    let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let before = mounts();
    let script = "mount -t tmpfs none /private/inside; mount -t tmpfs none /slave/inside; \
        echo up; while [ ! -e /slave/outside/seen ]; do sleep 0.05; done; ls /private/outside /slave/outside";
    let mut running = rig.spawn(script, |bundle| {
        for kind in ["bounding", "effective", "permitted"] {
            bundle["spec"]["process"]["capabilities"][kind].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
        }
        bundle["default_seccomp"] = json!(false);
        for (name, option) in [("/private", "rprivate"), ("/slave", "rslave"), ("/shared", "rshared")] {
            bundle["spec"]["mounts"].as_array_mut().unwrap().push(
                json!({"destination": name, "type": "bind", "source": shared, "options": ["rbind", option]}),
            );
        }
    });
    running.started();
    running.expect_output("up");
    assert_eq!(mounts(), before, "a mount came out of the container");
    tmpfs(&shared.join("outside"));
    std::fs::write(shared.join("outside/seen"), "").unwrap();
    assert_eq!(running.exited().code, 0);
    let (out, err) = running.output();
    assert_eq!(
        out, "up\n/private/outside:\n\n/slave/outside:\nseen\n",
        "{err}"
    );
    running.release();

    let mut running = rig.spawn("mount -t tmpfs none /shared/inside; echo $?", |bundle| {
        for kind in ["bounding", "effective", "permitted"] {
            bundle["spec"]["process"]["capabilities"][kind].as_array_mut().unwrap().push(json!("CAP_SYS_ADMIN"));
        }
        bundle["default_seccomp"] = json!(false);
        bundle["spec"]["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind", "rshared"]}),
        );
    });
    running.exited();
    assert_eq!(running.output().0, "0\n");
    assert!(
        mounts().contains("/shared/inside"),
        "rshared does not share"
    );
    running.release();
    rustix::mount::unmount(&shared, rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// A probe that ran out of time is killed with all that it has started, wherever that went; what
/// the container itself runs is not.
#[test]
fn privileged_l17_an_exec_apart_is_killed_with_its_whole_tree() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("sleep 4001", |_| {});
    let init = running.started().pid;
    let null = fd::null().unwrap();
    // A child in another session whose parent has gone: only the cgroup still knows it.
    let script = "(setsid sleep 4002 &) ; sleep 4003 & sleep 4004";
    let mut call = exec_call("probe-1", json!(["sh", "-c", script]), false);
    let Call::Exec { apart, .. } = &mut call else {
        panic!("{call:?}")
    };
    *apart = true;
    let (answer, _) = running.call(call, &[null.as_fd(), null.as_fd(), null.as_fd()]);
    assert!(matches!(answer, Answer::Exec { .. }), "{answer:?}");

    let container = cgroup2_of(init);
    let alive = || -> Vec<String> {
        let mut found: Vec<String> = members(&container)
            .into_iter()
            .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.starts_with("sleep "))
            .collect();
        found.sort();
        found
    };
    wait_for(|| alive().len() == 4);
    running.done(Call::KillExec {
        exec_id: "probe-1".into(),
    });
    assert_eq!(running.exec_exited(), 137);
    wait_for(|| alive() == ["sleep 4001 "]);
    // The part goes at the latest with the next exec that ends.
    wait_for(|| {
        let call = exec_call("x", json!(["true"]), false);
        running.call(call, &[null.as_fd(), null.as_fd(), null.as_fd()]);
        running.exec_exited();
        std::fs::read_dir(&container)
            .unwrap()
            .all(|entry| !entry.unwrap().file_type().unwrap().is_dir())
    });
    running.done(Call::Signal {
        signal: libc::SIGKILL,
        all: true,
    });
    assert_eq!(running.exited().code, 137);
}

/// The process's directory in the cgroup2 hierarchy.
fn cgroup2_of(pid: i32) -> std::path::PathBuf {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = line.lines().find_map(|line| line.strip_prefix("0::/"));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2")
        .map(|fields| fields[1].to_owned());
    std::path::Path::new(&mount.unwrap()).join(path.unwrap())
}

/// Everything in a cgroup and below.
fn members(cgroup: &std::path::Path) -> Vec<i32> {
    let own = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(members(&entry.path()));
        }
    }
    pids
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !is_so() {
        assert!(
            std::time::Instant::now() < deadline,
            "it did not come to be"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
