//! Ways to a registry: proxies, certificates, tokens, mirrors, Docker's API, and a disk that is full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::chaos::{Act, Chaos};
use crate::harness::env::run;
use crate::harness::image::{Compression, Layer, Pushed, digest, pushed};
use crate::harness::proxy::Proxy;
use crate::harness::registry::{Manner, Registry};
use crate::harness::{Run, TestEnv, kernel};

crate::cases! {
    registry_access:
    a_proxy_leads_to_a_registry_and_not_past_its_exceptions,
    a_tunnel_leads_to_an_encrypted_registry["docker-registry", "openssl"],
    a_registry_may_ask_for_a_certificate["docker-registry", "openssl"],
    an_identity_token_is_shown_by_post_and_to_nobody_else,
    a_layer_that_may_not_be_handed_on_comes_from_where_it_is,
    a_date_is_waited_for,
    all_tags_are_fetched_page_by_page,
    a_hosts_file_leads_to_a_mirror_of_any_registry,
    a_full_disk_is_said_and_leaves_nothing,
    dockers_api_pulls_and_pushes["docker-registry", "openssl", "htpasswd"],
    no_helper_is_asked_about_what_is_there,
}

/// Addresses of the test's namespace that are not loopback.
const FAR: &str = "10.9.9.8";

fn add_address(address: &str) {
    let status = Command::new("ip")
        .args(["addr", "add", &format!("{address}/32"), "dev", "lo"])
        .status()
        .expect("ip is installed");
    assert!(status.success());
}

fn app(mark: &str) -> Pushed {
    let layers = vec![
        Layer::busybox(Compression::Gzip),
        Layer::new(Compression::Gzip).file("mark", 0o644, 0, mark.as_bytes()),
    ];
    pushed(layers, &json!({"Cmd": ["sleep", "1001"]}))
}

/// `wharf` with the test's own settings of registries and further variables; the engine is started
/// anew, so that it has them, too.
fn wharf(env: &TestEnv, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    env.wharf(&["engine", "stop"]).ok();
    again(env, variables, arguments)
}

fn again(env: &TestEnv, variables: &[(&str, &str)], arguments: &[&str]) -> Run {
    let mut command = env.command();
    command
        .env("WHARF_CONFIG_DIR", env.path("etc"))
        .envs(variables.iter().copied())
        .args(arguments);
    run(command)
}

fn settings(env: &TestEnv, name: &str, text: &str) {
    let path = env.path("etc").join(name);
    fs::create_dir_all(path.parent().expect("it has one")).expect("it is ours");
    fs::write(path, text).expect("it is ours");
}

fn remove(env: &TestEnv, image: &str) {
    env.wharf(&["image", "rm", "-f", image]).ok();
}

#[track_caller]
fn mark_of(env: &TestEnv, image: &str) -> String {
    let project = env.project(
        "mark",
        &format!(
            "services: {{s: {{image: '{image}', pull_policy: never, stop_grace_period: 0s}}}}"
        ),
    );
    project.up();
    let mark = project.sh("s", "cat /mark");
    project.down();
    mark
}

