//! What a container may not do, asked of the kernel from inside and outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Project, TestEnv, kernel};

crate::cases! {
    security:
    capabilities_are_the_default_fourteen,
    capabilities_are_added_dropped_and_taken_from_other_users,
    seccomp_filters_and_denies_what_the_profile_denies,
    no_new_privileges_is_set_on_request,
    no_descriptor_leaks_into_the_container,
    masked_paths_are_empty_and_read_only_paths_reject_writes,
    the_engines_executable_is_never_writable,
    no_reference_to_the_executable_outlives_it_writable ["python3"],
    a_workdir_through_a_descriptor_cannot_leave_the_root,
    only_the_default_devices_open,
    an_extra_device_is_opened_with_its_rights,
    users_and_groups_come_from_the_container,
    a_user_that_does_not_exist_is_refused,
    a_read_only_root_rejects_writes,
    the_hosts_mounts_are_not_seen_and_ours_are_not_seen_by_the_host,
    cgroups_are_read_only_inside,
    signals_and_limits_of_the_caller_do_not_leak,
    privileged_has_all_capabilities_and_devices,
    an_image_whose_dev_is_a_link_reaches_nothing_of_the_host,
    rlimits_and_sysctls_are_set,
    standard_output_can_be_reopened_by_any_user,
}

fn up_with(env: &TestEnv, name: &str, keys: &str) -> Project {
    let project = env.project(
        name,
        &format!(
            "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
{keys}
"
        ),
    );
    project.up();
    project
}

/// The 14 capabilities that Docker leaves a container, as the kernel's bit mask.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

fn capability_field(pid: i32, field: &str) -> u64 {
    let text = kernel::status_field(pid, field).expect("the process runs");
    u64::from_str_radix(&text, 16).expect("the kernel writes hexadecimal")
}

fn capabilities_are_the_default_fourteen(env: &TestEnv) {
    let project = up_with(env, "caps", "");
    let pid = project.pid_of("sleep 1001");
    for field in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(
            capability_field(pid, field),
            DEFAULT_CAPABILITIES,
            "{field}"
        );
    }
    for field in ["CapInh", "CapAmb"] {
        assert_eq!(capability_field(pid, field), 0, "{field}");
    }
}

fn capabilities_are_added_dropped_and_taken_from_other_users(env: &TestEnv) {
    const NET_ADMIN: u64 = 1 << 12;
    let some = up_with(
        env,
        "some",
        "    cap_drop: [ALL]\n    cap_add: [NET_ADMIN]\n",
    );
    let pid = some.pid_of("sleep 1001");
    assert_eq!(capability_field(pid, "CapEff"), NET_ADMIN);
    assert_eq!(capability_field(pid, "CapBnd"), NET_ADMIN);
    some.down();
    let user = up_with(env, "user", "    user: alice\n");
    let pid = user.pid_of("sleep 1001");
    assert_eq!(capability_field(pid, "CapEff"), 0);
    assert_eq!(capability_field(pid, "CapPrm"), 0);
    assert_eq!(capability_field(pid, "CapBnd"), DEFAULT_CAPABILITIES);
}

fn seccomp_filters_and_denies_what_the_profile_denies(env: &TestEnv) {
    let project = up_with(env, "seccomp", "    cap_add: [SYS_ADMIN]\n");
    let pid = project.pid_of("sleep 1001");
    assert_eq!(kernel::status_field(pid, "Seccomp").as_deref(), Some("2"));
    project.down();
    let project = up_with(env, "noadmin", "");
    // Without CAP_SYS_ADMIN the profile refuses new namespaces and mounts.
    let run = project.wharf(&["exec", "-T", "s", "unshare", "-U", "true"]);
    assert_ne!(run.code, 0, "{run}");
    project.down();
    let free = up_with(env, "free", "    security_opt: ['seccomp=unconfined']\n");
    let pid = free.pid_of("sleep 1001");
    assert_eq!(kernel::status_field(pid, "Seccomp").as_deref(), Some("0"));
}

