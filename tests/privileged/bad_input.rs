//! Mistakes and missing things: one clear message, a non-zero exit, and nothing left behind.

use std::fs;

use crate::harness::{Run, TestEnv, kernel};

crate::cases! {
    bad_input:
    no_file_in_the_directory,
    a_deleted_working_directory_matters_only_where_it_is_used,
    broken_yaml_shows_line_and_column,
    an_unknown_key_is_shown_where_it_stands,
    all_mistakes_are_reported_at_once,
    a_missing_image_says_what_to_do,
    a_registry_image_is_an_honest_refusal,
    a_command_that_is_not_there_names_service_and_program,
    a_program_without_execute_permission_is_named,
    an_exhausted_address_pool_is_named,
    an_unknown_service_is_named,
    an_unset_required_variable_shows_its_message,
    without_root_one_sentence_says_so,
    a_full_disk_is_said_and_nothing_is_left,
    an_undefined_network_or_volume_is_shown_where_it_is_used,
    an_invalid_project_name_is_refused,
    a_bad_flag_is_a_usage_error,
    a_bind_source_without_permission_or_a_file_over_a_directory_is_named,
}

/// Nothing of the failed attempt is running or mounted, and the message is one for people.
#[track_caller]
fn nothing_left(env: &TestEnv, run: &Run) {
    env.expect_no_shims();
    for noise in ["panicked", "RUST_BACKTRACE", "Os {", "Error {", "unwrap()"] {
        assert!(!run.stderr.contains(noise), "{run}");
    }
    let links = kernel::links();
    assert!(!links.iter().any(|link| link.contains("veth")), "{links:?}");
}

fn no_file_in_the_directory(env: &TestEnv) {
    let project = env.project("nofile", "");
    fs::remove_file(project.directory.join("compose.yaml")).expect("it was written");
    let run = project.wharf(&["up", "-d"]).fails_saying(&["compose.yaml"]);
    nothing_left(env, &run);
    fs::remove_dir(&project.directory).expect("it is empty");
}

fn a_deleted_working_directory_matters_only_where_it_is_used(env: &TestEnv) {
    let project = env.project(
        "here",
        "services: {s: {image: IMAGE, command: sleep 1001, stop_grace_period: 0s}}\n",
    );
    let file = project.directory.join("compose.yaml");
    let file = file.to_str().expect("the test's paths are text");
    // `again` makes the directory and the file anew, as a change of the branch does.
    let from_deleted = |again: &str, arguments: &[&str]| {
        let script =
            format!("mkdir gone && cd gone && rmdir ../gone && {again} exec \"$0\" \"$@\"");
        let wharf = env.command();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script]).arg(wharf.get_program());
        command.args(arguments).env_clear();
        command.envs(
            wharf
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command.current_dir(&project.directory);
        crate::harness::env::run(command)
    };
    from_deleted("", &["-f", file, "up", "-d"]).ok();
    assert!(from_deleted("", &["ls"]).ok().stdout.contains("here"));
    from_deleted("", &["-f", "compose.yaml", "ps"]).fails_saying(&["gone/compose.yaml"]);
    let again = "mkdir ../gone && cp ../compose.yaml ../gone/ &&";
    from_deleted(again, &["-p", "here", "ps"]).ok();
    fs::remove_dir_all(project.directory.join("gone")).expect("it was made");
}

fn broken_yaml_shows_line_and_column(env: &TestEnv) {
    let project = env.project(
        "yaml",
        "services:\n  s:\n    image: [unclosed\n    command: x\n",
    );
    let run = project
        .wharf(&["up", "-d"])
        .fails_saying(&["compose.yaml:"]);
    let has_place =
        run.stderr.contains("compose.yaml:3:") || run.stderr.contains("compose.yaml:4:");
    assert!(has_place, "{run}");
    nothing_left(env, &run);
    project.write("services: {}\n");
}

