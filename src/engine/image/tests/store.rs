//! Images made present, found again, healed and removed.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::archives::*;
use super::*;
use crate::engine::image::{Image, ImageError, ImageUser, Images, Loaded, Reference, SourceError};
use crate::engine::store::{Store, Table};

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    images: Images,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.redb")).unwrap();
        let images = Images::open(&dir.path().join("data"), store.clone()).unwrap();
        Bench { dir, store, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn reference(&self, scheme: &str, name: &str) -> Reference {
        Reference::parse(&format!("{scheme}:{}/{name}", self.dir.path().display())).unwrap()
    }

    fn ensure(&self, reference: &Reference) -> Result<Image, ImageError> {
        self.images.ensure(reference, None, None, |_| ())
    }

    fn load(&self, name: &str) -> Result<Vec<Loaded>, ImageError> {
        let file = std::fs::File::open(self.path(name)).unwrap();
        self.images.load(file, None, &|_| ())
    }

    fn names(&self, sub: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path("data").join(sub))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn layout(&self, name: &str, sample: &Sample) {
        let mut members = Members::new();
        let image = add_image(&mut members, sample, &[gzip, zstd_compressed]);
        set_index(&mut members, &[named(image, "v1")]);
        write_dir(&members, &self.path(name));
    }
}

fn check_content(image: &Image, mark: &str) {
    let view = crate::sys::detached::view_layers(&image.layers).unwrap();
    let read = |path: &str| {
        beneath::open_in_root(view.as_fd(), Path::new(path), rustix::fs::OFlags::RDONLY)
            .map(|fd| std::io::read_to_string(std::fs::File::from(fd)).unwrap())
    };
    assert_eq!(read("etc/base").unwrap(), "base");
    assert_eq!(read("mark").unwrap(), mark);
    assert!(read("etc/old").is_err());
    let inner = image.config.config().clone().unwrap();
    assert_eq!(inner.labels().clone().unwrap().len(), 1);
}

#[test]
fn a_directory_is_an_image() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("root")).unwrap();
    let reference = bench.reference("rootfs", "root");
    let image = bench.ensure(&reference).unwrap();
    let again = bench.ensure(&reference).unwrap();
    assert_eq!(image.id, again.id);
    assert_eq!(image.layers, [bench.path("root").canonicalize().unwrap()]);
    let env = image
        .config
        .config()
        .clone()
        .unwrap()
        .env()
        .clone()
        .unwrap();
    assert!(env[0].starts_with("PATH=/"));
    let host = bench
        .ensure(&Reference::parse("rootfs:/").unwrap())
        .unwrap();
    assert_eq!(host.layers, [Path::new("/")]);
    assert_ne!(host.id, image.id);
    assert!(matches!(
        bench.ensure(&bench.reference("rootfs", "missing")),
        Err(ImageError::Rootfs { .. })
    ));
    bench
        .images
        .remove(&reference.to_string(), false, &[])
        .unwrap();
    assert!(bench.path("root").is_dir());
}

#[test]
fn every_format_gives_the_same_image() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let sample = sample("one");
    bench.layout("layout", &sample);
    let mut members = Members::new();
    let image = add_image(&mut members, &sample, &[plain]);
    set_index(&mut members, &[image]);
    std::fs::write(bench.path("oci.tar"), write_tar(&members)).unwrap();
    let old = old_docker_archive(&sample, &["example.com/x:1"]);
    std::fs::write(bench.path("old.tar"), &old).unwrap();
    std::fs::write(bench.path("old.tar.gz"), gzip(&old)).unwrap();
    let new = new_docker_archive(&[(&sample, None)]);
    std::fs::write(bench.path("new.tar"), new).unwrap();
    let id = Digest::of(&sample.config).to_string();
    for (scheme, name) in [
        ("oci", "layout:v1"),
        ("oci", "layout"),
        ("oci-archive", "oci.tar"),
        ("docker-archive", "old.tar"),
        ("docker-archive", "old.tar:example.com/x:1"),
        ("docker-archive", "old.tar.gz"),
        ("docker-archive", "new.tar"),
    ] {
        let image = bench.ensure(&bench.reference(scheme, name)).unwrap();
        assert_eq!(image.id.to_string(), id, "{name}");
        check_content(&image, "one");
    }
    // Content is there once, however many names it has.
    assert_eq!(bench.names("snapshots").len(), 2);
    assert!(bench.names("staging").is_empty());
    let list = bench.images.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].references.len(), 7);
    assert_eq!(bench.images.get(&id[..20]).unwrap().id.to_string(), id);
}

