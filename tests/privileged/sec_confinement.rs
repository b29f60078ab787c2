//! What a hostile container, or a careless file, must not be able to get.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{TestEnv, kernel, wait};

crate::cases! {
    sec_confinement:
    an_exec_with_privileges_has_all_capabilities_and_the_filter,
    the_default_filter_is_not_spelled_out_in_the_bundle,
    a_shared_ipc_namespace_comes_with_its_shared_memory,
    a_link_in_a_volume_does_not_lead_a_subpath_out,
    a_subpath_that_climbs_is_refused,
    a_program_that_asks_to_be_traced_goes_on ["python3"],
    a_tracer_in_the_container_finds_nothing_open_in_an_exec ["python3"],
    the_engines_state_is_hidden_behind_every_name,
    binds_propagate_as_asked ["mount", "umount"],
    a_tmpfs_has_the_mode_of_what_it_covers,
    the_hosts_console_does_not_open,
    the_init_does_not_tell_how_the_engine_was_started,
    a_published_port_is_refused_at_the_v6_loopback_never_hangs,
}

fn an_exec_with_privileges_has_all_capabilities_and_the_filter(env: &TestEnv) {
    let project = env.project(
        "raised",
        "services: {s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}}",
    );
    project.up();
    let status = |arguments: &[&str]| {
        let mut all = vec!["exec", "-T"];
        all.extend(arguments);
        all.extend([
            "s",
            "grep",
            "-E",
            "CapEff|CapBnd|Seccomp:",
            "/proc/self/status",
        ]);
        project.wharf(&all).ok().stdout
    };
    // What this machine leaves to anybody.
    let own = i32::try_from(std::process::id()).unwrap();
    let all = kernel::status_field(own, "CapBnd").unwrap();
    let raised = status(&["--privileged"]);
    assert_eq!(raised.matches(&all).count(), 2, "{raised}");
    assert!(raised.contains("Seccomp:\t2"), "{raised}");
    // The container itself, and a plain exec, are as before.
    assert!(!status(&[]).contains(&all));
}

fn the_default_filter_is_not_spelled_out_in_the_bundle(env: &TestEnv) {
    let project = env.project(
        "filter",
        "
services:
  plain: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}
  traces: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s, cap_add: [SYS_PTRACE]}
  open: {image: IMAGE, command: sleep 1003, stop_grace_period: 0s, security_opt: [seccomp=unconfined]}
",
    );
    project.up();
    let mode = |command| kernel::status_field(project.pid_of(command), "Seccomp");
    assert_eq!(mode("sleep 1001").as_deref(), Some("2"));
    assert_eq!(mode("sleep 1002").as_deref(), Some("2"));
    assert_eq!(mode("sleep 1003").as_deref(), Some("0"));
    let bundles = kernel::files_under(&env.run_root())
        .into_iter()
        .filter(|file| file.ends_with("bundle.json"))
        .map(|file| fs::read_to_string(env.run_root().join(file)).unwrap());
    let with_calls = bundles.filter(|text| text.contains("epoll_wait")).count();
    assert_eq!(with_calls, 1, "only the one that is not the default");
}

fn a_shared_ipc_namespace_comes_with_its_shared_memory(env: &TestEnv) {
    let project = env.project(
        "ipc",
        "
services:
  owner: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s, ipc: shareable}
  guest: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s, ipc: 'service:owner'}
",
    );
    project.up();
    project.sh("owner", "echo hello >/dev/shm/note");
    assert_eq!(project.sh("guest", "cat /dev/shm/note"), "hello");
    let pids = ["sleep 1001", "sleep 1002"].map(|command| project.pid_of(command));
    let [owner, guest] = pids.map(|pid| kernel::namespace(pid, "ipc"));
    assert_eq!(owner, guest);
    let [owner, guest] = pids.map(|pid| kernel::namespace(pid, "mnt"));
    assert_ne!(owner, guest);
}

