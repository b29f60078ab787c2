//! Images from a registry: Debian's own, plain and with TLS and a password.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::harness::env::run;
use crate::harness::image::{Compression, Layer, Pushed, PushedLayer, digest, oci_layout, pushed};
use crate::harness::registry::{Manner, Registry};
use crate::harness::{Run, TestEnv, wait_for};

crate::cases! {
    registry:
    a_project_comes_up_on_an_empty_store ["docker-registry"],
    what_is_there_causes_no_request ["docker-registry"],
    pull_policies_decide_when_to_ask ["docker-registry"],
    a_moved_tag_makes_a_new_container ["docker-registry"],
    a_missing_tag_is_said_with_its_remedy ["docker-registry"],
    another_platform_is_refused ["docker-registry"],
    tls_and_a_password_need_an_authority_and_a_login
        ["docker-registry", "openssl", "htpasswd", "skopeo"],
    a_helper_keeps_the_secret ["docker-registry", "openssl", "htpasswd", "skopeo"],
    what_is_pushed_is_what_others_read ["docker-registry", "skopeo"],
    a_project_pushes_what_it_builds ["docker-registry"],
    config_pins_images_to_what_the_registry_has_now ["docker-registry"],
    a_published_project_is_included_extended_and_run ["docker-registry"],
}

const ADDRESS: &str = "127.0.0.1:5000";

fn plain(env: &TestEnv) -> Registry {
    Registry::start(&env.path("registry"), ADDRESS, Manner::Plain)
}

fn sleeper(mark: &str) -> Vec<Layer> {
    vec![
        Layer::busybox(Compression::Gzip),
        Layer::new(Compression::Zstd).directory("opt", 0o755).file(
            "opt/shared",
            0o640,
            1000,
            b"shared",
        ),
        Layer::new(Compression::Gzip).file("mark", 0o644, 0, mark.as_bytes()),
    ]
}

fn put(registry: &Registry, name: &str, mark: &str) {
    registry.put(
        name,
        &pushed(sleeper(mark), &json!({"Cmd": ["sleep", "1001"]})),
    );
}

/// Requests for blobs and manifests since `from`.
fn asked(registry: &Registry, from: usize) -> Vec<String> {
    registry.requests().split_off(from)
}

