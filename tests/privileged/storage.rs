//! Volumes, binds, tmpfs, configs and secrets: what is there, whose it is, how long it stays.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::harness::{Project, TestEnv, kernel};

crate::cases! {
    storage:
    a_named_volume_outlives_down_and_ends_with_down_v,
    a_new_volume_is_filled_from_the_image_once,
    nocopy_leaves_a_volume_empty,
    an_anonymous_volume_survives_recreation_and_ends_with_down_v,
    two_services_share_a_volume,
    an_external_volume_must_be_there,
    a_bind_shows_the_hosts_files_both_ways,
    a_read_only_bind_is_read_only_below_too,
    a_missing_bind_source_is_made_or_refused,
    tmpfs_has_its_size_and_mode,
    configs_come_from_file_environment_and_content,
    secrets_have_owner_and_mode,
    a_volume_mounted_read_only_rejects_writes,
    a_single_file_is_bound,
}

fn up(env: &TestEnv, name: &str, keys: &str, rest: &str) -> Project {
    let project = env.project(name, &service(keys, rest));
    project.up();
    project
}

fn service(keys: &str, rest: &str) -> String {
    format!(
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
{keys}
{rest}
"
    )
}

fn a_named_volume_outlives_down_and_ends_with_down_v(env: &TestEnv) {
    let project = up(
        env,
        "named",
        "    volumes: ['data:/data']\n",
        "volumes: {data: }\n",
    );
    project.sh("s", "echo kept > /data/file");
    project.down();
    project.up();
    assert_eq!(project.sh("s", "cat /data/file"), "kept");
    project.wharf(&["down", "-v", "-t", "0"]).ok();
    project.up();
    assert_eq!(project.sh("s", "ls /data"), "");
}

fn a_new_volume_is_filled_from_the_image_once(env: &TestEnv) {
    let data = env.path("busybox/data");
    fs::create_dir_all(data.join("sub")).expect("it is ours");
    fs::write(data.join("sub/file"), "seed").expect("it is ours");
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o640)).expect("ours");
    std::os::unix::fs::chown(data.join("sub/file"), Some(1000), Some(50)).expect("we are root");
    std::os::unix::fs::symlink("sub/file", data.join("link")).expect("it is ours");
    let project = up(
        env,
        "fill",
        "    volumes: ['data:/data']\n",
        "volumes: {data: }\n",
    );
    assert_eq!(
        project.sh(
            "s",
            "cat /data/link; echo; stat -c '%a %u %g' /data/sub/file; readlink /data/link"
        ),
        "seed\n640 1000 50\nsub/file"
    );
    // What the user deletes stays deleted.
    project.sh("s", "rm -r /data/sub /data/link; echo mine > /data/mine");
    project.wharf(&["up", "-d", "--force-recreate"]).ok();
    assert_eq!(project.sh("s", "ls /data"), "mine");
}

fn nocopy_leaves_a_volume_empty(env: &TestEnv) {
    fs::create_dir_all(env.path("busybox/data")).expect("it is ours");
    fs::write(env.path("busybox/data/file"), "seed").expect("it is ours");
    let project = up(
        env,
        "nocopy",
        "    volumes: [{type: volume, source: data, target: /data, volume: {nocopy: true}}]\n",
        "volumes: {data: }\n",
    );
    assert_eq!(project.sh("s", "ls /data"), "");
}

fn an_anonymous_volume_survives_recreation_and_ends_with_down_v(env: &TestEnv) {
    let project = up(env, "anon", "    volumes: ['/data']\n", "");
    project.sh("s", "echo kept > /data/file");
    project.wharf(&["up", "-d", "--force-recreate"]).ok();
    assert_eq!(project.sh("s", "cat /data/file"), "kept");
    project.wharf(&["down", "-v", "-t", "0"]).ok();
    let left = kernel::files_under(&env.data_root());
    assert!(!left.iter().any(|file| file.ends_with("file")), "{left:?}");
}

fn two_services_share_a_volume(env: &TestEnv) {
    let project = env.project(
        "share",
        "
services:
  a: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s, volumes: ['data:/data']}
  b: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s, volumes: ['data:/other:ro']}
volumes: {data: }
",
    );
    project.up();
    project.sh("a", "echo shared > /data/file");
    assert_eq!(project.sh("b", "cat /other/file"), "shared");
}

fn an_external_volume_must_be_there(env: &TestEnv) {
    let project = env.project(
        "external",
        &service(
            "    volumes: ['data:/data']\n",
            "volumes: {data: {external: true, name: not-there}}\n",
        ),
    );
    project.wharf(&["up", "-d"]).fails_saying(&["not-there"]);
    assert!(kernel::pids_of("sleep 1001").is_empty());
}

fn a_bind_shows_the_hosts_files_both_ways(env: &TestEnv) {
    fs::create_dir_all(env.path("p/bind/sub")).expect("it is ours");
    fs::write(env.path("p/bind/sub/file"), "host").expect("it is ours");
    let project = up(env, "bind", "    volumes: ['./sub:/sub']\n", "");
    assert_eq!(project.sh("s", "cat /sub/file"), "host");
    project.sh("s", "echo container > /sub/new");
    assert_eq!(
        fs::read_to_string(env.path("p/bind/sub/new")).expect("it is there"),
        "container\n"
    );
}

