//! Archives that try to reach outside, to exhaust something, or to be read in two ways.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::*;
use crate::engine::image::tar_stream::TarError;

type Check = fn(&Path, Result<u64, LayerError>);

fn is_escape(_: &Path, result: Result<u64, LayerError>) {
    assert!(
        matches!(result, Err(LayerError::Escape { .. })),
        "{result:?}"
    );
}

fn is_path_error(_: &Path, result: Result<u64, LayerError>) {
    assert!(matches!(result, Err(LayerError::Path { .. })), "{result:?}");
}

fn is_dangling(_: &Path, result: Result<u64, LayerError>) {
    assert!(
        matches!(result, Err(LayerError::DanglingLink { .. })),
        "{result:?}"
    );
}

fn is_tar_error(_: &Path, result: Result<u64, LayerError>) {
    assert!(matches!(result, Err(LayerError::Tar(_))), "{result:?}");
}

fn is_make_error(_: &Path, result: Result<u64, LayerError>) {
    assert!(matches!(result, Err(LayerError::Make { .. })), "{result:?}");
}

fn is_fine(_: &Path, result: Result<u64, LayerError>) {
    result.unwrap();
}

#[test]
fn nothing_outside_the_layer_changes() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let outside = base.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "alive").unwrap();
    std::fs::create_dir(outside.join("sub")).unwrap();
    let before = picture(&outside);
    let out = outside.as_os_str().as_bytes();
    let canary = [out, b"/canary"].concat();
    let mut cases: Vec<(&str, Tar, Check)> = Vec::new();
    let mut case = |name, check: Check, write: &dyn Fn(&mut Tar)| {
        let mut tar = Tar::default();
        write(&mut tar);
        cases.push((name, tar, check));
    };
    case("dot dot", is_escape, &|t| {
        t.file("../outside/canary", b"x");
    });
    case("dot dot in the middle", is_escape, &|t| {
        t.file("a/../../outside/canary", b"x");
    });
    case(
        "dot dot that stays",
        |dir, result| {
            result.unwrap();
            assert!(dir.join("b").is_file());
        },
        &|t| {
            t.file("a/../b", b"x");
        },
    );
    case("absolute", is_fine, &|t| {
        t.pax(&[("path", &canary)]).file("x", b"x");
    });
    case("through an absolute symlink", is_fine, &|t| {
        t.pax(&[("linkpath", out)])
            .link(b'2', "s", b"")
            .file("s/canary", b"x");
    });
    case("through a relative symlink", is_fine, &|t| {
        t.link(b'2', "s", "../outside").file("s/canary", b"x");
    });
    case("through a chain of symlinks", is_fine, &|t| {
        t.link(b'2', "a", "..")
            .link(b'2', "b", "a/outside")
            .file("b/canary", b"x");
    });
    case(
        "over a symlink to a file",
        |dir, result| {
            result.unwrap();
            assert!(std::fs::symlink_metadata(dir.join("s")).unwrap().is_file());
        },
        &|t| {
            t.pax(&[("linkpath", &canary)])
                .link(b'2', "s", b"")
                .file("s", b"x");
        },
    );
    case(
        "directory over a symlink, then into it",
        |dir, result| {
            result.unwrap();
            assert!(std::fs::symlink_metadata(dir.join("s")).unwrap().is_dir());
            assert!(dir.join("s/canary").is_file());
        },
        &|t| {
            t.pax(&[("linkpath", out)])
                .link(b'2', "s", b"")
                .dir("s", 0o777)
                .file("s/canary", b"x");
        },
    );
    case("symlink over a directory with metadata", is_fine, &|t| {
        t.dir("s", 0o777)
            .pax(&[("linkpath", out)])
            .link(b'2', "s", b"");
    });
    case("hard link to a symlink, then over it", is_fine, &|t| {
        t.pax(&[("linkpath", &canary)])
            .link(b'2', "s", b"")
            .link(b'1', "h", "s")
            .file("h", b"x");
    });
    case("hard link out", is_escape, &|t| {
        t.link(b'1', "h", "../outside/canary");
    });
    case("hard link to an absolute path", is_dangling, &|t| {
        t.pax(&[("linkpath", &canary)]).link(b'1', "h", b"");
    });
    case("hard link through a symlink", is_dangling, &|t| {
        t.pax(&[("linkpath", out)])
            .link(b'2', "s", b"")
            .link(b'1', "h", "s/canary");
    });
    case("hard link to itself", is_dangling, &|t| {
        t.link(b'1', "h", "h");
    });
    case("hard link to the root", is_path_error, &|t| {
        t.link(b'1', "h", "/");
    });
    case("PAX path over a harmless name", is_escape, &|t| {
        t.pax(&[("path", b"../outside/canary")])
            .file("harmless", b"x");
    });
    case("long name over a harmless name", is_escape, &|t| {
        t.gnu_long(b'L', b"../outside/canary")
            .file("harmless", b"x");
    });
    case("long link over a harmless one", is_escape, &|t| {
        t.gnu_long(b'K', b"../outside/canary")
            .link(b'1', "h", "harmless");
    });
    case("whiteout through a symlink", is_fine, &|t| {
        t.pax(&[("linkpath", out)])
            .link(b'2', "s", b"")
            .file("s/.wh.canary", b"");
    });
    case("opaque through a symlink", is_fine, &|t| {
        t.pax(&[("linkpath", out)])
            .link(b'2', "s", b"")
            .file("s/.wh..wh..opq", b"");
    });
    case("whiteout of dot dot", is_path_error, &|t| {
        t.file("sub/.wh...", b"");
    });
    case("whiteout of dot", is_path_error, &|t| {
        t.file(".wh..", b"");
    });
    case("whiteout of nothing", is_path_error, &|t| {
        t.file(".wh.", b"");
    });
    case("root as a file", is_path_error, &|t| {
        t.file(".", b"x");
    });
    case("root as a symlink", is_path_error, &|t| {
        t.link(b'2', "/", "/etc");
    });
    case("empty name", is_path_error, &|t| {
        t.file("", b"x");
    });
    case("NUL in a PAX name", is_tar_error, &|t| {
        t.pax(&[("path", b"a\0/../../outside/canary")])
            .file("x", b"x");
    });
    case("name beyond PATH_MAX", is_path_error, &|t| {
        t.pax(&[("path", &[&b"a/".repeat(2500)[..], b"f"].concat())])
            .file("x", b"x");
    });
    case("component beyond NAME_MAX", is_make_error, &|t| {
        t.pax(&[("path", &[b'a'; 300])]).file("x", b"x");
    });
    case(
        "not UTF-8",
        |dir, result| {
            result.unwrap();
            assert!(dir.join(OsStr::from_bytes(b"\xff\xfe")).is_file());
        },
        &|t| {
            t.file(b"\xff\xfe", b"x");
        },
    );
    case("symlinks in a circle", is_make_error, &|t| {
        t.link(b'2', "a", "b")
            .link(b'2', "b", "a")
            .file("a/x", b"x");
    });
    case(
        "dangling symlink as a parent",
        |dir, result| {
            result.unwrap();
            assert_eq!(std::fs::read(dir.join("run/pid")).unwrap(), b"x");
        },
        &|t| {
            t.link(b'2', "var", "/run").file("var/pid", b"x");
        },
    );
    case(
        "directory, file, and directory again",
        |dir, result| {
            result.unwrap();
            assert!(dir.join("d/b").is_file() && !dir.join("d/a").exists());
        },
        &|t| {
            t.dir("d", 0o755)
                .file("d/a", b"x")
                .file("d", b"x")
                .dir("d", 0o755)
                .file("d/b", b"y");
        },
    );
    case(
        "the same file twice",
        |dir, result| {
            result.unwrap();
            assert_eq!(std::fs::read(dir.join("f")).unwrap(), b"second");
        },
        &|t| {
            t.file("f", b"first").file("f", b"second");
        },
    );
    case("file below a file", is_make_error, &|t| {
        t.file("f", b"x").file("f/g", b"x");
    });
    case("unknown type", is_tar_error, &|t| {
        t.link(b'Z', "x", b"");
    });
    case("damaged checksum", is_tar_error, &|t| {
        t.file("f", b"x");
        t.0[0] ^= 1;
    });
    case("device over a symlink", is_fine, &|t| {
        t.pax(&[("linkpath", &canary)])
            .link(b'2', "s", b"")
            .add(Spec {
                kind: b'3',
                path: b"s",
                device: (1, 3),
                ..Spec::default()
            });
    });
    case("FIFO below a symlink", is_fine, &|t| {
        t.pax(&[("linkpath", out)]).link(b'2', "s", b"").add(Spec {
            kind: b'6',
            path: b"s/canary",
            ..Spec::default()
        });
    });
    case("attributes on a symlink out", is_fine, &|t| {
        t.pax(&[
            ("linkpath", &canary),
            ("SCHILY.xattr.user.x", b"y"),
            ("mtime", b"1"),
        ])
        .add(Spec {
            kind: b'2',
            path: b"s",
            mode: 0o777,
            owner: (7, 7),
            ..Spec::default()
        });
    });
    case("hard link to a directory", is_make_error, &|t| {
        t.dir("d", 0o755).link(b'1', "h", "d");
    });
    case(
        "a name of nearly 4 KiB",
        |_, result| {
            assert!(
                matches!(result, Err(LayerError::Limit { .. })),
                "{result:?}"
            );
        },
        &|t| {
            t.pax(&[("path", &[&b"a/".repeat(2000)[..], b"f"].concat())])
                .file("x", b"x");
        },
    );
    case(
        "the deepest path that is allowed",
        |dir, result| {
            result.unwrap();
            assert!(dir.join("a/".repeat(511)).join("f").is_file());
        },
        &|t| {
            t.pax(&[("path", &[&b"a/".repeat(511)[..], b"f"].concat())])
                .file("x", b"x");
        },
    );
    case(
        "sparse map that promises more than there is",
        is_tar_error,
        &|t| {
            t.pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.realsize", b"1099511627776"),
            ])
            .file("sparse", &[b'9'; 512]);
        },
    );
    case("size beyond the archive", is_tar_error, &|t| {
        t.pax(&[("size", b"9223372036854775807")]).file("f", b"x");
    });
    case("owner that means unchanged", is_tar_error, &|t| {
        t.pax(&[("uid", b"4294967295")]).file("f", b"x");
    });
    for (name, tar, check) in cases {
        let dir = base.path().join("layer");
        let result = extract(&tar.finish(), &dir, &[]);
        assert_eq!(picture(&outside), before, "{name}");
        check(&dir, result);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_pax_size_wins_over_the_header() {
    if !is_root() {
        return;
    }
    // A reader that believed the header would see the hidden entry (CVE-2026-33055).
    let mut hidden = Tar::default();
    hidden.file("hidden", b"x");
    let mut tar = Tar::default();
    tar.pax(&[("size", hidden.0.len().to_string().as_bytes())]);
    tar.file("visible", b"");
    tar.0.extend_from_slice(&hidden.0);
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("layer");
    extract(&tar.finish(), &dir, &[]).unwrap();
    assert!(!dir.join("hidden").exists());
    assert_eq!(std::fs::read(dir.join("visible")).unwrap(), hidden.0);
}

#[test]
fn attributes_that_instruct_overlay_are_dropped() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("layer");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = Tar::default();
    tar.pax(&[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/../../other"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.kept", b"a\nb"),
        ("SCHILY.xattr.security.capability", &capability),
    ])
    .file("f", b"x");
    tar.pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .dir("d", 0o755);
    extract(&tar.finish(), &dir, &[]).unwrap();
    let names = |name: &str| {
        let mut buffer = [0; 1024];
        let n = rustix::fs::llistxattr(dir.join(name), &mut buffer).unwrap();
        let mut names: Vec<String> = buffer[..n]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("f"), ["security.capability", "user.kept"]);
    assert!(names("d").is_empty());
    let mut value = [0; 64];
    let n = rustix::fs::lgetxattr(dir.join("f"), "user.kept", &mut value).unwrap();
    assert_eq!(&value[..n], b"a\nb");
    let n = rustix::fs::lgetxattr(dir.join("f"), "security.capability", &mut value).unwrap();
    assert_eq!(&value[..n], capability);
}