fn no_new_privileges_is_set_on_request(env: &TestEnv) {
    let project = up_with(env, "nnp", "    security_opt: ['no-new-privileges:true']\n");
    let pid = project.pid_of("sleep 1001");
    assert_eq!(
        kernel::status_field(pid, "NoNewPrivs").as_deref(),
        Some("1")
    );
    assert_eq!(
        project.sh("s", "grep NoNewPrivs /proc/self/status"),
        "NoNewPrivs:\t1"
    );
}

fn no_descriptor_leaks_into_the_container(env: &TestEnv) {
    let project = up_with(env, "fds", "");
    let pid = project.pid_of("sleep 1001");
    let mut fds: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
    // `ls` itself opens the directory as the fourth.
    assert_eq!(project.sh("s", "ls /proc/self/fd"), "0\n1\n2\n3");
}

fn masked_paths_are_empty_and_read_only_paths_reject_writes(env: &TestEnv) {
    let project = up_with(env, "masked", "");
    for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        let size = project.sh("s", &format!("cat {path} 2>/dev/null | wc -c"));
        assert_eq!(size.trim(), "0", "{path}");
    }
    for path in ["/sys/firmware", "/proc/acpi", "/proc/scsi"] {
        let listing = project.sh("s", &format!("ls {path} 2>/dev/null | wc -l"));
        assert_eq!(listing.trim(), "0", "{path}");
    }
    for path in [
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/sys/kernel/mm/ksm/run",
        "/proc/irq/default_smp_affinity",
    ] {
        let outcome = project.sh(
            "s",
            &format!("(echo 0 > {path}) 2>/dev/null && echo written; true"),
        );
        assert_eq!(outcome, "", "{path}");
    }
}

fn the_engines_executable_is_never_writable(env: &TestEnv) {
    let project = up_with(env, "exe", "    pid: host\n    cap_add: [SYS_PTRACE]\n");
    let before = fs::read(env!("CARGO_BIN_EXE_wharf")).expect("it was built");
    let engine = env.engine_pid().expect("it runs");
    let mut pids = env.shim_pids();
    pids.push(engine);
    for pid in pids {
        let outcome = project.sh(
            "s",
            &format!("(echo broken >> /proc/{pid}/exe) 2>/dev/null && echo written; true"),
        );
        assert_eq!(outcome, "", "through pid {pid}");
    }
    // The container's own image is the only thing that it may change.
    let after = fs::read(env!("CARGO_BIN_EXE_wharf")).expect("it is there");
    assert!(before == after, "the program was changed");
}