fn a_proxy_leads_to_a_registry_and_not_past_its_exceptions(env: &TestEnv) {
    add_address(FAR);
    add_address("10.9.9.7");
    let host = format!("{FAR}:5000");
    let chaos = Chaos::start(&host);
    chaos.put("app:1", &app("by proxy"));
    let proxy = Proxy::start("10.9.9.7:3128");
    let insecure = json!({"insecure-registries": [host]});
    settings(env, "daemon.json", &insecure.to_string());
    let image = format!("{host}/app:1");
    let named = format!("http://{}", proxy.address);

    wharf(
        env,
        &[("HTTP_PROXY", &named)],
        &["image", "pull", "-q", &image],
    )
    .ok();
    let asked = proxy.asked();
    let manifest = format!("GET http://{host}/v2/app/manifests/1");
    assert!(asked.contains(&manifest), "{asked:?}");
    // Everything came through it.
    assert_eq!(chaos.asked().len(), asked.len(), "{asked:?}");
    assert_eq!(mark_of(env, &image), "by proxy");

    for exceptions in [FAR, "10.9.0.0/16", "*"] {
        remove(env, &image);
        let variables = [("HTTP_PROXY", named.as_str()), ("NO_PROXY", exceptions)];
        wharf(env, &variables, &["image", "pull", "-q", &image]).ok();
        assert_eq!(proxy.asked().len(), asked.len(), "{exceptions}");
    }

    // The file goes before the environment, and is read anew for every pull.
    let mut settled = insecure;
    for (proxies, variables, n_more) in [
        (json!({"http-proxy": named}), vec![], asked.len()),
        (
            json!({"http-proxy": named.replace("http", "socks5")}),
            vec![("HTTP_PROXY", "http://10.9.9.7:1")],
            1,
        ),
        (
            json!({"no-proxy": "10.9.9.0/24"}),
            vec![("HTTP_PROXY", named.as_str())],
            0,
        ),
    ] {
        remove(env, &image);
        let before = proxy.asked().len();
        settled["proxies"] = proxies.clone();
        settings(env, "daemon.json", &settled.to_string());
        wharf(env, &variables, &["image", "pull", "-q", &image]).ok();
        let more = proxy.asked().split_off(before);
        let is_more = match n_more {
            1 => !more.is_empty() && more.iter().all(|line| *line == format!("SOCKS {host}")),
            n => more.len() == n,
        };
        assert!(is_more, "{proxies}: {more:?}");
    }

    // A proxy that is not there is said to be what is missing.
    settled["proxies"] = json!({});
    settings(env, "daemon.json", &settled.to_string());
    remove(env, &image);
    drop(proxy);
    wharf(
        env,
        &[("http_proxy", &named)],
        &["image", "pull", "-q", &image],
    )
    .fails_saying(&["cannot reach registry", "proxy"]);
}

fn a_tunnel_leads_to_an_encrypted_registry(env: &TestEnv) {
    add_address(FAR);
    add_address("10.9.9.7");
    let host = format!("{FAR}:5443");
    let registry = Registry::start(&env.path("registry"), &host, Manner::Tls);
    registry.put("app:1", &app("by tunnel"));
    let proxy = Proxy::start("10.9.9.7:3128");
    let authority = fs::read_to_string(registry.directory.join("ca.crt")).unwrap();
    settings(env, &format!("certs.d/{host}/ca.crt"), &authority);
    let named = format!("http://{}", proxy.address);
    let image = format!("{host}/app:1");
    wharf(
        env,
        &[("HTTPS_PROXY", &named)],
        &["image", "pull", "-q", &image],
    )
    .ok();
    // It has seen where to, and nothing of what.
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    assert!(
        asked.iter().all(|line| *line == format!("CONNECT {host}")),
        "{asked:?}"
    );
    assert_eq!(mark_of(env, &image), "by tunnel");
}

fn a_registry_may_ask_for_a_certificate(env: &TestEnv) {
    add_address(FAR);
    let host = format!("{FAR}:5443");
    let registry = Registry::start(&env.path("registry"), &host, Manner::TlsAndCertificate);
    registry.put("app:1", &app("certified"));
    let image = format!("{host}/app:1");
    let read = |name: &str| fs::read_to_string(registry.directory.join(name)).unwrap();
    settings(env, &format!("certs.d/{host}/ca.crt"), &read("ca.crt"));
    wharf(env, &[], &["image", "pull", "-q", &image])
        .fails_saying(&["10.9.9.8:5443", "ertificate"]);
    // Any certificate of that authority will do: the registry's own has no limits of use.
    settings(
        env,
        &format!("certs.d/{host}/client.cert"),
        &read("server.crt"),
    );
    settings(
        env,
        &format!("certs.d/{host}/client.key"),
        &read("server.key"),
    );
    again(env, &[], &["image", "pull", "-q", &image]).ok();
    assert_eq!(mark_of(env, &image), "certified");
    // One that does not fit its key is named.
    settings(env, &format!("certs.d/{host}/client.key"), &read("ca.key"));
    remove(env, &image);
    again(env, &[], &["image", "pull", "-q", &image]).fails_saying(&["client.key"]);
}