fn a_read_only_bind_is_read_only_below_too(env: &TestEnv) {
    let tree = env.path("tree");
    fs::create_dir_all(tree.join("below")).expect("it is ours");
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new("mount").args(arguments).status();
        assert!(status.expect("mount is there").success());
    };
    // A mount of our own below the bound tree: a plain read-only remount would miss it.
    let below = tree.join("below").display().to_string();
    mount(&["-t", "tmpfs", "below", &below]);
    let project = up(env, "robind", "    volumes: ['ROOT/tree:/tree:ro']\n", "");
    let outcome = project.sh(
        "s",
        "for f in /tree/x /tree/below/x; do (echo x > $f) 2>/dev/null && echo $f; done; true",
    );
    assert_eq!(outcome, "");
    project.wharf(&["down", "-t", "0"]).ok();
    let status = std::process::Command::new("umount").arg(&below).status();
    assert!(status.expect("umount is there").success());
}

fn a_missing_bind_source_is_made_or_refused(env: &TestEnv) {
    let short = up(env, "short", "    volumes: ['./made:/data']\n", "");
    assert!(env.path("p/short/made").is_dir());
    short.down();
    let long = env.project(
        "long",
        &service(
            "    volumes: [{type: bind, source: ./missing, target: /data, bind: {create_host_path: false}}]\n",
            "",
        ),
    );
    long.wharf(&["up", "-d"]).fails_saying(&["missing"]);
    assert!(!env.path("p/long/missing").exists());
}

fn tmpfs_has_its_size_and_mode(env: &TestEnv) {
    let project = up(
        env,
        "tmpfs",
        "    tmpfs: ['/short:size=1m,mode=1770']\n    volumes: [{type: tmpfs, target: /long, tmpfs: {size: 2097152, mode: 0700}}]\n",
        "",
    );
    let mounts = kernel::mounts_of(project.pid_of("sleep 1001")).expect("it runs");
    for target in ["/short", "/long"] {
        let mount = mounts
            .iter()
            .find(|mount| mount.target == target)
            .expect("it is mounted");
        assert_eq!(mount.kind, "tmpfs");
        for option in ["nosuid", "nodev"] {
            assert!(
                mount.options.split(',').any(|found| found == option),
                "{mount:?}"
            );
        }
    }
    assert_eq!(project.sh("s", "stat -c %a /short /long"), "1770\n700");
    assert_eq!(
        project.sh("s", "df -k /short /long | awk 'NR>1 {print $2}'"),
        "1024\n2048"
    );
}

fn configs_come_from_file_environment_and_content(env: &TestEnv) {
    fs::create_dir_all(env.path("p/configs")).expect("it is ours");
    fs::write(env.path("p/configs/from-file"), "file\n").expect("it is ours");
    fs::write(env.path("p/configs/.env"), "WORD=environment\n").expect("it is ours");
    let project = up(
        env,
        "configs",
        "    configs: [one, {source: two, target: /etc/two}, {source: three, target: /three, mode: 0440, uid: '1000', gid: '50'}]\n",
        "configs:\n  one: {file: ./from-file}\n  two: {environment: WORD}\n  three: {content: 'inline ${WORD}'}\n",
    );
    assert_eq!(
        project.sh(
            "s",
            "cat /one; cat /etc/two; echo; cat /three; echo; stat -c '%a %u %g' /three"
        ),
        "file\nenvironment\ninline environment\n440 1000 50"
    );
    let outcome = project.sh("s", "(echo x > /one) 2>/dev/null && echo written; true");
    assert_eq!(outcome, "");
}

fn secrets_have_owner_and_mode(env: &TestEnv) {
    fs::create_dir_all(env.path("p/secrets")).expect("it is ours");
    fs::write(env.path("p/secrets/password"), "hidden").expect("it is ours");
    fs::write(env.path("p/secrets/.env"), "TOKEN=token\n").expect("it is ours");
    let project = up(
        env,
        "secrets",
        "    secrets: [plain, {source: token, target: other, mode: 0400, uid: '1000'}]\n",
        "secrets:\n  plain: {file: ./password}\n  token: {environment: TOKEN}\n",
    );
    assert_eq!(
        project.sh("s", "cat /run/secrets/plain; echo; cat /run/secrets/other; echo; stat -c '%a %u' /run/secrets/other"),
        "hidden\ntoken\n400 1000"
    );
    let pid = project.pid_of("sleep 1001");
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("it runs");
    assert!(!String::from_utf8_lossy(&environment).contains("token"));
    let metadata = fs::metadata(env.path("p/secrets/password")).expect("it is there");
    assert_eq!(
        (metadata.uid(), metadata.mode() & 0o777),
        (0, 0o644),
        "the source is unchanged"
    );
}

fn a_volume_mounted_read_only_rejects_writes(env: &TestEnv) {
    let project = up(
        env,
        "rovol",
        "    volumes: ['data:/data:ro']\n",
        "volumes: {data: }\n",
    );
    let outcome = project.sh("s", "(echo x > /data/x) 2>/dev/null && echo written; true");
    assert_eq!(outcome, "");
}

fn a_single_file_is_bound(env: &TestEnv) {
    fs::create_dir_all(env.path("p/file")).expect("it is ours");
    fs::write(env.path("p/file/one"), "host").expect("it is ours");
    let project = up(
        env,
        "file",
        "    volumes: ['./one:/etc/not-there/one:ro']\n",
        "",
    );
    assert_eq!(project.sh("s", "cat /etc/not-there/one"), "host");
}