fn an_unknown_key_is_shown_where_it_stands(env: &TestEnv) {
    let project = env.project(
        "key",
        "services:\n  s:\n    image: IMAGE\n    comand: sleep 1\n",
    );
    let run = project
        .wharf(&["up", "-d"])
        .fails_saying(&["compose.yaml:4:5", "comand", "^"]);
    assert!(
        run.stderr.contains("command"),
        "a near name is suggested: {run}"
    );
    nothing_left(env, &run);
    project.write("services: {}\n");
}

fn all_mistakes_are_reported_at_once(env: &TestEnv) {
    let project = env.project(
        "all",
        "services:\n  a:\n    image: IMAGE\n    comand: x\n  b:\n    image: IMAGE\n    ports: {no: list}\n    restart: sometimes\n",
    );
    let run = project
        .wharf(&["config"])
        .fails_saying(&["compose.yaml:4:", "compose.yaml:7:"]);
    nothing_left(env, &run);
    project.write("services: {}\n");
}

fn a_missing_image_says_what_to_do(env: &TestEnv) {
    for image in [
        "rootfs:ROOT/not-there",
        "oci:ROOT/not-there",
        "docker-archive:ROOT/not-there.tar",
    ] {
        let project = env.project("image", &format!("services:\n  s:\n    image: {image}\n"));
        let run = project.wharf(&["up", "-d"]).fails_saying(&["not-there"]);
        nothing_left(env, &run);
        assert_eq!(project.ps().len(), 0, "{image}");
    }
}

fn a_registry_image_is_an_honest_refusal(env: &TestEnv) {
    let project = env.project("registry", "services:\n  s:\n    image: nginx:1.27\n");
    let run = project.wharf(&["up", "-d"]).fails_saying(&["nginx:1.27"]);
    nothing_left(env, &run);
}

fn a_command_that_is_not_there_names_service_and_program(env: &TestEnv) {
    let project = env.project(
        "cmd",
        "services:\n  s:\n    image: IMAGE\n    command: no-such-program --flag\n",
    );
    let run = project
        .wharf(&["up", "-d"])
        .fails_saying(&["no-such-program"]);
    assert!(
        run.stderr.contains("s-1") || run.stderr.contains("service s"),
        "{run}"
    );
    nothing_left(env, &run);
}

fn a_program_without_execute_permission_is_named(env: &TestEnv) {
    let project = env.project(
        "perm",
        "services:\n  s:\n    image: IMAGE\n    command: /etc/passwd\n",
    );
    let run = project.wharf(&["up", "-d"]).fails_saying(&["/etc/passwd"]);
    assert!(run.stderr.to_lowercase().contains("permission"), "{run}");
    nothing_left(env, &run);
}

fn an_exhausted_address_pool_is_named(env: &TestEnv) {
    let project = env.project(
        "pool",
        "
services:
  s:
    image: IMAGE
    command: sleep 1001
    stop_grace_period: 0s
    deploy: {replicas: 3}
    networks: [small]
networks:
  small: {ipam: {config: [{subnet: 10.213.9.0/30}]}}
",
    );
    // Four addresses: network, broadcast, gateway and one for a container.
    let run = project
        .wharf(&["up", "-d"])
        .fails_saying(&["10.213.9.0/30"]);
    assert!(!run.stderr.contains("panicked"), "{run}");
    project.down();
    assert!(kernel::pids_of("sleep 1001").is_empty());
}

fn an_unknown_service_is_named(env: &TestEnv) {
    let project = env.project("service", "services:\n  s:\n    image: IMAGE\n");
    for command in [
        &["up", "-d", "typo"][..],
        &["stop", "typo"],
        &["logs", "typo"],
    ] {
        project.wharf(command).fails_saying(&["typo"]);
    }
}

fn an_unset_required_variable_shows_its_message(env: &TestEnv) {
    let project = env.project(
        "variable",
        "services:\n  s:\n    image: ${NAME_IT:?name an image}\n",
    );
    let run =
        project
            .wharf(&["up", "-d"])
            .fails_saying(&["NAME_IT", "name an image", "compose.yaml:3:"]);
    nothing_left(env, &run);
    project.write("services: {}\n");
}