fn an_identity_token_is_shown_by_post_and_to_nobody_else(env: &TestEnv) {
    const ADDRESS: &str = "127.0.0.1:5000";
    let chaos = Chaos::start(ADDRESS);
    chaos.put("app:1", &app("refreshed"));
    let storage = Chaos::start("127.0.0.1:5001");
    storage.put("app:1", &app("refreshed"));
    chaos.rule(|asked| {
        if asked.path.starts_with("/token") {
            let form = String::from_utf8_lossy(&asked.body);
            let has = |part: &str| form.split('&').any(|pair| pair == part);
            let is_right = asked.method == "POST"
                && has("grant_type=refresh_token")
                && has("refresh_token=r3fresh")
                && has("service=test")
                && has("scope=repository%3Aapp%3Apull");
            return match is_right {
                true => Act::Answer {
                    status: "200 OK",
                    headers: Vec::new(),
                    body: br#"{"access_token":"access","expires_in":300}"#.to_vec(),
                },
                false => Act::status("401 Unauthorized"),
            };
        }
        match asked.header("authorization") {
            "Bearer access" if asked.is_blob() => {
                Act::redirect(format!("http://127.0.0.1:5001{}", asked.path))
            }
            "Bearer access" => Act::Serve,
            _ => Act::challenge(format!(
                r#"Bearer realm="http://{ADDRESS}/token",service="test",scope="repository:app:pull""#
            )),
        }
    });
    let image = format!("{ADDRESS}/app:1");
    env.wharf(&["image", "pull", &image])
        .fails_saying(&["denies access"]);
    fs::create_dir_all(env.path(".docker")).expect("it is ours");
    // As `docker login` leaves it: a user name without a password, and the token.
    let file = json!({"auths": {ADDRESS: {"auth": "bWU6", "identitytoken": "r3fresh"}}});
    fs::write(env.path(".docker/config.json"), file.to_string()).expect("it is ours");
    env.wharf(&["image", "pull", "-q", &image]).ok();
    assert_eq!(mark_of(env, &image), "refreshed");
    // The token that lasts goes to the token service alone, and no token goes where blobs are.
    for asked in chaos.asked().iter().chain(&storage.asked()) {
        let is_token_service = asked.path.starts_with("/token");
        let shown = format!("{asked:?}{}", String::from_utf8_lossy(&asked.body));
        assert!(is_token_service || !shown.contains("r3fresh"), "{shown}");
    }
    assert!(!storage.asked().is_empty());
    assert!(
        storage
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_empty())
    );
    let log = fs::read_to_string(env.run_root().join("engine.log")).unwrap_or_default();
    assert!(!log.contains("r3fresh"), "{log}");
}

