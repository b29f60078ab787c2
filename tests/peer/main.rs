//! Images exchanged with a Docker Engine: what one builds and pushes runs in the other with the same
//! files, modes, owners, attributes, links and times.
//!
//! Root. A Docker Engine is named by two variables, as for the benches; without them everything here
//! is reported as ignored:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WHARF_BENCH_PEER_EXEC` | a program that runs its arguments where `docker` works |
//! | `WHARF_BENCH_PEER_SHARED` | a directory that has the same path there and here |
//!
//! wharf runs in a mount and a network namespace of its own, with its roots under `/var/tmp`; one
//! store of images is served in both network namespaces by Debian's `docker-registry`.

mod engines;
mod look;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use engines::{REGISTRY, World};
use libtest_mimic::{Arguments, Trial};
use look::{differences, tree};

type Case = (&'static str, fn(&World) -> Result<(), String>);

const CASES: [Case; 3] = [
    (
        "what_docker_builds_and_pushes_is_the_same_here",
        pushed_by_docker,
    ),
    ("what_wharf_pushes_is_the_same_in_docker", pushed_by_wharf),
    ("archives_are_the_same_image_on_both_sides", archives),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a registry and an engine each.
    arguments.test_threads = Some(1);
    let world = match arguments.list {
        true => Ok(None),
        false => World::make(),
    };
    let world = match world {
        Ok(world) => world.map(Arc::new),
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "peer: {error}");
            return ExitCode::FAILURE;
        }
    };
    if world.is_none() && !arguments.list {
        let _ = writeln!(
            std::io::stderr(),
            "peer tests are ignored: WHARF_BENCH_PEER_EXEC and WHARF_BENCH_PEER_SHARED name no Docker"
        );
    }
    let trials = CASES
        .into_iter()
        .map(|(name, run)| {
            let world = world.clone();
            let is_ignored = world.is_none();
            Trial::test(name, move || {
                let world = world.ok_or("no Docker is named")?;
                let ended = run(&world);
                // What a case that failed has left must not stand in the next one's way.
                let _ = world.docker.remove();
                let _ = world.wharf.remove();
                Ok(ended?)
            })
            .with_ignored_flag(is_ignored)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Before the process ends, so that engines and registries do, too.
    drop(world);
    conclusion.exit_code()
}

/// Runs an image in both engines and compares what their containers see.
fn same_in_both(world: &World, in_wharf: &str, in_docker: &str) -> Result<Seen, String> {
    let read = |pid| tree(pid).map_err(|error| format!("/proc/{pid}/root: {error}"));
    let here = read(world.wharf.start(in_wharf)?)?;
    let there = read(world.docker.start(in_docker)?)?;
    world.wharf.remove()?;
    world.docker.remove()?;
    let lines = differences(&here, &there);
    if !lines.is_empty() {
        return Err(format!(
            "wharf and docker differ:\n{}",
            lines[..lines.len().min(20)].join("\n")
        ));
    }
    let has = |what: fn(&look::Entry) -> bool| here.values().any(what);
    Ok(Seen {
        n_entries: here.len(),
        has_set_id: has(|entry| entry.mode & 0o4000 != 0),
        has_fifo: has(|entry| entry.kind == 'p'),
        has_links: has(|entry| entry.same_as.is_some()),
        has_nanoseconds: has(|entry| entry.mtime.1 != 0),
        has_high_owner: has(|entry| entry.owner.0 > 65_535),
        has_capability: has(|entry| entry.attributes.contains_key("security.capability")),
        has_user_attribute: has(|entry| entry.attributes.contains_key("user.peer")),
    })
}

/// That the images of this test have what they are to show.
#[derive(Debug)]
struct Seen {
    n_entries: usize,
    has_set_id: bool,
    has_fifo: bool,
    has_links: bool,
    has_nanoseconds: bool,
    has_high_owner: bool,
    has_capability: bool,
    has_user_attribute: bool,
}

fn expect(is_so: bool, what: &str) -> Result<(), String> {
    match is_so {
        true => Ok(()),
        false => Err(format!("not so: {what}")),
    }
}

fn failed(error: std::io::Error) -> String {
    error.to_string()
}

/// The root of an image: a shell, and what engines would otherwise add to directories of it.
fn make_rootfs(root: &Path) -> std::io::Result<()> {
    for directory in ["bin", "dev", "etc", "proc", "srv/old", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    for file in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        fs::write(root.join(file), "")?;
    }
    symlink("/proc/mounts", root.join("etc/mtab"))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    fs::set_permissions(root.join("bin/busybox"), PermissionsExt::from_mode(0o755))?;
    for applet in [
        "sh", "chmod", "chown", "ln", "mkdir", "mkfifo", "mknod", "rm", "sleep", "touch",
        "truncate",
    ] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("srv/gone"), "gone")?;
    fs::write(root.join("srv/old/below"), "below")?;
    fs::write(root.join("srv/old/kept"), "kept")
}

