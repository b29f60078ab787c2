//! Images and specifications that want out, and what a container is shown of the machine.

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::harness::{Rig, is_privileged};
use crate::shim::protocol::FailureKind;

#[test]
fn privileged_masked_and_read_only_paths() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let script = "for f in /proc/keys /proc/interrupts; do wc -c < $f; done; \
        ls /proc/acpi /sys/firmware | grep -v : | grep -c .; \
        echo x > /proc/sys/kernel/hostname; echo x > /proc/keys; \
        touch /sys/x; touch /sys/fs/cgroup/x; mount -o remount,rw /proc/sys; echo end";
    let (_, out, err) = rig.run(script);
    assert_eq!(out, "0\n0\n0\nend\n", "{err}");
    let read_only = err
        .lines()
        .filter(|line| line.contains("Read-only file system"))
        .count();
    assert_eq!(read_only, 4, "{err}");
}

#[test]
fn privileged_dev_is_ours() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    // What the image has there is not seen (S10).
    std::fs::create_dir(rig.image().join("dev")).unwrap();
    symlink(
        "/proc/sys/kernel/core_pattern",
        rig.image().join("dev/null"),
    )
    .unwrap();
    let (_, out, err) = rig.run_with("cd /dev; ls; stat -c '%n %t:%T %a' null zero tty fuse; readlink ptmx; readlink core; echo x > null; mount | grep ' /dev '", |bundle| {
        bundle["spec"]["linux"]["devices"] =
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 3, "gid": 4}]);
    });
    let names = "core\nfd\nfull\nfuse\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
    assert!(out.starts_with(names), "{out}{err}");
    assert!(
        out.contains("null 1:3 666\nzero 1:5 666\ntty 5:0 666\nfuse a:e5 660\n"),
        "{out}"
    );
    assert!(out.contains("pts/ptmx\n/proc/kcore\n"), "{out}");
    assert!(out.contains("nosuid"), "{out}");
}

#[test]
fn privileged_links_in_the_image_lead_nowhere_else() {
    if !is_privileged() {
        return;
    }
    // S6: each directory that something is mounted on, as each kind of link.
    let links = [
        ("absolute", "/elsewhere"),
        ("relative", "../../../elsewhere"),
        ("dangling", "/not/made/yet"),
        ("loop", "LOOP"),
        ("to-root", "/"),
    ];
    for directory in ["proc", "sys", "dev", "etc", "run", "data"] {
        for (name, target) in links {
            let rig = Rig::new();
            let place = rig.image().join(directory);
            let _ = std::fs::remove_dir_all(&place);
            let target = if target == "LOOP" {
                format!("/{directory}")
            } else {
                target.to_owned()
            };
            symlink(&target, &place).unwrap();
            let canary = rig.path().join("canary");
            std::fs::write(&canary, "untouched").unwrap();
            let before = mounts_of_the_machine();
            let mut running = rig.spawn("cat /run/secret /data/file; echo end", |bundle| {
                let mounts = bundle["spec"]["mounts"].as_array_mut().unwrap();
                for inside in ["/etc/hosts", "/run/secret", "/data/file"] {
                    mounts.push(json!({"destination": inside, "type": "bind", "source": canary, "options": ["bind", "ro"]}));
                }
            });
            let case = format!("/{directory} {name}");
            match running.next_event() {
                crate::shim::protocol::Event::Started(_) => {
                    running.exited();
                    running.release();
                }
                crate::shim::protocol::Event::StartFailed { failure } => {
                    // Refused by name, never by accident.
                    assert!(failure.message.contains("mount"), "{case}: {failure}");
                    running.assert_nothing_left();
                }
                other => panic!("{case}: {other:?}"),
            }
            assert_eq!(mounts_of_the_machine(), before, "{case}");
            assert_eq!(
                std::fs::read_to_string(&canary).unwrap(),
                "untouched",
                "{case}"
            );
            for stray in ["elsewhere", "not"] {
                assert!(!rig.path().join(stray).exists(), "{case}");
                assert!(!std::path::Path::new("/").join(stray).exists(), "{case}");
            }
            // The image is a lower layer: nothing may have been made in it.
            assert!(
                !rig.image().join("elsewhere").exists() && !rig.image().join("not").exists(),
                "{case}"
            );
        }
    }
}

