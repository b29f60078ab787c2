//! The image store from outside: archives exchanged with skopeo, sizes against `du`, removal,
//! damage and its healing, an engine killed in the middle; and Docker's API for all of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::env::run;
use crate::harness::image::{Compression, Layer, docker_archive, oci_layout};
use crate::harness::{Run, TestEnv, wait_for};

crate::cases! {
    image_store:
    a_saved_archive_is_the_same_every_time_and_runs_when_loaded,
    skopeo_reads_what_is_saved["skopeo"],
    what_skopeo_writes_is_loaded["skopeo"],
    images_are_listed_filtered_and_formatted,
    a_name_is_given_and_taken_as_docker_does,
    containers_hold_their_images,
    prune_removes_what_nobody_needs,
    sizes_agree_with_du_and_shared_layers_count_once,
    an_imported_file_system_runs,
    damage_is_found_and_only_the_damage_is_got_again,
    a_killed_load_leaves_nothing,
    removals_beside_loads_lose_nothing,
    dockers_api_speaks_of_images,
    the_images_of_a_project_are_listed,
}

/// A busybox image and what lies on it, as an archive of Docker's.
fn archive(env: &TestEnv, tag: &str, mark: &str) -> PathBuf {
    let path = env.path(&format!("{mark}.tar"));
    let layers = vec![
        Layer::busybox(Compression::None),
        Layer::new(Compression::None).directory("srv", 0o755).file(
            "srv/mark",
            0o644,
            0,
            mark.as_bytes(),
        ),
    ];
    let config = json!({"Cmd": ["sleep", "1001"], "Labels": {"mark": mark}});
    docker_archive(&path, tag, layers, &config);
    path
}

#[track_caller]
fn load(env: &TestEnv, archive: &Path) -> Run {
    let archive = archive.to_str().expect("we chose its name");
    env.wharf(&["image", "load", "-i", archive]).ok()
}

fn id_of(env: &TestEnv, name: &str) -> String {
    let run = env.wharf(&["image", "inspect", "-f", "{{.Id}}", name]).ok();
    run.stdout.trim().to_owned()
}

fn tool(program: &str, arguments: &[&str]) -> Run {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command)
}

