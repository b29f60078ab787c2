//! Against the kernel: real processes in cgroups of our own.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemory, LinuxPids,
};

use rustix::fs::AtFlags;

use super::*;

/// Whether the test can run; says so when not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        tracing::warn!("not root: cgroups are not tested");
    }
    root
}

fn name(test: &str) -> PathBuf {
    PathBuf::from(format!("/wharf-test-{}/{test}", std::process::id()))
}

/// A shell that waits for a line before it runs `script`, so that it can be moved first.
fn shell(cgroup: &Cgroup, script: &str) -> Child {
    let child = Command::new("/bin/sh")
        .args(["-c", &format!("read line; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    enter(cgroup.path(), pid).unwrap();
    for member in &cgroup.v1 {
        rustix::io::write(&member.procs, pid.to_string().as_bytes()).unwrap();
    }
    child
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
}

fn gone(cgroup: &Cgroup) -> bool {
    let exists = |root: BorrowedFd<'_>| open_directory(root, cgroup.path()).is_ok();
    !exists(cgroup.hierarchies.v2.as_fd())
        && cgroup
            .v1
            .iter()
            .all(|m| !exists(open_directory(CWD, &m.mount).unwrap().as_fd()))
}

/// Removes the directory above as well, once the last test is done with it.
fn leave(cgroup: &Cgroup) {
    let above = cgroup.path().parent().unwrap();
    let mut roots = vec![open_directory(cgroup.hierarchies.v2.as_fd(), Path::new(".")).unwrap()];
    for controller in limits::CONTROLLERS {
        roots.extend(
            cgroup
                .hierarchies
                .v1(controller)
                .map(|m| open_directory(CWD, m).unwrap()),
        );
    }
    for root in roots {
        match rustix::fs::unlinkat(&root, above, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::BUSY) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

fn poll_for(fd: &OwnedFd, flags: PollFlags) -> bool {
    let timeout = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut [PollFd::new(fd, flags)], Some(&timeout)).unwrap() == 1
}

fn limits() -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(64 << 20)).set_swap(Some(64 << 20));
    let mut cpu = LinuxCpu::default();
    cpu.set_quota(Some(50_000))
        .set_period(Some(100_000))
        .set_cpus(Some("0".to_owned()));
    let mut pids = LinuxPids::default();
    pids.set_limit(17);
    let mut resources = LinuxResources::default();
    resources
        .set_memory(Some(memory))
        .set_cpu(Some(cpu))
        .set_pids(Some(pids));
    resources
}

#[test]
fn a_cgroup_lives_freezes_dies_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let mut cgroup = Cgroup::create(&name("life"), Some(&limits())).unwrap();
    assert_eq!(cgroup.unsupported(), [""; 0]);
    assert!(!cgroup.is_populated());
    // A process that forks, with a child in a cgroup of its own below.
    let mut child = shell(&cgroup, "sleep 1000 & sleep 1000 & echo up; wait");
    go(&mut child);
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    assert!(cgroup.is_populated());
    assert_eq!(processes(cgroup.v2_fd()).unwrap().len(), 3);
    let nested = make_path(cgroup.v2_fd(), Path::new("below"), |_, _| Ok(())).unwrap();
    write_at(
        nested.as_fd(),
        "cgroup.procs",
        &processes(cgroup.v2_fd()).unwrap()[2].to_string(),
    )
    .unwrap();

    // The limits are in force, wherever they live.
    let table = [
        ("memory", "memory.limit_in_bytes", "memory.max", "67108864"),
        ("pids", "pids.max", "pids.max", "17"),
        ("cpuset", "cpuset.cpus", "cpuset.cpus", "0"),
    ];
    for (controller, v1, v2, value) in table {
        let text = match cgroup.v1.iter().find(|m| m.controller == controller) {
            Some(member) => {
                let pids = processes(member.directory.as_fd()).unwrap();
                assert_eq!(pids.len(), 3, "{controller}");
                read_at(member.directory.as_fd(), v1)
            }
            None => read_at(cgroup.v2_fd(), v2),
        };
        assert_eq!(text.unwrap().trim(), value, "{controller}");
    }

    cgroup.freeze().unwrap();
    assert!(has_line(
        &read_at(nested.as_fd(), "cgroup.events").unwrap(),
        "frozen 1"
    ));
    cgroup.thaw().unwrap();

    // Raising both memory limits needs the other order on v1.
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(256 << 20)).set_swap(Some(256 << 20));
    let mut more = LinuxResources::default();
    more.set_memory(Some(memory));
    cgroup.update(&more).unwrap();

    // Somebody else may take over, and a second container of the name is refused.
    let again = Cgroup::open(&name("life")).unwrap();
    assert_eq!(again.v1.len(), cgroup.v1.len());
    assert!(matches!(
        Cgroup::create(&name("life"), None),
        Err(CgroupError::InUse(_))
    ));

    let populated = again.populated_fd().unwrap();
    cgroup.freeze().unwrap();
    again.kill_all().unwrap();
    assert!(poll_for(&populated, PollFlags::PRI));
    cgroup.remove().unwrap();
    assert!(!again.is_populated());
    assert!(gone(&cgroup));
    leave(&cgroup);
    child.wait().unwrap();
    // Removing what is gone is no error.
    again.remove().unwrap();
}