fn a_project_comes_up_on_an_empty_store(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "one:1", "one");
    put(&registry, "two:1", "two");
    let project = env.project(
        "pulled",
        &format!(
            "
services:
  here: {{image: IMAGE, command: sleep 1002, stop_grace_period: 0s}}
  one: {{image: '{ADDRESS}/one:1', stop_grace_period: 0s}}
  two: {{image: '{ADDRESS}/two:1', stop_grace_period: 0s}}
"
        ),
    );
    let from = registry.n_requests();
    let up = project.up();
    assert_eq!(
        project.sh("one", "cat /mark; stat -c ' %a %u' /opt/shared"),
        "one 640 1000"
    );
    assert_eq!(project.sh("two", "cat /mark"), "two");
    project.pid_of("sleep 1002");
    for said in [
        "Image 127.0.0.1:5000/one:1  Pulling",
        "Image 127.0.0.1:5000/one:1  Pulled",
    ] {
        assert!(up.stderr.contains(said), "{said:?} in {up}");
    }
    // The two images share two of three layers, which are fetched once.
    let blobs: Vec<String> = asked(&registry, from)
        .into_iter()
        .filter(|request| request.starts_with("GET") && request.contains("/blobs/"))
        .collect();
    assert_eq!(blobs.len(), 2 + 4, "{blobs:#?}");
    // Nothing is left of the downloads.
    let left: Vec<_> = fs::read_dir(env.data_root().join("downloads"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");

    // A second project with a third image fetches the difference only.
    put(&registry, "three:1", "three");
    let from = registry.n_requests();
    let other = env.project(
        "other",
        &format!("services: {{three: {{image: '{ADDRESS}/three:1', stop_grace_period: 0s}}}}"),
    );
    other.up();
    assert_eq!(other.sh("three", "cat /mark"), "three");
    let blobs = asked(&registry, from);
    let blobs = blobs
        .iter()
        .filter(|request| request.contains("/blobs/"))
        .count();
    assert_eq!(
        blobs,
        2,
        "the config and one layer: {:#?}",
        asked(&registry, from)
    );
}

fn what_is_there_causes_no_request(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:latest", "app");
    let project = env.project(
        "cached",
        &format!("services: {{app: {{image: '{ADDRESS}/app', stop_grace_period: 0s}}}}"),
    );
    project.up();
    let from = registry.n_requests();
    project.up();
    project.down();
    project.up();
    project.wharf(&["up", "-d", "--force-recreate"]).ok();
    project.wharf(&["pull", "--policy", "missing"]).ok();
    let asked_for = asked(&registry, from);
    // `pull` wants news of `latest`, whatever the policy; it gets them by one cheap request.
    assert_eq!(asked_for, ["HEAD /v2/app/manifests/latest"]);
    // Without the registry it still comes up.
    drop(registry);
    project.down();
    project.up();
    project.pid_of("sleep 1001");
}

fn pull_policies_decide_when_to_ask(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:1", "app");
    let project = env.project("policy", "services: {}");
    let with = |policy: &str| {
        project.write(&format!(
            "services: {{app: {{image: '{ADDRESS}/app:1', pull_policy: {policy}, stop_grace_period: 0s}}}}"
        ));
    };
    with("never");
    let from = registry.n_requests();
    project.wharf(&["up", "-d"]).fails_saying(&[
        "is not present",
        "never",
        "hint: `wharf image pull",
    ]);
    assert_eq!(registry.n_requests(), from, "never is never");
    with("missing");
    project.up();
    for (policy, n_expected) in [
        ("missing", 0),
        ("never", 0),
        ("if_not_present", 0),
        ("daily", 0),
        ("every_2h", 0),
        ("every_1s", 1),
        ("always", 1),
    ] {
        if policy == "every_1s" {
            // The time stamp of the last pull has to be older than the policy says.
            let begun = std::time::Instant::now();
            wait_for("a second to pass", || {
                (begun.elapsed().as_millis() > 1100).then_some(())
            });
        }
        with(policy);
        let from = registry.n_requests();
        project.up();
        assert_eq!(
            asked(&registry, from).len(),
            n_expected,
            "{policy}: {:?}",
            asked(&registry, from)
        );
    }
}

fn a_moved_tag_makes_a_new_container(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:latest", "old");
    let project = env.project(
        "moved",
        &format!("services: {{app: {{image: '{ADDRESS}/app', stop_grace_period: 0s}}}}"),
    );
    project.up();
    assert_eq!(project.sh("app", "cat /mark"), "old");
    put(&registry, "app:latest", "new");
    project.up();
    assert_eq!(
        project.sh("app", "cat /mark"),
        "old",
        "nobody asked for news"
    );
    project.wharf(&["pull"]).ok();
    project.up();
    assert_eq!(project.sh("app", "cat /mark"), "new");
}

fn a_missing_tag_is_said_with_its_remedy(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:1", "app");
    let project = env.project("absent", "services: {}");
    let with = |image: &str| {
        project.write(&format!(
            "services: {{app: {{image: '{image}', stop_grace_period: 0s}}}}"
        ));
        project.wharf(&["up", "-d"])
    };
    with(&format!("{ADDRESS}/app:2")).fails_saying(&[
        "cannot pull 127.0.0.1:5000/app:2",
        "has no image app:2",
        "manifest unknown",
        "hint:",
    ]);
    with(&format!("{ADDRESS}/nothing:1")).fails_saying(&["has no image nothing:1", "hint:"]);
    with("127.0.0.1:5999/app:1").fails_saying(&[
        "cannot reach registry 127.0.0.1:5999",
        "onnection refused",
        "hint: check that 127.0.0.1:5999 runs",
    ]);
    with("registry.invalid/app:1").fails_saying(&[
        "cannot reach registry registry.invalid",
        "hint: check the name",
    ]);
}

fn another_platform_is_refused(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:1", "app");
    let project = env.project(
        "platform",
        &format!(
            "services: {{app: {{image: '{ADDRESS}/app:1', platform: linux/s390x, stop_grace_period: 0s}}}}"
        ),
    );
    project
        .wharf(&["up", "-d"])
        .fails_saying(&["linux/s390x", "linux/amd64"]);

    // An image that is here is taken for the platform that it is made for, and for no other.
    let image = format!("{ADDRESS}/app:1");
    env.wharf(&["image", "pull", "-q", &image]).ok();
    let archive = env.path("app.tar");
    let archive = archive.to_str().expect("the test's paths are text");
    let verbs: [&[&str]; 5] = [
        &["inspect"],
        &["history"],
        &["save", "-o", archive],
        &["push", "-q"],
        &["rm"],
    ];
    for verb in verbs {
        let command = |platform: &str| {
            let mut words = vec!["image"];
            words.extend(verb);
            words.extend(["--platform", platform, &image]);
            env.wharf(&words)
        };
        command("linux/s390x").fails_saying(&["made for linux/amd64", "not for linux/s390x"]);
        assert!(!std::path::Path::new(archive).exists() || verb[0] != "save");
        command("nonsense/of/some/kind").fails_saying(&["is not a platform"]);
        command("linux/amd64").ok();
    }
    assert!(std::path::Path::new(archive).exists());
    let left = env.wharf(&["image", "ls", "-q"]).ok().stdout;
    assert_eq!(left, "", "the last verb has removed it");
}

/// An address of the test's namespace that is not loopback, so nothing about it is trusted.
const FAR: &str = "10.9.9.8:5443";

/// A registry with TLS and a password, and an image in it; the engine's settings are in `etc`.
fn guarded(env: &TestEnv) -> Registry {
    let status = Command::new("ip")
        .args(["addr", "add", "10.9.9.8/32", "dev", "lo"])
        .status()
        .expect("ip is installed");
    assert!(status.success());
    let registry = Registry::start(&env.path("registry"), FAR, Manner::TlsAndPassword);
    let config = json!({"Cmd": ["sleep", "1001"]});
    oci_layout(&env.path("layout"), "v1", sleeper("guarded"), &config);
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        "--dest-creds",
        "me:pa:ss",
        &format!("oci:{}:v1", env.path("layout").display()),
        &format!("docker://{FAR}/app:1"),
    ]);
    fs::create_dir_all(env.path("etc")).expect("it is ours");
    registry
}