fn a_link_in_a_volume_does_not_lead_a_subpath_out(env: &TestEnv) {
    let compose = |subpath: &str| {
        format!(
            "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    volumes:
      - {{type: volume, source: data, target: /d}}
      - {{type: volume, source: data, target: /below, volume: {{subpath: {subpath}}}}}
volumes: {{data: {{}}}}
"
        )
    };
    let project = env.project("subpath", &compose("."));
    project.up();
    project.sh(
        "s",
        "mkdir /d/good && touch /d/good/yes && ln -s / /d/evil && touch /d/top",
    );
    project.write(&env.fill_in(&compose("good")));
    project.up();
    assert_eq!(project.sh("s", "ls /below"), "yes");
    project.write(&env.fill_in(&compose("evil")));
    project.up();
    // The volume's own root, not the host's.
    assert_eq!(project.sh("s", "ls /below"), "evil\ngood\ntop");
    project.wharf(&["down", "-v", "-t", "0"]).ok();
}

fn a_subpath_that_climbs_is_refused(env: &TestEnv) {
    let project = env.project(
        "climb",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    volumes:
      - {type: volume, source: data, target: /below, volume: {subpath: ../../..}}
volumes: {data: {}}
",
    );
    project.wharf(&["up", "-d"]).fails_saying(&["subpath"]);
    project.wharf(&["down", "-v", "-t", "0"]).ok();
}

fn a_program_that_asks_to_be_traced_goes_on(env: &TestEnv) {
    let project = env.project(
        "traced",
        r#"
services:
  s:
    image: rootfs:/
    stop_grace_period: 0s
    command:
      - python3
      - -c
      - |
        import ctypes, os, time
        ctypes.CDLL(None).ptrace(0, 0, 0, 0)
        os.system("true")
        open("/alive", "w").close()
        time.sleep(1001)
"#,
    );
    project.up();
    wait::wait_for("the program to get past its child's end", || {
        let seen = project.wharf(&["exec", "-T", "s", "test", "-e", "/alive"]);
        (seen.code == 0).then_some(())
    });
}

fn a_tracer_in_the_container_finds_nothing_open_in_an_exec(env: &TestEnv) {
    // CAP_SYS_PTRACE overrides undumpability: what counts is that there is nothing to be had.
    let project = env.project(
        "tracer",
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
        seen, loot = set(), set()
        while not os.path.exists("/enough"):
            for pid in os.listdir("/proc"):
                if not pid.isdigit() or pid == "1":
                    continue
                try:
                    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                    # Asked last: a program that has begun meanwhile has files of its own.
                    if not os.readlink(f"/proc/{pid}/exe").startswith("/memfd:"):
                        continue
                    seen.add(pid)
                    loot |= {to for to in fds if to.startswith("/") and to != "/dev/null" or "pidfd" in to}
                except OSError:
                    pass
        print("seen", len(seen), "loot", sorted(loot))
        time.sleep(1001)
"#,
    );
    project.up();
    // The process is seen for a moment only.
    for _ in 0..40 {
        project.exec("s", &["true"]);
    }
    project.exec("s", &["touch", "/enough"]);
    let told = wait::wait_for("the tracer's word", || {
        let logs = project.wharf(&["logs", "--no-log-prefix", "s"]).ok().stdout;
        logs.contains("loot").then_some(logs)
    });
    assert!(told.contains("loot []"), "{told}");
    assert!(!told.contains("seen 0"), "it never looked at one: {told}");
}

fn the_engines_state_is_hidden_behind_every_name(env: &TestEnv) {
    let link = env.path("link");
    symlink("/", &link).unwrap();
    let project = env.project(
        "hidden",
        "
services:
  whole: {image: 'rootfs:/', command: sleep 1001, stop_grace_period: 0s}
  linked: {image: 'rootfs:ROOT/link', command: sleep 1002, stop_grace_period: 0s}
",
    );
    project.up();
    for service in ["whole", "linked"] {
        for root in [env.data_root(), env.run_root()] {
            // Where it is a mount of its own the image does not show it at all.
            let script = format!("ls -A {} 2>/dev/null || true", root.display());
            assert_eq!(project.sh(service, &script), "", "{service}");
        }
    }
    project.down();
    fs::remove_file(link).unwrap();
}