fn a_saved_archive_is_the_same_every_time_and_runs_when_loaded(env: &TestEnv) {
    load(env, &archive(env, "app:1", "one"));
    let (first, second) = (env.path("first.tar"), env.path("second.tar"));
    let save = |to: &Path| {
        let to = to.to_str().expect("we chose its name");
        env.wharf(&["image", "save", "-o", to, "app:1"]).ok();
    };
    save(&first);
    let id = id_of(env, "app:1");
    env.wharf(&["image", "rm", "app:1"]).ok();
    env.wharf(&["image", "inspect", "app:1"]).fails_with(1);
    let loaded = load(env, &first);
    assert_eq!(loaded.stdout, "Loaded image: app:1\n");
    assert_eq!(id_of(env, "app:1"), id);
    save(&second);
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap());
    // Through standard output, compressed by somebody else, and through standard input.
    let piped = env.path("piped.tar.gz");
    let wharf = env!("CARGO_BIN_EXE_wharf");
    let script = format!(
        "{wharf} image save app:1 | gzip > {0} && {wharf} image rm app:1 && {wharf} image load < {0}",
        piped.display()
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script])
        .env("WHARF_DATA_ROOT", env.data_root())
        .env("WHARF_RUN_ROOT", env.run_root());
    assert!(run(shell).ok().stdout.ends_with("Loaded image: app:1\n"));
    let project = env.project(
        "loaded",
        "
services:
  s: {image: 'app:1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(project.sh("s", "cat /srv/mark"), "one");
}

fn skopeo_reads_what_is_saved(env: &TestEnv) {
    load(env, &archive(env, "me/app:1", "one"));
    let saved = env.path("saved.tar");
    let path = saved.to_str().expect("we chose its name");
    env.wharf(&["image", "save", "-o", path, "me/app:1"]).ok();
    let id = id_of(env, "me/app:1");
    let layers = env.wharf(&[
        "image",
        "inspect",
        "-f",
        "{{json .RootFS.Layers}}",
        "me/app:1",
    ]);
    let layers: Value = serde_json::from_str(&layers.ok().stdout).expect("it is JSON");
    for source in [
        format!("docker-archive:{path}"),
        format!("oci-archive:{path}"),
    ] {
        let seen = tool("skopeo", &["inspect", &source]).ok();
        let seen: Value = serde_json::from_str(&seen.stdout).expect("skopeo prints JSON");
        assert_eq!(seen["Layers"], layers, "{source}");
        assert_eq!(seen["Labels"]["mark"], "one");
        let raw = tool("skopeo", &["inspect", "--config", "--raw", &source]).ok();
        assert_eq!(digest(raw.stdout.as_bytes()), id, "{source}");
        // A copy reads every byte and compares it with its digest.
        let copy = format!("dir:{}", env.path("copy").display());
        tool("skopeo", &["--insecure-policy", "copy", &source, &copy]).ok();
        fs::remove_dir_all(env.path("copy")).expect("skopeo made it");
    }
    let layout = env.path("layout");
    let to = format!("oci:{}", layout.display());
    env.wharf(&["image", "save", "-o", &to, "me/app:1"]).ok();
    let seen = tool("skopeo", &["inspect", &format!("{to}:1")]).ok();
    let seen: Value = serde_json::from_str(&seen.stdout).expect("skopeo prints JSON");
    assert_eq!(seen["Layers"], layers);
    // And wharf itself runs it from there.
    env.wharf(&["image", "rm", "me/app:1"]).ok();
    env.wharf(&["image", "load", "-i", &to]).ok();
    assert_eq!(id_of(env, "me/app:1"), id);
}

fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

fn what_skopeo_writes_is_loaded(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::Gzip),
        // Archives of Docker's have no zstd.
        Layer::new(Compression::Gzip).file("mark", 0o600, 1000, b"skopeo"),
    ];
    oci_layout(
        &env.path("layout"),
        "v1",
        layers,
        &json!({"Cmd": ["sleep", "1001"]}),
    );
    let from = format!("oci:{}:v1", env.path("layout").display());
    let config = tool("skopeo", &["inspect", "--config", "--raw", &from]).ok();
    let id = digest(config.stdout.as_bytes());
    for (n, scheme) in ["docker-archive", "oci-archive"].into_iter().enumerate() {
        let file = env.path(&format!("{scheme}.tar"));
        let to = format!("{scheme}:{}:docker.io/me/app:{n}", file.display());
        tool("skopeo", &["--insecure-policy", "copy", &from, &to]).ok();
        assert_eq!(
            load(env, &file).stdout,
            format!("Loaded image: me/app:{n}\n")
        );
        assert_eq!(id_of(env, &format!("me/app:{n}")), id, "{scheme}");
    }
    // A layout whose image has only a tag has no name here.
    let layout = format!("oci:{}", env.path("layout").display());
    let loaded = env.wharf(&["image", "load", "-i", &layout]).ok();
    assert_eq!(loaded.stdout, format!("Loaded image ID: {id}\n"));
    let project = env.project(
        "skopeo",
        "
services:
  s: {image: 'me/app:1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(
        project.sh("s", "cat /mark; stat -c ' %a %u' /mark"),
        "skopeo 600 1000"
    );
}

