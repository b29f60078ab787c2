//! Registries that are busy, broken, or up to no good.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::chaos::{Act, Asked, Chaos};
use crate::harness::env::run;
use crate::harness::image::{Compression, Layer, Pushed, digest, pushed, pushed_for};
use crate::harness::{Project, TestEnv, kernel, wait_for};

crate::cases! {
    registry_chaos:
    tokens_that_expire_are_renewed_in_the_middle,
    a_busy_registry_is_waited_for,
    a_limit_is_said_with_its_remedy,
    cut_connections_go_on_where_they_were,
    a_registry_without_ranges_is_read_again,
    a_killed_engine_goes_on_where_it_was,
    an_interrupted_pull_goes_on_where_it_was,
    bytes_that_are_not_what_they_should_be_are_refused,
    no_credentials_go_where_a_redirect_leads,
    no_password_goes_to_a_realm_elsewhere,
    a_registry_that_refuses_head_is_asked_by_get,
    an_index_offers_the_image_for_this_machine,
    what_is_no_image_is_refused_before_anything_is_fetched,
    a_mirror_is_asked_first_and_may_fail,
    two_pulls_of_one_layer_fetch_it_once,
    an_interrupted_push_lets_go_of_the_image,
    a_bomb_is_refused_before_it_fills_the_disk,
}

const ADDRESS: &str = "127.0.0.1:5000";

/// Bytes that do not compress, different for each seed.
fn noise(seed: u8, n_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(seed) + 1);
    let mut bytes = Vec::with_capacity(n_bytes + 8);
    while bytes.len() < n_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(n_bytes);
    bytes
}

fn app() -> Pushed {
    let layers = vec![
        Layer::busybox(Compression::Gzip),
        Layer::new(Compression::Gzip).file("one", 0o644, 0, &noise(1, 400_000)),
        Layer::new(Compression::Gzip).file("two", 0o644, 0, &noise(2, 600_000)),
        Layer::new(Compression::None).file("mark", 0o644, 0, b"whole"),
    ];
    pushed(layers, &json!({"Cmd": ["sleep", "1001"]}))
}

fn with_app(env: &TestEnv) -> (Chaos, Project) {
    let chaos = Chaos::start(ADDRESS);
    chaos.put("app:1", &app());
    let project = env.project(
        "chaos",
        &format!("services: {{app: {{image: '{ADDRESS}/app:1', stop_grace_period: 0s}}}}"),
    );
    (chaos, project)
}

fn check(project: &Project) {
    assert_eq!(
        project.sh("app", "cat /mark; stat -c %s /one /two"),
        "whole400000\n600000"
    );
}

/// The answer of a token service, or the challenge that leads there.
fn guarded(asked: &Asked, tokens: &AtomicUsize, n_uses: usize, uses: &Mutex<Vec<usize>>) -> Act {
    if asked.path.starts_with("/token") {
        let n = tokens.fetch_add(1, Ordering::SeqCst);
        uses.lock().unwrap().push(0);
        return Act::Answer {
            status: "200 OK",
            headers: Vec::new(),
            body: json!({"access_token": format!("t{n}"), "expires_in": 300})
                .to_string()
                .into_bytes(),
        };
    }
    let token = asked.header("authorization").strip_prefix("Bearer t");
    if let Some(n) = token.and_then(|n| n.parse::<usize>().ok()) {
        let mut uses = uses.lock().unwrap();
        uses[n] += 1;
        if uses[n] <= n_uses {
            return Act::Serve;
        }
    }
    Act::challenge(format!(
        r#"Bearer realm="http://{ADDRESS}/token",service="test",scope="repository:app:pull""#
    ))
}