fn a_layer_that_may_not_be_handed_on_comes_from_where_it_is(env: &TestEnv) {
    const ADDRESS: &str = "127.0.0.1:5000";
    let chaos = Chaos::start(ADDRESS);
    let elsewhere = Chaos::start("127.0.0.1:5001");
    let image = app("foreign");
    let foreign = digest(&image.layers[1].bytes);
    elsewhere.put("app:1", &image);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][1]["mediaType"] =
        json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    let place = format!("http://127.0.0.1:5001/v2/app/blobs/{foreign}");
    manifest["layers"][1]["urls"] = json!(["http://127.0.0.1:5009/nobody", place]);
    chaos.put("app:1", &image);
    chaos.put_manifest("app:1", image.media_type, manifest.to_string().as_bytes());
    let path = format!("/v2/app/blobs/{foreign}");
    chaos.rule(move |asked| {
        if asked.header("authorization").is_empty() {
            return Act::challenge(r#"Basic realm="test""#.to_owned());
        }
        match asked.path == path {
            true => Act::status("404 Not Found"),
            false => Act::Serve,
        }
    });
    fs::create_dir_all(env.path(".docker")).expect("it is ours");
    let file = json!({"auths": {ADDRESS: {"username": "me", "password": "s3cret"}}});
    fs::write(env.path(".docker/config.json"), file.to_string()).expect("it is ours");
    let name = format!("{ADDRESS}/app:1");
    env.wharf(&["image", "pull", "-q", &name]).ok();
    assert_eq!(mark_of(env, &name), "foreign");
    let asked = elsewhere.asked();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("authorization").is_empty()),
        "{asked:?}"
    );

    // Pushed, it stays where it is: only the manifest speaks of it.
    let there = Chaos::start("127.0.0.1:5002");
    there.rule(|asked| match asked.method.as_str() {
        // It has the other blobs already.
        "HEAD" => Act::status("200 OK"),
        "PUT" => Act::status("201 Created"),
        _ => Act::Serve,
    });
    env.wharf(&["image", "tag", &name, "127.0.0.1:5002/copy:1"])
        .ok();
    env.wharf(&["image", "push", "-q", "127.0.0.1:5002/copy:1"])
        .ok();
    let lines = there.lines();
    assert!(
        !lines.iter().any(|line| line.contains(&foreign)),
        "{lines:#?}"
    );
    let put = there
        .asked()
        .into_iter()
        .find(|asked| asked.method == "PUT")
        .unwrap();
    assert_eq!(put.body, manifest.to_string().as_bytes());
}

fn a_date_is_waited_for(env: &TestEnv) {
    const ADDRESS: &str = "127.0.0.1:5000";
    let chaos = Chaos::start(ADDRESS);
    chaos.put("app:1", &app("patience"));
    let refused = Mutex::new(None::<Instant>);
    let waited = std::sync::Arc::new(Mutex::new(Duration::ZERO));
    let told = std::sync::Arc::clone(&waited);
    chaos.rule(move |asked| {
        if !asked.path.contains("/manifests/") {
            return Act::Serve;
        }
        let mut refused = refused.lock().unwrap();
        match *refused {
            None => {
                *refused = Some(Instant::now());
                // Whole seconds only: at least two of them are left.
                let date = jiff::Timestamp::now() + Duration::from_secs(3);
                let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
                Act::Answer {
                    status: "503 Service Unavailable",
                    headers: vec![("Retry-After", date)],
                    body: Vec::new(),
                }
            }
            Some(at) => {
                *told.lock().unwrap() = at.elapsed();
                Act::Serve
            }
        }
    });
    env.wharf(&["image", "pull", "-q", &format!("{ADDRESS}/app:1")])
        .ok();
    let waited = *waited.lock().unwrap();
    // Its own patience would have been at most a quarter of a second.
    assert!(waited >= Duration::from_millis(1900), "{waited:?}");
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}