#[test]
fn an_unchanged_archive_is_not_read_again_and_a_changed_one_is() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let path = bench.path("a.tar");
    std::fs::write(&path, new_docker_archive(&[(&sample("one"), None)])).unwrap();
    let reference = bench.reference("docker-archive", "a.tar");
    let n_reports = AtomicUsize::new(0);
    let ensure = || {
        bench
            .images
            .ensure(&reference, Some("always"), None, |_| {
                n_reports.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap()
    };
    let first = ensure();
    assert!(n_reports.swap(0, Ordering::Relaxed) > 0);
    assert_eq!(ensure().id, first.id);
    assert_eq!(n_reports.load(Ordering::Relaxed), 0);
    std::fs::write(&path, new_docker_archive(&[(&sample("two"), None)])).unwrap();
    let second = ensure();
    assert_ne!(second.id, first.id);
    check_content(&second, "two");
    // A layer that vanished from the disk is unpacked again.
    std::fs::remove_dir_all(&second.layers[0]).unwrap();
    check_content(&ensure(), "two");
    // So is a config that was damaged.
    let blob = bench
        .path("data/blobs/sha256")
        .join(second.id.digest().hex());
    std::fs::write(&blob, b"{}").unwrap();
    assert!(bench.images.get(&second.id.to_string()).is_err());
    check_content(&ensure(), "two");
}

#[test]
fn platforms_and_tags_are_chosen() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let mut members = Members::new();
    let here = add_image(&mut members, &sample("here"), &[gzip]);
    let there = add_image(&mut members, &sample_for("there", "s390x"), &[gzip]);
    let index = nested(&mut members, &[(there, "s390x"), (here, architecture())]);
    let other = add_image(&mut members, &sample("other"), &[gzip]);
    set_index(
        &mut members,
        &[
            named(index, "multi"),
            named(other, "docker.io/library/other:2"),
        ],
    );
    write_dir(&members, &bench.path("layout"));
    let multi = bench.reference("oci", "layout:multi");
    check_content(&bench.ensure(&multi).unwrap(), "here");
    let there = bench
        .images
        .ensure(&multi, None, Some("linux/s390x"), |_| ());
    check_content(&there.unwrap(), "there");
    check_content(
        &bench
            .ensure(&bench.reference("oci", "layout:other:2"))
            .unwrap(),
        "other",
    );
    let missing = bench
        .images
        .ensure(&multi, None, Some("linux/riscv64"), |_| ());
    assert!(matches!(
        missing,
        Err(ImageError::Source(SourceError::NoPlatform { .. }))
    ));
    let error = bench.ensure(&bench.reference("oci", "layout")).unwrap_err();
    assert!(error.to_string().contains("multi"), "{error}");
    let error = bench
        .ensure(&bench.reference("oci", "layout:v9"))
        .unwrap_err();
    assert!(matches!(
        error,
        ImageError::Source(SourceError::NoTag { .. })
    ));
}

#[test]
fn what_does_not_match_its_digest_leaves_nothing() {
    if !is_root() {
        return;
    }
    let sample = sample("one");
    // Each blob of the layout in turn with one bit flipped, cut short, and too long.
    let mut members = Members::new();
    let image = add_image(&mut members, &sample, &[gzip]);
    set_index(&mut members, &[image]);
    let blobs: Vec<String> = members
        .keys()
        .filter(|name| name.starts_with("blobs/"))
        .cloned()
        .collect();
    assert_eq!(blobs.len(), 4);
    for name in &blobs {
        let changes: [fn(&mut Vec<u8>); 3] = [
            |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            },
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes.push(0),
        ];
        for change in changes {
            let bench = Bench::new();
            let mut members = members.clone();
            change(members.get_mut(name).unwrap());
            write_dir(&members, &bench.path("layout"));
            bench.ensure(&bench.reference("oci", "layout")).unwrap_err();
            assert!(bench.names("snapshots").is_empty(), "{name}");
            assert!(bench.names("blobs/sha256").is_empty(), "{name}");
            assert!(bench.names("staging").is_empty(), "{name}");
            assert!(bench.images.list().unwrap().is_empty());
        }
    }
}