const DOCKERFILE: &str = r#"FROM scratch
COPY rootfs /
RUN echo a > /srv/a && ln /srv/a /srv/b && ln -s ../srv/a /srv/link \
 && echo x > /srv/set && chmod 4755 /srv/set && echo y > /srv/high && chown 70000:80000 /srv/high \
 && mkdir -m 1777 /srv/sticky && mkfifo -m 600 /srv/fifo && mknod /srv/null c 1 3 \
 && truncate -s 3000000 /srv/sparse && touch -d '2001-02-03 04:05:06' /srv/sticky /srv/sparse
RUN rm -r /srv/gone /srv/old && mkdir /srv/old && echo new > /srv/old/new && chmod 640 /srv/a
RUN ln /srv/high /srv/higher && rm /srv/fifo && echo z > '/srv/a name with ümläuts'
LABEL peer=yes
CMD ["sleep", "1000"]
"#;

fn pushed_by_docker(world: &World) -> Result<(), String> {
    let context = world.shared.path().join("context");
    make_rootfs(&context.join("rootfs")).map_err(failed)?;
    fs::write(context.join("Dockerfile"), DOCKERFILE).map_err(failed)?;
    let context = context.to_str().ok_or("the path is not text")?;
    let image = format!("{REGISTRY}/peer/built:1");
    world.docker.build(&image, context)?;
    world.docker.run(&["push", "-q", &image])?;
    // What the builder has on its disk is not what it pushes: times lose their fractions.
    world.docker.run(&["rmi", &image])?;
    world.docker.run(&["pull", "-q", &image])?;
    world.wharf.run(&["image", "pull", "-q", &image])?;
    let seen = same_in_both(world, &image, &image)?;
    expect(
        seen.n_entries > 20 && seen.has_set_id && seen.has_links && seen.has_high_owner,
        &format!("it shows what it is made for: {seen:?}"),
    )?;
    let id = |inspected: String| inspected.trim().to_owned();
    let format = "{{.Id}}";
    let here = id(world
        .wharf
        .run(&["image", "inspect", "-f", format, &image])?);
    let there = id(world
        .docker
        .run(&["image", "inspect", "-f", format, &image])?);
    expect(here == there, &format!("the image is {here} and {there}"))
}

/// Two layers with everything that an archive can say and a Dockerfile cannot, as an OCI archive
/// would have them.
fn layers() -> std::io::Result<Vec<Vec<u8>>> {
    let root = tempfile::tempdir()?;
    make_rootfs(root.path())?;
    let mut below = tar::Builder::new(Vec::new());
    below.follow_symlinks(false);
    below.append_dir_all("", root.path())?;
    let mut above = tar::Builder::new(Vec::new());
    let header = |kind, mode, owner: u64, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner + 1);
        header.set_size(size as u64);
        header.set_mtime(1_000_000_000);
        header
    };
    // Version 2, effective: CAP_NET_BIND_SERVICE permitted.
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    above.append_pax_extensions([
        ("SCHILY.xattr.security.capability", capability),
        ("SCHILY.xattr.user.peer", b"said"),
        ("mtime", b"1000000000.123456789"),
    ])?;
    let file = tar::EntryType::Regular;
    above.append_data(&mut header(file, 0o755, 5, 5), "srv/capable", &b"hello"[..])?;
    above.append_data(
        &mut header(file, 0o4711, 3_000_000, 2),
        "srv/set",
        &b"id"[..],
    )?;
    // A link says the same as what it leads to: Docker believes whichever comes last.
    let mut again = header(tar::EntryType::Link, 0o4711, 3_000_000, 0);
    above.append_link(&mut again, "srv/again", "srv/set")?;
    let mut dangling = header(tar::EntryType::Symlink, 0o777, 0, 0);
    above.append_link(&mut dangling, "srv/dangling", "/nowhere")?;
    let empty = std::io::empty;
    let mut fifo = header(tar::EntryType::Fifo, 0o620, 9, 0);
    above.append_data(&mut fifo, "srv/fifo", empty())?;
    let mut device = header(tar::EntryType::Char, 0o666, 0, 0);
    device.set_device_major(1)?;
    device.set_device_minor(3)?;
    above.append_data(&mut device, "srv/null", empty())?;
    above.append_data(&mut header(file, 0o644, 0, 0), "srv/.wh.gone", empty())?;
    let mut directory = header(tar::EntryType::Directory, 0o2750, 12, 0);
    above.append_data(&mut directory, "srv/set-group", empty())?;
    // Directories that nobody lists have the time of their making in Docker.
    let mut parent = header(tar::EntryType::Directory, 0o755, 0, 0);
    above.append_data(&mut parent, "srv", empty())?;
    Ok(vec![below.into_inner()?, above.into_inner()?])
}

