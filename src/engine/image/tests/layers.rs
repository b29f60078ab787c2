//! What a layer looks like on disk, and stacked.

use std::os::unix::fs::FileTypeExt;

use super::*;
use crate::engine::image::copy::Copier;
use crate::engine::image::fuzzing;

#[test]
fn metadata_is_kept() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("layer");
    let mut tar = Tar::default();
    tar.add(Spec {
        path: b"suid",
        mode: 0o4755,
        owner: (70_000, 80_000),
        data: b"x",
        ..Spec::default()
    });
    tar.pax(&[("mtime", b"1234567890.123456789")])
        .dir("sticky", 0o1777);
    tar.file("sticky/later", b"changes the directory's time");
    tar.add(Spec {
        kind: b'6',
        path: b"fifo",
        mode: 0o622,
        ..Spec::default()
    });
    tar.add(Spec {
        kind: b'3',
        path: b"null",
        mode: 0o666,
        device: (1, 3),
        ..Spec::default()
    });
    tar.add(Spec {
        kind: b'2',
        path: b"symlink",
        link: b"nowhere",
        owner: (5, 6),
        ..Spec::default()
    });
    tar.dir("closed", 0o000).file("closed/inside", b"x");
    tar.file("implied/parent/file", b"x");
    tar.file("linked", b"shared").link(b'1', "other", "linked");
    let name = "long/".repeat(30) + "name";
    tar.gnu_long(b'L', name.as_bytes()).file("short", b"long");
    extract(&tar.finish(), &dir, &[]).unwrap();

    let stat = |name: &str| std::fs::symlink_metadata(dir.join(name)).unwrap();
    let suid = stat("suid");
    assert_eq!(suid.mode() & 0o7777, 0o4755);
    assert_eq!(
        (suid.uid(), suid.gid(), suid.mtime()),
        (70_000, 80_000, 1_000)
    );
    let sticky = stat("sticky");
    assert_eq!(sticky.mode() & 0o7777, 0o1777);
    assert_eq!(
        (sticky.mtime(), sticky.mtime_nsec()),
        (1_234_567_890, 123_456_789)
    );
    assert!(stat("fifo").file_type().is_fifo());
    assert_eq!(stat("fifo").mode() & 0o7777, 0o622);
    assert!(stat("null").file_type().is_char_device());
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!((stat("symlink").uid(), stat("symlink").mtime()), (5, 1_000));
    assert_eq!(stat("closed").mode() & 0o7777, 0);
    assert_eq!(stat("implied/parent").mode() & 0o7777, 0o755);
    assert_eq!(stat("linked").nlink(), 2);
    assert_eq!(stat("linked").ino(), stat("other").ino());
    assert_eq!(std::fs::read(dir.join(name)).unwrap(), b"long");
}

#[test]
fn sparse_files_keep_their_holes_and_their_content() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("layer");
    // PAX 1.0: the map stands at the start of the data.
    let mut data = b"2\n0\n512\n1048576\n512\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(&[1; 512]);
    data.extend_from_slice(&[2; 512]);
    let mut tar = Tar::default();
    tar.pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"2097152"),
    ])
    .file("GNUSparseFile.0/sparse", &data);
    tar.file("after", b"x");
    extract(&tar.finish(), &dir, &[]).unwrap();
    let bytes = std::fs::read(dir.join("sparse")).unwrap();
    let mut wanted = vec![0; 2_097_152];
    wanted[..512].fill(1);
    wanted[1_048_576..1_049_088].fill(2);
    assert!(bytes == wanted);
    assert!(std::fs::metadata(dir.join("sparse")).unwrap().blocks() < 100);
    assert!(dir.join("after").is_file());
}

/// Reads the merged view through a detached mount.
fn merged(layers: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let view = crate::sys::detached::view_layers(layers).unwrap();
    let copy = tempfile::tempdir().unwrap();
    Copier::new(beneath::open_root(copy.path()).unwrap())
        .copy_root(view.as_fd())
        .unwrap();
    let mut picture = picture(copy.path());
    picture.remove(Path::new(""));
    picture
}