fn tokens_that_expire_are_renewed_in_the_middle(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    let (tokens, uses) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Every token is good for two requests, and there are six to make.
    chaos.rule(move |asked| guarded(asked, &tokens, 2, &uses));
    project.up();
    check(&project);
    let asked = chaos.asked();
    let fetched: Vec<&Asked> = asked
        .iter()
        .filter(|a| a.path.starts_with("/token"))
        .collect();
    assert!(fetched.len() >= 3, "{:#?}", chaos.lines());
    assert!(
        fetched[0].path.contains("scope=repository%3Aapp%3Apull"),
        "{}",
        fetched[0].path
    );
    assert!(fetched[0].path.contains("service=test"));
}

fn a_busy_registry_is_waited_for(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    chaos.rule(|asked| match asked.n_before {
        0 if asked.path.contains("/manifests/") => Act::Answer {
            status: "429 Too Many Requests",
            headers: vec![("Retry-After", "1".to_owned())],
            body: Vec::new(),
        },
        0 => Act::status("503 Service Unavailable"),
        1 => Act::status("502 Bad Gateway"),
        _ => Act::Serve,
    });
    project.up();
    check(&project);
}

fn a_limit_is_said_with_its_remedy(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    chaos.rule(|_| Act::Answer {
        status: "429 Too Many Requests",
        headers: vec![
            ("Retry-After", "3600".to_owned()),
            ("RateLimit-Limit", "100;w=21600".to_owned()),
            ("RateLimit-Remaining", "0;w=21600".to_owned()),
        ],
        body: br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit"}]}"#
            .to_vec(),
    });
    project.wharf(&["up", "-d"]).fails_saying(&[
        "You have reached your limit",
        "0 of 100 requests are left",
        "hint: wait, or `wharf login 127.0.0.1:5000`",
    ]);
}

fn cut_connections_go_on_where_they_were(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    chaos.rule(|asked| match asked.is_blob() && asked.n_before < 3 {
        true => Act::CutAfter(100_000),
        false => Act::Serve,
    });
    project.up();
    check(&project);
    let image = app();
    let n_bytes: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    // Nothing is fetched twice: what was cut off came from its middle.
    assert!(
        chaos.n_sent() <= n_bytes + image.config.len(),
        "{} of {n_bytes}",
        chaos.n_sent()
    );
    let ranges: Vec<String> = chaos
        .asked()
        .iter()
        .map(|asked| asked.header("range").to_owned())
        .filter(|range| !range.is_empty())
        .collect();
    assert!(ranges.contains(&"bytes=100000-".to_owned()), "{ranges:?}");
    assert!(ranges.contains(&"bytes=300000-".to_owned()), "{ranges:?}");
}

fn a_registry_without_ranges_is_read_again(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    chaos.rule(|asked| match asked.is_blob() && asked.n_before < 2 {
        true => Act::CutAfter(50_000 * (1 + asked.n_before)),
        false => Act::ServeWhole,
    });
    project.up();
    check(&project);
}

/// Starts a pull that stops half way through a layer, and waits until it has got so far.
fn begin_stuck(env: &TestEnv, chaos: &Chaos, project: &Project) -> std::process::Child {
    let image = app();
    let path = format!("/v2/app/blobs/{}", digest(&image.layers[2].bytes));
    chaos.rule(move |asked| match asked.path == path {
        true => Act::HangAfter(300_000),
        false => Act::Serve,
    });
    let pull = project.command().arg("pull").spawn().expect("wharf runs");
    for (n, layer) in image.layers.iter().enumerate() {
        let name = digest(&layer.bytes).replace("sha256:", "");
        let kept = env.data_root().join("downloads").join(name);
        let n_bytes = if n == 2 {
            300_000
        } else {
            layer.bytes.len() as u64
        };
        wait_for("the other layers, and half of this one, to be kept", || {
            (std::fs::metadata(&kept).ok()?.len() == n_bytes).then_some(())
        });
    }
    pull
}

