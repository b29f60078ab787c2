//! Volumes on a real file system: life, first use, and crashes in between.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::populate::{DATA, FLAG, READY, STAGING};
use super::*;

/// Whether the test can run; owners, devices and mounts need root.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let _ = std::io::stderr().write_all(b"skipped: this test needs root\n");
    }
    is_root
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    volumes: Volumes,
}

fn config(name: &str) -> VolumeConfig {
    VolumeConfig {
        name: name.to_owned(),
        ..VolumeConfig::default()
    }
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.redb")).unwrap();
        let volumes = Volumes::open(dir.path(), store.clone()).unwrap();
        Bench {
            dir,
            store,
            volumes,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn volume(&self, name: &str, part: &str) -> PathBuf {
        self.path("volumes").join(name).join(part)
    }

    /// Two layers: the upper one hides one file of the lower and adds another.
    fn image(&self) -> Vec<PathBuf> {
        let (upper, lower) = (self.path("upper"), self.path("lower"));
        let data = lower.join("var/lib/db");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::create_dir_all(upper.join("var/lib/db")).unwrap();
        std::fs::write(data.join("hidden"), "hidden").unwrap();
        std::fs::write(data.join("sub/file"), "content").unwrap();
        chown(data.join("sub/file"), Some(70), Some(71)).unwrap();
        std::fs::set_permissions(
            data.join("sub/file"),
            std::fs::Permissions::from_mode(0o4711),
        )
        .unwrap();
        std::fs::hard_link(data.join("sub/file"), data.join("link")).unwrap();
        symlink("../../etc/passwd", data.join("symlink")).unwrap();
        rustix::fs::setxattr(
            data.join("sub"),
            "user.note",
            b"kept",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, data.join("fifo"), fifo, Mode::RWXU, 0).unwrap();
        let character = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            data.join("null"),
            character,
            Mode::RWXU,
            rustix::fs::makedev(1, 3),
        )
        .unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            upper.join("var/lib/db/hidden"),
            character,
            Mode::empty(),
            0,
        )
        .unwrap();
        std::fs::write(upper.join("var/lib/db/new"), "new").unwrap();
        // The directory as the container sees it is the upper layer's.
        chown(upper.join("var/lib/db"), Some(999), Some(998)).unwrap();
        std::fs::set_permissions(
            upper.join("var/lib/db"),
            std::fs::Permissions::from_mode(0o2770),
        )
        .unwrap();
        symlink("/var/lib/db", upper.join("alias")).unwrap();
        vec![upper, lower]
    }

    fn check_content(&self, name: &str) {
        let data = self.volume(name, DATA);
        let names = |dir: &Path| {
            let mut names: Vec<String> = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(&data),
            ["fifo", "link", "new", "null", "sub", "symlink"]
        );
        let stat = |name: &str| std::fs::symlink_metadata(data.join(name)).unwrap();
        let root = std::fs::metadata(&data).unwrap();
        assert_eq!(
            (root.uid(), root.gid(), root.mode() & 0o7777),
            (999, 998, 0o2770)
        );
        let file = stat("sub/file");
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o7777),
            (70, 71, 0o4711)
        );
        assert_eq!((file.ino(), file.nlink()), (stat("link").ino(), 2));
        let original = std::fs::metadata(self.path("lower/var/lib/db/sub/file")).unwrap();
        assert_eq!(
            (file.mtime(), file.mtime_nsec()),
            (original.mtime(), original.mtime_nsec())
        );
        assert!(stat("fifo").file_type().is_fifo());
        assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
        assert_eq!(
            std::fs::read_link(data.join("symlink")).unwrap(),
            Path::new("../../etc/passwd")
        );
        let mut value = [0; 16];
        let n = rustix::fs::getxattr(data.join("sub"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..n], b"kept");
        assert_eq!(names(&self.path("volumes").join(name)), [DATA, FLAG]);
    }
}

#[test]
fn a_volume_is_made_once_found_and_removed() {
    let bench = Bench::new();
    let mut wanted = config("demo_data");
    wanted.labels.insert("a".to_owned(), "b".to_owned());
    let made = bench.volumes.create(&wanted).unwrap();
    let data = bench.volume("demo_data", DATA);
    assert_eq!(made.mount, VolumeMount::Directory(data.clone()));
    assert_eq!(made.driver, "local");
    std::fs::write(data.join("f"), "precious").unwrap();
    assert_eq!(bench.volumes.create(&config("demo_data")).unwrap(), made);
    assert_eq!(bench.volumes.list().unwrap(), [made]);
    assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o755);
    assert_eq!(
        std::fs::metadata(bench.path("volumes")).unwrap().mode() & 0o777,
        0o700
    );
    let users = ["web-1".to_owned()];
    assert!(matches!(
        bench.volumes.remove("demo_data", &users),
        Err(VolumeError::InUse { .. })
    ));
    assert!(data.join("f").exists());
    bench.volumes.remove("demo_data", &[]).unwrap();
    assert!(!bench.path("volumes/demo_data").exists());
    assert!(matches!(
        bench.volumes.remove("demo_data", &[]),
        Err(VolumeError::NotFound { .. })
    ));
    assert!(bench.volumes.list().unwrap().is_empty());
    bench.volumes.create(&config("demo_data")).unwrap();
    assert!(!data.join("f").exists());
}