fn without_root_one_sentence_says_so(env: &TestEnv) {
    let project = env.project("root", "services:\n  s:\n    image: IMAGE\n");
    // A copy that the other user may execute: the build directory may be closed to it.
    let program = env.path("wharf");
    fs::copy(env!("CARGO_BIN_EXE_wharf"), &program).expect("the directory has room");
    let inner = project.command();
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program);
    command.args(inner.get_args()).args(["up", "-d"]);
    command.envs(
        inner
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    let run = crate::harness::env::run(command);
    assert_ne!(run.code, 0, "{run}");
    let text = run.stderr.to_lowercase();
    assert!(
        text.contains("root") || text.contains("permission"),
        "{run}"
    );
    nothing_left(env, &run);
}

fn a_full_disk_is_said_and_nothing_is_left(env: &TestEnv) {
    fs::create_dir_all(env.data_root()).expect("it is ours");
    let data = env.data_root().display().to_string();
    let status = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "small", &data])
        .status();
    assert!(status.expect("mount is there").success());
    let layers = vec![
        crate::harness::image::Layer::busybox(crate::harness::image::Compression::None).file(
            "large",
            0o644,
            0,
            &vec![7; 4 << 20],
        ),
    ];
    crate::harness::image::oci_layout(
        &env.path("big"),
        "v1",
        layers,
        &serde_json::json!({"Cmd": ["sleep", "1001"]}),
    );
    let project = env.project("full", "services:\n  s:\n    image: 'oci:ROOT/big:v1'\n");
    let run = project.wharf(&["up", "-d"]);
    assert_ne!(run.code, 0, "{run}");
    assert!(
        run.stderr.contains("No space left on device") || run.stderr.contains("bytes are free"),
        "{run}"
    );
    nothing_left(env, &run);
    let _ = project.wharf(&["down", "-v"]).code;
    env.wharf(&["engine", "stop"]).ok();
    crate::harness::wait_for("the data root to be free", || {
        let status = std::process::Command::new("umount")
            .arg(&data)
            .stderr(std::process::Stdio::null())
            .status();
        status.expect("umount is there").success().then_some(())
    });
}

fn an_undefined_network_or_volume_is_shown_where_it_is_used(env: &TestEnv) {
    let project = env.project(
        "undefined",
        "services:\n  s:\n    image: IMAGE\n    networks: [nowhere]\n    volumes: ['nothing:/data']\n",
    );
    let run = project.wharf(&["up", "-d"]).fails_saying(&[
        "nowhere",
        "nothing",
        "compose.yaml:4:",
        "compose.yaml:5:",
    ]);
    nothing_left(env, &run);
    project.write("services: {}\n");
}

fn an_invalid_project_name_is_refused(env: &TestEnv) {
    let project = env.project("fine", "services:\n  s:\n    image: IMAGE\n");
    let mut command = env.command();
    command
        .arg("--project-directory")
        .arg(&project.directory)
        .args(["-p", "Not Fine", "up", "-d"]);
    crate::harness::env::run(command).fails_saying(&["Not Fine"]);
}

fn a_bad_flag_is_a_usage_error(env: &TestEnv) {
    let project = env.project("flag", "services:\n  s:\n    image: IMAGE\n");
    let run = project.wharf(&["up", "--no-such-flag"]);
    assert_ne!(run.code, 0, "{run}");
    assert!(run.stderr.contains("--no-such-flag"), "{run}");
    assert!(env.engine_pid().is_none(), "a usage error starts nothing");
}

fn a_bind_source_without_permission_or_a_file_over_a_directory_is_named(env: &TestEnv) {
    fs::create_dir_all(env.path("p/kind")).expect("it is ours");
    fs::write(env.path("p/kind/file"), "").expect("it is ours");
    let project = env.project(
        "kind",
        "services:\n  s:\n    image: IMAGE\n    command: sleep 1001\n    volumes: ['./file:/etc']\n",
    );
    let run = project.wharf(&["up", "-d"]).fails_saying(&["/etc"]);
    nothing_left(env, &run);
}