fn all_tags_are_fetched_page_by_page(env: &TestEnv) {
    const ADDRESS: &str = "127.0.0.1:5000";
    let chaos = Chaos::start(ADDRESS);
    for tag in ["1", "2", "3", "edge", "latest"] {
        chaos.put(&format!("team/app:{tag}"), &app(tag));
    }
    chaos.put("team/other:1", &app("other"));
    let name = format!("{ADDRESS}/team/app");
    env.wharf(&["image", "pull", "-a", &format!("{name}:1")])
        .fails_saying(&["--all-tags"]);
    let run = env.wharf(&["image", "pull", "-a", "-q", &name]).ok();
    assert_eq!(run.stdout, format!("{name}\n"));
    let rows = env
        .wharf(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok();
    let mut rows: Vec<String> = rows.lines().into_iter().map(str::to_owned).collect();
    rows.sort();
    let expected = ["1", "2", "3", "edge", "latest"].map(|tag| format!("{name}:{tag}"));
    assert_eq!(rows, expected);
    // The base that all share was fetched once.
    let base = digest(&app("1").layers[0].bytes);
    let n_fetched = chaos
        .lines()
        .iter()
        .filter(|line| line.ends_with(&base))
        .count();
    assert_eq!(n_fetched, 1);
    env.wharf(&["image", "pull", "-a", &format!("{ADDRESS}/nothing")])
        .fails_saying(&["has no tags of nothing"]);
}

fn a_hosts_file_leads_to_a_mirror_of_any_registry(env: &TestEnv) {
    let mirror = Chaos::start("127.0.0.1:5002");
    let by_digest = Chaos::start("127.0.0.1:5003");
    // The mirror's own path stands in front of the repository.
    mirror.put("hub/team/app:1", &app("mirrored"));
    by_digest.put("team/app:1", &app("mirrored"));
    let upstream = Chaos::start("127.0.0.1:5001");
    upstream.put("team/app:1", &app("mirrored"));
    upstream.put("team/app:2", &app("original"));
    settings(
        env,
        "certs.d/reg.example/hosts.toml",
        r#"
server = "http://127.0.0.1:5001"

[host."http://127.0.0.1:5003"]
  capabilities = ["pull"]

[host."http://127.0.0.1:5002/v2/hub"]
  capabilities = ["pull", "resolve"]
  override_path = true
  [host."http://127.0.0.1:5002/v2/hub".header]
    x-mirror-key = "k3y"
"#,
    );
    fs::create_dir_all(env.path(".docker")).expect("it is ours");
    let file = json!({"auths": {"reg.example": {"username": "me", "password": "s3cret"}}});
    fs::write(env.path(".docker/config.json"), file.to_string()).expect("it is ours");

    wharf(env, &[], &["image", "pull", "-q", "reg.example/team/app:1"]).ok();
    assert_eq!(mark_of(env, "reg.example/team/app:1"), "mirrored");
    assert_eq!(upstream.lines(), [""; 0]);
    // What does not know tags is not asked for one.
    assert_eq!(by_digest.lines(), [""; 0]);
    let asked = mirror.asked();
    assert_eq!(asked[0].path, "/v2/hub/team/app/manifests/1?ns=reg.example");
    for asked in &asked {
        assert_eq!(asked.header("x-mirror-key"), "k3y", "{asked:?}");
        assert_eq!(asked.header("authorization"), "", "{asked:?}");
    }

    // What no mirror has comes from the server.
    again(env, &[], &["image", "pull", "-q", "reg.example/team/app:2"]).ok();
    assert_eq!(mark_of(env, "reg.example/team/app:2"), "original");
    let shown = upstream.asked();
    assert!(
        shown
            .iter()
            .all(|asked| asked.header("x-mirror-key").is_empty()),
        "{shown:?}"
    );

    // A digest is asked for everywhere.
    remove(env, "reg.example/team/app:1");
    let pinned = format!("reg.example/team/app@{}", digest(&app("mirrored").manifest));
    again(env, &[], &["image", "pull", "-q", &pinned]).ok();
    assert!(!by_digest.asked().is_empty());

    // A file that is not understood is named, and nobody is asked past it.
    settings(env, "certs.d/reg.example/hosts.toml", "server = 1");
    again(env, &[], &["image", "pull", "-q", "reg.example/team/app:2"])
        .fails_saying(&["hosts.toml"]);
}

fn a_full_disk_is_said_and_leaves_nothing(env: &TestEnv) {
    const ADDRESS: &str = "127.0.0.1:5000";
    let chaos = Chaos::start(ADDRESS);
    // More than there is room for, already as a download.
    let layers = vec![
        Layer::busybox(Compression::Gzip),
        Layer::new(Compression::None).file("big", 0o644, 0, &vec![b'x'; 36 << 20]),
    ];
    chaos.put("big:1", &pushed(layers, &json!({"Cmd": ["sleep", "1001"]})));
    chaos.put("app:1", &app("small"));

    let root = env.data_root();
    fs::create_dir_all(&root).expect("it is ours");
    nix::mount::mount(
        Some("tmpfs"),
        &root,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=38m"),
    )
    .expect("the mount namespace is the test's own");
    for attempt in ["first", "second"] {
        let run = env.wharf(&["image", "pull", &format!("{ADDRESS}/big:1")]);
        let run = run.fails_saying(&["No space left on device", "hint: "]);
        let errors = run
            .stderr
            .lines()
            .filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "{run}");
        for directory in [
            "staging",
            "snapshots",
            "recipes",
            "downloads",
            "blobs/sha256",
        ] {
            let left = kernel::entries_under(&root.join(directory));
            assert!(left.is_empty(), "{attempt}: {directory}: {left:?}");
        }
    }
    // There is room again at once, and the engine has lost nothing.
    let image = format!("{ADDRESS}/app:1");
    env.wharf(&["image", "pull", "-q", &image]).ok();
    assert_eq!(mark_of(env, &image), "small");
    env.wharf(&["engine", "stop"]).ok();
    nix::mount::umount(&root).expect("nobody uses it any more");
}