fn images_are_listed_filtered_and_formatted(env: &TestEnv) {
    load(env, &archive(env, "app:1", "one"));
    load(env, &archive(env, "localhost:5000/db:2", "two"));
    // The name moves on, and leaves an image without one.
    load(env, &archive(env, "app:1", "three"));
    let ls = |arguments: &[&str]| {
        let run = env.wharf(&[&["image", "ls"], arguments].concat()).ok();
        let mut lines: Vec<String> = run.lines().into_iter().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    const NAME: &str = "{{.Repository}}:{{.Tag}}";
    let names = |filters: &[&str]| ls(&[&["--format", NAME], filters].concat());
    assert_eq!(
        names(&[]),
        ["<none>:<none>", "app:1", "localhost:5000/db:2"]
    );
    assert_eq!(names(&["-f", "dangling=true"]), ["<none>:<none>"]);
    assert_eq!(
        names(&["-f", "dangling=false"]),
        ["app:1", "localhost:5000/db:2"]
    );
    assert_eq!(names(&["-f", "label=mark=two"]), ["localhost:5000/db:2"]);
    assert_eq!(
        names(&["-f", "reference=localhost:5000/*"]),
        ["localhost:5000/db:2"]
    );
    assert_eq!(names(&["app"]), ["app:1"]);
    assert_eq!(names(&["app:2"]), [""; 0]);
    let head = env.wharf(&["image", "ls"]).ok().stdout;
    let head: Vec<&str> = head
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    assert_eq!(head.join(" "), "REPOSITORY TAG IMAGE ID CREATED SIZE");
    let ids = ls(&["-q", "--no-trunc", "app"]);
    assert_eq!(ids, [id_of(env, "app:1")]);
    let json = ls(&["--format", "json", "app"]);
    let row: Value = serde_json::from_str(&json[0]).expect("it is JSON");
    assert_eq!(
        (&row["Repository"], &row["Tag"]),
        (&json!("app"), &json!("1"))
    );
    // Made within one second, and still one before the other; of several names only those that are
    // asked for are shown.
    let tar = archive(env, "file-system:1", "x");
    for (file, name) in [(&tar, "first:1"), (&tar, "second:1")] {
        let file = file.to_str().unwrap();
        env.wharf(&["image", "import", "-m", name, file, name]).ok();
    }
    env.wharf(&["image", "tag", "first:1", "localhost:5000/team/first:1"])
        .ok();
    assert_eq!(names(&["-f", "reference=first"]), ["first:1"]);
    assert_eq!(
        names(&["-f", "reference=*/team/*"]),
        ["localhost:5000/team/first:1"]
    );
    let both = ["first:1", "localhost:5000/team/first:1"];
    assert_eq!(names(&["-f", "before=second:1"]), both);
    assert_eq!(names(&["-f", "since=first:1"]), ["second:1"]);
    env.wharf(&["image", "ls", "-f", "nonsense=1"])
        .fails_saying(&["invalid filter"]);
    env.wharf(&["image", "ls", "--format", "{{.Nothing}}"])
        .fails_saying(&["Nothing", "fields"]);
}

fn a_name_is_given_and_taken_as_docker_does(env: &TestEnv) {
    load(env, &archive(env, "app:1", "one"));
    let id = id_of(env, "app:1");
    env.wharf(&["image", "tag", "app:1", "app:2"]).ok();
    env.wharf(&["image", "tag", &id[7..19], "ghcr.io/me/app"])
        .ok();
    assert_eq!(id_of(env, "ghcr.io/me/app:latest"), id);
    env.wharf(&["image", "tag", "app:1", "Not A Name"])
        .fails_with(1);
    env.wharf(&["image", "tag", "missing", "x"])
        .fails_saying(&["no such image"]);
    // By its id an image with names in several repositories is only removed by force.
    env.wharf(&["image", "rm", &id])
        .fails_saying(&["referenced in multiple repositories: app:1", "--force"]);
    let run = env.wharf(&["image", "rm", "ghcr.io/me/app", "missing", "app:2"]);
    assert_eq!(
        run.stdout,
        "Untagged: ghcr.io/me/app:latest\nUntagged: app:2\n"
    );
    run.fails_saying(&["no such image: missing"]);
    let run = env.wharf(&["image", "rm", &id[..15]]).ok();
    assert!(
        run.stdout.starts_with("Untagged: app:1\nDeleted: sha256:"),
        "{run}"
    );
    env.wharf(&["image", "rm", "-f", "missing"]).ok();
    // What is no archive is told from what is packed in a way that is not read.
    let packed = env.path("packed.tar.xz");
    fs::write(&packed, b"\xfd7zXZ\0\0\x04").unwrap();
    let load = |input: &str| env.wharf(&["image", "load", "-i", input]);
    let packed = packed.to_str().unwrap();
    load(packed).fails_saying(&["compressed with xz", "hint: ", "xz -dc"]);
    env.wharf(&["image", "import", packed, "x:1"])
        .fails_saying(&["compressed with xz", "hint: ", "image import"]);
    let half = env.path("half.tar");
    let whole = fs::read(archive(env, "half:1", "half")).unwrap();
    fs::write(&half, &whole[..5000]).unwrap();
    load(half.to_str().unwrap()).fails_saying(&["in the middle", "hint: it is not whole"]);
    load("/dev/null").fails_saying(&["has no index.json", "hint: an archive of images"]);
    load("/etc/passwd").fails_saying(&["cannot read the archive", "hint: an archive of images"]);
    load("/tmp").fails_saying(&["/tmp is a directory", "oci:/tmp"]);
    assert_eq!(content(env), 0, "nothing is left in the store");
}

/// Bytes of the store as `du` counts them, without its empty directories.
fn content(env: &TestEnv) -> u64 {
    let mut total = 0;
    for name in ["snapshots", "recipes", "blobs/sha256"] {
        for entry in fs::read_dir(env.data_root().join(name)).expect("the engine made it") {
            let path = entry.expect("nothing is removed meanwhile").path();
            let du = tool("du", &["-s", "-B1", path.to_str().expect("hex digits")]).ok();
            let bytes = du.stdout.split_whitespace().next().unwrap_or_default();
            total += bytes.parse::<u64>().expect("du prints a number");
        }
    }
    total
}

fn containers_hold_their_images(env: &TestEnv) {
    load(env, &archive(env, "app:1", "one"));
    let id = id_of(env, "app:1");
    let project = env.project(
        "holder",
        "
services:
  s: {image: 'app:1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    env.wharf(&["image", "rm", "app:1"])
        .fails_saying(&["conflict", "must force", "holder-s-1"]);
    env.wharf(&["image", "rm", "-f", &id])
        .fails_saying(&["conflict", "cannot be forced"]);
    // By force the name goes; the image stays for what runs.
    let run = env.wharf(&["image", "rm", "-f", "app:1"]).ok();
    assert_eq!(run.stdout, "Untagged: app:1\n");
    assert_eq!(project.sh("s", "cat /srv/mark"), "one");
    project.wharf(&["stop"]).ok();
    env.wharf(&["image", "prune", "-a", "-f"]).ok();
    assert_eq!(id_of(env, &id), id);
    // A stopped container outlives the image that was removed under it.
    env.wharf(&["image", "rm", &id])
        .fails_saying(&["conflict", "must be forced"]);
    env.wharf(&["image", "rm", "-f", &id]).ok();
    assert_eq!(env.wharf(&["image", "ls", "-q"]).ok().stdout, "");
    // A new engine, too, knows what the container needs.
    env.wharf(&["engine", "stop"]).ok();
    project.wharf(&["start"]).ok();
    project.pid_of("sleep 1001");
    assert_eq!(project.sh("s", "cat /srv/mark"), "one");
    project.down();
    env.wharf(&["image", "prune", "-f"]).ok();
    assert_eq!(content(env), 0, "nothing is left in the store");
}

fn prune_removes_what_nobody_needs(env: &TestEnv) {
    load(env, &archive(env, "used:1", "one"));
    load(env, &archive(env, "unused:1", "two"));
    load(env, &archive(env, "moved:1", "three"));
    load(env, &archive(env, "moved:1", "four"));
    let project = env.project(
        "user",
        "
services:
  s: {image: 'used:1', stop_grace_period: 0s}
",
    );
    project.up();
    let names = || {
        let run = env
            .wharf(&["image", "ls", "--format", "{{.Repository}}"])
            .ok();
        let mut names: Vec<String> = run.lines().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["<none>", "moved", "unused", "used"]);
    // Nobody is there to be asked.
    env.wharf(&["image", "prune"]).fails_saying(&["--force"]);
    let run = env
        .wharf(&["image", "prune", "-f", "--filter", "label=mark=two"])
        .ok();
    assert_eq!(run.stdout, "Total reclaimed space: 0B\n");
    let before = content(env);
    let run = env.wharf(&["image", "prune", "-f"]).ok();
    assert!(
        run.stdout.starts_with("Deleted Images:\ndeleted: sha256:"),
        "{run}"
    );
    let freed = before - content(env);
    assert!(
        run.stdout
            .contains(&format!("Total reclaimed space: {}", size(freed))),
        "{run}"
    );
    assert_eq!(names(), ["moved", "unused", "used"]);
    env.wharf(&["image", "prune", "-a", "-f", "--filter", "label!=mark=two"])
        .ok();
    assert_eq!(names(), ["unused", "used"]);
    env.wharf(&["image", "prune", "-a", "-f"]).ok();
    assert_eq!(names(), ["used"]);
    project.down();
    env.wharf(&["image", "prune", "-a", "-f"]).ok();
    assert_eq!(content(env), 0, "nothing is left in the store");
}

/// Four digits, as `prune` prints a number of bytes below a megabyte.
fn size(bytes: u64) -> String {
    let text = match bytes {
        0..1_000 => return format!("{bytes}B"),
        1_000..10_000 => format!("{:.3}", bytes as f64 / 1e3),
        10_000..100_000 => format!("{:.2}", bytes as f64 / 1e3),
        _ => format!("{:.1}", bytes as f64 / 1e3),
    };
    format!("{}kB", text.trim_end_matches('0').trim_end_matches('.'))
}

fn sizes_agree_with_du_and_shared_layers_count_once(env: &TestEnv) {
    let mut many = Layer::new(Compression::None).directory("many", 0o755);
    for n in 0..500 {
        many = many.file(&format!("many/{n}"), 0o644, 0, &vec![b'x'; n]);
    }
    let layers = vec![Layer::busybox(Compression::None), many];
    docker_archive(&env.path("many.tar"), "many:1", layers, &json!({}));
    load(env, &env.path("many.tar"));
    load(env, &archive(env, "app:1", "one"));
    let df = || -> Value {
        let run = env.wharf(&["system", "df", "-v", "--format", "json"]).ok();
        serde_json::from_str(&run.stdout).expect("it is JSON")
    };
    let within_a_percent = |a: u64, b: u64| a.abs_diff(b) * 100 <= a.max(b);
    let number = |value: &Value| value.as_u64().expect("sizes are numbers");
    let usage = df();
    let total = number(&usage["LayersSize"]);
    let du = content(env);
    assert!(within_a_percent(total, du), "{total} {du}");
    // The layer of busybox is in both, and on the disk once.
    let images = usage["Images"].as_array().expect("a list");
    let sum: u64 = images.iter().map(|image| number(&image["Size"])).sum();
    let shared = number(&images[0]["SharedSize"]);
    assert!(shared > 500_000 && images.iter().all(|i| number(&i["SharedSize"]) == shared));
    assert!(within_a_percent(sum - shared, du), "{sum} {shared} {du}");
    // What `ls` says is what removing the image gives back, but for what is shared.
    let unique = number(&images[0]["Size"]) - shared;
    let id = images[0]["Id"].as_str().expect("an id");
    env.wharf(&["image", "rm", "-f", id]).ok();
    let after = content(env);
    assert!(
        within_a_percent(du - after, unique),
        "{du} {after} {unique}"
    );
    // Two projects that use an image cost no more than one.
    for name in ["first", "second"] {
        let image = env
            .wharf(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])
            .ok();
        let compose = format!(
            "services: {{s: {{image: '{}', command: sleep 1001, stop_grace_period: 0s}}}}",
            image.stdout.trim()
        );
        env.project(name, &compose).up();
    }
    assert_eq!(content(env), after);
    let usage = df();
    assert_eq!(usage["LayersReclaimable"], 0);
    assert_eq!(usage["Images"][0]["Containers"], 2);
    assert_eq!(usage["Containers"].as_array().map(Vec::len), Some(2));
}

fn an_imported_file_system_runs(env: &TestEnv) {
    let root = env.path("busybox");
    let wharf = env!("CARGO_BIN_EXE_wharf");
    let script = format!(
        "tar -C {} -c . | gzip | {wharf} image import -c 'CMD [\"sleep\", \"1001\"]' \
         -c 'ENV MARK=imported' -m 'from a directory' - base:1",
        root.display()
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script])
        .env("WHARF_DATA_ROOT", env.data_root())
        .env("WHARF_RUN_ROOT", env.run_root());
    let id = run(shell).ok().stdout;
    assert_eq!(id.trim(), id_of(env, "base:1"));
    let history = env
        .wharf(&["image", "history", "--format", "{{.Comment}}", "base:1"])
        .ok();
    assert_eq!(history.stdout, "from a directory\n");
    let project = env.project(
        "imported",
        "
services:
  s: {image: 'base:1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(
        project.sh("s", "echo $MARK; cat /etc/group | head -1"),
        "imported\nroot:x:0:"
    );
    let file = env.path("x.txt");
    fs::write(&file, "no archive").expect("the test's directory has room");
    let file = file.to_str().expect("we chose its name");
    env.wharf(&["image", "import", file, "x:1"]).fails_with(1);
    env.wharf(&["image", "import", "-c", "FROM x", file, "x:1"])
        .fails_with(1);
    env.wharf(&["image", "inspect", "x:1"]).fails_with(1);
}

/// The directory of a snapshot that has this file.
fn snapshot_with(env: &TestEnv, file: &str) -> PathBuf {
    let mut found = fs::read_dir(env.data_root().join("snapshots"))
        .expect("the engine made it")
        .map(|entry| entry.expect("nothing is removed meanwhile").path())
        .filter(|path| path.join(file).exists());
    found
        .next()
        .unwrap_or_else(|| panic!("no layer has {file}"))
}

fn damage_is_found_and_only_the_damage_is_got_again(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::Gzip),
        Layer::new(Compression::Gzip).file("mark", 0o644, 0, b"whole"),
    ];
    oci_layout(
        &env.path("layout"),
        "v1",
        layers,
        &json!({"Cmd": ["sleep", "1001"]}),
    );
    let compose = "services: {s: {image: 'oci:ROOT/layout:v1', stop_grace_period: 0s}}";
    let project = env.project("damage", compose);
    project.up();
    project.down();
    let base = snapshot_with(env, "bin/busybox");
    let inode = |path: &Path| fs::metadata(path).expect("it is there").ino();
    let base_inode = inode(&base);
    let flip = |path: &Path| {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .expect("it is ours");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 2).expect("it is long enough");
        file.write_all_at(&[byte[0] ^ 1], 2).expect("it is ours");
    };
    let check = || env.wharf(&["image", "check"]);
    assert!(check().ok().stdout.contains("undamaged"));
    type Harm<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>);
    let harms: [Harm; 4] = [
        ("a flipped bit", Box::new(|top| flip(&top.join("mark")))),
        (
            "a short file",
            Box::new(|top| fs::write(top.join("mark"), "w").expect("ours")),
        ),
        (
            "a lost file",
            Box::new(|top| fs::remove_file(top.join("mark")).expect("ours")),
        ),
        (
            "a lost layer",
            Box::new(|top| fs::remove_dir_all(top).expect("ours")),
        ),
    ];
    for (what, harm) in harms {
        harm(&snapshot_with(env, "mark"));
        let run = check().ok();
        assert!(run.stdout.contains("healed: layer 2"), "{what}: {run}");
        assert_eq!(
            fs::read(snapshot_with(env, "mark").join("mark")).unwrap(),
            b"whole"
        );
        assert_eq!(
            inode(&base),
            base_inode,
            "{what}: the other layer was not touched"
        );
        assert!(check().ok().stdout.contains("undamaged"), "{what}");
    }
    // On use a layer that is not there is noticed without a check.
    fs::remove_dir_all(snapshot_with(env, "mark")).expect("it is ours");
    project.up();
    assert_eq!(project.sh("s", "cat /mark"), "whole");
    assert_eq!(inode(&base), base_inode);
    // Under a container nothing is exchanged.
    flip(&snapshot_with(env, "mark").join("mark"));
    let run = check().fails_saying(&["damaged"]);
    assert!(run.stdout.contains("damage-s-1"), "{run}");
    project.down();
    check().ok();
    // Without a source at hand the damage is told, and a load heals it.
    load(env, &archive(env, "app:1", "loaded"));
    flip(&snapshot_with(env, "srv/mark").join("srv/mark"));
    check().fails_saying(&["damaged", "load"]);
    load(env, &env.path("loaded.tar"));
    check().ok();
    assert_eq!(inode(&base), base_inode);
}