fn binds_propagate_as_asked(env: &TestEnv) {
    let shared = env.path("shared");
    fs::create_dir_all(shared.join("from-host")).unwrap();
    fs::create_dir_all(shared.join("from-container")).unwrap();
    let mount = |arguments: &[&str]| {
        assert!(
            Command::new("mount")
                .args(arguments)
                .status()
                .unwrap()
                .success()
        );
    };
    let path = shared.to_str().unwrap();
    mount(&["--bind", path, path]);
    mount(&["--make-shared", path]);
    let project = env.project(
        "spread",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    privileged: true
    volumes:
      - {type: bind, source: ROOT/shared, target: /both, bind: {propagation: rshared}}
      - {type: bind, source: ROOT/shared, target: /in, bind: {propagation: rslave}}
      - {type: bind, source: ROOT/shared, target: /none}
",
    );
    project.up();
    let inner = format!("{path}/from-host");
    mount(&["-t", "tmpfs", "h", &inner]);
    project.sh("s", "mount -t tmpfs c /both/from-container");
    let inside = kernel::mounts_of(project.pid_of("sleep 1001")).unwrap();
    let has = |mounts: &[kernel::Mount], target: &str| mounts.iter().any(|m| m.target == target);
    for target in ["/both/from-host", "/in/from-host", "/in/from-container"] {
        assert!(has(&inside, target), "{target}");
    }
    assert!(!has(&inside, "/none/from-host"));
    let outside = format!("{path}/from-container");
    assert!(has(&kernel::own_mounts(), &outside));
    project.down();
    for target in [&inner, &outside, path] {
        assert!(
            Command::new("umount")
                .arg(target)
                .status()
                .unwrap()
                .success()
        );
    }
}

fn a_tmpfs_has_the_mode_of_what_it_covers(env: &TestEnv) {
    let project = env.project(
        "modes",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    tmpfs: [/etc/inner, /var/empty, '/said:mode=700']
",
    );
    project.up();
    let modes = project.sh("s", "stat -c %a /var/empty /etc/inner /said");
    assert_eq!(modes, "755\n1777\n700");
}

fn the_hosts_console_does_not_open(env: &TestEnv) {
    let project = env.project(
        "console",
        "services: {s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s, tty: true}}",
    );
    project.up();
    project.sh("s", "mknod /tmp/host-console c 5 1");
    let opened = project.wharf(&["exec", "-T", "s", "sh", "-c", "exec 3<>/tmp/host-console"]);
    opened.fails_saying(&["Operation not permitted"]);
    // The container's own is there.
    project.sh("s", "exec 3<>/dev/console");
}

fn the_init_does_not_tell_how_the_engine_was_started(env: &TestEnv) {
    let project = env.project(
        "init",
        "services: {s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s, init: true}}",
    );
    project.up();
    let text = project.sh("s", "tr '\\0' '\\n' </proc/1/cmdline");
    assert_eq!(text.trim(), "wharf-init");
}

fn a_published_port_is_refused_at_the_v6_loopback_never_hangs(env: &TestEnv) {
    let project = env.project(
        "sixes",
        "
services:
  four: {image: IMAGE, command: httpd -f -p 80, ports: ['8084:80'], networks: [four], stop_grace_period: 0s}
  six: {image: IMAGE, command: httpd -f -p 80, ports: ['8086:80'], networks: [six], stop_grace_period: 0s}
networks: {four: {}, six: {enable_ipv6: true}}
",
    );
    project.up();
    let connect = |address: &str, port: u16| {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        TcpStream::connect_timeout(&address, Duration::from_secs(5))
    };
    for port in [8084, 8086] {
        wait::wait_for("the server", || connect("127.0.0.1", port).ok());
        let before = Instant::now();
        let error = connect("::1", port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{port}");
        assert!(before.elapsed() < Duration::from_secs(1), "{port}");
    }
}