#[test]
fn names_and_drivers_are_checked() {
    let bench = Bench::new();
    for name in ["", "a", "../x", ".hidden", "a/b", "a b", &"x".repeat(300)] {
        assert!(
            matches!(
                bench.volumes.create(&config(name)),
                Err(VolumeError::Name { .. })
            ),
            "{name:?}"
        );
    }
    let anonymous = Volumes::anonymous_name().unwrap();
    assert!(Volumes::is_anonymous_name(&anonymous));
    bench.volumes.create(&config(&anonymous)).unwrap();
    let mut other = config("other");
    other.driver = "rexray".to_owned();
    assert!(matches!(
        bench.volumes.create(&other),
        Err(VolumeError::Driver { .. })
    ));
    other.name = anonymous;
    assert!(matches!(
        bench.volumes.create(&other),
        Err(VolumeError::OtherDriver { .. })
    ));
    let mut mounted = config("mounted");
    mounted.driver_opts = BTreeMap::from([
        ("type".to_owned(), "tmpfs".to_owned()),
        ("device".to_owned(), "tmpfs".to_owned()),
    ]);
    bench.volumes.create(&mounted).unwrap();
    assert!(matches!(
        bench.volumes.path("mounted").unwrap(),
        VolumeMount::Mount { .. }
    ));
}

#[test]
fn an_interrupted_removal_is_finished_and_other_data_is_kept() {
    let bench = Bench::new();
    bench.volumes.create(&config("going")).unwrap();
    bench.volumes.create(&config("kept")).unwrap();
    std::fs::write(bench.volume("kept", "_data/f"), "precious").unwrap();
    std::fs::create_dir_all(bench.volume("orphan", DATA)).unwrap();
    std::fs::write(bench.volume("orphan", "_data/f"), "precious").unwrap();
    std::fs::rename(
        bench.path("volumes/going"),
        bench.path("volumes/.removing-going"),
    )
    .unwrap();
    let volumes = Volumes::open(bench.dir.path(), bench.store.clone()).unwrap();
    let names: Vec<String> = volumes
        .list()
        .unwrap()
        .into_iter()
        .map(|v| v.name)
        .collect();
    assert_eq!(names, ["kept"]);
    assert!(!bench.path("volumes/.removing-going").exists());
    volumes.create(&config("orphan")).unwrap();
    for name in ["kept", "orphan"] {
        assert_eq!(
            std::fs::read(bench.volume(name, "_data/f")).unwrap(),
            b"precious"
        );
    }
    // Removed and made again before the rubbish was gone: the new one stays.
    std::fs::create_dir(bench.path("volumes/.removing-kept")).unwrap();
    let volumes = Volumes::open(bench.dir.path(), bench.store.clone()).unwrap();
    assert!(volumes.get("kept").is_ok());
    assert!(bench.volume("kept", "_data/f").exists());
}

#[test]
fn the_first_use_copies_and_the_second_does_not() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let layers = bench.image();
    for (name, target) in [("direct", "/var/lib/db"), ("linked", "/alias")] {
        bench.volumes.create(&config(name)).unwrap();
        let populate = || bench.volumes.populate(name, &layers, Path::new(target));
        assert_eq!(populate().unwrap(), Populated::Copied);
        bench.check_content(name);
        std::fs::remove_file(bench.volume(name, "_data/new")).unwrap();
        assert_eq!(populate().unwrap(), Populated::NotWanted);
        assert!(!bench.volume(name, "_data/new").exists());
    }
}