#[test]
fn limits_hold() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_bytes: 1 << 20,
        free_bytes: 1 << 16,
        max_ratio: 50,
        max_entries: 100,
        max_depth: 20,
        max_xattr_bytes: 1000,
        max_path_bytes: 5000,
    };
    let mut entries = Tar::default();
    for n in 0..101 {
        entries.file(format!("f{n}"), b"");
    }
    let mut opaque = Tar::default();
    for _ in 0..101 {
        opaque.file("d/.wh..wh..opq", b"");
    }
    let mut deep = Tar::default();
    deep.file("a/".repeat(30) + "f", b"");
    let mut xattrs = Tar::default();
    xattrs
        .pax(&[("SCHILY.xattr.user.x", &[b'x'; 2000])])
        .file("f", b"");
    let mut paths = Tar::default();
    for n in 0..60 {
        paths.file(format!("{}/.wh.{n}", "x".repeat(90)), b"");
    }
    let mut big = Tar::default();
    big.file("f", &vec![1; 2 << 20]);
    for (n, tar) in [entries, opaque, deep, xattrs, paths, big]
        .iter()
        .enumerate()
    {
        let dir = base.path().join(format!("limit{n}"));
        let result = extract_limited(&tar.finish(), &dir, &[], limits);
        assert!(
            matches!(result, Err(LayerError::Limit { .. })),
            "{n}: {result:?}"
        );
    }
    // A bomb: its ratio is what gives it away.
    let mut bomb = Tar::default();
    bomb.file("f", &vec![0; 900 << 10]);
    let tar = bomb.finish();
    for blob in [gzip(&tar), zstd_compressed(&tar)] {
        let dir = tempfile::tempdir().unwrap();
        let expected = Expected {
            blob: None,
            blob_bytes: None,
            diff_id: Digest::of(&tar),
        };
        let result = layer::unpack(
            &blob[..],
            &expected,
            target(dir.path()),
            &Allowance::new(limits),
            &|_| (),
        );
        assert!(
            matches!(result.as_ref().err(), Some(LayerError::Limit { .. })),
            "{:?}",
            result.err()
        );
    }
}