fn mounts_of_the_machine() -> usize {
    // Colleagues of this process may mount, too; ours would carry these words.
    std::fs::read_to_string("/proc/1/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| {
            line.contains("canary")
                || line.contains("wharf-shim")
                || line.contains("overlay overlay")
        })
        .count()
}

#[test]
fn privileged_a_working_directory_cannot_lead_out() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    symlink("/proc/self/fd/7", rig.image().join("link")).unwrap();
    let mut paths: Vec<String> = (3..40).map(|fd| format!("/proc/self/fd/{fd}")).collect();
    paths.push("/proc/1/cwd".into());
    paths.push("/proc/1/root".into());
    paths.push("/link".into());
    for path in paths {
        let mut running = rig.spawn("pwd; ls -d /*", |bundle| {
            bundle["spec"]["process"]["cwd"] = json!(path)
        });
        match running.next_event() {
            crate::shim::protocol::Event::StartFailed { failure } => {
                assert!(
                    failure.message.contains("working directory"),
                    "{path}: {failure}"
                );
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    let failure = rig.fails(|bundle| bundle["spec"]["process"]["cwd"] = json!("relative"));
    assert_eq!(failure.kind, FailureKind::Invalid);
    let (_, out, _) = rig.run_with("pwd", |bundle| {
        bundle["spec"]["process"]["cwd"] = json!("/new/dir")
    });
    assert_eq!(out, "/new/dir\n");
}

#[test]
fn privileged_passwd_traps_end_at_once() {
    if !is_privileged() {
        return;
    }
    use rustix::fs::{CWD, FileType, Mode};
    let rig = Rig::new();
    let passwd = rig.image().join("etc/passwd");
    let start = |what: &str, fine: bool| {
        let mut running = rig.spawn("id -u", |bundle| bundle["user"] = json!("1000"));
        match running.next_event() {
            crate::shim::protocol::Event::Started(_) => {
                assert!(fine, "{what}");
                running.exited();
                assert_eq!(running.output().0, "1000\n");
                running.release();
            }
            other => assert!(!fine, "{what}: {other:?}"),
        }
    };
    std::fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(CWD, &passwd, FileType::Fifo, Mode::RUSR, 0).unwrap();
    start("fifo", false);
    std::fs::remove_file(&passwd).unwrap();
    symlink("/dev/zero", &passwd).unwrap();
    start("device", false);
    std::fs::remove_file(&passwd).unwrap();
    std::fs::File::create(&passwd)
        .unwrap()
        .set_len(5 << 30)
        .unwrap();
    start("sparse", false);
    std::fs::remove_file(&passwd).unwrap();
    std::fs::create_dir(rig.image().join("store")).unwrap();
    std::fs::write(rig.image().join("store/passwd"), "x:x:1000:1::/x:\n").unwrap();
    symlink("../store/passwd", &passwd).unwrap();
    start("link inside", true);
    std::fs::remove_file(&passwd).unwrap();
    start("none", true);
}

#[test]
fn privileged_binds_and_read_only_roots() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let shared = rig.path().join("shared");
    std::fs::create_dir_all(shared.join("sub")).unwrap();
    std::fs::write(shared.join("file"), "content").unwrap();
    let bind = |destination: &str, source: &std::path::Path, options: &[&str]| json!({"destination": destination, "type": "bind", "source": source, "options": options});
    let add = |bundle: &mut Value, mount: Value| {
        bundle["spec"]["mounts"].as_array_mut().unwrap().push(mount)
    };
    let (_, out, err) = rig.run_with("echo x > /ro/file; echo y > /rw/new; cat /one; touch /etc/x; touch /tmp/t && echo tmp; cat /run/secrets/s", |bundle| {
        add(bundle, bind("/ro", &shared, &["rbind", "ro", "rro"]));
        add(bundle, bind("/rw", &shared, &["rbind"]));
        add(bundle, bind("/one", &shared.join("file"), &["bind", "ro"]));
        add(bundle, json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777"]}));
        bundle["spec"]["root"]["readonly"] = json!(true);
        std::fs::write(rig.path().join("secret"), "hidden").unwrap();
        bundle["files"] = json!([{"source": rig.path().join("secret"), "target": "/run/secrets/s"}]);
    });
    assert_eq!(out, "contenttmp\nhidden", "{err}");
    assert_eq!(err.matches("Read-only file system").count(), 2, "{err}");
    assert_eq!(std::fs::read_to_string(shared.join("new")).unwrap(), "y\n");
    assert_eq!(
        std::fs::read_to_string(shared.join("file")).unwrap(),
        "content"
    );

    let failure = rig.fails(|bundle| {
        add(
            bundle,
            bind("/x", std::path::Path::new("/no/such/path"), &["rbind"]),
        )
    });
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (
            FailureKind::Invalid,
            "bind source path does not exist: /no/such/path"
        )
    );
    let failure = rig.fails(|bundle| add(bundle, bind("/x", &shared, &["rbind", "size=1m"])));
    assert_eq!(failure.kind, FailureKind::Invalid);
    let failure = rig.fails(|bundle| add(bundle, bind("/bin/busybox", &shared, &["rbind"])));
    assert!(
        failure.message.contains("create mount point /bin/busybox"),
        "{failure}"
    );
}

#[test]
fn privileged_namespaces_are_shared_by_path() {
    if !is_privileged() {
        return;
    }
    let rig = Rig::new();
    let mut first = rig.spawn("echo up; sleep 1000", |_| {});
    let pid = first.started().pid;
    let (record, out, err) = rig.run_with("ps; hostname; readlink /proc/self/ns/net", |bundle| {
        for namespace in bundle["spec"]["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
        {
            let name = match namespace["type"].as_str().unwrap() {
                "pid" => "pid",
                "network" => "net",
                "uts" => "uts",
                _ => continue,
            };
            namespace["path"] = json!(format!("/proc/{pid}/ns/{name}"));
        }
    });
    assert_eq!(record.code, 0, "{err}");
    assert!(
        out.contains("sleep 1000") && out.contains("\nbox\n"),
        "{out}{err}"
    );
    let net = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert!(out.contains(&net.to_string_lossy().into_owned()), "{out}");
    first.done(crate::shim::protocol::Call::Signal {
        signal: libc::SIGKILL,
        all: false,
    });
    first.exited();
    first.release();
}

#[test]
fn privileged_nothing_of_the_starter_is_inherited() {
    if !is_privileged() {
        return;
    }
    // S20: the same test again, under a shell that has every bad habit.
    if std::env::var_os("WHARF_TEST_ALONE").is_none() {
        let name = "shim::tests::hostile::privileged_nothing_of_the_starter_is_inherited";
        let script = format!(
            "trap '' INT PIPE CHLD USR1 HUP; umask 077; exec 7</etc/passwd 9</dev/null; \
             exec nice -n 7 taskset 1 /proc/$PPID/exe --exact {name} --nocapture"
        );
        let alone = std::process::Command::new("sh")
            .args(["-c", &script])
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
    let script = "cat /proc/self/status; cat /proc/self/stat; ls /proc/self/fd; env; cat /proc/self/oom_score_adj";
    let (_, out, _) = rig.run(script);
    for expected in [
        "SigIgn:\t0000000000000000",
        "SigBlk:\t0000000000000000",
        "Umask:\t0022",
        "\n0\n1\n2\n",
    ] {
        assert!(out.contains(expected), "{expected:?} is not in {out}");
    }
    assert!(!out.contains("WHARF_TEST_ALONE"), "{out}");
    assert!(out.ends_with("\n0\n"), "{out}");
    let stat = out.lines().find(|line| line.contains(" (cat) ")).unwrap();
    let nice = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(16)
        .unwrap();
    assert_eq!(nice, "0");
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert!(
        out.contains(&format!("Cpus_allowed_list:\t{}", online.trim())),
        "{out}"
    );
}

#[test]
fn privileged_a_race_for_a_mount_point_stays_inside() {
    if !is_privileged() {
        return;
    }
    use std::sync::atomic::{AtomicBool, Ordering};
    // S5: the parent of a mount point is exchanged with a link to the outside, again and again.
    let rig = Rig::new();
    let volume = rig.path().join("volume");
    let outside = rig.path().join("outside");
    std::fs::create_dir_all(volume.join("real")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (real, link) = (volume.join("real"), volume.join("link"));
                rustix::fs::renameat_with(rustix::fs::CWD, &real, rustix::fs::CWD, &link, flags)
                    .unwrap();
            }
        });
        let mut started = 0;
        for round in 0..100 {
            let mut running = rig.spawn("true", |bundle| {
                let mounts = bundle["spec"]["mounts"].as_array_mut().unwrap();
                mounts.push(json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}));
                let inner = format!("/volume/real/{round}/deep");
                mounts.push(json!({"destination": inner, "type": "tmpfs", "source": "tmpfs"}));
            });
            // A start may be refused; it may never reach the outside.
            if let crate::shim::protocol::Event::Started(_) = running.next_event() {
                started += 1;
                running.exited();
                running.release();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(started > 0);
    });
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside"
    );
}