#[test]
fn whiteouts_hide_lower_layers_only_in_any_order() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let lower = base.path().join("lower");
    let mut tar = Tar::default();
    tar.dir(".", 0o755)
        .dir("d", 0o750)
        .file("d/old", b"old")
        .file("d/kept", b"old")
        .dir("e", 0o755)
        .file("e/old", b"old")
        .file("gone", b"old")
        .file("replaced", b"old")
        .dir("x", 0o755)
        .file("x/old", b"old");
    extract(&tar.finish(), &lower, &[]).unwrap();

    // The same changes with the markers first, last, and in between.
    type Write = fn(&mut Tar);
    let pieces: [Write; 7] = [
        |t| {
            t.file("d/.wh.old", b"");
        },
        |t| {
            t.file("e/.wh..wh..opq", b"");
        },
        |t| {
            t.file("e/new", b"new");
        },
        |t| {
            t.file(".wh.gone", b"");
        },
        |t| {
            t.file(".wh.x", b"");
        },
        |t| {
            t.dir("x", 0o755).file("x/new", b"new");
        },
        |t| {
            t.file(".wh.replaced", b"").file("replaced", b"new");
        },
    ];
    let mut pictures = Vec::new();
    for shift in 0..pieces.len() * 2 {
        let upper = base.path().join(format!("upper{shift}"));
        let mut tar = Tar::default();
        for position in 0..pieces.len() {
            let at = (position + shift) % pieces.len();
            let at = if shift < pieces.len() {
                at
            } else {
                pieces.len() - 1 - at
            };
            pieces[at](&mut tar);
        }
        extract(&tar.finish(), &upper, std::slice::from_ref(&lower)).unwrap();
        pictures.push(merged(&[upper, lower.clone()]));
    }
    let names: Vec<String> = pictures[0]
        .keys()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(
        names,
        ["d", "d/kept", "e", "e/new", "replaced", "x", "x/new"]
    );
    assert!(pictures[0][Path::new("replaced")].ends_with("new"));
    // The archive implies `d`; it keeps the mode it has below.
    assert!(pictures[0][Path::new("d")].starts_with("40750 "));
    for picture in &pictures {
        assert_eq!(*picture, pictures[0]);
    }
}

#[test]
fn a_hard_link_to_a_lower_file_brings_it_up() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let lower = base.path().join("lower");
    let mut tar = Tar::default();
    tar.dir("bin", 0o711).add(Spec {
        path: b"bin/tool",
        mode: 0o4711,
        owner: (7, 8),
        data: b"tool",
        ..Spec::default()
    });
    extract(&tar.finish(), &lower, &[]).unwrap();
    let upper = base.path().join("upper");
    let mut tar = Tar::default();
    tar.add(Spec {
        kind: b'1',
        path: b"alias",
        link: b"bin/tool",
        mode: 0o4711,
        owner: (7, 8),
        ..Spec::default()
    });
    extract(&tar.finish(), &upper, &[lower]).unwrap();
    let alias = std::fs::metadata(upper.join("alias")).unwrap();
    let tool = std::fs::metadata(upper.join("bin/tool")).unwrap();
    assert_eq!((alias.ino(), alias.nlink()), (tool.ino(), 2));
    assert_eq!(
        (alias.mode() & 0o7777, alias.uid(), alias.gid()),
        (0o4711, 7, 8)
    );
    assert_eq!(
        std::fs::metadata(upper.join("bin")).unwrap().mode() & 0o7777,
        0o711
    );

    // A layer that renames: the old name is whited out.
    let renamed = base.path().join("renamed");
    let mut tar = Tar::default();
    tar.link(b'1', "moved", "bin/tool")
        .file("bin/.wh.tool", b"");
    extract(&tar.finish(), &renamed, &[base.path().join("lower")]).unwrap();
    assert_eq!(std::fs::read(renamed.join("moved")).unwrap(), b"tool");
    let names: Vec<_> = merged(&[renamed, base.path().join("lower")])
        .into_keys()
        .collect();
    assert_eq!(names, [Path::new("bin"), Path::new("moved")]);
}