#[track_caller]
fn skopeo(arguments: &[&str]) -> String {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy").args(arguments);
    run(command).ok().stdout
}

/// `wharf` with the test's own settings of registries, helpers and stdin.
fn wharf(env: &TestEnv, arguments: &[&str], stdin: &str) -> Run {
    let inner = env.command();
    let mut command = Command::new("/bin/sh");
    command.env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        env.path("bin").display()
    );
    command
        .env("PATH", path)
        .env("WHARF_CONFIG_DIR", env.path("etc"))
        .current_dir(env.path("etc"))
        .args(["-c", r#"printf %s "$0" | "$@""#, stdin])
        .arg(inner.get_program())
        .args(arguments);
    run(command)
}

fn trust(env: &TestEnv, registry: &Registry) {
    let directory = env.path("etc").join("certs.d").join(FAR);
    fs::create_dir_all(&directory).expect("it is ours");
    fs::copy(registry.directory.join("ca.crt"), directory.join("ca.crt")).expect("it is there");
}

fn tls_and_a_password_need_an_authority_and_a_login(env: &TestEnv) {
    let registry = guarded(env);
    let image = format!("{FAR}/app:1");
    wharf(env, &["image", "pull", &image], "").fails_saying(&[
        "the certificate of registry 10.9.9.8:5443 is not trusted",
        "hint: put the certificate of its authority into",
    ]);
    trust(env, &registry);
    wharf(env, &["image", "pull", &image], "")
        .fails_saying(&["denies access", "hint: `wharf login 10.9.9.8:5443`"]);
    let login = ["login", "-u", "me", "--password-stdin", FAR];
    wharf(env, &login, "wrong").fails_saying(&["denies access"]);
    assert!(
        !env.path(".docker/config.json").exists(),
        "a wrong password is not kept"
    );
    assert_eq!(
        wharf(env, &login, "pa:ss\n").ok().stdout,
        "Login Succeeded\n"
    );
    let file = env.path(".docker/config.json");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    // New, and again when nothing is new.
    for _ in 0..2 {
        let run = wharf(env, &["image", "pull", &image], "").ok();
        assert_eq!(run.stdout, format!("{image}\n"));
    }
    let project = env.project(
        "guarded",
        &format!("services: {{app: {{image: '{image}', stop_grace_period: 0s}}}}"),
    );
    project.up();
    assert_eq!(project.sh("app", "cat /mark"), "guarded");

    for said in ["Removing login credentials for", "Not logged in to"] {
        assert_eq!(
            wharf(env, &["logout", FAR], "").ok().stdout,
            format!("{said} {FAR}\n")
        );
    }
    wharf(env, &["image", "pull", &image], "").fails_saying(&["denies access"]);
    let log = fs::read_to_string(env.run_root().join("engine.log")).unwrap_or_default();
    assert!(!log.contains("pa:ss"), "{log}");
}

fn a_helper_keeps_the_secret(env: &TestEnv) {
    let registry = guarded(env);
    trust(env, &registry);
    fs::create_dir_all(env.path("bin")).expect("it is ours");
    let kept = env.path("kept");
    let script = format!(
        "#!/bin/sh\ncase $1 in\n\
         store) cat > {kept} ;;\n\
         get) test -e {kept} || {{ echo credentials not found in native keychain; exit 1; }}; cat {kept} ;;\n\
         erase) rm {kept} ;;\nesac\n",
        kept = kept.display()
    );
    let helper = env.path("bin/docker-credential-test");
    fs::write(&helper, script).expect("it is ours");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::create_dir_all(env.path(".docker")).expect("it is ours");
    let file = env.path(".docker/config.json");
    fs::write(
        &file,
        r#"{"credsStore": "test", "HttpHeaders": {"X": "y"}}"#,
    )
    .expect("it is ours");

    let image = format!("{FAR}/app:1");
    wharf(env, &["image", "pull", &image], "").fails_saying(&["denies access"]);
    wharf(
        env,
        &["login", "-u", "me", "--password-stdin", FAR],
        "pa:ss",
    )
    .ok();
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("pa:ss") && !text.contains("bWU6"), "{text}");
    assert!(text.contains(r#""X": "y""#), "{text}");
    assert!(fs::read_to_string(&kept).unwrap().contains("pa:ss"));
    wharf(env, &["image", "pull", &image], "").ok();
    wharf(env, &["logout", FAR], "").ok();
    assert!(!kept.exists());
}

fn n_uploads(requests: &[String]) -> usize {
    requests.iter().filter(|r| r.starts_with("PATCH")).count()
}

fn what_is_pushed_is_what_others_read(env: &TestEnv) {
    let here = plain(env);
    put(&here, "app:1", "pushed");
    let there = Registry::start(&env.path("there"), "127.0.0.1:5001", Manner::Plain);
    let app = format!("{ADDRESS}/app:1");
    env.wharf(&["image", "pull", &app]).ok();

    // Within one registry no layer is sent: the blobs are taken over, and the manifest is the same.
    let copy = format!("{ADDRESS}/copy:1");
    env.wharf(&["image", "tag", &app, &copy]).ok();
    let from = here.n_requests();
    env.wharf(&["image", "push", &copy]).ok();
    let requests = asked(&here, from);
    assert!(
        requests.iter().any(|r| r.contains("mount=sha256")),
        "{requests:#?}"
    );
    assert!(
        n_uploads(&requests) <= 1,
        "at most the config: {requests:#?}"
    );
    let inspect = |what: &[&str], image: &str| {
        let mut arguments = vec!["inspect", "--tls-verify=false", "--raw"];
        arguments.extend(what);
        let image = format!("docker://{image}");
        arguments.push(&image);
        skopeo(&arguments)
    };
    assert_eq!(inspect(&[], &copy), inspect(&[], &app));

    // Elsewhere the layers are put together again and sent, once.
    let target = "127.0.0.1:5001/team/app:2";
    env.wharf(&["image", "tag", &app, target]).ok();
    env.wharf(&["image", "push", target]).ok();
    assert_eq!(
        n_uploads(&there.requests()),
        4,
        "three layers and the config"
    );
    let from = there.n_requests();
    env.wharf(&["image", "push", target]).ok();
    let requests = asked(&there, from);
    assert_eq!(n_uploads(&requests), 0, "{requests:#?}");
    assert_eq!(inspect(&["--config"], target), inspect(&["--config"], &app));
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        &format!("docker://{target}"),
        &format!("oci:{}:v1", env.path("copied").display()),
    ]);
    // What was pushed comes back and runs.
    env.wharf(&["image", "rm", &app, &copy, target]).ok();
    assert_eq!(env.wharf(&["image", "ls", "-q"]).ok().stdout, "");
    let project = env.project(
        "back",
        &format!(
            "
services:
  pulled: {{image: '{target}', stop_grace_period: 0s}}
  copied: {{image: 'oci:ROOT/copied:v1', stop_grace_period: 0s}}
"
        ),
    );
    project.up();
    for service in ["pulled", "copied"] {
        assert_eq!(
            project.sh(service, "cat /mark; stat -c ' %a %u %Y' /opt/shared"),
            "pushed 640 1000 1700000000"
        );
    }
}