#[test]
fn a_document_that_is_two_things_is_refused() {
    let bench = Bench::new();
    let mut members = Members::new();
    let image = add_image(&mut members, &sample("one"), &[gzip]);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [image], "layers": []});
    members.insert("index.json".to_owned(), index.to_string().into_bytes());
    write_dir(&members, &bench.path("layout"));
    let error = bench.ensure(&bench.reference("oci", "layout")).unwrap_err();
    assert!(matches!(
        error,
        ImageError::Source(SourceError::Ambiguous { .. })
    ));
    let evil = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:../../x", "size": 1}
    ]});
    std::fs::write(bench.path("layout/index.json"), evil.to_string()).unwrap();
    bench.ensure(&bench.reference("oci", "layout")).unwrap_err();
}

#[test]
fn removal_follows_names_users_and_shared_layers() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let (one, two) = (sample("one"), sample("two"));
    let archive = new_docker_archive(&[(&one, Some("one:1")), (&two, Some("two:1"))]);
    std::fs::write(bench.path("a.tar"), archive).unwrap();
    let loaded = bench.load("a.tar").unwrap();
    let names: Vec<&str> = loaded
        .iter()
        .flat_map(|one| &one.names)
        .map(|n| &**n)
        .collect();
    assert_eq!(names, ["one:1", "two:1"]);
    let present = bench.ensure(&Reference::parse("one:1").unwrap()).unwrap();
    check_content(&present, "one");
    // One shared base layer and a top layer each.
    assert_eq!(bench.names("snapshots").len(), 3);
    assert_eq!(bench.names("recipes"), bench.names("snapshots"));
    bench
        .images
        .tag("one:1", &Reference::parse("mine:x").unwrap())
        .unwrap();
    let user = |is_running| {
        [ImageUser {
            image_id: present.id.to_string(),
            container: "web-1".to_owned(),
            is_running,
        }]
    };
    // A further name goes whoever uses the image.
    let untagged = bench.images.remove("mine:x", false, &user(true)).unwrap();
    assert_eq!(untagged.untagged, ["mine:x"]);
    assert!(untagged.deleted.is_empty());
    // The last one stays, and the image does by its id, even by force while it runs.
    for (name, force, users) in [
        ("one:1", false, user(true)),
        ("one:1", false, user(false)),
        (&present.id.to_string(), false, user(false)),
        (&present.id.to_string(), true, user(true)),
    ] {
        let refused = bench.images.remove(name, force, &users);
        assert!(
            matches!(refused, Err(ImageError::InUse { .. })),
            "{name} {force}"
        );
    }
    // By force and name the name goes, and what runs keeps the image.
    let untagged = bench.images.remove("one:1", true, &user(true)).unwrap();
    assert_eq!(untagged.untagged, ["one:1"]);
    assert!(untagged.deleted.is_empty());
    assert_eq!(bench.images.facts().unwrap().len(), 2);
    // By force a stopped container loses sight of its image, not the image.
    let removed = bench
        .images
        .remove(&present.id.to_string(), true, &user(false))
        .unwrap();
    assert_eq!(removed.deleted, [present.id.to_string()]);
    assert_eq!(bench.images.facts().unwrap().len(), 1);
    assert!(bench.images.get(present.id.digest().short()).is_err());
    check_content(&bench.images.get(&present.id.to_string()).unwrap(), "one");
    assert_eq!(bench.names("snapshots").len(), 3);
    // When the container is gone its layers go with the next removal.
    let swept = bench.images.prune(&[], |_| false).unwrap();
    assert_eq!(swept.deleted.len(), 1);
    assert!(swept.reclaimed >= 4096, "{}", swept.reclaimed);
    assert_eq!(bench.names("snapshots").len(), 2);
    check_content(&bench.images.get("two:1").unwrap(), "two");
    bench.images.remove("two:1", false, &[]).unwrap();
    for place in ["snapshots", "recipes", "blobs/sha256", "staging"] {
        assert!(bench.names(place).is_empty(), "{place}");
    }
    assert!(matches!(
        bench.images.remove("two:1", false, &[]),
        Err(ImageError::NotFound { .. })
    ));
    let gone = Reference::parse("one:1").unwrap();
    let error = bench.images.ensure(&gone, Some("never"), None, |_| ());
    let error = error.unwrap_err();
    assert!(matches!(error, ImageError::NotPresent { .. }), "{error}");
    assert!(error.hint().unwrap().contains("wharf image pull one:1"));
}

