//! Images without a registry: directories, OCI layouts, archives; and what their configuration says.

use serde_json::json;

use crate::harness::image::{Compression, Layer, docker_archive, oci_layout};
use crate::harness::{TestEnv, wait_for};

crate::cases! {
    images:
    an_oci_layout_of_three_compressions_is_stacked,
    an_oci_archive_runs,
    a_docker_archive_runs,
    the_image_configuration_is_honoured,
    the_file_wins_over_the_image_configuration,
    whiteouts_hide_what_lies_below,
    an_image_volume_is_filled_and_anonymous,
    the_images_health_check_runs,
    rootfs_of_the_host_runs_its_programs_and_keeps_it_unchanged,
    two_containers_of_one_image_do_not_share_writes,
}

fn an_oci_layout_of_three_compressions_is_stacked(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::Gzip),
        Layer::new(Compression::Zstd)
            .directory("opt", 0o755)
            .file("opt/a", 0o644, 0, b"middle"),
        Layer::new(Compression::None).file("opt/b", 0o600, 1000, b"top"),
    ];
    oci_layout(
        &env.path("layout"),
        "v1",
        layers,
        &json!({"Cmd": ["sleep", "1001"]}),
    );
    let project = env.project(
        "layout",
        "
services:
  s: {image: 'oci:ROOT/layout:v1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(
        project.sh(
            "s",
            "cat /opt/a; echo; cat /opt/b; echo; stat -c '%a %u' /opt/b"
        ),
        "middle\ntop\n600 1000"
    );
}

fn an_oci_archive_runs(env: &TestEnv) {
    let layers = vec![Layer::busybox(Compression::Gzip)];
    oci_layout(
        &env.path("layout"),
        "v1",
        layers,
        &json!({"Cmd": ["sleep", "1001"]}),
    );
    let mut archive =
        tar::Builder::new(std::fs::File::create(env.path("a.tar")).expect("it is ours"));
    archive
        .append_dir_all(".", env.path("layout"))
        .expect("the layout is there");
    archive.into_inner().expect("the directory has room");
    let project = env.project(
        "archive",
        "
services:
  s: {image: 'oci-archive:ROOT/a.tar', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
}

fn a_docker_archive_runs(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::None),
        Layer::new(Compression::None).file("marker", 0o644, 0, b"saved"),
    ];
    docker_archive(
        &env.path("d.tar"),
        "me/app:1",
        layers,
        &json!({"Cmd": ["sleep", "1001"]}),
    );
    let project = env.project(
        "docker",
        "
services:
  s: {image: 'docker-archive:ROOT/d.tar', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(project.sh("s", "cat /marker"), "saved");
}

fn configured(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::Gzip)
            .directory("etc", 0o755)
            .file(
                "etc/passwd",
                0o644,
                0,
                b"root:x:0:0::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n",
            )
            .file("etc/group", 0o644, 0, b"bob:x:1001:\n"),
    ];
    let config = json!({
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo $GREETING; id -u; pwd; sleep 1001"],
        "Env": ["GREETING=from-image", "PATH=/bin"],
        "User": "bob",
        "WorkingDir": "/work/dir",
    });
    oci_layout(&env.path("configured"), "v1", layers, &config);
}

fn the_image_configuration_is_honoured(env: &TestEnv) {
    configured(env);
    let project = env.project(
        "config",
        "
services:
  s: {image: 'oci:ROOT/configured:v1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    let lines = wait_for("three lines", || {
        let run = project.wharf(&["logs", "--no-log-prefix"]);
        (run.lines().len() == 3).then_some(run.stdout)
    });
    assert_eq!(lines, "from-image\n1001\n/work/dir\n");
}

fn the_file_wins_over_the_image_configuration(env: &TestEnv) {
    configured(env);
    let project = env.project(
        "wins",
        "
services:
  s:
    image: oci:ROOT/configured:v1
    entrypoint: ['sh']
    command: ['-c', 'echo $$GREETING; id -u; pwd']
    environment: {GREETING: from-file}
    user: root
    working_dir: /tmp
",
    );
    project.up();
    project.wait_for_state("wins-s-1", "exited");
    let run = project.wharf(&["logs", "--no-log-prefix"]).ok();
    assert_eq!(run.stdout, "from-file\n0\n/tmp\n");
}

