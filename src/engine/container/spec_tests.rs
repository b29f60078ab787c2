//! Tables: what is asked for, and what moby's daemon makes of it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Mount, PosixRlimitType};

use super::*;
use crate::compose::{Device, Resources, Ulimit};
use crate::engine::container::{ResolvedSource, devices, user};
use crate::shim::protocol::capabilities;

struct Case {
    config: ContainerConfig,
    image: Option<oci_spec::image::Config>,
    mounts: Vec<ResolvedMount>,
    network: NetworkNamespace,
    devices: Vec<DeviceNode>,
    host_devices: Vec<DeviceNode>,
    profile: Option<&'static str>,
    joined: JoinedNamespaces<'static>,
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// A container of an image with everything an image can say.
fn case(change: impl FnOnce(&mut ContainerConfig)) -> Case {
    let mut image = oci_spec::image::Config::default();
    image
        .set_entrypoint(Some(strings(&["/entry", "-e"])))
        .set_cmd(Some(strings(&["serve"])))
        .set_env(Some(strings(&[
            "PATH=/opt/bin",
            "LANG=C",
            "broken",
            "MODE=image",
        ])))
        .set_working_dir(Some("/srv".to_owned()))
        .set_user(Some("daemon".to_owned()));
    let mut config = ContainerConfig::default();
    change(&mut config);
    Case {
        config,
        image: Some(image),
        mounts: Vec::new(),
        network: NetworkNamespace::Own,
        devices: Vec::new(),
        host_devices: Vec::new(),
        profile: None,
        joined: JoinedNamespaces::default(),
    }
}

impl Case {
    fn make(&self) -> Result<Spec, SpecError> {
        self.specified().map(|made| made.spec)
    }

    fn specified(&self) -> Result<Specified, SpecError> {
        spec(&SpecInput {
            config: &self.config,
            image: self.image.as_ref(),
            mounts: &self.mounts,
            network: self.network,
            hostname: "c0ffee",
            files: NameFiles {
                hosts: Some(Path::new("/run/x/hosts")),
                hostname: Some(Path::new("/run/x/hostname")),
                resolv_conf: Some(Path::new("/run/x/resolv.conf")),
            },
            joined: self.joined,
            cgroup: Path::new("/wharf/c0ffee"),
            devices: &self.devices,
            host_devices: &self.host_devices,
            host: &HostFacts {
                n_cpus: 4,
                kernel: (6, 1),
                thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
                max_nofile: 1 << 20,
            },
            seccomp_profile: self.profile,
        })
    }

    fn spec(&self) -> Spec {
        self.make().unwrap()
    }

    fn error(&self) -> String {
        self.make().unwrap_err().to_string()
    }
}

fn args(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().args().clone().unwrap()
}

fn env(spec: &Spec) -> Vec<String> {
    spec.process().as_ref().unwrap().env().clone().unwrap()
}

fn linux(spec: &Spec) -> &Linux {
    spec.linux().as_ref().unwrap()
}

fn lines(spec: &Spec) -> Vec<String> {
    let line = |m: &Mount| {
        format!(
            "{} {} {} {}",
            m.destination().display(),
            m.typ().as_deref().unwrap_or(""),
            m.source().as_deref().unwrap_or(Path::new("")).display(),
            m.options().as_deref().unwrap_or_default().join(",")
        )
    };
    spec.mounts().iter().flatten().map(line).collect()
}

fn options(spec: &Spec, at: &str) -> Option<String> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let mount = mounts.iter().find(|m| m.destination() == Path::new(at))?;
    Some(mount.options().as_deref().unwrap_or_default().join(","))
}