#[test]
fn a_start_removes_what_a_crash_left() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.layout("layout", &sample("one"));
    let image = bench.ensure(&bench.reference("oci", "layout:v1")).unwrap();
    let stray = "0".repeat(64);
    std::fs::create_dir_all(bench.path("data/staging/layer-7/deep/er")).unwrap();
    std::fs::create_dir_all(bench.path("data/snapshots").join(&stray)).unwrap();
    std::fs::write(bench.path("data/blobs/sha256").join(&stray), "x").unwrap();
    let images = Images::open(&bench.path("data"), bench.store.clone()).unwrap();
    assert!(bench.names("staging").is_empty());
    assert_eq!(bench.names("snapshots").len(), 2);
    assert_eq!(bench.names("blobs/sha256").len(), 2);
    check_content(&images.get(&image.id.to_string()).unwrap(), "one");
    let mode = std::fs::metadata(bench.path("data/snapshots"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn callers_at_once_unpack_once() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.layout("layout", &sample("one"));
    let reference = bench.reference("oci", "layout:v1");
    let n_read = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let report = |progress: crate::reconcile::ImageProgress| {
                    if progress.status == "reading" {
                        n_read.fetch_add(1, Ordering::Relaxed);
                    }
                };
                let image = bench.images.ensure(&reference, None, None, report).unwrap();
                check_content(&image, "one");
            });
        }
    });
    assert_eq!(n_read.load(Ordering::Relaxed), 1);
    let snapshots: Vec<(String, serde_json::Value)> = bench.store.list(Table::Snapshots).unwrap();
    assert_eq!(snapshots.len(), 2);
}

#[test]
fn an_archive_that_is_no_file_does_not_block() {
    let bench = Bench::new();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, bench.path("fifo"), fifo, mode, 0).unwrap();
    std::fs::create_dir(bench.path("dir")).unwrap();
    for name in ["fifo", "dir", "missing"] {
        let error = bench
            .ensure(&bench.reference("docker-archive", name))
            .unwrap_err();
        assert!(
            matches!(error, ImageError::Source(SourceError::Open { .. })),
            "{error}"
        );
    }
}

#[test]
fn many_layers_work_and_too_many_are_refused_before_they_are_read() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    let image = |n_layers: usize| {
        let layers: Vec<Vec<u8>> = (0..n_layers)
            .map(|n| {
                let mut tar = Tar::default();
                tar.file(format!("f{n}"), b"")
                    .file("top", n.to_string().as_bytes());
                tar.finish()
            })
            .collect();
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|tar| Digest::of(tar).to_string())
            .collect();
        let config = serde_json::json!({
            "architecture": architecture(), "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Sample {
            layers,
            config: config.to_string().into_bytes(),
        }
    };
    let archive = |sample: &Sample| new_docker_archive(&[(sample, None)]);
    // Docker's limit, and the kernel's.
    for n_layers in [127, 128, 499, 500] {
        let name = format!("{n_layers}.tar");
        std::fs::write(bench.path(&name), archive(&image(n_layers))).unwrap();
        let made = bench.ensure(&bench.reference("docker-archive", &name));
        let made = made.unwrap();
        assert_eq!(made.layers.len(), n_layers);
        let view = crate::sys::detached::view_layers(&made.layers).unwrap();
        assert_eq!(beneath::names(view.as_fd()).unwrap().len(), n_layers + 1);
    }
    std::fs::write(bench.path("501.tar"), archive(&image(501))).unwrap();
    assert!(matches!(
        bench.ensure(&bench.reference("docker-archive", "501.tar")),
        Err(ImageError::Source(SourceError::TooManyLayers {
            n_layers: 501
        }))
    ));
    // An image without layers still has something to stack.
    std::fs::write(bench.path("0.tar"), archive(&image(0))).unwrap();
    let empty = bench
        .ensure(&bench.reference("docker-archive", "0.tar"))
        .unwrap();
    assert_eq!(empty.layers.len(), 1);
    assert!(empty.layers[0].is_dir());
}