fn a_project_pushes_what_it_builds(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:1", "built");
    let app = format!("{ADDRESS}/app:1");
    let built = format!("{ADDRESS}/built:1");
    env.wharf(&["image", "pull", &app]).ok();
    env.wharf(&["image", "tag", &app, &built]).ok();
    let project = env.project(
        "pushing",
        &format!(
            "
services:
  built: {{image: '{built}', build: .}}
  base: {{image: '{app}'}}
"
        ),
    );
    let from = registry.n_requests();
    let run = project.wharf(&["push"]).ok();
    assert!(
        run.stderr.contains(&format!("Image {built}  Pushed")),
        "{run}"
    );
    assert!(!run.stderr.contains(&format!("Image {app}  Push")), "{run}");
    assert!(asked(&registry, from).contains(&"PUT /v2/built/manifests/1".to_owned()));
    // A registry that is not there is a failure, unless that is fine.
    drop(registry);
    project
        .wharf(&["push"])
        .fails_saying(&["cannot push", "cannot reach registry"]);
    project.wharf(&["push", "--ignore-push-failures"]).ok();
    project
        .wharf(&["pull", "base"])
        .fails_saying(&["cannot pull"]);
    project
        .wharf(&["pull", "--ignore-pull-failures", "base"])
        .ok();
}