/// HAZARDS S1, S2. A writer of an executable is refused while it runs; who keeps a reference until
/// nobody runs it any more finds it sealed, or on a read-only mount.
fn no_reference_to_the_executable_outlives_it_writable(env: &TestEnv) {
    let before = fs::read(env!("CARGO_BIN_EXE_wharf")).expect("it was built");
    let script = env.path("own");
    fs::write(&script, "#!/proc/self/exe --version\n").expect("the test's directory is ours");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let memfd_noexec = fs::read_to_string("/proc/sys/vm/memfd_noexec").unwrap_or_default();
    for fallback in ["", "memfd-exec"] {
        let project = env.project(
            &format!("keeps{}", fallback.len()),
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
        held, refused = {}, set()
        def attack():
            for fd in list(held.values()):
                try:
                    file = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
                    os.write(file, b"x")
                    refused.add("nothing")
                except OSError as error:
                    refused.add(error.errno)
        while not os.path.exists("/enough"):
            for pid in os.listdir("/proc"):
                try:
                    exe = os.readlink(f"/proc/{pid}/exe")
                    # A clone of one file is a mount of its own, and the file its root.
                    if not ("wharf" in exe or exe == "/") or len(held) >= 50:
                        continue
                    fd = os.open(f"/proc/{pid}/exe", os.O_PATH)
                    # Between the two looks it may have become a program of the container's own.
                    if os.readlink(f"/proc/self/fd/{fd}") == exe:
                        fd, held[pid] = held.get(pid), fd
                    if fd is not None:
                        os.close(fd)
                except OSError:
                    pass
            attack()
        attack()
        print("held", len(held), "refused by", sorted(refused, key=str))
        time.sleep(1001)
    volumes: ['ROOT/own:/own:ro']
  own:
    image: rootfs:/
    pid: service:s
    entrypoint: /own
    volumes: ['ROOT/own:/own:ro']
    stop_grace_period: 0s
  alone:
    image: rootfs:/
    entrypoint: [/proc/self/exe, --version]
    stop_grace_period: 0s
"#,
        );
        let mut command = project.command();
        command
            .args(["up", "-d"])
            .env("WHARF_FORCE_FALLBACK", fallback);
        crate::harness::env::run(command).ok();
        let engine = env.engine_pid().expect("it runs");
        let exe = fs::read_link(format!("/proc/{engine}/exe")).expect("it runs");
        let in_memory = exe.as_os_str().as_encoded_bytes().starts_with(b"/memfd:");
        assert_eq!(in_memory, fallback.is_empty() && memfd_noexec.trim() != "2");
        for _ in 0..10 {
            let version = project.exec("s", &["/own"]);
            assert!(version.contains("wharf"), "{version}");
            let again = ["up", "-d", "--no-deps", "--force-recreate", "own"];
            project.wharf(&again).ok();
        }
        let alone = project.wharf(&["logs", "--no-log-prefix", "alone"]).ok();
        assert!(alone.stdout.contains("wharf"), "{alone}");
        project.exec("s", &["touch", "/enough"]);
        let told = crate::harness::wait_for("the attacker's word", || {
            let logs = project.wharf(&["logs", "--no-log-prefix", "s"]).ok().stdout;
            logs.contains("refused by").then_some(logs)
        });
        assert!(!told.contains("held 0"), "{told}");
        assert!(!told.contains("nothing"), "{fallback}: {told}");
        project.down();
        env.wharf(&["engine", "stop"]).ok();
        let after = fs::read(env!("CARGO_BIN_EXE_wharf")).expect("it is there");
        assert!(before == after, "{fallback}: the program was changed");
    }
}

fn a_workdir_through_a_descriptor_cannot_leave_the_root(env: &TestEnv) {
    // CVE-2024-21626: a descriptor of the host's tree that leaked into the set-up.
    let project = up_with(env, "escape", "");
    for fd in 3..16 {
        for path in [
            format!("/proc/self/fd/{fd}"),
            format!("/proc/self/fd/{fd}/../../.."),
        ] {
            let run = project.wharf(&[
                "exec",
                "-T",
                "-w",
                &path,
                "s",
                "sh",
                "-c",
                "ls -d etc/debian_version etc/hostname ../etc/debian_version",
            ]);
            assert!(!run.stdout.contains("debian_version"), "{run}");
        }
    }
}

fn only_the_default_devices_open(env: &TestEnv) {
    let project = up_with(env, "devices", "");
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx"] {
        project.sh(
            "s",
            &format!("test -c /dev/{device} || test -L /dev/{device}"),
        );
    }
    project.sh("s", "echo x > /dev/null && head -c 1 /dev/zero >/dev/null");
    // MKNOD is a default capability; opening the node is what the cgroup refuses.
    let outcome = project.sh(
        "s",
        "mknod /tmp/mem c 1 1; (head -c 1 /tmp/mem) >/dev/null 2>&1 && echo opened; \
         mknod /tmp/kmsg c 1 11; (head -c 1 /tmp/kmsg) >/dev/null 2>&1 && echo opened; true",
    );
    assert_eq!(outcome, "");
}

fn an_extra_device_is_opened_with_its_rights(env: &TestEnv) {
    let project = up_with(
        env,
        "extra",
        "    devices: ['/dev/loop-control:/dev/given:r']\n",
    );
    project.sh("s", "test -c /dev/given && exec 3</dev/given");
    let outcome = project.sh(
        "s",
        "(exec 3>/dev/given) 2>/dev/null && echo writable; true",
    );
    assert_eq!(outcome, "");
}