#[test]
fn privileged_read_only_reaches_below_where_it_is_asked_to() {
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
    let nested = rig.path().join("source/nested");
    std::fs::create_dir_all(&nested).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &nested, "tmpfs", flags, c"").unwrap();
    let script = "for dir in all top none; do for place in . nested; do \
        touch /$dir/$place/x 2>/dev/null && echo $dir $place; done; done; touch /flat/nested/x && echo flat";
    let (_, out, _) = rig.run_with(script, |bundle| {
        let mounts = bundle["spec"]["mounts"].as_array_mut().unwrap();
        let cases: [(&str, &[&str]); 4] =
            [("all", &["rbind", "ro", "rro"]), ("top", &["rbind", "ro"]), ("none", &["rbind"]), ("flat", &["bind"])];
        for (name, options) in cases {
            let source = rig.path().join("source");
            mounts.push(json!({"destination": format!("/{name}"), "type": "bind", "source": source, "options": options}));
        }
    });
    assert_eq!(out, "top nested\nnone .\nnone nested\nflat\n");
    assert!(rig.path().join("source/nested/x").exists());
    rustix::mount::unmount(&nested, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(
        rig.path().join("source/nested/x").exists(),
        "a plain bind shows what is below the mount"
    );
}

#[test]
fn privileged_a_filter_that_denies_all_still_gives_a_reason() {
    if !is_privileged() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let program = rig.image().join("bin/broken");
    std::fs::write(&program, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let plain = rig.fails(|bundle| bundle["spec"]["process"]["args"] = json!(["broken"]));
    assert_eq!(
        (plain.kind, plain.message.as_str()),
        (
            FailureKind::CommandNotFound,
            "exec /bin/broken: no such file or directory"
        )
    );
    let strict = rig.fails(|bundle| {
        bundle["spec"]["process"]["args"] = json!(["broken"]);
        bundle["spec"]["process"]["noNewPrivileges"] = json!(true);
        bundle["spec"]["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
            "syscalls": [{"names": ["execve", "exit", "exit_group"], "action": "SCMP_ACT_ALLOW"}],
        });
    });
    assert_eq!(
        (strict.kind, strict.errno),
        (FailureKind::CommandNotFound, libc::ENOENT),
        "{strict}"
    );
}
