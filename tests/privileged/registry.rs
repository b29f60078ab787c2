//! Images from a registry: Debian's own, plain and with TLS and a password.

use std::fs;

use serde_json::json;

use crate::harness::image::{Compression, Layer, pushed};
use crate::harness::registry::{Manner, Registry};
use crate::harness::{TestEnv, wait_for};

crate::cases! {
    registry:
    a_project_comes_up_on_an_empty_store ["docker-registry"],
    what_is_there_causes_no_request ["docker-registry"],
    pull_policies_decide_when_to_ask ["docker-registry"],
    a_moved_tag_makes_a_new_container ["docker-registry"],
    a_missing_tag_is_said_with_its_remedy ["docker-registry"],
    another_platform_is_refused ["docker-registry"],
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
}
