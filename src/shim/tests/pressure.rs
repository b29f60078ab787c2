//! Limits, full disks, terminals and engines that go at the wrong moment.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use serde_json::{Value, json};

use super::harness::{Rig, eventually, is_privileged};
use crate::shim::protocol::{Answer, Call, Event, file};
use crate::sys::fd;

fn exec(user: Option<&str>, group_add: &[&str], args: Value) -> Call {
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/", "noNewPrivileges": true,
    });
    Call::Exec {
        exec_id: "e".into(),
        process: Box::new(serde_json::from_value(process).unwrap()),
        user: user.map(str::to_owned),
        group_add: group_add.iter().map(|group| (*group).to_owned()).collect(),
        tty: false,
        size: None,
        apart: false,
    }
}

#[test]
fn privileged_exec_has_its_own_user() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("sleep 1000", |_| {});
    running.started();
    let null = fd::null().unwrap();
    let cases: [(Option<&str>, &[&str], &str); 4] = [
        (None, &[], "uid=0(root) gid=0(root) groups=0(root)\n"),
        (
            Some("app"),
            &[],
            "uid=1000(app) gid=1001(app) groups=10(wheel),1001(app)\n",
        ),
        (
            Some("77:88"),
            &["wheel"],
            "uid=77 gid=88 groups=10(wheel),88\n",
        ),
        (Some("4294967296"), &[], ""),
    ];
    for (user, groups, expected) in cases {
        let (read, write) = fd::pipe().unwrap();
        let call = exec(
            user,
            groups,
            json!(["sh", "-c", "id; echo -n > /dev/stdout"]),
        );
        let (answer, _) = running.call(call, &[null.as_fd(), write.as_fd(), write.as_fd()]);
        drop(write);
        let mut out = String::new();
        std::fs::File::from(read).read_to_string(&mut out).unwrap();
        assert_eq!(out, expected, "{user:?}");
        match answer {
            Answer::Exec { .. } => assert_eq!(running.exec_exited(), 0),
            other => assert!(expected.is_empty(), "{other:?}"),
        }
    }
    running.done(Call::Signal {
        signal: libc::SIGKILL,
        all: false,
    });
    running.exited();
    running.release();
}

#[test]
fn privileged_an_oom_kill_is_told_and_recorded() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    // The child dies, the container goes on.
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo code $?; sleep 0.3; exit 3";
    let mut running = rig.spawn(script, |bundle| {
        bundle["spec"]["linux"]["resources"] =
            json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
    });
    running.started();
    let event = running.next_event();
    assert!(matches!(event, Event::OomKilled), "{event:?}");
    let record = running.exited();
    assert_eq!((record.code, record.oom_killed), (3, true));
    assert!(
        running.output().0.contains("code 137"),
        "{:?}",
        running.output()
    );
    running.release();
}

#[test]
fn privileged_a_full_disk_loses_output_and_nothing_else() {
    if !is_privileged() {
        return;
    }
    use crate::sys::mount::{self, Change, Depth, Propagation};
    // A namespace of this thread's own; the spawner is forked from it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS | nix::sched::CloneFlags::CLONE_FS)
        .unwrap();
    let private = Change {
        propagation: Some(Propagation::Private),
        ..Change::default()
    };
    mount::set_root_attributes(Depth::Tree, private).unwrap();
    let rig = Rig::new();
    let small = rig.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &small, "tmpfs", flags, c"size=128k").unwrap();
    let log = small.join("log");
    let script = "i=0; while [ $i -lt 4000 ]; do echo a line that is long enough to fill a small disk $i; \
                  i=$((i+1)); done; exit 5";
    let mut running = rig.spawn(script, |bundle| bundle["log_path"] = json!(log));
    assert_eq!(running.exited().code, 5);
    let (answer, _) = running.call(Call::State, &[]);
    assert!(matches!(answer, Answer::State(state) if state.log_dropped_bytes > 0));
    // What is there is whole.
    std::fs::copy(&log, running.dir.join("log")).unwrap();
    let (out, _) = running.output();
    assert!(out.lines().count() > 100 && out.ends_with('\n'));
    running.release();
    rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn privileged_a_stop_goes_on_without_the_engine() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn(
        "trap '' TERM; echo up; while :; do sleep 0.05; done",
        |_| {},
    );
    running.started();
    running.expect_output("up");
    running.done(Call::Stop {
        signal: libc::SIGTERM,
        grace_ms: 200,
    });
    running.control = crate::sys::socket::pair().unwrap().0;
    let record = running.dir.join("run").join(file::EXIT);
    eventually("the stop was forgotten", || record.exists());
    running.reconnect();
    let (answer, _) = running.call(Call::State, &[]);
    assert!(
        matches!(answer, Answer::State(ref state) if state.exit.as_ref().unwrap().code == 137),
        "{answer:?}"
    );
    running.release();
}

#[test]
fn privileged_a_terminal_interrupts_the_program_under_init() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let script = "trap 'echo interrupted; exit 8' INT; echo up; while :; do sleep 0.05; done";
    let mut running = rig.spawn(script, |bundle| {
        bundle["init"] = json!(true);
        bundle["user"] = json!("app");
        bundle["spec"]["process"]["terminal"] = json!(true);
    });
    running.started();
    running.expect_output("up");
    let (_, fds) = running.call(Call::Attach, &[]);
    let mut master = std::fs::File::from(fds.into_iter().next().unwrap());
    master.write_all(b"\x03").unwrap();
    assert_eq!(running.exited().code, 8);
    assert_eq!(running.output().0.matches("interrupted").count(), 1);
    running.release();
}

#[test]
fn privileged_a_prompt_without_a_newline_is_in_the_log() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut running = rig.spawn("printf 'name? '; read name; echo hello $name", |bundle| {
        bundle["open_stdin"] = json!(true);
    });
    running.started();
    running.expect_output("name? ");
    let (_, fds) = running.call(Call::Attach, &[]);
    std::fs::File::from(fds.into_iter().next().unwrap())
        .write_all(b"you\n")
        .unwrap();
    assert_eq!(running.exited().code, 0);
    assert_eq!(running.output().0, "name? hello you\n");
    running.release();
}

#[test]
fn privileged_fifty_at_once() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut all: Vec<_> = (0..50)
        .map(|n| {
            rig.spawn(
                &format!("trap 'exit {n}' TERM; echo {n}; while :; do sleep 0.1; done"),
                |_| {},
            )
        })
        .collect();
    for running in &mut all {
        running.started();
    }
    for (n, running) in all.iter().enumerate() {
        running.expect_output(&n.to_string());
    }
    for running in &mut all {
        running.done(Call::Stop {
            signal: libc::SIGTERM,
            grace_ms: 15_000,
        });
    }
    for (n, running) in all.iter_mut().enumerate() {
        assert_eq!(running.exited().code, i32::try_from(n).unwrap());
        running.release();
    }
}