fn users_and_groups_come_from_the_container(env: &TestEnv) {
    for (user, uid, gid, groups) in [
        ("alice", "1000", "1000", "1000 10 50"),
        ("alice:staff", "1000", "50", "50"),
        ("'1000'", "1000", "1000", "1000 10 50"),
        ("'4242'", "4242", "0", "0"),
        ("'4242:77'", "4242", "77", "77"),
    ] {
        let project = up_with(env, "users", &format!("    user: {user}\n"));
        let pid = project.pid_of("sleep 1001");
        let real = |field: &str| {
            let text = kernel::status_field(pid, field).expect("it runs");
            text.split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(real("Uid"), uid, "{user}");
        assert_eq!(real("Gid"), gid, "{user}");
        let mut found: Vec<_> = kernel::status_field(pid, "Groups")
            .expect("it runs")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let mut expected: Vec<_> = groups.split(' ').map(str::to_owned).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{user}");
        project.down();
    }
}

fn a_user_that_does_not_exist_is_refused(env: &TestEnv) {
    for user in [
        "nobody-here",
        "'-1'",
        "'4294967296'",
        "'alice:no-such-group'",
        "'1000:-1'",
    ] {
        let project = env.project(
            "nouser",
            &format!(
                "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    user: {user}
"
            ),
        );
        let run = project.wharf(&["up", "-d"]);
        assert_ne!(run.code, 0, "{user}: {run}");
        assert!(kernel::pids_of("sleep 1001").is_empty(), "{user} ran");
        project.down();
    }
}

fn a_read_only_root_rejects_writes(env: &TestEnv) {
    let project = up_with(env, "ro", "    read_only: true\n    tmpfs: ['/tmp']\n");
    let outcome = project.sh(
        "s",
        "(echo x > /etc/new) 2>/dev/null && echo written; echo ok > /tmp/new; cat /tmp/new",
    );
    assert_eq!(outcome, "ok");
    let root = kernel::mounts_of(project.pid_of("sleep 1001")).expect("it runs");
    let root = root
        .iter()
        .find(|mount| mount.target == "/")
        .expect("there is a root");
    assert!(
        root.options.split(',').any(|option| option == "ro"),
        "{root:?}"
    );
}

fn the_hosts_mounts_are_not_seen_and_ours_are_not_seen_by_the_host(env: &TestEnv) {
    let before = kernel::own_mounts();
    let project = up_with(
        env,
        "mounts",
        "    volumes: ['data:/data']\nvolumes: {data: }\n",
    );
    assert_eq!(kernel::own_mounts(), before, "nothing is mounted outside");
    let inside = kernel::mounts_of(project.pid_of("sleep 1001")).expect("it runs");
    let root = env.path("").display().to_string();
    for mount in &inside {
        assert!(
            !mount.target.starts_with(root.trim_end_matches('/')),
            "{mount:?}"
        );
    }
    assert_eq!(inside.iter().filter(|mount| mount.target == "/").count(), 1);
    assert_eq!(
        project.sh("s", "ls -d /tmp/w* /oldroot /old_root 2>/dev/null; true"),
        ""
    );
}

fn cgroups_are_read_only_inside(env: &TestEnv) {
    let project = up_with(env, "cgro", "");
    let outcome = project.sh(
        "s",
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do (mkdir $d/escape) 2>/dev/null && echo $d; done; true",
    );
    assert_eq!(outcome, "");
    let outcome = project.sh(
        "s",
        "mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo mounted; true",
    );
    assert_eq!(outcome, "");
}

fn signals_and_limits_of_the_caller_do_not_leak(env: &TestEnv) {
    // The first command starts the engine: what it inherits could reach every container.
    let project = env.project(
        "leak",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
",
    );
    let mut command = std::process::Command::new("sh");
    let mut inner = project.command();
    inner.args(["up", "-d"]);
    command.envs(
        inner
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    command.env("SECRET_OF_THE_CALLER", "1");
    let line: Vec<_> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    command.args([
        "-c",
        &format!(
            "trap '' HUP PIPE USR1; umask 077; ulimit -c 0; ulimit -Sn 300; {}",
            line.join(" ")
        ),
    ]);
    crate::harness::env::run(command).ok();
    let pid = project.pid_of("sleep 1001");
    for field in ["SigIgn", "SigBlk"] {
        assert_eq!(
            kernel::status_field(pid, field).as_deref(),
            Some("0000000000000000"),
            "{field}"
        );
    }
    assert_eq!(kernel::status_field(pid, "Umask").as_deref(), Some("0022"));
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("it runs");
    assert!(!String::from_utf8_lossy(&environment).contains("SECRET_OF_THE_CALLER"));
    let soft: u64 = project
        .sh("s", "ulimit -Sn")
        .parse()
        .expect("a finite number");
    assert!(soft >= 1024, "{soft}");
}

fn privileged_has_all_capabilities_and_devices(env: &TestEnv) {
    let project = up_with(env, "priv", "    privileged: true\n");
    let pid = project.pid_of("sleep 1001");
    let own = capability_field(std::process::id() as i32, "CapBnd");
    assert_eq!(capability_field(pid, "CapEff"), own);
    assert_eq!(kernel::status_field(pid, "Seccomp").as_deref(), Some("0"));
    project.sh("s", "test -c /dev/kmsg");
    project.sh("s", "mkdir /tmp/m && mount -t tmpfs t /tmp/m");
}

fn an_image_whose_dev_is_a_link_reaches_nothing_of_the_host(env: &TestEnv) {
    let target = env.path("victim");
    fs::create_dir_all(&target).expect("it is ours");
    for (n, link) in ["dev", "proc", "sys", "etc"].into_iter().enumerate() {
        let rootfs = env.path(&format!("evil{n}"));
        crate::harness::image::busybox_rootfs(&rootfs);
        fs::remove_dir_all(rootfs.join(link)).expect("it was made");
        std::os::unix::fs::symlink(&target, rootfs.join(link)).expect("it is ours");
        let project = env.project(
            "evil",
            &format!(
                "
services:
  s:
    image: rootfs:{}
    command: sleep 1001
    stop_grace_period: 0s
    volumes: ['data:/etc/inside']
volumes: {{data: }}
",
                rootfs.display()
            ),
        );
        // Started inside its own root or refused: both are right, touching the target is not.
        let up = project.wharf(&["up", "-d"]);
        if up.code == 0 {
            project.pid_of("sleep 1001");
        } else {
            assert!(
                up.stderr.contains("error: "),
                "{link}: refused without a reason"
            );
        }
        let left: Vec<_> = fs::read_dir(&target).expect("it is ours").collect();
        assert!(left.is_empty(), "{link}: {left:?}");
        let _ = project.wharf(&["down", "-v", "-t", "0"]).code;
    }
}

fn rlimits_and_sysctls_are_set(env: &TestEnv) {
    let project = up_with(
        env,
        "limits",
        "    ulimits: {nofile: {soft: 2048, hard: 4096}, core: 0}\n    sysctls: {net.ipv4.ip_unprivileged_port_start: 81, net.core.somaxconn: 77}\n",
    );
    assert_eq!(
        project.sh("s", "ulimit -Sn; ulimit -Hn; ulimit -c"),
        "2048\n4096\n0"
    );
    assert_eq!(
        project.sh(
            "s",
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/core/somaxconn"
        ),
        "81\n77"
    );
}

fn standard_output_can_be_reopened_by_any_user(env: &TestEnv) {
    // What nginx and apache do with their log files.
    let project = env.project(
        "reopen",
        "
services:
  s:
    image: IMAGE
    user: alice
    command: sh -c 'echo reopened > /dev/stdout; echo reopened > /dev/stderr'
",
    );
    project.up();
    project.wait_for_state("reopen-s-1", "exited");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        ("reopened\n", "reopened\n")
    );
}