#[test]
fn what_is_saved_is_what_was_loaded() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.layout("layout", &sample("one"));
    let image = bench.ensure(&bench.reference("oci", "layout:v1")).unwrap();
    let name = Reference::parse("one:1").unwrap();
    bench.images.tag(&image.id.to_string(), &name).unwrap();
    bench
        .images
        .tag(&image.id.to_string(), &Reference::parse("one:2").unwrap())
        .unwrap();
    let save = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let saving = bench.images.saving(&names).unwrap();
        let mut bytes = Vec::new();
        saving.write(&mut bytes).unwrap();
        bytes
    };
    // By name, by repository and by id: the same content under other names.
    let (by_name, by_repository) = (save(&["one:1"]), save(&["one"]));
    let by_id = save(&[&image.id.to_string()]);
    assert!(by_name == save(&["one:1", "one:1"]) && by_name != by_repository);
    for (bytes, n_names) in [(by_name, 1), (by_repository, 2), (by_id, 0)] {
        let other = Bench::new();
        std::fs::write(other.path("saved.tar"), bytes).unwrap();
        let loaded = other.load("saved.tar").unwrap();
        assert_eq!((loaded.len(), loaded[0].names.len()), (1, n_names));
        let loaded = other.images.get(&loaded[0].id).unwrap();
        assert_eq!(loaded.id, image.id);
        check_content(&loaded, "one");
        for scheme in ["docker-archive", "oci-archive"] {
            let reference = other.reference(scheme, "saved.tar");
            // With two names the OCI index has two entries, of which one has to be chosen.
            if n_names < 2 || scheme == "docker-archive" {
                assert_eq!(other.ensure(&reference).unwrap().id, image.id);
            }
        }
    }
    for name in ["missing", "rootfs:/"] {
        assert!(bench.images.saving(&[name.to_owned()]).is_err());
    }
}

#[test]
fn leases_outlive_the_image_and_die_with_their_owner() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    bench.layout("layout", &sample("one"));
    let image = bench.ensure(&bench.reference("oci", "layout:v1")).unwrap();
    let saving = bench.images.saving(&[image.id.to_string()]).unwrap();
    // The image goes while it is being saved: its content stays until that is done.
    bench
        .images
        .remove(&image.id.to_string(), false, &[])
        .unwrap();
    let mut bytes = Vec::new();
    saving.write(&mut bytes).unwrap();
    assert!(bytes.len() > 4096);
    assert_eq!(bench.names("snapshots").len(), 2);
    drop(saving);
    bench.images.prune(&[], |_| true).unwrap();
    assert!(bench.names("snapshots").is_empty());
    // An engine that dies takes its leases along.
    let image = bench.ensure(&bench.reference("oci", "layout:v1")).unwrap();
    let saving = bench.images.saving(&[image.id.to_string()]).unwrap();
    bench
        .images
        .remove(&image.id.to_string(), false, &[])
        .unwrap();
    std::mem::forget(saving);
    let next = Images::open(&bench.path("data"), bench.store.clone()).unwrap();
    assert!(
        next.facts()
            .unwrap()
            .iter()
            .all(|facts| facts.is_dangling())
    );
    next.prune(&[], |_| true).unwrap();
    assert!(bench.names("snapshots").is_empty() && bench.names("blobs/sha256").is_empty());
}

#[test]
fn a_layer_is_published_in_an_order_that_survives_a_power_cut() {
    if !is_root() {
        return;
    }
    // What a crash can leave after any step of an installation, on top of a whole image: the next
    // start takes it away, and the image is there.
    let bench = Bench::new();
    bench.layout("layout", &sample("one"));
    let reference = bench.reference("oci", "layout:v1");
    let image = bench.ensure(&reference).unwrap();
    let hex = "1".repeat(64);
    type Step = fn(&Path, &str);
    let steps: [Step; 5] = [
        |data, _| std::fs::create_dir_all(data.join("staging/layer-9/etc")).unwrap(),
        |data, _| std::fs::write(data.join("staging/layer-9.recipe"), "half").unwrap(),
        |data, hex| std::fs::write(data.join("recipes").join(hex), "whole").unwrap(),
        |data, hex| std::fs::create_dir(data.join("snapshots").join(hex)).unwrap(),
        |data, hex| std::fs::write(data.join("blobs/sha256").join(hex), "{}").unwrap(),
    ];
    for n in 0..=steps.len() {
        for step in &steps[..n] {
            step(&bench.path("data"), &hex);
        }
        let next = Images::open(&bench.path("data"), bench.store.clone()).unwrap();
        for (place, n) in [
            ("staging", 0),
            ("recipes", 2),
            ("snapshots", 2),
            ("blobs/sha256", 2),
        ] {
            assert_eq!(bench.names(place).len(), n, "{place}");
        }
        check_content(&next.get(&image.id.to_string()).unwrap(), "one");
    }
    // A layer that has its name but no record is never used as it is: it is replaced.
    let top = image.layers[0]
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    std::fs::write(image.layers[0].join("mark"), "from a crash").unwrap();
    bench
        .store
        .remove(Table::Snapshots, &format!("sha256:{top}"))
        .unwrap();
    let saved = bench.images.check(&[image.id.to_string()], &[]).unwrap();
    assert_eq!(saved[0].healed.len(), 1, "{saved:?}");
    check_content(&bench.ensure(&reference).unwrap(), "one");
}
