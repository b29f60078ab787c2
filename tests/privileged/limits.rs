//! Memory, cpu and pids limits on whatever hierarchy this machine mounts, and how OOM is told.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{TestEnv, kernel};

crate::cases! {
    limits:
    memory_limit_kills_and_is_reported_as_137,
    limits_are_in_the_cgroup_files,
    deploy_resources_limits_count_too,
    pids_limit_stops_a_fork_bomb,
    without_limits_nothing_is_limited,
    processors_and_weights_are_in_the_cgroup_files,
    a_container_sees_its_own_cgroup_and_cannot_change_it,
}

/// The value of a control file of the process's cgroup: the v2 name, else the v1 controller's.
fn cgroup_value(pid: i32, v2: &str, v1_controller: &str, v1: &str) -> String {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let path_of = |wanted: &str| {
        table.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            let found = controllers
                .split(',')
                .any(|controller| controller == wanted);
            found.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mounts = kernel::own_mounts();
    let unified = mounts.iter().find(|mount| mount.kind == "cgroup2");
    if let (Some(mount), Some(path)) = (unified, path_of("")) {
        let file = Path::new(&mount.target).join(path).join(v2);
        if let Ok(value) = fs::read_to_string(file) {
            return value.trim().to_owned();
        }
    }
    let path = path_of(v1_controller).expect("the controller is mounted somewhere");
    let tree = mounts
        .iter()
        .filter(|mount| mount.kind == "cgroup")
        .map(|mount| PathBuf::from(&mount.target).join(&path).join(v1))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("no {v2} and no {v1} for {pid}"));
    fs::read_to_string(tree)
        .expect("it exists")
        .trim()
        .to_owned()
}

fn memory_limit_kills_and_is_reported_as_137(env: &TestEnv) {
    let project = env.project(
        "oom",
        "
services:
  s:
    image: IMAGE
    mem_limit: 16m
    memswap_limit: 16m
    # tail keeps the last line in memory, and there is but one.
    command: sh -c 'head -c 64m /dev/zero | tail'
",
    );
    project.up();
    project.wait_for_state("oom-s-1", "exited");
    let run = project.wharf(&["ps", "-a"]).ok();
    assert!(
        run.stdout.contains("(137)") || run.stdout.contains("(1)"),
        "{run}"
    );
    let project = env.project(
        "oominit",
        "
services:
  s:
    image: IMAGE
    mem_limit: 16m
    memswap_limit: 16m
    command: ['sh', '-c', 'x=0123456789; while :; do x=$$x$$x; done']
",
    );
    project.up();
    project.wait_for_state("oominit-s-1", "exited");
    assert_eq!(project.ps_field("oominit-s-1", "ExitCode"), 137);
}

fn limits_are_in_the_cgroup_files(env: &TestEnv) {
    let project = env.project(
        "files",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    mem_limit: 64m
    cpus: 0.5
    pids_limit: 33
",
    );
    project.up();
    let pid = project.pid_of("sleep 1001");
    assert_eq!(
        cgroup_value(pid, "memory.max", "memory", "memory.limit_in_bytes"),
        "67108864"
    );
    assert_eq!(cgroup_value(pid, "pids.max", "pids", "pids.max"), "33");
    let quota = cgroup_value(pid, "cpu.max", "cpu", "cpu.cfs_quota_us");
    assert_eq!(quota.split(' ').next(), Some("50000"), "{quota}");
}

fn deploy_resources_limits_count_too(env: &TestEnv) {
    let project = env.project(
        "deploy",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    deploy: {replicas: 1, resources: {limits: {memory: 32M, cpus: '0.25', pids: 21}}}
",
    );
    project.up();
    let pid = project.pid_of("sleep 1001");
    assert_eq!(
        cgroup_value(pid, "memory.max", "memory", "memory.limit_in_bytes"),
        "33554432"
    );
    assert_eq!(cgroup_value(pid, "pids.max", "pids", "pids.max"), "21");
}