#[test]
fn the_layers_of_an_image_share_what_is_free() {
    if !is_root() {
        return;
    }
    let allowance = Allowance::new(Limits {
        free_bytes: 1 << 20,
        max_ratio: 50,
        ..Limits::DEFAULT
    });
    let mut tar = Tar::default();
    tar.file("f", &vec![0; 400 << 10]);
    let tar = tar.finish();
    let unpack = |blob: &[u8], diff_id: &Digest| {
        let dir = tempfile::tempdir().unwrap();
        let expected = Expected {
            blob: None,
            blob_bytes: None,
            diff_id: diff_id.clone(),
        };
        layer::unpack(blob, &expected, target(dir.path()), &allowance, &|_| ()).map(drop)
    };
    let (blob, right, wrong) = (zstd_compressed(&tar), Digest::of(&tar), Digest::of(b""));
    unpack(&blob, &right).unwrap();
    // What an attempt took that failed is there for the next one.
    for _ in 0..5 {
        let error = unpack(&blob, &wrong).unwrap_err();
        assert!(matches!(error, LayerError::Mismatch { .. }), "{error:?}");
    }
    unpack(&blob, &right).unwrap();
    let error = unpack(&blob, &right).unwrap_err();
    assert!(matches!(error, LayerError::Limit { .. }), "{error:?}");
    // What is not compressed needs nothing that is free.
    unpack(&tar, &right).unwrap();
}