fn a_killed_load_leaves_nothing(env: &TestEnv) {
    let bytes = fs::read(archive(env, "app:1", "one")).expect("it was written");
    env.wharf(&["engine", "start"]).ok();
    // Half of it, then nothing: the upload hangs.
    let mut client = env
        .command()
        .args(["image", "load"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program is built");
    let mut stdin = client.stdin.take().expect("it is piped");
    stdin
        .write_all(&bytes[..bytes.len() / 2])
        .expect("somebody reads");
    let engine = wait_for("the engine", || env.engine_pid());
    kill(engine);
    drop(stdin);
    assert!(!client.wait().expect("it is our child").success());
    // In the middle of unpacking, again and again.
    let mut n_interrupted = 0;
    for n in 0..20 {
        env.wharf(&["engine", "start"]).ok();
        let engine = wait_for("the engine", || env.engine_pid());
        let archive = env.path("one.tar");
        let mut client = env
            .command()
            .args(["image", "load", "-i"])
            .arg(&archive)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program is built");
        let staging = env.data_root().join("staging");
        let begun = || fs::read_dir(&staging).is_ok_and(|mut names| names.next().is_some());
        for _ in 0..n * 40 {
            if begun() {
                break;
            }
            std::thread::yield_now();
        }
        kill(engine);
        n_interrupted += i32::from(!client.wait().expect("it is our child").success());
        // The next engine clears up, and what is listed is whole.
        env.wharf(&["engine", "start"]).ok();
        assert!(!begun(), "staging is empty");
        env.wharf(&["image", "check"]).ok();
        env.wharf(&["image", "prune", "-a", "-f"]).ok();
        assert_eq!(content(env), 0, "round {n}");
    }
    assert!(n_interrupted > 0, "no load was interrupted");
    load(env, &env.path("one.tar"));
    env.wharf(&["image", "check"]).ok();
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
}

fn removals_beside_loads_lose_nothing(env: &TestEnv) {
    let archives: Vec<PathBuf> = ["a", "b", "c"]
        .iter()
        .map(|mark| archive(env, &format!("{mark}:1"), mark))
        .collect();
    env.wharf(&["engine", "start"]).ok();
    std::thread::scope(|scope| {
        for archive in &archives {
            scope.spawn(|| {
                for _ in 0..6 {
                    load(env, archive);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..12 {
                    env.wharf(&["image", "prune", "-a", "-f"]).ok();
                }
            });
        }
    });
    for archive in &archives {
        load(env, archive);
    }
    // Every image that is listed is whole, and nothing is there that no image needs.
    env.wharf(&["image", "check"]).ok();
    let names = env.wharf(&["image", "ls", "-q"]).ok();
    assert_eq!(names.lines().len(), 3);
    let snapshots = fs::read_dir(env.data_root().join("snapshots")).expect("it is there");
    assert_eq!(snapshots.count(), 4);
    env.wharf(&["image", "prune", "-a", "-f"]).ok();
    assert_eq!(content(env), 0);
}

fn dockers_api_speaks_of_images(env: &TestEnv) {
    let archive = archive(env, "me/app:1", "one");
    env.wharf(&["engine", "start"]).ok();
    let socket = env.run_root().join("wharf.sock");
    let call = |arguments: &[&str], path: &str| -> (String, String) {
        let mut command = Command::new("curl");
        command
            .args(["-s", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(&socket)
            .args(arguments)
            .arg(format!("http://d/v1.47{path}"));
        let output = run(command).ok().stdout;
        let (body, code) = output.rsplit_once('\n').expect("the code is a line");
        (code.to_owned(), body.to_owned())
    };
    let get = |path: &str| -> Value {
        let (code, body) = call(&[], path);
        assert_eq!(code, "200", "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    };
    let upload = format!("@{}", archive.display());
    let (code, body) = call(
        &["-X", "POST", "--data-binary", &upload],
        "/images/load?quiet=1",
    );
    assert_eq!(code, "200", "{body}");
    assert_eq!(body, "{\"stream\":\"Loaded image: me/app:1\\n\"}\r\n");
    let listed = get("/images/json");
    let id = listed[0]["Id"].as_str().expect("an id").to_owned();
    assert_eq!(listed[0]["RepoTags"], json!(["me/app:1"]));
    assert_eq!(
        get("/images/json?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D"),
        json!([])
    );
    let image = get("/images/me/app:1/json");
    assert_eq!(image["Id"], id.as_str());
    assert_eq!(image["Config"]["Cmd"], json!(["sleep", "1001"]));
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        get("/images/me/app:1/history").as_array().map(Vec::len),
        Some(2)
    );
    let (code, body) = call(&[], "/images/me/missing/json");
    assert_eq!(code, "404");
    assert!(body.contains("no such image: me/missing"), "{body}");
    let (code, _) = call(
        &["-X", "POST"],
        "/images/me/app:1/tag?repo=localhost:5000/x/y&tag=2",
    );
    assert_eq!(code, "201");
    assert_eq!(get("/images/localhost:5000/x/y:2/json")["Id"], id.as_str());
    let out = env.path("get.tar");
    let to = out.to_str().expect("we chose its name");
    let (code, _) = call(
        &["-o", to],
        "/images/get?names=me/app:1&names=localhost:5000/x/y:2",
    );
    assert_eq!(code, "200");
    let names = tool("tar", &["-tf", to]).ok().stdout;
    assert!(
        names.contains("manifest.json") && names.contains("index.json"),
        "{names}"
    );
    assert!(get("/system/df")["LayersSize"].as_u64() > Some(0));
    let (code, body) = call(&["-X", "DELETE"], "/images/localhost:5000/x/y:2");
    assert_eq!(
        (code.as_str(), body.as_str()),
        ("200", "[{\"Untagged\":\"localhost:5000/x/y:2\"}]")
    );
    let (code, body) = call(
        &["-X", "POST"],
        "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D",
    );
    assert_eq!(code, "200");
    let pruned: Value = serde_json::from_str(&body).expect("it is JSON");
    assert!(pruned["SpaceReclaimed"].as_u64() > Some(500_000), "{body}");
    assert_eq!(get("/images/json"), json!([]));
    let (code, body) = call(
        &["-X", "POST", "--data-binary", "@/bin/busybox"],
        "/images/load",
    );
    assert_eq!(code, "200");
    assert!(
        body.contains("\"error\":") && body.contains("\"errorDetail\":"),
        "{body}"
    );
    let (code, _) = call(&["-X", "DELETE"], "/images/me/app:1");
    assert_eq!(code, "404");
}

fn the_images_of_a_project_are_listed(env: &TestEnv) {
    load(env, &archive(env, "me/app:1", "one"));
    let project = env.project(
        "listed",
        "
services:
  a: {image: 'me/app:1', stop_grace_period: 0s}
  b: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s}
",
    );
    project.up();
    let run = project.wharf(&["images"]).ok();
    let head: Vec<&str> = run.lines()[0].split_whitespace().collect();
    assert_eq!(
        head.join(" "),
        "CONTAINER REPOSITORY TAG PLATFORM IMAGE ID SIZE CREATED"
    );
    let row: Vec<&str> = run.lines()[1].split_whitespace().collect();
    assert_eq!(row[..4], ["listed-a-1", "me/app", "1", "linux/amd64"]);
    assert_eq!(run.lines().len(), 3);
    let run = project.wharf(&["images", "--format", "json", "a"]).ok();
    let rows: Value = serde_json::from_str(&run.stdout).expect("it is JSON");
    assert_eq!(rows[0]["ContainerName"], "listed-a-1");
    let quiet = project.wharf(&["images", "-q", "a"]).ok();
    assert_eq!(quiet.stdout.trim(), &id_of(env, "me/app:1")[7..]);
}