fn check_goes_on(env: &TestEnv, chaos: &Chaos, project: &Project) {
    let n_before = chaos.asked().len();
    chaos.rule(|_| Act::Serve);
    project.up();
    check(project);
    let image = app();
    let last = digest(&image.layers[2].bytes);
    let asked = chaos.asked().split_off(n_before);
    let resumed: Vec<&Asked> = asked.iter().filter(|a| a.path.ends_with(&last)).collect();
    assert_eq!(resumed.len(), 1);
    assert_eq!(resumed[0].header("range"), "bytes=300000-");
    // The layers that were whole are not fetched again.
    let n_layers = asked.iter().filter(|asked| asked.is_blob()).count();
    assert_eq!(n_layers, 2, "the config and the rest: {:#?}", chaos.lines());
    assert_no_leftover(env);
}

#[track_caller]
fn assert_no_leftover(env: &TestEnv) {
    for directory in ["downloads", "staging"] {
        let left = kernel::entries_under(&env.data_root().join(directory));
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
}

fn a_killed_engine_goes_on_where_it_was(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    let mut pull = begin_stuck(env, &chaos, &project);
    let engine = env.engine_pid().expect("it pulls");
    let engine = nix::unistd::Pid::from_raw(engine);
    nix::sys::signal::kill(engine, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    let status = pull.wait().expect("it is our child");
    assert!(!status.success());
    check_goes_on(env, &chaos, &project);
}

fn an_interrupted_pull_goes_on_where_it_was(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    let mut pull = begin_stuck(env, &chaos, &project);
    let pid = nix::unistd::Pid::from_raw(pull.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it is our child");
    let status = pull.wait().expect("it is our child");
    assert_eq!(status.code(), Some(130));
    // Nothing goes on in the engine, and nothing half made is there.
    wait_for("the layers under way to be dropped", || {
        kernel::entries_under(&env.data_root().join("staging"))
            .is_empty()
            .then_some(())
    });
    assert!(kernel::entries_under(&env.data_root().join("snapshots")).is_empty());
    check_goes_on(env, &chaos, &project);
}

fn bytes_that_are_not_what_they_should_be_are_refused(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    let image = app();
    let layer = digest(&image.layers[1].bytes);
    let config = digest(&image.config);
    type Damage = (&'static str, String, fn(&mut Vec<u8>));
    let damages: [Damage; 5] = [
        ("a flipped bit", layer.clone(), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("more than announced", layer.clone(), |bytes| {
            bytes.extend_from_slice(b"more")
        }),
        ("another layer", layer, |bytes| {
            *bytes = noise(9, bytes.len())
        }),
        ("a flipped config", config, |bytes| {
            let end = bytes.len() - 2;
            bytes[end] ^= 1;
        }),
        ("a flipped manifest", "/manifests/1".to_owned(), |bytes| {
            bytes.push(b' ')
        }),
    ];
    for (what, place, change) in damages {
        chaos.rule(move |asked| match asked.path.ends_with(&place) {
            true => Act::Change(change),
            false => Act::Serve,
        });
        let run = project.wharf(&["up", "-d"]);
        assert!(run.code != 0, "{what}: {run}");
        for said in [
            "does not match: expected",
            "hint: the content was changed on its way",
        ] {
            assert!(run.stderr.contains(said), "{what}: {run}");
        }
        assert!(
            kernel::entries_under(&env.data_root().join("snapshots")).is_empty(),
            "{what}"
        );
        assert!(
            kernel::entries_under(&env.data_root().join("staging")).is_empty(),
            "{what}"
        );
    }
    // What was right is used, and what was wrong is fetched again.
    chaos.rule(|_| Act::Serve);
    project.up();
    check(&project);
    assert_no_leftover(env);
}

/// `~/.docker/config.json` of the test's user.
fn log_in(env: &TestEnv, host: &str) {
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode("me:s3cret");
    let directory = env.path(".docker");
    std::fs::create_dir_all(&directory).expect("it is ours");
    let file = json!({"auths": {host: {"auth": pair}}});
    std::fs::write(directory.join("config.json"), file.to_string()).expect("it is ours");
}

fn no_credentials_go_where_a_redirect_leads(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    log_in(env, ADDRESS);
    let storage = Chaos::start("127.0.0.1:5001");
    storage.put("app:1", &app());
    chaos.rule(|asked| {
        if asked.header("authorization").is_empty() {
            return Act::challenge(r#"Basic realm="test""#.to_owned());
        }
        match asked.is_blob() {
            true => Act::redirect(format!("http://127.0.0.1:5001{}?signature=x", asked.path)),
            false => Act::Serve,
        }
    });
    // A link that dies during the download is asked for again.
    storage.rule(|asked| match asked.n_before {
        0 => Act::CutAfter(1000),
        _ => Act::Serve,
    });
    project.up();
    check(&project);
    let seen = storage.asked();
    assert!(seen.len() >= 5, "{:?}", storage.lines());
    for asked in &seen {
        assert_eq!(asked.header("authorization"), "", "{asked:?}");
    }
    let shown = chaos
        .asked()
        .iter()
        .filter(|a| !a.header("authorization").is_empty())
        .count();
    assert!(shown >= 5);
    let log = std::fs::read_to_string(env.run_root().join("engine.log")).unwrap_or_default();
    assert!(!log.contains("s3cret") && !log.contains("bWU6"), "{log}");
}

fn no_password_goes_to_a_realm_elsewhere(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    log_in(env, ADDRESS);
    // An address of this namespace that is not the registry's and not loopback.
    let status = std::process::Command::new("ip")
        .args(["addr", "add", "10.9.9.9/32", "dev", "lo"])
        .status()
        .expect("ip is installed");
    assert!(status.success());
    let thief = Chaos::start("10.9.9.9:80");
    chaos
        .rule(|_| Act::challenge(r#"Bearer realm="http://10.9.9.9/token",service="x""#.to_owned()));
    project
        .wharf(&["up", "-d"])
        .fails_saying(&["http://10.9.9.9/token", "not safe"]);
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
}

fn a_registry_that_refuses_head_is_asked_by_get(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    project.up();
    for status in ["403 Forbidden", "405 Method Not Allowed", "404 Not Found"] {
        chaos.rule(move |asked| match asked.method == "HEAD" {
            true => Act::status(status),
            false => Act::Serve,
        });
        let n_before = chaos.asked().len();
        project.wharf(&["pull"]).ok();
        let lines = chaos.lines().split_off(n_before);
        assert_eq!(
            lines,
            ["HEAD /v2/app/manifests/1", "GET /v2/app/manifests/1"],
            "{status}"
        );
    }
    check(&project);
}

fn an_index_offers_the_image_for_this_machine(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    let layers = || {
        vec![
            Layer::busybox(Compression::Gzip),
            Layer::new(Compression::Gzip).file("mark", 0o644, 0, b"arm"),
        ]
    };
    let ours = app();
    let other = pushed_for("arm64", layers(), &json!({"Cmd": ["sleep", "1001"]}));
    chaos.put("app:ours", &ours);
    chaos.put("app:other", &other);
    let entry = |image: &Pushed, architecture: &str, os: &str| {
        json!({
            "mediaType": image.media_type,
            "digest": digest(&image.manifest),
            "size": image.manifest.len(),
            "platform": {"architecture": architecture, "os": os},
        })
    };
    let mut attestation = entry(&other, "unknown", "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = |entries: serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string()
    };
    let both = index(json!([
        attestation,
        entry(&other, "arm64", "linux"),
        entry(&ours, "amd64", "linux")
    ]));
    chaos.put_manifest("app:1", media_type, both.as_bytes());
    project.up();
    check(&project);
    // Once known, an index costs one request as a manifest does.
    let n_before = chaos.asked().len();
    project.wharf(&["pull"]).ok();
    assert_eq!(
        chaos.lines().split_off(n_before),
        ["HEAD /v2/app/manifests/1"]
    );

    let foreign = index(json!([entry(&other, "arm64", "linux")]));
    chaos.put_manifest("foreign:1", media_type, foreign.as_bytes());
    project.write(&format!(
        "services: {{app: {{image: '{ADDRESS}/foreign:1', platform: linux/amd64}}}}"
    ));
    project
        .wharf(&["up", "-d"])
        .fails_saying(&["linux/amd64", "linux/arm64"]);
}

fn what_is_no_image_is_refused_before_anything_is_fetched(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    let image = app();
    let good: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let changed = |change: fn(&mut serde_json::Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest.to_string()
    };
    let cases = [
        (
            oci,
            changed(|m| {
                m["layers"][1]["mediaType"] =
                    json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
            }),
        ),
        (
            oci,
            changed(|m| m["artifactType"] = json!("application/vnd.example")),
        ),
        (
            oci,
            changed(|m| m["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json")),
        ),
        // CVE-2021-41190: two programs would read two different things.
        (oci, changed(|m| m["manifests"] = json!([]))),
        ("application/vnd.oci.image.index.v1+json", changed(|_| ())),
        // CVE-2024-3727.
        (
            oci,
            changed(|m| m["layers"][0]["digest"] = json!("sha256:../../../../tmp/x")),
        ),
        (oci, changed(|m| m["config"]["digest"] = json!("sha512:00"))),
        (oci, "{".to_owned()),
        (
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            json!({"schemaVersion": 1}).to_string(),
        ),
    ];
    for (media_type, manifest) in cases {
        chaos.put_manifest("app:1", media_type, manifest.as_bytes());
        let n_before = chaos.asked().len();
        let run = project.wharf(&["up", "-d"]);
        assert!(run.code != 0, "{manifest}: {run}");
        let layers: Vec<String> = image.layers.iter().map(|l| digest(&l.bytes)).collect();
        let asked = chaos.lines().split_off(n_before);
        let is_layer = |line: &String| layers.iter().any(|layer| line.ends_with(layer));
        assert!(!asked.iter().any(is_layer), "{manifest}: {asked:?}");
    }
}

fn settings(env: &TestEnv, json: &serde_json::Value) -> std::path::PathBuf {
    let directory = env.path("etc");
    std::fs::create_dir_all(&directory).expect("it is ours");
    std::fs::write(directory.join("daemon.json"), json.to_string()).expect("it is ours");
    directory
}

fn with_settings(project: &Project, directory: &Path, arguments: &[&str]) -> crate::harness::Run {
    let mut command = project.command();
    command.env("WHARF_CONFIG_DIR", directory).args(arguments);
    crate::harness::env::run(command)
}

fn a_mirror_is_asked_first_and_may_fail(env: &TestEnv) {
    let (chaos, project) = with_app(env);
    chaos.put("library/app:1", &app());
    let broken = Chaos::start("127.0.0.1:5002");
    broken.rule(|_| Act::status("404 Not Found"));
    let directory = settings(
        env,
        &json!({"registry-mirrors": ["http://127.0.0.1:5002", format!("http://{ADDRESS}")]}),
    );
    log_in(env, "https://index.docker.io/v1/");
    project.write("services: {app: {image: 'app:1', stop_grace_period: 0s}}");
    with_settings(&project, &directory, &["up", "-d"]).ok();
    check(&project);
    assert_eq!(broken.lines(), ["GET /v2/library/app/manifests/1"]);
    // Nobody but Docker Hub is shown its login.
    for asked in chaos.asked().iter().chain(&broken.asked()) {
        assert_eq!(asked.header("authorization"), "", "{asked:?}");
    }
}

fn two_pulls_of_one_layer_fetch_it_once(env: &TestEnv) {
    let chaos = Chaos::start(ADDRESS);
    let image = |mark: &[u8]| {
        let layers = vec![
            Layer::busybox(Compression::Gzip),
            Layer::new(Compression::Gzip).file("one", 0o644, 0, &noise(1, 400_000)),
            Layer::new(Compression::None).file("mark", 0o644, 0, mark),
        ];
        pushed(layers, &json!({"Cmd": ["sleep", "1001"]}))
    };
    let services: Vec<String> = (0..4u8)
        .map(|n| {
            chaos.put(&format!("app{n}:1"), &image(&[b'0' + n]));
            format!("app{n}: {{image: '{ADDRESS}/app{n}:1', stop_grace_period: 0s}}")
        })
        .collect();
    let project = env.project("shared", &format!("services: {{{}}}", services.join(", ")));
    project.up();
    for n in 0..4 {
        assert_eq!(project.sh(&format!("app{n}"), "cat /mark"), n.to_string());
    }
    let blob = digest(&image(b"x").layers[1].bytes);
    let n_fetched = chaos
        .lines()
        .iter()
        .filter(|line| line.ends_with(&blob))
        .count();
    assert_eq!(n_fetched, 1, "{:#?}", chaos.lines());
}

/// Compressing a large layer takes long, and ends with the wish for it.
fn an_interrupted_push_lets_go_of_the_image(env: &TestEnv) {
    let _chaos = Chaos::start(ADDRESS);
    let layer = env.path("layer.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&layer).expect("it is ours"));
    let bytes = noise(3, 128 << 20);
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    let appended = tar.append_data(&mut header, "noise", &bytes[..]);
    appended.and_then(|()| tar.finish()).expect("there is room");
    let image = format!("{ADDRESS}/large:1");
    let layer = layer.to_str().expect("it is UTF-8");
    env.wharf(&["image", "import", layer, &image]).ok();
    let mut push = env.command();
    let push = push.args(["image", "push", &image]);
    let push = push.stderr(std::process::Stdio::piped());
    let mut push = push.spawn().expect("it is built");
    let told = std::io::BufReader::new(push.stderr.take().expect("it is piped"));
    let mut lines = std::io::BufRead::lines(told).map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Preparing")));
    let pid = nix::unistd::Pid::from_raw(push.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it is our child");
    assert_eq!(push.wait().expect("it is our child").code(), Some(130));
    std::thread::sleep(Duration::from_millis(500));
    let removed = env.wharf(&["image", "rm", &image]).ok();
    assert!(removed.stdout.contains("Deleted: "), "{removed}");
}

/// S41 at its full size: ten GiB in ten MiB of gzip, and in one of zstd. Time, disk and memory are
/// bounded by what one image has of bytes whatever the ratio.
fn a_bomb_is_refused_before_it_fills_the_disk(env: &TestEnv) {
    let chaos = Chaos::start(ADDRESS);
    let root = env.data_root();
    for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let layers = vec![
            Layer::busybox(Compression::Gzip),
            Layer::new(compression).bomb("zeros", 10 << 30),
        ];
        chaos.put(&format!("{name}:1"), &pushed(layers, &json!({})));
        let image = format!("{ADDRESS}/{name}:1");
        let mut pull = env.command();
        pull.args(["image", "pull", &image]);
        let done = AtomicBool::new(false);
        let (run, most) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let (mut disk, mut memory) = (0_u64, 0_u64);
                while !done.load(Ordering::SeqCst) {
                    let files = kernel::files_under(&root);
                    let sizes = files.iter().filter_map(|file| file.metadata().ok());
                    disk = disk.max(sizes.map(|file| file.blocks() * 512).sum());
                    let peak = env.engine_pid();
                    let peak = peak.and_then(|pid| kernel::status_field(pid, "VmHWM"));
                    let peak = peak.and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
                    memory = memory.max(peak.unwrap_or(0) << 10);
                    std::thread::sleep(Duration::from_millis(20));
                }
                (disk, memory)
            });
            let run = run(pull);
            done.store(true, Ordering::SeqCst);
            (run, watching.join().expect("it only looks"))
        });
        run.fails_saying(&["exceeds the limit", "hint: no honest layer"]);
        // The download and one GiB and what the ratio allows for the rest.
        assert!(most.0 < 3 << 30, "{name}: {most:?}");
        assert!(most.1 < 256 << 20, "{name}: {most:?}");
        assert_no_leftover(env);
        let mut list = env.wharf(&["image", "ls", "-q"]).ok().stdout;
        list.retain(|c| !c.is_whitespace());
        assert_eq!(list, "");
    }
}