#[test]
fn entrypoint_and_command_combine_as_in_docker() {
    type Words = Option<&'static [&'static str]>;
    let table: [(Words, Words, &[&str]); 8] = [
        (None, None, &["/entry", "-e", "serve"]),
        (None, Some(&["ls", "-l"]), &["/entry", "-e", "ls", "-l"]),
        (None, Some(&[]), &["/entry", "-e", "serve"]),
        (Some(&["sh"]), None, &["sh"]),
        (Some(&["sh"]), Some(&["-c", "x"]), &["sh", "-c", "x"]),
        (Some(&[]), Some(&["ls"]), &["ls"]),
        (Some(&[""]), Some(&["ls"]), &["ls"]),
        (Some(&[]), None, &[]),
    ];
    for (entrypoint, command, expected) in table {
        let case = case(|c| {
            c.entrypoint = entrypoint.map(strings);
            c.command = command.map(strings);
        });
        match case.make() {
            Ok(spec) => assert_eq!(args(&spec), expected),
            Err(SpecError::NoCommand) => assert!(expected.is_empty(), "{entrypoint:?} {command:?}"),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn the_environment_is_merged_and_names_can_be_removed() {
    assert_eq!(
        env(&case(|_| {}).spec()),
        ["PATH=/opt/bin", "HOSTNAME=c0ffee", "LANG=C", "MODE=image"]
    );
    let set = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let spec = case(|c| {
        c.tty = true;
        c.environment = vec![
            set("A", Some("1")),
            set("LANG", None),
            set("MODE", Some("mine=x")),
            set("A", Some("2")),
            set("TERM", Some("dumb")),
            set("GONE", None),
        ];
    })
    .spec();
    assert_eq!(
        env(&spec),
        [
            "PATH=/opt/bin",
            "HOSTNAME=c0ffee",
            "TERM=dumb",
            "A=2",
            "MODE=mine=x"
        ]
    );
    // E7: what the file removes stays away, even when the image and Docker both have it.
    let spec = case(|c| c.environment = vec![set("PATH", None), set("HOSTNAME", None)]).spec();
    assert_eq!(env(&spec), ["LANG=C", "MODE=image"]);
    let mut bare = case(|c| c.command = Some(strings(&["sh"])));
    bare.image = None;
    assert_eq!(
        env(&bare.spec()),
        [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=c0ffee"
        ]
    );
    assert!(
        case(|c| c.environment = vec![set("A=B", None)])
            .error()
            .contains("NAME=value")
    );
}

#[test]
fn the_working_directory_is_clean_and_absolute() {
    let cwd = |dir: &str| {
        case(|c| c.working_dir = Some(dir.to_owned()))
            .make()
            .map(|s| s.process().as_ref().unwrap().cwd().display().to_string())
    };
    for (dir, expected) in [
        ("", "/srv"),
        ("/a//b/./c/", "/a/b/c"),
        ("/a/../../..", "/"),
        ("/", "/"),
    ] {
        assert_eq!(cwd(dir).unwrap(), expected, "{dir:?}");
    }
    assert!(matches!(
        cwd("relative"),
        Err(SpecError::WorkingDirectory(_))
    ));
    assert!(matches!(cwd("/a\0b"), Err(SpecError::Nul { .. })));
}

#[test]
fn an_image_cannot_flood_the_specification() {
    let mut case = case(|_| {});
    let image = case.image.as_mut().unwrap();
    image.set_env(Some(vec![format!("A={}", "x".repeat(2 << 20))]));
    assert!(matches!(
        case.make(),
        Err(SpecError::TooLarge {
            what: "environment",
            ..
        })
    ));
    let image = case.image.as_mut().unwrap();
    image
        .set_env(None)
        .set_working_dir(Some(format!("/{}", "x".repeat(5000))));
    assert!(matches!(case.make(), Err(SpecError::TooLarge { .. })));
}

#[test]
fn the_user_is_the_containers_then_the_images() {
    let plain = case(|_| {});
    assert_eq!(user(&plain.config, plain.image.as_ref()), Some("daemon"));
    let own = case(|c| c.user = Some("5:6".to_owned()));
    assert_eq!(user(&own.config, own.image.as_ref()), Some("5:6"));
    assert_eq!(user(&plain.config, None), None);
}

#[test]
fn the_default_mounts_are_dockers() {
    assert_eq!(
        lines(&case(|_| {}).spec()),
        [
            "/proc proc proc nosuid,noexec,nodev",
            "/dev tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k",
            "/sys sysfs sysfs nosuid,noexec,nodev,ro",
            "/dev/pts devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
            "/dev/mqueue mqueue mqueue nosuid,noexec,nodev",
            "/dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=67108864",
            "/etc/resolv.conf bind /run/x/resolv.conf rbind,rprivate",
            "/etc/hostname bind /run/x/hostname rbind,rprivate",
            "/etc/hosts bind /run/x/hosts rbind,rprivate",
            "/sys/fs/cgroup cgroup cgroup ro,nosuid,noexec,nodev",
        ]
    );
    let spec = case(|c| c.shm_size = Some(1 << 20)).spec();
    assert!(
        options(&spec, "/dev/shm")
            .unwrap()
            .ends_with("size=1048576")
    );
    let spec = case(|c| c.ipc = NamespaceMode::Host).spec();
    assert_eq!(options(&spec, "/dev/shm").unwrap(), "rbind,rprivate");
    let spec = case(|c| c.read_only = true).spec();
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
    assert_eq!(options(&spec, "/etc/hosts").unwrap(), "rbind,rprivate,ro");
    assert!(
        !options(&spec, "/dev/shm")
            .unwrap()
            .split(',')
            .any(|o| o == "ro")
    );
}

fn bind(path: &str, target: &str, read_only: bool) -> ResolvedMount {
    ResolvedMount {
        source: ResolvedSource::Bind {
            path: path.into(),
            subpath: None,
            propagation: None,
            recursive: None,
        },
        target: target.into(),
        read_only,
    }
}

#[test]
fn user_mounts_come_after_their_parents_and_hide_defaults() {
    let mut case = case(|_| {});
    case.mounts = vec![
        bind("/a", "/data/deep/er", false),
        bind("/b", "/data/", true),
        bind("/dev", "/dev", false),
        bind("/h", "/etc/hosts", false),
        ResolvedMount {
            source: ResolvedSource::Bind {
                path: "/s".into(),
                subpath: None,
                propagation: Some("rshared".to_owned()),
                recursive: Some("disabled".to_owned()),
            },
            target: "/shared".into(),
            read_only: true,
        },
    ];
    let spec = case.spec();
    let all = lines(&spec);
    assert_eq!(
        all.iter()
            .filter(|l| !l.starts_with("/sys") && !l.starts_with("/proc"))
            .collect::<Vec<_>>(),
        [
            "/data bind /b rbind,ro,rro,rprivate",
            "/dev bind /dev rbind,rprivate",
            "/shared bind /s bind,ro,rshared",
            "/etc/resolv.conf bind /run/x/resolv.conf rbind,rprivate",
            "/etc/hostname bind /run/x/hostname rbind,rprivate",
            "/etc/hosts bind /h rbind,rprivate",
            "/data/deep/er bind /a rbind,rprivate",
        ]
    );
    assert_eq!(linux(&spec).rootfs_propagation().as_deref(), Some("shared"));
    for (mounts, expected) in [
        (
            vec![bind("/a", "/x/../y", false), bind("/b", "/y", false)],
            "two mounts",
        ),
        (vec![bind("/a", "/", false)], "below /"),
        (vec![bind("/a", "x", false)], "absolute"),
    ] {
        case.mounts = mounts;
        assert!(case.error().contains(expected), "{}", case.error());
    }
}

fn tmpfs(options: &str) -> ResolvedMount {
    ResolvedMount {
        source: ResolvedSource::Tmpfs {
            options: options.to_owned(),
        },
        target: "/t".into(),
        read_only: false,
    }
}

#[test]
fn tmpfs_has_dockers_defaults_under_the_users_options() {
    let table = [
        ("", "noexec,nosuid,nodev,rprivate"),
        (
            "size=64m,mode=1777,uid=5",
            "noexec,nosuid,nodev,rprivate,size=64m,mode=1777,uid=5",
        ),
        ("exec,rw", "nosuid,nodev,rprivate,exec,rw"),
        (
            "size=1m,size=2m,noexec",
            "nosuid,nodev,rprivate,size=2m,noexec",
        ),
        (
            "nr_inodes=7,rslave",
            "noexec,nosuid,nodev,nr_inodes=7,rslave",
        ),
    ];
    for (text, expected) in table {
        let mut case = case(|_| {});
        case.mounts = vec![tmpfs(text)];
        assert_eq!(options(&case.spec(), "/t").unwrap(), expected, "{text:?}");
    }
    let mut case = case(|_| {});
    case.mounts = vec![tmpfs("lowerdir=/")];
    assert!(case.error().contains("lowerdir=/"));
}

#[test]
fn capabilities_follow_add_drop_and_all() {
    let d = capabilities::defaults;
    let set = |names: &[&str]| -> oci_spec::runtime::Capabilities {
        names
            .iter()
            .map(|n| capabilities::parse(n).unwrap())
            .collect()
    };
    let table = [
        (vec![], vec![], d()),
        (
            vec!["NET_ADMIN", "cap_sys_time"],
            vec!["MKNOD"],
            &(&d() - &set(&["MKNOD"])) | &set(&["NET_ADMIN", "SYS_TIME"]),
        ),
        (vec![], vec!["ALL"], set(&[])),
        (vec!["CHOWN"], vec!["all"], set(&["CHOWN"])),
        (
            vec!["ALL"],
            vec!["SYS_ADMIN"],
            &capabilities::all() - &set(&["SYS_ADMIN"]),
        ),
        // What is added and dropped is there.
        (vec!["NET_RAW"], vec!["NET_RAW"], d()),
    ];
    for (add, drop, expected) in table {
        let spec = case(|c| {
            c.cap_add = strings(&add);
            c.cap_drop = strings(&drop);
        })
        .spec();
        let sets = spec
            .process()
            .as_ref()
            .unwrap()
            .capabilities()
            .clone()
            .unwrap();
        for mine in [sets.bounding(), sets.effective(), sets.permitted()] {
            assert_eq!(mine.as_ref().unwrap(), &expected, "{add:?} {drop:?}");
        }
        assert!(sets.inheritable().is_none() && sets.ambient().is_none());
    }
    assert!(
        case(|c| c.cap_add = strings(&["NET_ADMN"]))
            .error()
            .contains("NET_ADMN")
    );
}

#[test]
fn security_options_are_read() {
    let make = |options: &[&str]| case(|c| c.security_opt = strings(options)).make();
    let nnp = |s: Spec| s.process().as_ref().unwrap().no_new_privileges();
    assert_eq!(nnp(make(&[]).unwrap()), Some(false));
    for option in [
        "no-new-privileges",
        "no-new-privileges:true",
        "no-new-privileges=true",
    ] {
        assert_eq!(nnp(make(&[option]).unwrap()), Some(true), "{option}");
    }
    // A filter of its own, and whether the default one.
    let seccomp = |options: &[&str], cap_add: &[&str]| {
        let made = case(|c| {
            c.security_opt = strings(options);
            c.cap_add = strings(cap_add);
        });
        let made = made.specified().unwrap();
        (linux(&made.spec).seccomp().is_some(), made.default_seccomp)
    };
    assert_eq!(seccomp(&[], &[]), (false, true));
    assert_eq!(seccomp(&["seccomp=builtin"], &[]), (false, true));
    // Opens no system call.
    assert_eq!(seccomp(&[], &["NET_ADMIN"]), (false, true));
    assert_eq!(seccomp(&[], &["SYS_PTRACE"]), (true, false));
    assert_eq!(seccomp(&["seccomp:unconfined"], &[]), (false, false));
    let open = ["seccomp=unconfined", "label=disable", "apparmor=unconfined"];
    assert_eq!(seccomp(&open, &[]), (false, false));
    let spec = make(&["systempaths=unconfined"]).unwrap();
    assert_eq!(linux(&spec).masked_paths().as_deref(), Some(&[][..]));
    assert!(matches!(
        make(&["seccomp=/p.json"]),
        Err(SpecError::ProfileMissing(_))
    ));
    for option in [
        "nonsense",
        "seccomp=",
        "no-new-privileges=maybe",
        "systempaths=x",
    ] {
        assert!(
            matches!(make(&[option]), Err(SpecError::SecurityOption(_))),
            "{option}"
        );
    }
    let mut custom = case(|c| c.security_opt = strings(&["seccomp=/p.json"]));
    custom.profile = Some(r#"{"defaultAction": "SCMP_ACT_LOG"}"#);
    let spec = custom.spec();
    let seccomp = linux(&spec).seccomp().as_ref().unwrap();
    assert_eq!(
        seccomp.default_action(),
        oci_spec::runtime::LinuxSeccompAction::ScmpActLog
    );
    custom.profile = Some("{");
    assert!(custom.error().contains("/p.json"));
}

fn node(path: &str, major: u32, minor: u32, access: &str) -> DeviceNode {
    DeviceNode {
        path: path.into(),
        is_block: false,
        major,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 6,
        access: access.to_owned(),
    }
}

#[test]
fn privileged_is_everything() {
    let mut case = case(|c| c.privileged = true);
    case.host_devices = vec![
        node("/dev/kmsg", 1, 11, "rwm"),
        node("/dev/fuse", 10, 229, "rwm"),
    ];
    case.devices = vec![node("/dev/fuse", 10, 229, "r")];
    let spec = case.spec();
    let sets = spec
        .process()
        .as_ref()
        .unwrap()
        .capabilities()
        .clone()
        .unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 41);
    let linux = linux(&spec);
    assert!(linux.seccomp().is_none());
    assert_eq!(linux.masked_paths().as_deref(), Some(&[][..]));
    assert_eq!(linux.readonly_paths().as_deref(), Some(&[][..]));
    let paths: Vec<_> = linux
        .devices()
        .iter()
        .flatten()
        .map(|d| d.path().clone())
        .collect();
    assert_eq!(
        paths,
        [PathBuf::from("/dev/kmsg"), PathBuf::from("/dev/fuse")]
    );
    assert_eq!(options(&spec, "/sys").unwrap(), "nosuid,noexec,nodev,rw");
    assert_eq!(
        options(&spec, "/sys/fs/cgroup").unwrap(),
        "nosuid,noexec,nodev,rw"
    );
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert_eq!(rules.len(), 1);
    assert!(rules[0].allow());
}

#[test]
fn masked_paths_cover_mobys_list() {
    let spec = case(|_| {}).spec();
    let masked = linux(&spec).masked_paths().clone().unwrap();
    for path in [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
    ] {
        assert!(masked.iter().any(|m| m == path), "{path}");
    }
    assert_eq!(
        linux(&spec).readonly_paths().clone().unwrap(),
        [
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger"
        ]
    );
}

#[test]
fn devices_are_listed_and_allowed() {
    let mut case = case(|c| c.device_cgroup_rules = strings(&["c 10:* rw", "a *:* m"]));
    case.devices = vec![node("/dev/x", 10, 229, "rw")];
    let spec = case.spec();
    let rules = linux(&spec)
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    let lines: Vec<String> = rules
        .iter()
        .map(|r| {
            let number = |n: Option<i64>| n.map_or("*".to_owned(), |n| n.to_string());
            format!(
                "{}{} {}:{} {}",
                if r.allow() { '+' } else { '-' },
                r.typ().unwrap().as_str(),
                number(r.major()),
                number(r.minor()),
                r.access().as_deref().unwrap()
            )
        })
        .collect();
    assert_eq!(lines[0], "-a *:* rwm");
    assert_eq!(
        lines[lines.len() - 4..],
        ["-c 10:229 rwm", "+c 10:229 rw", "+c 10:* rw", "+a *:* m"]
    );
    for bad in [
        "c 10:229",
        "x 1:1 r",
        "c 1:1 rwx",
        "c 1 r",
        "c -1:1 r",
        "c 1:1 rwm rwm",
        "c 1:1 ",
    ] {
        case.config.device_cgroup_rules = strings(&[bad]);
        assert!(
            matches!(case.make(), Err(SpecError::DeviceRule(_))),
            "{bad:?}"
        );
    }
}

#[test]
fn device_entries_are_looked_up() {
    let device = |source: &str, permissions: &str| {
        devices::resolve(&Device {
            source: source.into(),
            target: "/dev/inside".into(),
            permissions: permissions.to_owned(),
        })
    };
    let nodes = device("/dev/null", "").unwrap();
    assert_eq!(
        (nodes[0].major, nodes[0].minor, nodes[0].access.as_str()),
        (1, 3, "rwm")
    );
    assert_eq!(nodes[0].path, Path::new("/dev/inside"));
    assert!(matches!(
        device("/dev/null", "rx"),
        Err(SpecError::DevicePermissions(_))
    ));
    assert!(matches!(
        device("/etc/passwd", "r"),
        Err(SpecError::NotADevice(_))
    ));
    assert!(matches!(
        device("/dev/not-there", "r"),
        Err(SpecError::Device { .. })
    ));
    assert!(
        devices::host()
            .unwrap()
            .iter()
            .any(|d| d.path == Path::new("/dev/null"))
    );
}

#[test]
fn limits_are_checked_and_converted() {
    let resources = |change: fn(&mut Resources)| case(|c| change(&mut c.resources)).make();
    let ok = |change: fn(&mut Resources)| {
        linux(&resources(change).unwrap())
            .resources()
            .clone()
            .unwrap()
    };
    let none = ok(|_| {});
    assert!(none.memory().is_none() && none.cpu().is_none() && none.pids().is_none());
    let memory = ok(|r| r.memory_limit = Some(64 << 20)).memory().unwrap();
    assert_eq!(
        (memory.limit(), memory.swap()),
        (Some(64 << 20), Some(128 << 20))
    );
    let memory = ok(|r| {
        r.memory_limit = Some(64 << 20);
        r.memswap_limit = Some(-1);
    })
    .memory()
    .unwrap();
    assert_eq!(memory.swap(), Some(-1));
    let cpu = ok(|r| r.nano_cpus = Some(1_500_000_000))
        .cpu()
        .clone()
        .unwrap();
    assert_eq!((cpu.quota(), cpu.period()), (Some(150_000), Some(100_000)));
    assert_eq!(ok(|r| r.pids_limit = Some(-1)).pids().unwrap().limit(), -1);

    type Change = fn(&mut Resources);
    let table: [(Change, &str); 10] = [
        (|r| r.memory_limit = Some(1 << 20), "6 MiB"),
        (|r| r.memswap_limit = Some(1 << 30), "mem_limit beside it"),
        (
            |r| {
                r.memory_limit = Some(64 << 20);
                r.memswap_limit = Some(32 << 20);
            },
            "below mem_limit",
        ),
        (
            |r| {
                r.memory_limit = Some(64 << 20);
                r.memory_reservation = Some(65 << 20);
            },
            "above mem_limit",
        ),
        (|r| r.mem_swappiness = Some(101), "between 0 and 100"),
        (|r| r.nano_cpus = Some(5_000_000_000), "cpus is 5"),
        (
            |r| {
                r.nano_cpus = Some(1);
                r.cpu_quota = Some(5000);
            },
            "cpu_quota",
        ),
        (|r| r.cpuset = Some("0-".to_owned()), "0-3,5"),
        (|r| r.blkio_weight = Some(5), "between 10 and 1000"),
        (|r| r.oom_score_adj = Some(1001), "oom_score_adj"),
    ];
    for (change, expected) in table {
        let error = resources(change).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_number_of_files_is_finite_by_default() {
    let limits = |case: &Case| {
        case.make().map(|s| {
            let limits = s.process().as_ref().unwrap().rlimits().clone().unwrap();
            limits
                .iter()
                .map(|l| (l.typ(), l.soft(), l.hard()))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        limits(&case(|_| {})).unwrap(),
        [(PosixRlimitType::RlimitNofile, 1024, 524_288)]
    );
    let with = |name: &str, soft, hard| {
        limits(&case(|c| {
            c.ulimits.insert(name.to_owned(), Ulimit { soft, hard });
        }))
    };
    assert_eq!(
        with("nofile", 9, 10).unwrap(),
        [(PosixRlimitType::RlimitNofile, 9, 10)]
    );
    assert_eq!(
        with("memlock", -1, -1).unwrap()[1],
        (PosixRlimitType::RlimitMemlock, u64::MAX, u64::MAX)
    );
    assert!(matches!(
        with("nofiles", 1, 1),
        Err(SpecError::UlimitName(_))
    ));
    assert!(matches!(
        with("nofile", -1, 5),
        Err(SpecError::UlimitOrder { .. })
    ));
    assert!(matches!(
        with("nofile", 1, -2),
        Err(SpecError::UlimitValue { .. })
    ));
}

#[test]
fn namespaces_follow_the_modes() {
    use LinuxNamespaceType as T;
    let types = |spec: &Spec| -> Vec<T> {
        linux(spec)
            .namespaces()
            .iter()
            .flatten()
            .map(LinuxNamespace::typ)
            .collect()
    };
    let spec = case(|c| c.domainname = Some("example".to_owned())).spec();
    assert_eq!(
        types(&spec),
        [T::Mount, T::Network, T::Uts, T::Pid, T::Ipc, T::Cgroup]
    );
    assert_eq!(spec.hostname().as_deref(), Some("c0ffee"));
    assert_eq!(spec.domainname().as_deref(), Some("example"));
    let mut host = case(|c| {
        for mode in [&mut c.pid, &mut c.ipc, &mut c.uts, &mut c.cgroup] {
            *mode = NamespaceMode::Host;
        }
    });
    host.network = NetworkNamespace::Host;
    let spec = host.spec();
    assert_eq!(types(&spec), [T::Mount]);
    assert!(spec.hostname().is_none());
    let mut joined = case(|c| c.pid = NamespaceMode::Container("x".to_owned()));
    assert!(matches!(
        joined.make(),
        Err(SpecError::Joined { kind: "pid" })
    ));
    joined.joined.pid = Some(Path::new("/proc/7/ns/pid"));
    let spec = joined.spec();
    let pid = linux(&spec)
        .namespaces()
        .iter()
        .flatten()
        .find(|n| n.typ() == T::Pid)
        .unwrap();
    assert_eq!(pid.path().as_deref(), Some(Path::new("/proc/7/ns/pid")));
}

#[test]
fn sysctls_need_the_namespace() {
    let sysctl = |network, name: &str| {
        let mut case = case(|c| drop(c.sysctls.insert(name.to_owned(), "1".to_owned())));
        case.network = network;
        case.make().map(|s| linux(&s).sysctl().clone().unwrap())
    };
    let all = sysctl(NetworkNamespace::Own, "net.core.somaxconn").unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(all["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(all["net.ipv4.ping_group_range"], "0 2147483647");
    // The other spelling of a default replaces it.
    let all = sysctl(NetworkNamespace::Own, "net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_eq!(all["net.ipv4.ip_unprivileged_port_start"], "1");
    assert_eq!(all.len(), 2);
    assert!(sysctl(NetworkNamespace::Host, "net.core.somaxconn").is_err());
    assert!(sysctl(NetworkNamespace::Joined, "net.core.somaxconn").is_err());
    assert_eq!(
        sysctl(NetworkNamespace::Host, "kernel.shmmax")
            .unwrap()
            .len(),
        1
    );
    assert!(sysctl(NetworkNamespace::Own, "vm.swappiness").is_err());
}

/// The specification travels as JSON in the bundle.
#[test]
fn the_specification_survives_the_bundle() {
    let spec = case(|c| drop(c.annotations.insert("a".to_owned(), "b".to_owned()))).spec();
    let json = serde_json::to_string(&spec).unwrap();
    let back: Spec = serde_json::from_str(&json).unwrap();
    assert_eq!(back, spec);
    assert!(json.len() < 24 << 10, "{} bytes", json.len());
}