fn whiteouts_hide_what_lies_below(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::None),
        Layer::new(Compression::None)
            .directory("opt", 0o755)
            .file("opt/gone", 0o644, 0, b"x")
            .file("opt/stays", 0o644, 0, b"x")
            .directory("opaque", 0o755)
            .file("opaque/old", 0o644, 0, b"x"),
        Layer::new(Compression::Gzip)
            .file("opt/.wh.gone", 0o644, 0, b"")
            .file("opaque/.wh..wh..opq", 0o644, 0, b"")
            .file("opaque/new", 0o644, 0, b"x"),
    ];
    oci_layout(
        &env.path("wh"),
        "v1",
        layers,
        &json!({"Cmd": ["sleep", "1001"]}),
    );
    let project = env.project(
        "wh",
        "
services:
  s: {image: 'oci:ROOT/wh:v1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(
        project.sh("s", "ls -A /opt /opaque"),
        "/opaque:\nnew\n\n/opt:\nstays"
    );
}

fn an_image_volume_is_filled_and_anonymous(env: &TestEnv) {
    let layers = vec![
        Layer::busybox(Compression::Gzip)
            .directory("data", 0o750)
            .file("data/seed", 0o640, 7, b"seed"),
    ];
    let config = json!({"Cmd": ["sleep", "1001"], "Volumes": {"/data": {}}});
    oci_layout(&env.path("vol"), "v1", layers, &config);
    let project = env.project(
        "imgvol",
        "
services:
  s: {image: 'oci:ROOT/vol:v1', stop_grace_period: 0s}
",
    );
    project.up();
    project.pid_of("sleep 1001");
    assert_eq!(
        project.sh(
            "s",
            "cat /data/seed; echo; stat -c '%a' /data; stat -c '%a %u' /data/seed"
        ),
        "seed\n750\n640 7"
    );
    project.sh("s", "echo kept > /data/mine");
    project.wharf(&["up", "-d", "--force-recreate"]).ok();
    project.pid_of("sleep 1001");
    assert_eq!(project.sh("s", "cat /data/mine"), "kept");
}

fn the_images_health_check_runs(env: &TestEnv) {
    let config = json!({
        "Cmd": ["sleep", "1001"],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 100_000_000u64, "Timeout": 5_000_000_000u64},
    });
    let layers = vec![Layer::busybox(Compression::Gzip)];
    docker_archive(&env.path("h.tar"), "h:1", layers, &config);
    let project = env.project(
        "imghealth",
        "
services:
  s: {image: 'docker-archive:ROOT/h.tar', stop_grace_period: 0s}
",
    );
    project.wharf(&["up", "-d", "--wait"]).ok();
    assert_eq!(project.ps_field("imghealth-s-1", "Health"), "healthy");
}

fn rootfs_of_the_host_runs_its_programs_and_keeps_it_unchanged(env: &TestEnv) {
    let project = env.project(
        "hostroot",
        "
services:
  s:
    image: rootfs:/
    command: ['bash', '-c', 'echo changed > /etc/wharf-was-here; exec -a inside sleep 1001']
    stop_grace_period: 0s
",
    );
    project.up();
    project.pid_of("inside 1001");
    assert_eq!(
        project.exec("s", &["cat", "/etc/wharf-was-here"]),
        "changed"
    );
    assert!(!std::path::Path::new("/etc/wharf-was-here").exists());
    let version = project.exec("s", &["bash", "-c", "echo ${BASH_VERSINFO[0]}"]);
    assert!(version.parse::<u32>().is_ok(), "{version}");
}

fn two_containers_of_one_image_do_not_share_writes(env: &TestEnv) {
    let project = env.project(
        "private",
        "
services:
  a: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}
  b: {image: IMAGE, command: sleep 1002, stop_grace_period: 0s}
",
    );
    project.up();
    project.sh("a", "echo a > /etc/mine; rm /etc/passwd");
    assert_eq!(
        project.sh("b", "ls /etc/mine 2>/dev/null; ls /etc/passwd"),
        "/etc/passwd"
    );
    assert!(env.path("busybox/etc/passwd").exists());
    assert!(!env.path("busybox/etc/mine").exists());
}