#[test]
fn what_a_later_entry_replaces_comes_out_again() {
    if !is_root() {
        return;
    }
    // Every way in which an entry takes the place of another one with content. `extract` compares
    // what comes out.
    let base = tempfile::tempdir().unwrap();
    let mut tar = Tar::default();
    tar.file("f", b"first")
        .file("f", b"second")
        .file("f", b"third");
    tar.dir("d", 0o755)
        .dir("d/e", 0o755)
        .file("d/a", &[b'a'; 3000])
        .file("d/e/b", &[b'b'; 70_000])
        .link(b'1', "alias", "d/a")
        .file("d", b"a file now")
        .dir("d", 0o755)
        .file("d/a", b"again");
    tar.file("l", b"content").link(b'2', "l", "f");
    tar.file("h", b"content").link(b'1', "h", "f");
    // Through a symlink the path on the archive is not the path on the disk.
    tar.link(b'2', "s", "d")
        .file("s/through", b"one")
        .file("d/through", b"two")
        .file("s/through", b"three");
    tar.link(b'2', "t", "d")
        .file("t/kept", b"by way of a symlink that is replaced")
        .dir("t", 0o755)
        .file("t/kept", b"elsewhere");
    tar.file("empty", b"").file("empty", b"no more");
    tar.file(".wh.f", b"").file("late", b"x");
    extract(&tar.finish(), &base.path().join("layer"), &[]).unwrap();
    // With something behind the end-of-archive mark, and a link that needs the layer below.
    let mut tar = Tar::default();
    tar.file("n", b"old").link(b'1', "n", "late");
    let mut bytes = tar.finish();
    bytes.extend_from_slice(&[7; 10_000]);
    let lower = base.path().join("layer");
    extract(&bytes, &base.path().join("upper"), &[lower]).unwrap();
}