#[test]
fn the_entry_of_a_hard_link_is_about_the_file_that_it_names() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let stat = |path: PathBuf| std::fs::symlink_metadata(path).unwrap();
    let owner_and_mode = |path: PathBuf| {
        let stat = stat(path);
        (stat.uid(), stat.gid(), stat.mode() & 0o7777, stat.mtime())
    };
    let link = |path, link| Spec {
        kind: b'1',
        path,
        link,
        mode: 0o4750,
        owner: (3, 4),
        mtime: 2_000,
        ..Spec::default()
    };
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::default();
    tar.pax(&[
        ("SCHILY.xattr.user.first", b"a"),
        ("SCHILY.xattr.security.capability", &capability),
    ])
    .file("f", b"shared")
    .pax(&[("SCHILY.xattr.user.second", b"b")])
    .add(link(b"g", b"f"));
    tar.link(b'2', "s", "f").add(link(b"t", b"s"));
    tar.add(Spec {
        kind: b'6',
        path: b"fifo",
        ..Spec::default()
    })
    .add(link(b"pipe", b"fifo"));
    let lower = base.path().join("lower");
    extract(&tar.finish(), &lower, &[]).unwrap();
    for (one, other) in [("f", "g"), ("s", "t"), ("fifo", "pipe")] {
        assert_eq!(stat(lower.join(one)).ino(), stat(lower.join(other)).ino());
    }
    assert_eq!(owner_and_mode(lower.join("f")), (3, 4, 0o4750, 2_000));
    assert_eq!(owner_and_mode(lower.join("fifo")), (3, 4, 0o4750, 2_000));
    assert_eq!(owner_and_mode(lower.join("s")), (3, 4, 0o777, 1_000));
    // A change of owner takes the capability, as it does in every other tool; the entry of the
    // link would have to carry it, too.
    let root = beneath::open_root(&lower).unwrap();
    let xattrs = metadata::of_special(root.as_fd(), "f".as_ref())
        .unwrap()
        .xattrs;
    let mut names: Vec<_> = xattrs.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, [b"user.first".to_vec(), b"user.second".to_vec()]);

    // The same for a file of the layer below, of which there is one copy for all names.
    let upper = base.path().join("upper");
    let mut tar = Tar::default();
    tar.link(b'1', "h", "g").add(Spec {
        mode: 0o700,
        ..link(b"i", b"h")
    });
    extract(&tar.finish(), &upper, std::slice::from_ref(&lower)).unwrap();
    for name in ["g", "h", "i"] {
        assert_eq!(owner_and_mode(upper.join(name)), (3, 4, 0o700, 2_000));
        assert_eq!(stat(upper.join(name)).nlink(), 3);
    }

    // A target that is removed or made anew by the layer lives on under the names of its links,
    // and an entry that comes later has the name to itself.
    let upper = base.path().join("renamed");
    let mut tar = Tar::default();
    tar.link(b'1', "h", "f")
        .add(link(b"i", b"f"))
        .file("f", b"new");
    tar.link(b'1', "x", "fifo").file(".wh.fifo", b"");
    tar.link(b'1', "y", "fifo").file("y", b"mine");
    tar.file("z", b"replaced by the link").link(b'1', "z", "g");
    extract(&tar.finish(), &upper, &[lower]).unwrap();
    assert_eq!(stat(upper.join("h")).ino(), stat(upper.join("i")).ino());
    let read = |name: &str| std::fs::read(upper.join(name)).unwrap();
    assert_eq!(
        [read("f"), read("h"), read("y"), read("z")],
        [&b"new"[..], b"shared", b"mine", b"shared"]
    );
    assert!(stat(upper.join("x")).file_type().is_fifo());
    assert!(stat(upper.join("fifo")).file_type().is_char_device());
}

#[test]
fn links_whose_names_are_taken_again_are_no_damage() {
    if !is_root() {
        return;
    }
    // `extract` compares the archive with what was unpacked.
    let base = tempfile::tempdir().unwrap();
    let link = |path, link, mode| Spec {
        kind: b'1',
        path,
        link,
        mode,
        ..Spec::default()
    };
    let mut tar = Tar::default();
    tar.file("a/f", b"x")
        .add(link(b"a/g", b"a/f", 0o600))
        .add(link(b"a/h", b"a/g", 0o400))
        .file("a/g", b"y")
        .add(link(b"a/h", b"a/h", 0o440))
        .link(b'2', "a/h", "f");
    tar.file("b/f", b"x")
        .add(link(b"b/g", b"b/f", 0o600))
        .file("b/f", b"y")
        .add(link(b"b/g", b"b/g", 0o640));
    tar.file("c/f", b"x")
        .add(link(b"d", b"c/f", 0o600))
        .file("c", b"no directory")
        .add(link(b"e", b"d", 0o604));
    tar.link(b'2', "s", "a")
        .add(link(b"by-symlink", b"s/f", 0o606))
        .dir("s", 0o755)
        .file("s/f", b"z");
    extract(&tar.finish(), &base.path().join("layer"), &[]).unwrap();
}

