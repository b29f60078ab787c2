//! The harness sees what it is there to see: without this, an empty leak report would prove nothing.

use std::process::Command;

use crate::harness::{TestEnv, image, kernel, terminal::Terminal, wait_for};

crate::cases! {
    harness_itself:
    a_world_has_no_engine_and_leaves_nothing,
    a_left_over_of_every_kind_is_reported,
    a_terminal_shows_and_takes_text,
    an_image_layout_is_whole,
    the_world_is_cut_off_from_the_machine,
}

fn a_world_has_no_engine_and_leaves_nothing(env: &TestEnv) {
    assert_eq!(env.leaks(), Vec::<String>::new());
    assert_eq!(env.engine_pid(), None);
}

fn a_left_over_of_every_kind_is_reported(env: &TestEnv) {
    let mut sleeper = Command::new("sleep")
        .arg("4001")
        .spawn()
        .expect("sleep is installed");
    sh("mount -t tmpfs left /mnt");
    sh("ip link add left type veth peer name right");
    let cgroup = kernel::own_mounts()
        .into_iter()
        .find(|mount| mount.kind.starts_with("cgroup"))
        .expect("a cgroup tree is mounted")
        .target
        + "/wharf-"
        + &env.tag();
    std::fs::create_dir(&cgroup).expect("root may make cgroups");
    std::fs::create_dir_all(env.run_root().join("containers/x")).expect("it is ours");
    std::fs::write(env.run_root().join("containers/x/start.json"), "{}").expect("it is ours");
    let listener = std::net::TcpListener::bind("127.0.0.1:4001").expect("the port is free");

    let report = env.leaks().join("\n");
    for part in [
        "sleep 4001",
        "mount /mnt (tmpfs)",
        "link left",
        &cgroup,
        "start.json in the run root",
        "port tcp/4001",
    ] {
        assert!(report.contains(part), "{part} is missing in:\n{report}");
    }

    drop(listener);
    std::fs::remove_file(env.run_root().join("containers/x/start.json")).expect("it is there");
    std::fs::remove_dir_all(env.run_root()).expect("it is ours");
    std::fs::remove_dir(&cgroup).expect("it is empty");
    sh("ip link delete left");
    sh("umount /mnt");
    sleeper.kill().expect("it runs");
    sleeper.wait().expect("it is our child");
}

fn a_terminal_shows_and_takes_text(_: &TestEnv) {
    let mut command = Command::new("sh");
    command.args(["-c", "stty size; read -r line; echo got:$line; exit 3"]);
    let mut terminal = Terminal::start(&command, 30, 90);
    terminal.expect("30 90");
    terminal.send("hello\n");
    terminal.expect("got:hello");
    assert_eq!(terminal.wait().code(), Some(3));
}

fn an_image_layout_is_whole(env: &TestEnv) {
    let layers = vec![image::Layer::busybox(image::Compression::Gzip)];
    image::oci_layout(&env.path("oci"), "v1", layers, &serde_json::json!({}));
    let read = |path: String| std::fs::read(env.path("oci").join(path)).expect("it was written");
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().expect("a digest is a string");
        serde_json::from_slice::<serde_json::Value>(&read(digest.replace(':', "/").replacen(
            "sha256/",
            "blobs/sha256/",
            1,
        )))
        .expect("it is JSON")
    };
    let index: serde_json::Value =
        serde_json::from_slice(&read("index.json".to_owned())).expect("it is JSON");
    let manifest = blob(&index["manifests"][0]["digest"]);
    let config = blob(&manifest["config"]["digest"]);
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        config["rootfs"]["diff_ids"].as_array().map(Vec::len),
        Some(1)
    );
}

fn the_world_is_cut_off_from_the_machine(_: &TestEnv) {
    assert_eq!(kernel::links().into_iter().collect::<Vec<_>>(), ["lo"]);
    wait_for("lo to be up", || {
        std::net::UdpSocket::bind("127.0.0.1:0").ok()
    });
    assert!(kernel::nft_tables().is_empty());
    // Process 1 here is the harness's init, not the machine's.
    let init = std::fs::read_link("/proc/1/exe").expect("we are root");
    assert_eq!(init, std::env::current_exe().expect("we have a file"));
}

#[track_caller]
fn sh(script: &str) {
    let status = Command::new("sh").args(["-c", script]).status();
    assert!(status.expect("sh is there").success(), "{script}");
}