#[test]
fn damage_does_not_come_out_as_if_it_were_whole() {
    if !is_root() {
        return;
    }
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("layer");
    std::fs::create_dir(&dir).unwrap();
    let mut tar = Tar::default();
    tar.file("f", &[b'x'; 5000]).file("empty", b"");
    tar.link(b'2', "s", "f").dir("d", 0o750).file(".wh.w", b"");
    tar.file("linked", b"").add(Spec {
        kind: b'1',
        path: b"link",
        link: b"linked",
        mode: 0o600,
        ..Spec::default()
    });
    let tar = tar.finish();
    let recipe = base.path().join("recipe");
    let target = Target {
        directory: beneath::open_root(&dir).unwrap(),
        recipe: std::fs::File::create_new(&recipe).unwrap(),
    };
    let expected = Expected {
        blob: None,
        blob_bytes: None,
        diff_id: Digest::of(&tar),
    };
    let unpacked = layer::unpack(
        &tar[..],
        &expected,
        target,
        &Allowance::new(Limits::DEFAULT),
        &|_| (),
    );
    unpacked.unwrap().complete(None).unwrap();
    let root = beneath::open_root(&dir).unwrap();
    let difference = || compare::first_difference(&tar[..], root.as_fd()).unwrap();
    assert_eq!(difference(), None);
    // What the archive's digest does not prove.
    type Harm = fn(&Path);
    let harms: [(&str, Harm, Harm); 6] = [
        (
            "empty",
            |dir| std::fs::remove_file(dir.join("empty")).unwrap(),
            |dir| {
                std::fs::write(dir.join("empty"), b"").unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                std::fs::set_permissions(dir.join("empty"), mode).unwrap();
            },
        ),
        (
            "s",
            |dir| {
                std::fs::remove_file(dir.join("s")).unwrap();
                std::os::unix::fs::symlink("g", dir.join("s")).unwrap();
            },
            |dir| {
                std::fs::remove_file(dir.join("s")).unwrap();
                std::os::unix::fs::symlink("f", dir.join("s")).unwrap();
            },
        ),
        (
            "d",
            |dir| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
                std::fs::set_permissions(dir.join("d"), mode).unwrap();
            },
            |dir| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
                std::fs::set_permissions(dir.join("d"), mode).unwrap();
            },
        ),
        (
            "f",
            |dir| std::os::unix::fs::chown(dir.join("f"), Some(9), None).unwrap(),
            |dir| std::os::unix::fs::chown(dir.join("f"), Some(0), None).unwrap(),
        ),
        (
            "link",
            |dir| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
                std::fs::set_permissions(dir.join("linked"), mode).unwrap();
            },
            |dir| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(dir.join("linked"), mode).unwrap();
            },
        ),
        (
            "w",
            |dir| std::fs::remove_file(dir.join("w")).unwrap(),
            |_| (),
        ),
    ];
    for (name, harm, undo) in harms {
        harm(&dir);
        assert_eq!(difference(), Some(PathBuf::from(name)));
        undo(&dir);
    }
    // A recipe that was cut, changed or emptied is an error or gives other bytes.
    let whole = std::fs::read(&recipe).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&recipe, &bytes).unwrap();
        let came_out = Recipe::open(&recipe).and_then(|recipe| {
            let mut bytes = Vec::new();
            recipe.assemble(root.as_fd(), tempfile::tempfile, &mut bytes)?;
            Ok((recipe.n_bytes(), bytes))
        });
        if let Ok((n_bytes, bytes)) = came_out {
            // Flags of the header and of the frame may have no effect.
            assert!(
                bytes == tar
                    || n_bytes != bytes.len() as u64
                    || Digest::of(&bytes) != expected.diff_id
            );
        }
        std::fs::write(&recipe, &whole[..at]).unwrap();
        let cut = assembled(&recipe, &dir);
        assert!(cut.is_err(), "{at}");
    }
}