fn dockers_api_pulls_and_pushes(env: &TestEnv) {
    use base64::Engine as _;
    add_address(FAR);
    let host = format!("{FAR}:5443");
    let registry = Registry::start(&env.path("registry"), &host, Manner::TlsAndPassword);
    let authority = fs::read_to_string(registry.directory.join("ca.crt")).unwrap();
    settings(env, &format!("certs.d/{host}/ca.crt"), &authority);
    let there = Chaos::start("127.0.0.1:5000");
    there.put("app:1", &app("api"));
    wharf(env, &[], &["engine", "start"]).ok();
    let auth = |password: &str| {
        let config = json!({"username": "me", "password": password, "serveraddress": host});
        base64::engine::general_purpose::URL_SAFE.encode(config.to_string())
    };
    let post = |path: &str, auth: &str| -> (String, Vec<Value>) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-w", "\n%{http_code}", "-X", "POST", "--unix-socket"])
            .arg(env.run_root().join("wharf.sock"))
            .args(["-H", &format!("X-Registry-Auth: {auth}")])
            .arg(format!("http://wharf/v1.43{path}"));
        let text = run(curl).ok().stdout;
        let (body, status) = text.rsplit_once('\n').expect("curl writes the status last");
        let lines = body.lines().filter(|line| !line.trim().is_empty());
        let values = lines.map(|line| serde_json::from_str(line).expect("a JSON value a line"));
        (status.to_owned(), values.collect())
    };
    let statuses = |values: &[Value]| -> Vec<String> {
        let said = values.iter().filter_map(|value| value["status"].as_str());
        said.map(str::to_owned).collect()
    };

    let (status, values) = post("/images/create?fromImage=127.0.0.1:5000/app&tag=1", "");
    assert_eq!(status, "200");
    let said = statuses(&values);
    assert_eq!(values[0]["status"], "Pulling from app");
    assert_eq!(values[0]["id"], "1");
    for expected in [
        "Pull complete",
        &format!("Digest: {}", digest(&app("api").manifest)),
        "Status: Downloaded newer image for 127.0.0.1:5000/app:1",
    ] {
        assert!(
            said.iter().any(|status| status == expected),
            "{expected}: {said:#?}"
        );
    }
    let is_layer = |value: &&Value| value["progressDetail"].is_object();
    let layers: Vec<&Value> = values.iter().filter(is_layer).collect();
    assert!(
        layers
            .iter()
            .all(|value| value["id"].as_str().is_some_and(|id| id.len() == 12))
    );
    let (_, values) = post("/images/create?fromImage=127.0.0.1:5000/app&tag=1", "");
    let said = statuses(&values);
    let expected = "Status: Image is up to date for 127.0.0.1:5000/app:1";
    assert_eq!(said.last().map(String::as_str), Some(expected), "{said:#?}");

    let (status, values) = post("/images/create?fromImage=127.0.0.1:5000/app&tag=9", "");
    assert_eq!(status, "404", "{values:?}");
    assert!(
        values[0]["message"]
            .as_str()
            .unwrap()
            .contains("has no image app:9")
    );

    // With a password, and with the wrong one.
    let target = format!("{host}/team/app");
    env.wharf(&[
        "image",
        "tag",
        "127.0.0.1:5000/app:1",
        &format!("{target}:2"),
    ])
    .ok();
    let (status, values) = post(&format!("/images/{target}/push?tag=2"), &auth("wrong"));
    let told = values.iter().any(|value| {
        let message = value["message"].as_str().or(value["error"].as_str());
        message.is_some_and(|message| message.contains("denies access"))
    });
    assert!(told, "{status}: {values:?}");
    let (status, values) = post(&format!("/images/{target}/push?tag=2"), &auth("pa:ss"));
    assert_eq!(status, "200");
    assert!(
        values.iter().all(|value| value.get("error").is_none()),
        "{values:#?}"
    );
    let said = statuses(&values);
    assert!(said.iter().any(|status| status == "Pushed"), "{said:#?}");
    let digest = env.wharf(&[
        "image",
        "inspect",
        "-f",
        "{{range .RepoDigests}}{{.}} {{end}}",
        &format!("{target}:2"),
    ]);
    let digest = digest.ok().stdout;
    // As after a pull, the digest is a name of the image from here on.
    let mut digests = digest
        .split_whitespace()
        .filter_map(|name| name.split_once('@'));
    let digest = digests
        .find(|(name, _)| *name == target)
        .expect("it was pushed")
        .1;
    let aux = values.iter().find_map(|value| value.get("aux"));
    let aux = aux.expect("clients read it");
    assert_eq!((&aux["Tag"], &aux["Digest"]), (&json!("2"), &json!(digest)));
    let last = format!("2: digest: {digest} size: {}", aux["Size"]);
    assert_eq!(said.last(), Some(&last));
    let (_, values) = post(&format!("/images/{target}/push?tag=2"), &auth("pa:ss"));
    let said = statuses(&values);
    assert!(
        said.iter().any(|status| status == "Layer already exists"),
        "{said:#?}"
    );
    // Without a tag all of them.
    for tag in ["3", "4"] {
        let name = format!("{target}:{tag}");
        env.wharf(&["image", "tag", &format!("{target}:2"), &name])
            .ok();
    }
    let (_, values) = post(&format!("/images/{target}/push"), &auth("pa:ss"));
    let said = statuses(&values);
    let mut tags: Vec<&str> = said
        .iter()
        .filter_map(|status| Some(status.split_once(": digest: ")?.0))
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, ["2", "3", "4"], "{said:#?}");
    let (status, values) = post("/images/127.0.0.1:5000/nowhere/push", "");
    assert_eq!(status, "404", "{values:?}");
    let removed = env.wharf(&[
        "image",
        "rm",
        "127.0.0.1:5000/app:1",
        &format!("{target}:2"),
        &format!("{target}:3"),
        &format!("{target}:4"),
    ]);
    let last = format!("Untagged: {target}:4\nUntagged: {target}@{digest}\nDeleted: ");
    assert!(removed.ok().stdout.contains(&last));
    let path = format!("/images/create?fromImage={target}&tag=2");
    let (status, _) = post(&path, "");
    assert_ne!(status, "200", "nobody is let in without a password");
    let (status, values) = post(&path, &auth("pa:ss"));
    assert_eq!(status, "200");
    assert!(
        values.iter().all(|value| value.get("error").is_none()),
        "{values:#?}"
    );
    assert_eq!(mark_of(env, &format!("{target}:2")), "api");

    // What is there, without any of it being fetched.
    let inspect = |name: &str, auth: &str| -> (String, Value) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(env.run_root().join("wharf.sock"))
            .args(["-H", &format!("X-Registry-Auth: {auth}")])
            .arg(format!("http://wharf/v1.43/distribution/{name}/json"));
        let text = run(curl).ok().stdout;
        let (body, status) = text.rsplit_once('\n').expect("curl writes the status last");
        let value = serde_json::from_str(body).expect("the answer is JSON");
        (status.to_owned(), value)
    };
    let (status, told) = inspect(&format!("{target}:2"), &auth("pa:ss"));
    assert_eq!(status, "200", "{told}");
    let digest_of = |name: &str| {
        let format = "{{range .RepoDigests}}{{.}} {{end}}";
        let listed = env.wharf(&["image", "inspect", "-f", format, name]).ok();
        let mut digests = listed.stdout.split_whitespace();
        let digest = digests.find_map(|name| name.split_once('@'));
        digest.expect("it was pulled").1.to_owned()
    };
    let digest = digest_of(&format!("{target}:2"));
    assert_eq!(told["Descriptor"]["digest"], digest);
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    assert_eq!(told["Descriptor"]["mediaType"], manifest);
    assert!(
        told["Descriptor"]["size"].as_u64().is_some_and(|n| n > 100),
        "{told}"
    );
    assert_eq!(
        told["Platforms"],
        json!([{"architecture": "amd64", "os": "linux"}])
    );
    let (status, by_digest) = inspect(&format!("{target}@{digest}"), &auth("pa:ss"));
    assert_eq!((status.as_str(), by_digest), ("200", told));
    for (name, auth, expected) in [
        (format!("{target}:2"), String::new(), "401"),
        (format!("{target}:2"), auth("wrong"), "401"),
        (format!("{target}:9"), auth("pa:ss"), "404"),
        ("127.0.0.1:5000/nowhere:1".to_owned(), String::new(), "404"),
        ("127.0.0.1:5000/UPPER".to_owned(), String::new(), "400"),
        ("127.0.0.1:1/app".to_owned(), String::new(), "500"),
    ] {
        let (status, told) = inspect(&name, &auth);
        assert_eq!(status, expected, "{name}: {told}");
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"mediaType": manifest, "digest": digest, "size": 1,
             "platform": {"architecture": "arm", "os": "linux", "variant": "v7"}},
            {"mediaType": manifest, "digest": digest, "size": 1,
             "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0.1"}},
        ],
    });
    there.put_manifest(
        "many:latest",
        "application/vnd.oci.image.index.v1+json",
        index.to_string().as_bytes(),
    );
    let (_, told) = inspect("127.0.0.1:5000/many", "");
    assert_eq!(
        told["Platforms"],
        json!([
            {"architecture": "arm", "os": "linux", "variant": "v7"},
            {"architecture": "amd64", "os": "windows", "os.version": "10.0.1"},
        ]),
        "{told}"
    );
    let log = fs::read_to_string(env.run_root().join("engine.log")).unwrap_or_default();
    assert!(!log.contains("pa:ss"), "{log}");
}