#[test]
fn kernels_without_cgroup_kill_are_served() {
    if !is_root() {
        return;
    }
    let cgroup = Cgroup::create(&name("one-by-one"), None).unwrap();
    assert!(cgroup.v1.is_empty(), "a v1 directory was made for nothing");
    let mut child = shell(&cgroup, "sleep 1000 & echo up; wait");
    go(&mut child);
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 3])
        .unwrap();
    cgroup.kill_one_by_one().unwrap();
    cgroup.remove().unwrap();
    assert!(gone(&cgroup));
    leave(&cgroup);
    child.wait().unwrap();
}

#[test]
fn a_limit_that_comes_later_takes_the_processes_in() {
    if !is_root() {
        return;
    }
    let mut cgroup = Cgroup::create(&name("late"), None).unwrap();
    let mut child = shell(&cgroup, "sleep 1000 & echo up; wait");
    go(&mut child);
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 3])
        .unwrap();
    cgroup.update(&limits()).unwrap();
    for member in &cgroup.v1 {
        assert_eq!(
            processes(member.directory.as_fd()).unwrap().len(),
            2,
            "{}",
            member.controller
        );
    }
    cgroup.kill_all().unwrap();
    cgroup.remove().unwrap();
    assert!(gone(&cgroup));
    leave(&cgroup);
    child.wait().unwrap();
}

#[test]
fn an_oom_kill_is_counted_and_wakes() {
    if !is_root() {
        return;
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(16 << 20)).set_swap(Some(16 << 20));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    let cgroup = Cgroup::create(&name("oom"), Some(&resources)).unwrap();
    assert_eq!(cgroup.oom_kills(), 0);
    let event = cgroup.oom_poll_fd().unwrap();
    // tail keeps the last line, and /dev/zero is one line without end. The shell survives: L18 wants
    // children counted as well.
    let mut child = shell(&cgroup, "tail /dev/zero; exit 3");
    go(&mut child);
    assert!(poll_for(&event, PollFlags::PRI | PollFlags::IN));
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(cgroup.oom_kills(), 1);
    cgroup.remove().unwrap();
    assert!(gone(&cgroup));
    leave(&cgroup);
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: i64,
    minor: i64,
    access: &str,
) -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(typ)
        .major(major)
        .minor(minor)
        .access(access)
        .build()
        .unwrap()
}