#[test]
fn extension_headers_are_bounded() {
    let huge = vec![b'a'; (1 << 20) + 1];
    let mut tar = Tar::default();
    tar.gnu_long(b'L', &huge).file("x", b"");
    let base = tempfile::tempdir().unwrap();
    let result = extract(&tar.finish(), &base.path().join("l"), &[]);
    assert!(
        matches!(result, Err(LayerError::Tar(TarError::TooLarge { .. }))),
        "{result:?}"
    );
    let mut tar = Tar::default();
    for _ in 0..20 {
        tar.pax(&[("comment", b"x")]);
    }
    let result = extract(&tar.finish(), &base.path().join("m"), &[]);
    assert!(
        matches!(result, Err(LayerError::Tar(TarError::Header { .. }))),
        "{result:?}"
    );
}

#[test]
fn truncation_is_noticed_at_every_block() {
    if !is_root() {
        return;
    }
    let mut tar = Tar::default();
    tar.dir("d", 0o755)
        .file("d/f", &[7; 1500])
        .link(b'2', "s", "d");
    let whole = tar.finish();
    let expected = Expected {
        blob: None,
        blob_bytes: None,
        diff_id: Digest::of(&whole),
    };
    for length in (0..whole.len()).step_by(256) {
        let dir = tempfile::tempdir().unwrap();
        let result = layer::unpack(
            &whole[..length],
            &expected,
            target(dir.path()),
            &Allowance::new(Limits::DEFAULT),
            &|_| (),
        );
        assert!(result.is_err(), "{length}");
        let packed = gzip(&whole);
        let cut = packed.len() * length / whole.len();
        let dir = tempfile::tempdir().unwrap();
        let result = layer::unpack(
            &packed[..cut],
            &expected,
            target(dir.path()),
            &Allowance::new(Limits::DEFAULT),
            &|_| (),
        );
        assert!(result.is_err(), "gzip {cut}");
    }
}

#[test]
fn time_is_linear_in_entries() {
    if !is_root() {
        return;
    }
    // Processor time of this thread, which a busy machine does not change much. Quadratic behaviour
    // at these sizes would give a factor of a hundred.
    let now = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let base = tempfile::tempdir().unwrap();
    let measure = |n: usize| {
        let mut tar = Tar::default();
        for i in 0..n {
            tar.file(format!("d/{i}"), b"").file("d/.wh..wh..opq", b"");
        }
        let dir = base.path().join(n.to_string());
        let start = now();
        extract(&tar.finish(), &dir, &[]).unwrap();
        let end = now();
        (end.tv_sec - start.tv_sec) * 1_000_000_000 + end.tv_nsec - start.tv_nsec
    };
    let small = measure(500);
    let large = measure(5_000);
    assert!(large < small * 25, "{small} {large}");
}