fn config_pins_images_to_what_the_registry_has_now(env: &TestEnv) {
    let registry = plain(env);
    put(&registry, "app:1", "one");
    let project = env.project(
        "pins",
        "
services:
  web: {image: '127.0.0.1:5000/app:1', command: sleep 1001, stop_grace_period: 0s}
  twin: {image: '127.0.0.1:5000/app:1', scale: 0}
  here: {image: IMAGE, scale: 0}
",
    );
    let digest_now = || {
        let mut curl = Command::new("curl");
        let url = format!("http://{ADDRESS}/v2/app/manifests/1");
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        curl.args(["-sS", "-f", "-I", "-H", accept, &url]);
        let answer = run(curl).ok().stdout;
        let line = answer
            .lines()
            .find_map(|line| line.strip_prefix("Docker-Content-Digest: "));
        line.expect("the registry says it").trim().to_owned()
    };
    let pinned = format!("{ADDRESS}/app:1@{}", digest_now());
    let shown = project
        .wharf(&["config", "--resolve-image-digests"])
        .ok()
        .stdout;
    assert_eq!(
        shown.matches(&format!("image: {pinned}\n")).count(),
        2,
        "{shown}"
    );
    assert!(
        shown.contains(&format!("image: {}\n", env.image())),
        "{shown}"
    );
    assert_eq!(
        env.wharf(&["image", "ls", "-q"]).ok().stdout,
        "",
        "nothing is fetched for it"
    );

    // What was locked comes up although the tag moves on.
    let lock = project.directory.join("lock.yaml");
    let lock = lock.to_str().expect("the test's paths are text");
    project
        .wharf(&["config", "--lock-image-digests", "-o", lock])
        .ok();
    put(&registry, "app:1", "two");
    assert_ne!(pinned, format!("{ADDRESS}/app:1@{}", digest_now()));
    let base = project.directory.join("compose.yaml");
    let base = base.to_str().expect("the test's paths are text");
    project
        .wharf(&["-f", base, "-f", lock, "up", "-d", "web"])
        .ok();
    assert_eq!(project.exec("web", &["cat", "/mark"]), "one");

    project.write("services: {web: {image: '127.0.0.1:5000/app:none'}}\n");
    project
        .wharf(&["config", "--resolve-image-digests"])
        .fails_saying(&["app:none", "\"web\""]);
    project.wharf(&["down"]).ok();
}