#[test]
fn links_in_any_order_are_unpacked_as_they_say() {
    if !is_root() {
        return;
    }
    // Few names, so that entries meet each other in every way. What is accepted is compared with
    // what was unpacked, and put together again.
    // (A symlink or directory that is replaced takes along what is known of the names behind it.)
    const NAMES: [&str; 7] = ["a", "b", "c/a", "d/a", "d/b", "s/a", "s/c"];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let base = tempfile::tempdir().unwrap();
    let mut n_accepted = 0;
    for _ in 0..500 {
        let mut tar = Tar::default();
        tar.file("a", b"1")
            .file("d/a", b"2")
            .file("d/b", b"3")
            .link(b'2', "s", "d");
        for _ in 0..2 + random(7) {
            let path = NAMES[random(NAMES.len())];
            let target = NAMES[random(NAMES.len())];
            let mode = [0o600, 0o640, 0o4755][random(3)];
            let spec = Spec {
                path: path.as_bytes(),
                mode,
                owner: (random(2) as u64, 0),
                ..Spec::default()
            };
            match random(12) {
                0..=2 => tar.add(Spec {
                    data: &[b'x'; 700][..random(700)],
                    ..spec
                }),
                3..=7 => tar.add(Spec {
                    kind: b'1',
                    link: target.as_bytes(),
                    ..spec
                }),
                8 => tar.file("s/new", b""),
                9 => tar.add(Spec { kind: b'5', ..spec }),
                10 => tar.file(format!("d/.wh.{}", ["a", "b"][random(2)]), b""),
                _ => tar.add(Spec { kind: b'6', ..spec }),
            };
        }
        let bytes = tar.finish();
        let accepted = fuzzing::layer(&bytes, base.path());
        n_accepted += usize::from(accepted);
    }
    assert!(n_accepted > 100, "{n_accepted}");
}

#[test]
fn archives_of_gnu_tar_come_out_as_they_went_in() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    let deep = tree.join("a-rather-long-directory-name/".repeat(8));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "deep").unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::hard_link(tree.join("empty"), tree.join("second")).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), tree.join("long-link")).unwrap();
    std::os::unix::fs::chown(tree.join("empty"), Some(3_000_000), Some(5)).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    for n in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", n << 17).unwrap();
    }
    for (name, value) in [("user.a", &b"1\n2"[..]), ("user.b", b"\0\xff")] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(tree.join("empty"), name, value, flags).unwrap();
    }
    for format in [
        &["--format=gnu", "--sparse"][..],
        &["--format=pax", "--sparse", "--xattrs"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
    ] {
        let output = std::process::Command::new("tar")
            .args(format)
            .args(["-C", tree.to_str().unwrap(), "-c", "."])
            .output();
        let Ok(output) = output else {
            let _ = std::io::stderr().write_all(b"skipped: there is no tar program here\n");
            return;
        };
        assert!(output.status.success(), "{output:?}");
        let dir = base.path().join("layer");
        extract(&output.stdout, &dir, &[]).unwrap();
        // The formats differ in what they keep: whole seconds, attributes.
        let comparable = |root: &Path| -> Vec<(PathBuf, String)> {
            let strip = |line: String| {
                let mut words: Vec<&str> = line.split(' ').collect();
                words[2] = words[2].split('.').next().unwrap();
                match format.contains(&"--xattrs") {
                    true => words.join(" "),
                    false => words.join(" ").replace(XATTRS, "[]"),
                }
            };
            let all = picture(root).into_iter();
            all.map(|(path, line)| (path, strip(line))).collect()
        };
        const XATTRS: &str = "[([117, 115, 101, 114, 46, 97], [49, 10, 50]), ([117, 115, 101, 114, 46, 98], [0, 255])]";
        assert!(picture(&tree)[Path::new("empty")].contains(XATTRS));
        assert_eq!(comparable(&dir), comparable(&tree), "{format:?}");
        assert_eq!(std::fs::metadata(dir.join("second")).unwrap().nlink(), 2);
        assert!(std::fs::metadata(dir.join("sparse")).unwrap().blocks() < 4_000);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