#[test]
fn devices_are_refused_unless_allowed() {
    if !is_root() {
        return;
    }
    let char_device = LinuxDeviceType::C;
    let rules = vec![
        rule(false, LinuxDeviceType::A, -1, -1, "rwm"),
        rule(true, char_device, -1, -1, "m"),
        // Reading and writing allowed by two rules are allowed together.
        rule(true, char_device, 1, 3, "r"),
        rule(true, char_device, 1, 3, "w"),
        rule(true, char_device, 1, 5, "r"),
        // A part taken out of a wider permission.
        rule(true, char_device, 1, 8, "rwm"),
        rule(false, char_device, 1, 8, "w"),
    ];
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules));
    let mut cgroup = Cgroup::create(&name("devices"), Some(&resources)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    let script = format!(
        "cd {at}; try() {{ echo \"$1:$({{ eval \"$2\"; }} 2>&1 | grep -c 'not permitted')\"; }}; \
         try null-rw ': <>/dev/null'; try zero-r ': </dev/zero'; try zero-w ': >/dev/zero'; \
         try random-r ': </dev/random'; try random-w ': >/dev/random'; \
         mknod n c 10 229; try fuse-r ': <n'; try block-m 'mknod b b 8 0'; try full-r ': </dev/full'"
    );
    let answers = |cgroup: &Cgroup| {
        let mut child = shell(cgroup, &script);
        go(&mut child);
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(
        answers(&cgroup).split_whitespace().collect::<Vec<_>>(),
        [
            "null-rw:0",
            "zero-r:0",
            "zero-w:1",
            "random-r:0",
            "random-w:1",
            "fuse-r:1",
            "block-m:1",
            "full-r:1",
        ]
    );
    // An update replaces the program instead of adding one more.
    let mut open = LinuxResources::default();
    open.set_devices(Some(vec![rule(true, LinuxDeviceType::A, -1, -1, "rwm")]));
    cgroup.update(&open).unwrap();
    assert_eq!(
        bpf::attached_device_programs(cgroup.v2_fd()).unwrap().len(),
        1
    );
    assert!(answers(&cgroup).contains("full-r:0"));
    cgroup.remove().unwrap();
    assert!(gone(&cgroup));
    leave(&cgroup);
}

/// hugetlb is the one controller that a hybrid host leaves to cgroup2.
#[test]
fn controllers_are_handed_down_the_tree() {
    use oci_spec::runtime::LinuxHugepageLimitBuilder;
    if !is_root() {
        return;
    }
    let hierarchies = Hierarchies::discover().unwrap();
    if !hierarchies.v2_has("hugetlb") || hierarchies.v1("hugetlb").is_some() {
        tracing::warn!("cgroup2 has no hugetlb controller here: handing down is not tested");
        return;
    }
    let limit = LinuxHugepageLimitBuilder::default()
        .page_size("2MB")
        .limit(4 << 20)
        .build();
    let mut resources = LinuxResources::default();
    resources.set_hugepage_limits(Some(vec![limit.unwrap()]));
    let before = read_at(hierarchies.v2.as_fd(), "cgroup.subtree_control").unwrap();
    // Its own top: the others' would keep the controller in use.
    let top = PathBuf::from(format!("/wharf-test-{}-down", std::process::id()));
    // A process stands where only children may be, as in a container whose entry process starts an
    // engine: it has to make room.
    let above = Cgroup::create(&top.join("above"), None).unwrap();
    let mut child = shell(&above, "sleep 1000");
    let cgroup = Cgroup::create(&top.join("above/leaf"), Some(&resources)).unwrap();
    assert_eq!(cgroup.unsupported(), [""; 0]);
    assert_eq!(
        read_at(cgroup.v2_fd(), "hugetlb.2MB.max").unwrap().trim(),
        "4194304"
    );
    assert_eq!(processes(above.v2_fd()).unwrap_or_default(), [0; 0]);
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(all_processes(above.v2_fd()).unwrap(), [pid]);
    above.kill_all().unwrap();
    above.remove().unwrap();
    assert!(gone(&cgroup));
    leave(&above);
    child.wait().unwrap();
    if before.trim().is_empty() {
        // Fails while somebody else has come to use it, who then needs it.
        let _ = write_at(hierarchies.v2.as_fd(), "cgroup.subtree_control", "-hugetlb");
    }
}

#[test]
fn a_cgroup_without_limits_is_cheap() {
    if !is_root() {
        return;
    }
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            let cgroup = Cgroup::create(&name("cheap"), None).unwrap();
            let took = start.elapsed();
            assert!(cgroup.v1.is_empty());
            cgroup.remove().unwrap();
            leave(&cgroup);
            took
        })
        .collect();
    times.sort();
    let mut out = std::io::stderr();
    let _ = writeln!(
        out,
        "cgroup: create {:?} (median of 20), worst {:?}",
        times[10], times[19]
    );
    assert!(times[10] < Duration::from_millis(20), "{times:?}");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    for path in ["", "/", "a/../b", "/..", "./a"] {
        assert!(
            matches!(plain(Path::new(path)), Err(CgroupError::Path(_))),
            "{path:?}"
        );
    }
    assert_eq!(plain(Path::new("/wharf/x")).unwrap(), Path::new("wharf/x"));
}