/// A file's media type, annotations and content.
type Published<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// A Compose project as `docker compose publish` puts it: files, each with its media type and
/// annotations.
fn published(files: &[Published], is_new: bool) -> Pushed {
    let mut layers = Vec::new();
    let mut descriptors = Vec::new();
    for (media_type, annotations, content) in files {
        let bytes = content.as_bytes().to_vec();
        let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
        descriptors.push(json!({
            "mediaType": media_type,
            "digest": digest(&bytes),
            "size": bytes.len(),
            "annotations": annotations,
        }));
        let diff_id = digest(&bytes);
        layers.push(PushedLayer { diff_id, bytes });
    }
    let config = b"{}".to_vec();
    // Registries of before OCI 1.1 do not know artifact types; the config's type stands for it.
    let config_type = match is_new {
        true => "application/vnd.oci.empty.v1+json",
        false => "application/vnd.docker.compose.config.empty.v1+json",
    };
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config_type, "digest": digest(&config), "size": config.len()},
        "layers": descriptors,
    });
    if is_new {
        manifest["artifactType"] = json!("application/vnd.docker.compose.project");
    }
    Pushed {
        layers,
        config,
        manifest: serde_json::to_vec(&manifest).expect("JSON of strings"),
        media_type,
    }
}

fn a_published_project_is_included_extended_and_run(env: &TestEnv) {
    const FILE: &str = "application/vnd.docker.compose.file+yaml";
    const ENV: &str = "application/vnd.docker.compose.envfile";
    let registry = plain(env);
    let image = env.image();
    let main = format!(
        "services: {{far: {{image: '{image}', env_file: far.env, stop_grace_period: 0s, \
         command: sleep 1001}}}}"
    );
    let over = "services: {far: {environment: {B: two}}}";
    let base = format!("services: {{base: {{image: '{image}', command: sleep 1002}}}}");
    let named = "com.docker.compose.file";
    let files: &[Published] = &[
        (FILE, &[(named, "compose.yaml")], &main),
        (FILE, &[(named, "override.yaml")], over),
        (ENV, &[("com.docker.compose.envfile", "far.env")], "A=one\n"),
    ];
    registry.put("stack/app:1", &published(files, true));
    let files: &[Published] = &[(FILE, &[(named, "compose.yaml")], &base)];
    registry.put("stack/base:1", &published(files, false));

    let project = env.project(
        "publishes",
        &format!(
            "
include: ['oci://{ADDRESS}/stack/app:1']
services:
  near:
    extends: {{file: 'oci://{ADDRESS}/stack/base:1', service: base}}
    stop_grace_period: 0s
"
        ),
    );
    let from = registry.n_requests();
    for reads in [["config"].as_slice(), &["config", "--services"]] {
        let told = project.wharf(reads);
        assert_ne!(told.code, 0, "{told}");
        assert!(told.stderr.contains("has not been fetched"), "{told}");
    }
    assert_eq!(
        asked(&registry, from),
        [] as [String; 0],
        "reading asks nobody"
    );
    project.up();
    assert_eq!(project.sh("far", "echo $A $B"), "one two");
    project.pid_of("sleep 1002");
    let shown = project.wharf(&["config", "--services"]).ok().stdout;
    assert_eq!(shown, "far\nnear\n");
    project.wharf(&["down"]).ok();

    // Alone, by -f: what it names beside itself is there, the name is the directory's.
    let reference = format!("oci://{ADDRESS}/stack/app:1");
    project.wharf(&["-f", &reference, "up", "-d"]).ok();
    let listed = project.wharf(&["-f", &reference, "config"]).ok().stdout;
    assert!(listed.starts_with("name: publishes\n"), "{listed}");
    assert!(listed.contains("A: one"), "{listed}");
    project.wharf(&["-f", &reference, "down"]).ok();

    // What is no project, and what would write elsewhere, is refused with its reason.
    put(&registry, "image:1", "x");
    let hostile: &[Published] = &[
        (FILE, &[(named, "compose.yaml")], "services: {}"),
        (ENV, &[("com.docker.compose.envfile", "../../x.env")], "A=1"),
    ];
    registry.put("hostile:1", &published(hostile, true));
    for (name, reason) in [
        (
            "image:1",
            "is \"application/vnd.oci.image.config.v1+json\", not",
        ),
        ("hostile:1", "which is no plain name"),
        ("none:1", "has no"),
    ] {
        project.write(&format!("include: ['oci://{ADDRESS}/{name}']\n"));
        let told = project.wharf(&["up", "-d"]);
        assert_ne!(told.code, 0, "{told}");
        assert!(told.stderr.contains(reason), "{name}: {told}");
        assert!(told.stderr.contains("compose.yaml:1:11"), "{name}: {told}");
        let has_remedy = told.stderr.contains("belongs under `image`");
        assert_eq!(has_remedy, name == "image:1", "{told}");
    }
    assert!(!env.path(".cache/x.env").exists() && !env.path(".cache/wharf/x.env").exists());
}