#[test]
fn what_has_content_or_no_source_is_left_alone() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let layers = bench.image();
    bench.volumes.create(&config("used")).unwrap();
    std::fs::write(bench.volume("used", "_data/mine"), "x").unwrap();
    let target = Path::new("/var/lib/db");
    let done = bench.volumes.populate("used", &layers, target).unwrap();
    assert_eq!(done, Populated::NotWanted);
    assert!(!bench.volume("used", "_data/new").exists());
    // Emptied later by its owner: still not a first use.
    std::fs::remove_file(bench.volume("used", "_data/mine")).unwrap();
    let done = bench.volumes.populate("used", &layers, target).unwrap();
    assert_eq!(done, Populated::NotWanted);
    // Absent, a file, and a symlink that points outside the image (CVE-2022-23648).
    std::fs::create_dir(bench.path("secret")).unwrap();
    std::fs::write(bench.path("secret/key"), "x").unwrap();
    symlink(bench.path("secret"), bench.path("upper/out")).unwrap();
    symlink("../../../../../../../../..", bench.path("upper/up")).unwrap();
    for (name, target) in [
        ("n1", "/nowhere"),
        ("n2", "/var/lib/db/new"),
        ("n3", "/out"),
    ] {
        bench.volumes.create(&config(name)).unwrap();
        let done = bench.volumes.populate(name, &layers, Path::new(target));
        assert_eq!(done.unwrap(), Populated::NotWanted, "{target}");
        let data = std::fs::read_dir(bench.volume(name, DATA)).unwrap();
        assert_eq!(data.count(), 0);
    }
    bench.volumes.create(&config("up")).unwrap();
    bench
        .volumes
        .populate("up", &layers, Path::new("/up"))
        .unwrap();
    assert!(bench.volume("up", "_data/var/lib/db/new").is_file());
}

#[test]
fn a_crash_at_any_step_is_repaired() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let layers = bench.image();
    let target = Path::new("/var/lib/db");
    let populate = |name: &str| bench.volumes.populate(name, &layers, target).unwrap();

    // While copying: staging is there, with anything in it.
    bench.volumes.create(&config("copying")).unwrap();
    std::fs::create_dir_all(bench.volume("copying", STAGING).join("half/of")).unwrap();
    assert_eq!(populate("copying"), Populated::Copied);
    bench.check_content("copying");

    // After the copy became valid, with 0, 1, … entries moved, and before the flag.
    for n_moved in 0..=6 {
        let name = format!("moving{n_moved}");
        bench.volumes.create(&config(&name)).unwrap();
        let dir = beneath::open_root(&bench.path("volumes").join(&name)).unwrap();
        let view = crate::sys::detached::view_layers(&layers).unwrap();
        let source = beneath::open_in_root(
            view.as_fd(),
            target,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY,
        )
        .unwrap();
        let staging = super::populate::make_staging(dir.as_fd()).unwrap();
        crate::engine::image::copy::Copier::new(staging)
            .copy_root(source.as_fd())
            .unwrap();
        super::populate::publish(dir.as_fd()).unwrap();
        let ready = bench.volume(&name, READY);
        for entry in beneath::names(beneath::open_root(&ready).unwrap().as_fd())
            .unwrap()
            .iter()
            .take(n_moved)
        {
            let data = bench.volume(&name, DATA);
            std::fs::rename(ready.join(entry), data.join(entry)).unwrap();
        }
        assert_eq!(populate(&name), Populated::Copied);
        bench.check_content(&name);
    }
}

#[test]
fn two_containers_at_once_fill_a_volume_once() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let layers = bench.image();
    bench.volumes.create(&config("shared")).unwrap();
    let n_copied = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let target = Path::new("/var/lib/db");
                let done = bench.volumes.populate("shared", &layers, target).unwrap();
                if done == Populated::Copied {
                    n_copied.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                bench.check_content("shared");
            });
        }
    });
    assert_eq!(n_copied.into_inner(), 1);
}

#[test]
fn a_failing_copy_leaves_the_volume_for_the_next_try() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let lower = bench.path("deep");
    std::fs::create_dir_all(lower.join("data")).unwrap();
    let mut at = beneath::open_root(&lower.join("data")).unwrap();
    for _ in 0..300 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = beneath::open_child_directory(at.as_fd(), OsStr::new("d")).unwrap();
    }
    bench.volumes.create(&config("deep")).unwrap();
    let populate = || {
        let layers = std::slice::from_ref(&lower);
        bench.volumes.populate("deep", layers, Path::new("/data"))
    };
    assert!(matches!(
        populate(),
        Err(VolumeError::Populate(PopulateError::Copy(_)))
    ));
    assert!(!bench.volume("deep", STAGING).exists());
    assert!(!bench.volume("deep", FLAG).exists());
    let dir = beneath::open_root(&lower.join("data")).unwrap();
    beneath::remove_tree(dir.as_fd(), OsStr::new("d")).unwrap();
    std::fs::write(lower.join("data/f"), "x").unwrap();
    assert_eq!(populate().unwrap(), Populated::Copied);
    assert!(bench.volume("deep", "_data/f").is_file());
}
