//! The sharing modes: whose pid, ipc and uts namespace, and the small things set up inside them.

use crate::harness::{TestEnv, kernel};

crate::cases! {
    namespaces:
    pid_modes_share_what_they_say,
    ipc_modes_share_what_they_say,
    hostname_and_hosts_file_are_set,
    init_reaps_and_forwards_signals,
    shared_memory_has_its_size,
    environment_files_and_values_are_merged,
    working_dir_is_made,
}

fn pid_modes_share_what_they_say(env: &TestEnv) {
    let project = env.project(
        "pid",
        "
services:
  own:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
  host:
    image: IMAGE
    command: sleep 1002
    pid: host
    stop_grace_period: 0s
  joined:
    image: IMAGE
    command: sleep 1003
    pid: service:own
    stop_grace_period: 0s
",
    );
    project.up();
    let own = kernel::namespace(project.pid_of("sleep 1001"), "pid");
    assert_ne!(own, kernel::namespace(1, "pid"));
    assert_eq!(
        kernel::namespace(project.pid_of("sleep 1002"), "pid"),
        kernel::namespace(1, "pid")
    );
    assert_eq!(kernel::namespace(project.pid_of("sleep 1003"), "pid"), own);
    // Only the container's own processes end with it.
    project.wharf(&["stop", "joined"]).ok();
    assert!(kernel::pids_of("sleep 1003").is_empty());
    project.pid_of("sleep 1001");
}

fn ipc_modes_share_what_they_say(env: &TestEnv) {
    let project = env.project(
        "ipc",
        "
services:
  own:
    image: IMAGE
    command: sleep 1001
    ipc: shareable
    stop_grace_period: 0s
  host:
    image: IMAGE
    command: sleep 1002
    ipc: host
    stop_grace_period: 0s
  joined:
    image: IMAGE
    command: sleep 1003
    ipc: service:own
    stop_grace_period: 0s
",
    );
    project.up();
    let own = kernel::namespace(project.pid_of("sleep 1001"), "ipc");
    assert_ne!(own, kernel::namespace(1, "ipc"));
    assert_eq!(
        kernel::namespace(project.pid_of("sleep 1002"), "ipc"),
        kernel::namespace(1, "ipc")
    );
    assert_eq!(kernel::namespace(project.pid_of("sleep 1003"), "ipc"), own);
    project.sh("own", "echo shared > /dev/shm/mark");
    assert_eq!(project.sh("joined", "cat /dev/shm/mark"), "shared");
}

fn hostname_and_hosts_file_are_set(env: &TestEnv) {
    let project = env.project(
        "host",
        "
services:
  named:
    image: IMAGE
    hostname: chosen
    domainname: example.test
    command: sleep 1001
    stop_grace_period: 0s
    extra_hosts: ['other.test:10.1.2.3']
  plain:
    image: IMAGE
    command: sleep 1002
    stop_grace_period: 0s
",
    );
    project.up();
    assert_eq!(project.sh("named", "hostname"), "chosen");
    let hosts = project.sh("named", "cat /etc/hosts");
    assert!(hosts.contains("10.1.2.3\tother.test"), "{hosts}");
    assert!(hosts.contains("127.0.0.1\tlocalhost"), "{hosts}");
    assert_eq!(project.sh("plain", "hostname").len(), 12, "the short id");
    assert_ne!(
        project.sh("plain", "hostname"),
        project.sh("named", "hostname")
    );
}

fn init_reaps_and_forwards_signals(env: &TestEnv) {
    let project = env.project(
        "init",
        "
services:
  s:
    image: IMAGE
    init: true
    command: ['sh', '-c', 'trap \"exit 5\" TERM; (sleep 0.05 &) ; sleep 0.2; touch /tmp/ready; while :; do sleep 0.05; done']
",
    );
    project.up();
    crate::harness::wait_for("the script", || {
        (project
            .wharf(&["exec", "-T", "s", "test", "-e", "/tmp/ready"])
            .code
            == 0)
            .then_some(())
    });
    // The orphaned `sleep` was reaped: no zombie is left.
    let zombies = project.sh(
        "s",
        "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; true",
    );
    assert_eq!(zombies, "");
    project.wharf(&["stop"]).ok();
    assert_eq!(project.ps_field("init-s-1", "ExitCode"), 5);
}

fn shared_memory_has_its_size(env: &TestEnv) {
    let project = env.project(
        "shm",
        "
services:
  default: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}
  large: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s, shm_size: 128m}
",
    );
    project.up();
    let size = |service: &str| project.sh(service, "df -k /dev/shm | tail -n 1 | awk '{print $2}'");
    assert_eq!(size("default"), "65536");
    assert_eq!(size("large"), "131072");
}

fn environment_files_and_values_are_merged(env: &TestEnv) {
    let project = env.project(
        "env",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    env_file: [values.env]
    environment:
      DIRECT: '${FROM_DOTENV:-unset}'
      BOTH: direct
",
    );
    std::fs::write(
        project.directory.join("values.env"),
        "FILE=from file\nBOTH=file\n",
    )
    .expect("ours");
    std::fs::write(project.directory.join(".env"), "FROM_DOTENV=dotenv\n").expect("ours");
    project.up();
    assert_eq!(
        project.sh("s", "echo $DIRECT; echo $BOTH; echo $FILE"),
        "dotenv\ndirect\nfrom file"
    );
}

fn working_dir_is_made(env: &TestEnv) {
    let project = env.project(
        "wd",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    working_dir: /not/there/yet
",
    );
    project.up();
    assert_eq!(project.sh("s", "pwd"), "/not/there/yet");
}