fn no_helper_is_asked_about_what_is_there(env: &TestEnv) {
    const ADDRESS: &str = "127.0.0.1:5000";
    let chaos = Chaos::start(ADDRESS);
    chaos.put("app:1", &app("helped"));
    fs::create_dir_all(env.path("bin")).expect("it is ours");
    let asked = env.path("asked");
    let helper = env.path("bin/docker-credential-test");
    let script = format!(
        "#!/bin/sh\necho \"$1\" >> {}\necho '{{\"Username\":\"me\",\"Secret\":\"s3cret\"}}'\n",
        asked.display()
    );
    fs::write(&helper, script).expect("it is ours");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::create_dir_all(env.path(".docker")).expect("it is ours");
    fs::write(env.path(".docker/config.json"), r#"{"credsStore": "test"}"#).expect("it is ours");
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        env.path("bin").display()
    );
    let project = env.project("helped", "services: {}");
    let up = |policy: &str| {
        project.write(&format!(
            "services: {{app: {{image: '{ADDRESS}/app:1', pull_policy: {policy}, stop_grace_period: 0s}}}}"
        ));
        let mut command = project.command();
        command.env("PATH", &path).args(["up", "-d"]);
        run(command).ok();
    };
    let n_asked = || {
        fs::read_to_string(&asked)
            .unwrap_or_default()
            .lines()
            .count()
    };
    up("missing");
    assert_eq!(n_asked(), 1, "it is not there yet");
    for policy in ["missing", "never", "if_not_present"] {
        up(policy);
        assert_eq!(n_asked(), 1, "{policy}");
    }
    up("always");
    assert_eq!(n_asked(), 2, "the registry is asked");
    assert_eq!(project.sh("app", "cat /mark"), "helped");
}