fn pids_limit_stops_a_fork_bomb(env: &TestEnv) {
    let project = env.project(
        "bomb",
        "
services:
  s:
    image: IMAGE
    pids_limit: 10
    command: sleep 1001
    stop_grace_period: 0s
",
    );
    project.up();
    let run = project.wharf(&[
        "exec",
        "-T",
        "s",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 3001 & done; true",
    ]);
    let n = kernel::pids_of("sleep 3001").len();
    assert!(n < 10, "{n} processes: {run}");
    project.down();
    assert!(kernel::pids_of("sleep 3001").is_empty());
}

fn without_limits_nothing_is_limited(env: &TestEnv) {
    let project = env.project(
        "none",
        "
services:
  s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}
",
    );
    project.up();
    let pid = project.pid_of("sleep 1001");
    // A container without a limit need not be in the controller's tree at all: a v1 root has no
    // file, and a cgroup2 directory has those of the controllers that were handed down.
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let is_in = |controller: &str| {
        let mut lines = table.lines();
        lines.any(|line| line.contains(controller) && !line.ends_with(":/"))
    };
    if is_in("memory") {
        let memory = cgroup_value(pid, "memory.max", "memory", "memory.limit_in_bytes");
        assert!(memory == "max" || memory.len() > 15, "{memory}");
    }
    if is_in("pids") {
        assert_eq!(cgroup_value(pid, "pids.max", "pids", "pids.max"), "max");
    }
    let own = table.lines().find_map(|line| line.strip_prefix("0::/"));
    for tree in kernel::own_mounts()
        .iter()
        .filter(|mount| mount.kind == "cgroup2")
    {
        for file in ["memory.max", "pids.max", "cpu.max"] {
            let path = Path::new(&tree.target).join(own.unwrap_or("")).join(file);
            if let Ok(value) = fs::read_to_string(path) {
                assert!(value.starts_with("max"), "{file}: {value}");
            }
        }
    }
}

fn processors_and_weights_are_in_the_cgroup_files(env: &TestEnv) {
    let project = env.project(
        "cpuset",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    cpuset: '0'
    cpu_shares: 512
",
    );
    project.up();
    let pid = project.pid_of("sleep 1001");
    assert_eq!(
        cgroup_value(pid, "cpuset.cpus", "cpuset", "cpuset.cpus"),
        "0"
    );
    assert_eq!(
        kernel::status_field(pid, "Cpus_allowed_list"),
        Some("0".to_owned())
    );
    // Half of the default, on either scale: 1024 shares are a weight of 100 on runc's curve.
    let weight = cgroup_value(pid, "cpu.weight", "cpu", "cpu.shares");
    assert!(["59", "512"].contains(&weight.as_str()), "{weight}");
}

fn a_container_sees_its_own_cgroup_and_cannot_change_it(env: &TestEnv) {
    let project = env.project(
        "view",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    mem_limit: 64m
",
    );
    project.up();
    let inside = |script: &str| project.wharf(&["exec", "-T", "s", "sh", "-c", script]);
    // cgroup2 stands there itself; of the older hierarchies each has a directory.
    let limit =
        inside("cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes");
    assert_eq!(limit.ok().stdout.trim(), "67108864");
    for script in [
        "cd /sys/fs/cgroup; [ -e cgroup.procs ] || cd memory; mkdir below",
        "cd /sys/fs/cgroup; [ -e cgroup.procs ] || cd memory; echo 1 > cgroup.procs",
    ] {
        let refused = inside(script);
        assert_ne!(refused.code, 0, "{refused}");
        assert!(
            refused.stderr.contains("Read-only file system"),
            "{refused}"
        );
    }
    let paths = inside("cat /proc/self/cgroup").ok().stdout;
    assert!(
        !paths.contains("wharf"),
        "names of the host's cgroups: {paths}"
    );
}