fn archive_of(layers: &[Vec<u8>], tag: &str) -> std::io::Result<Vec<u8>> {
    use sha2::Digest as _;
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)));
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Cmd": ["sleep", "1000"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [tag], "Layers": names}
    ]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    for (name, layer) in names.iter().zip(layers) {
        put(name, layer)?;
    }
    put("config.json", config.to_string().as_bytes())?;
    put("manifest.json", manifest.to_string().as_bytes())?;
    archive.into_inner()
}

fn pushed_by_wharf(world: &World) -> Result<(), String> {
    let image = format!("{REGISTRY}/peer/pushed:1");
    let file = world.shared.path().join("pushed.tar");
    let archive = layers().and_then(|layers| archive_of(&layers, &image));
    fs::write(&file, archive.map_err(failed)?).map_err(failed)?;
    let file = file.to_str().ok_or("the path is not text")?;
    world.wharf.run(&["image", "load", "-i", file])?;
    world.wharf.run(&["image", "push", "-q", &image])?;
    world.docker.run(&["pull", "-q", &image])?;
    let seen = same_in_both(world, &image, &image)?;
    expect(
        seen.has_set_id
            && seen.has_fifo
            && seen.has_links
            && seen.has_nanoseconds
            && seen.has_high_owner
            && seen.has_capability
            && seen.has_user_attribute,
        &format!("it shows what it is made for: {seen:?}"),
    )
}

fn archives(world: &World) -> Result<(), String> {
    let file = |name: &str| -> Result<String, String> {
        let path = world.shared.path().join(name);
        Ok(path.to_str().ok_or("the path is not text")?.to_owned())
    };
    let id = |inspected: Result<String, String>| Ok::<_, String>(inspected?.trim().to_owned());
    let format = "{{.Id}}";

    // Docker's to wharf.
    let (context, saved) = (world.shared.path().join("small"), file("docker.tar")?);
    make_rootfs(&context.join("rootfs")).map_err(failed)?;
    let dockerfile = "FROM scratch\nCOPY rootfs /\nCMD [\"sleep\", \"1000\"]\n";
    fs::write(context.join("Dockerfile"), dockerfile).map_err(failed)?;
    let context = context.to_str().ok_or("the path is not text")?;
    world.docker.build("peer-saved:1", context)?;
    world.docker.run(&["save", "-o", &saved, "peer-saved:1"])?;
    world.wharf.run(&["image", "load", "-i", &saved])?;
    world.docker.run(&["rmi", "peer-saved:1"])?;
    world.docker.run(&["load", "-i", &saved])?;
    same_in_both(world, "peer-saved:1", "peer-saved:1")?;

    // wharf's to Docker.
    let (made, saved) = (file("made.tar")?, file("wharf.tar")?);
    let archive = layers().and_then(|layers| archive_of(&layers, "peer-made:1"));
    fs::write(&made, archive.map_err(failed)?).map_err(failed)?;
    world.wharf.run(&["image", "load", "-i", &made])?;
    world
        .wharf
        .run(&["image", "save", "-o", &saved, "peer-made:1"])?;
    world.docker.run(&["load", "-i", &saved])?;
    same_in_both(world, "peer-made:1", "peer-made:1")?;
    for image in ["peer-saved:1", "peer-made:1"] {
        let here = id(world.wharf.run(&["image", "inspect", "-f", format, image]))?;
        let there = id(world.docker.run(&["image", "inspect", "-f", format, image]))?;
        expect(here == there, &format!("{image} is {here} and {there}"))?;
        world.docker.run(&["rmi", image])?;
    }
    Ok(())
}
