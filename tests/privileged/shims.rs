//! What the process beside each container costs, and what it must not show.

use std::fs;
use std::io::Write;

use crate::harness::{TestEnv, kernel, wait_for};

crate::cases! {
    shims:
    two_hundred_shims_cost_what_they_may,
    a_tracer_finds_nothing_in_a_container_that_joins_its_pid_namespace ["python3"],
    a_joined_pid_namespace_has_its_own_procfs,
}

/// Unshared memory of a process in KiB: private pages that it has written, and page tables.
fn unshared_kib(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let dirty = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))?;
    let tables = kernel::status_field(pid, "VmPTE")?;
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    Some(number(dirty)? + number(&tables)?)
}

/// Of a shim as it is shipped (HAZARDS L9). Code that was not optimised lies scattered over several
/// times the address space, and the page tables for it are a shim's own.
const MOST_KIB: u64 = if cfg!(debug_assertions) { 240 } else { 200 };

fn two_hundred_shims_cost_what_they_may(env: &TestEnv) {
    const N: usize = 200;
    let project = env.project(
        "many",
        &format!(
            "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    network_mode: none
    scale: {N}
"
        ),
    );
    project.up();
    let mut last = String::new();
    // A shim gives back what its start needed when it has been quiet for a second.
    wait_for("shims to be small", || {
        let shims = env.shim_pids();
        let sizes: Vec<u64> = shims.iter().filter_map(|pid| unshared_kib(*pid)).collect();
        assert_eq!(sizes.len(), N);
        let mean = sizes.iter().sum::<u64>() / N as u64;
        let text = format!("{mean} KiB each, {:?} at most\n", sizes.iter().max());
        if text != last {
            let _ = std::io::stderr().write_all(text.as_bytes());
            last = text;
        }
        (mean <= MOST_KIB).then_some(())
    });
}

/// HAZARDS S33. `CAP_SYS_PTRACE` overrides undumpability: what counts is that whatever it sees of a
/// container that starts in its pid namespace has no more than the container's program will have.
fn a_tracer_finds_nothing_in_a_container_that_joins_its_pid_namespace(env: &TestEnv) {
    let project = env.project(
        "joint",
        r#"
services:
  s:
    image: rootfs:/
    stop_grace_period: 0s
    cap_add: [SYS_PTRACE]
    command:
      - python3
      - -uc
      - |
        import os, time
        def status(pid):
            lines = open(f"/proc/{pid}/status").read().splitlines()
            return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        own = int(status("self")["CapBnd"], 16)
        seen, loot = set(), set()
        while not os.path.exists("/enough"):
            for pid in os.listdir("/proc"):
                if not pid.isdigit() or pid == "1":
                    continue
                seen.add(pid)
                try:
                    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                    told = status(pid)
                    # Asked last: a program that has begun meanwhile has files of its own.
                    if not os.readlink(f"/proc/{pid}/exe").startswith("/memfd:"):
                        continue
                    loot |= {to for to in fds if to.startswith("/") and to != "/dev/null" or "pidfd" in to or "mnt:" in to}
                    if int(told["CapBnd"], 16) & ~own or told["Seccomp"] != "2":
                        loot.add("privileges")
                except OSError:
                    pass
        print("seen", len(seen), "loot", sorted(loot))
        time.sleep(1001)
  joins:
    image: IMAGE
    stop_grace_period: 0s
    pid: service:s
    command: 'true'
"#,
    );
    project.up();
    for _ in 0..15 {
        let again = ["up", "-d", "--no-deps", "--force-recreate", "joins"];
        project.wharf(&again).ok();
    }
    project.exec("s", &["touch", "/enough"]);
    let told = wait_for("the tracer's word", || {
        let logs = project.wharf(&["logs", "--no-log-prefix", "s"]).ok().stdout;
        logs.contains("loot").then_some(logs)
    });
    assert!(told.contains("loot []"), "{told}");
    assert!(!told.contains("seen 0"), "nobody was there: {told}");
}

/// The joining container's own set-up is outside of that namespace, and makes its `/proc` all the
/// same: by naming the namespace, or on an older kernel by way of the other container's.
fn a_joined_pid_namespace_has_its_own_procfs(env: &TestEnv) {
    let compose = "
services:
  owner: {image: IMAGE, command: sleep 1001, init: true, stop_grace_period: 0s}
  guest: {image: IMAGE, command: sleep 1002, pid: 'service:owner', tty: true, stop_grace_period: 0s}
  reaps: {image: IMAGE, command: sleep 1003, pid: 'service:owner', init: true, stop_grace_period: 0s}
  bare: {image: IMAGE, command: sleep 1004, privileged: true, stop_grace_period: 0s}
";
    for fallback in ["", "procfs-pidns"] {
        let name = format!("proc{}", fallback.len());
        let project = env.project(&name, compose);
        let mut command = project.command();
        command
            .args(["up", "-d"])
            .env("WHARF_FORCE_FALLBACK", fallback);
        crate::harness::env::run(command).ok();
        let [owner, guest, reaps] =
            ["sleep 1001", "sleep 1002", "sleep 1003"].map(|command| project.pid_of(command));
        let pidns = kernel::namespace(owner, "pid");
        for pid in [guest, reaps] {
            assert_eq!(kernel::namespace(pid, "pid"), pidns);
        }
        let parent = kernel::status_field(guest, "PPid").and_then(|pid| pid.parse().ok());
        assert!(env.shim_pids().contains(&parent.expect("it runs")));
        assert_eq!(kernel::session(guest), guest);
        for service in ["owner", "guest", "reaps"] {
            let seen = project.sh(service, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
            for command in ["sleep 1001", "sleep 1002", "sleep 1003"] {
                assert!(seen.contains(command), "{service}: {seen}");
            }
            assert!(!seen.contains("sleep 1004"), "{service}: {seen}");
            let masked = project.sh(service, "cat /proc/kcore | wc -c");
            assert_eq!(masked, "0", "{service}");
        }
        project.down();
        env.wharf(&["engine", "stop"]).ok();
    }
}
