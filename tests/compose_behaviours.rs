//! The loader's behaviours, one row each, by the ids of the list they come from.
//!
//! Rows run on files in memory. A row names a place in the printed document and what stands there,
//! or a part of the error text.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf::compose::print::{PrintOptions, to_json, to_yaml};
use wharf::compose::{self, LoadOptions, Loaded};
use wharf::source::{self, Files};

#[derive(Default)]
struct Memory {
    files: BTreeMap<PathBuf, Vec<u8>>,
    stdin: Vec<u8>,
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.files.get(path) {
            Some(bytes) => Ok(bytes.clone()),
            None if self.is_dir(path) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        Ok(self.stdin.clone())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.files.keys().any(|f| f != path && f.starts_with(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

fn memory(files: &[(&str, &str)]) -> Memory {
    Memory {
        files: files
            .iter()
            .map(|(path, text)| (Path::new("/p").join(path), text.as_bytes().to_vec()))
            .collect(),
        stdin: Vec::new(),
    }
}

fn options(environment: &[(&str, &str)]) -> LoadOptions {
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    LoadOptions::new("/p".into(), environment)
}

fn errors(loaded: &Loaded) -> Vec<String> {
    loaded
        .diagnostics
        .iter()
        .filter(|d| d.is_error())
        .map(|d| d.message.clone())
        .collect()
}

fn document(loaded: &Loaded) -> Value {
    let project = loaded
        .project
        .as_ref()
        .unwrap_or_else(|| panic!("no project: {:?}", errors(loaded)));
    let text = to_json(project, PrintOptions::default());
    serde_json::from_str(&text).expect("it is JSON")
}

fn load(options: &LoadOptions, files: &[(&str, &str)]) -> Loaded {
    compose::load(options, &memory(files))
}

/// One file, no environment: (id, YAML, JSON pointer, what stands there).
fn check(rows: &[(&str, &str, &str, Value)]) {
    for (id, yaml, pointer, expected) in rows {
        let loaded = load(
            &options(&[("FOO", "foo"), ("EMPTY", "")]),
            &[("compose.yaml", yaml)],
        );
        let document = document_for(id, yaml, &loaded);
        let found = document.pointer(pointer).cloned().unwrap_or(Value::Null);
        assert_eq!(&found, expected, "{id}: {yaml}\n{document:#}");
    }
}

fn document_for(id: &str, yaml: &str, loaded: &Loaded) -> Value {
    assert!(
        loaded.project.is_some(),
        "{id}: {yaml}: {:?}",
        errors(loaded)
    );
    document(loaded)
}

/// One file: (id, YAML, part of the error).
fn refuse(rows: &[(&str, &str, &str)]) {
    for (id, yaml, part) in rows {
        let loaded = load(&options(&[("FOO", "foo")]), &[("compose.yaml", yaml)]);
        let found = errors(&loaded);
        assert!(
            found.iter().any(|e| e.contains(part)),
            "{id}: {yaml}\nexpected: {part}\nfound: {found:#?}"
        );
        assert!(loaded.project.is_none(), "{id}: an error and a project");
    }
}

/// A service `a` with an image and the given lines.
fn service(lines: &str) -> String {
    let mut text = "services:\n  a:\n    image: i\n".to_owned();
    for line in lines.lines() {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn check_service(rows: &[(&str, &str, &str, Value)]) {
    for (id, lines, pointer, expected) in rows {
        let pointer = format!("/services/a{pointer}");
        check(&[(id, &service(lines), &pointer, expected.clone())]);
    }
}

fn refuse_service(rows: &[(&str, &str, &str)]) {
    for (id, lines, part) in rows {
        refuse(&[(id, &service(lines), part)]);
    }
}

#[test]
fn canonical_forms_section_10() {
    let port = |target: u16, published: &str| json!({"mode": "ingress", "target": target, "published": published, "protocol": "tcp"});
    check_service(&[
        (
            "C1",
            "build: ./x",
            "/build",
            json!({"context": "/p/x", "dockerfile": "Dockerfile"}),
        ),
        ("C1", "build: {target: t}", "/build/context", json!("/p")),
        (
            "C1",
            "build: {dockerfile_inline: FROM x}",
            "/build",
            json!({"context": "/p", "dockerfile_inline": "FROM x"}),
        ),
        ("C2", "ports: [\"8080:80\"]", "/ports/0", port(80, "8080")),
        (
            "C2",
            "ports: [80]",
            "/ports/0",
            json!({"mode": "ingress", "target": 80, "protocol": "tcp"}),
        ),
        (
            "C2",
            "ports: [\"80-90:8080\"]",
            "/ports/0",
            port(8080, "80-90"),
        ),
        (
            "C3",
            "ports: [{target: 80, published: 81}]",
            "/ports/0",
            port(80, "81"),
        ),
        (
            "C4",
            "volumes: [./a:/b/]",
            "/volumes/0",
            json!({"type": "bind", "source": "/p/a", "target": "/b", "bind": {"create_host_path": true}}),
        ),
        (
            "C4",
            "volumes: [/xy]",
            "/volumes/0",
            json!({"type": "volume", "target": "/xy", "volume": {}}),
        ),
        (
            "C4",
            "volumes: [/x]",
            "/volumes/0",
            json!({"type": "volume", "target": "/x"}),
        ),
        (
            "C5",
            "volumes: [{type: bind, source: ., target: /x, bind: {}}]",
            "/volumes/0/bind",
            json!({}),
        ),
        (
            "C5",
            "volumes: [{type: bind, source: ., target: /x, bind: {create_host_path: false}}]",
            "/volumes/0/bind",
            json!({"create_host_path": false}),
        ),
        (
            "C6",
            "devices: [/dev/a, \"/dev/b:/dev/c:r\"]",
            "/devices",
            json!([
            {"source": "/dev/a", "target": "/dev/a", "permissions": "rwm"},
            {"source": "/dev/b", "target": "/dev/c", "permissions": "r"}]),
        ),
        (
            "C6",
            "devices: [vendor.com/gpu=all]",
            "/devices/0/source",
            json!("vendor.com/gpu=all"),
        ),
        ("C8", "dns: 1.1.1.1", "/dns", json!(["1.1.1.1"])),
        ("C9", "gpus: all", "/gpus", json!([{"count": -1}])),
        (
            "C10",
            "healthcheck: {test: a b}",
            "/healthcheck/test",
            json!(["CMD-SHELL", "a b"]),
        ),
        (
            "C10",
            "ulimits: {nofile: 5, core: {soft: 1, hard: 2}}",
            "/ulimits",
            json!({"core": {"soft": 1, "hard": 2}, "nofile": 5}),
        ),
        (
            "C11",
            "command: sh -c 'a b'",
            "/command",
            json!(["sh", "-c", "a b"]),
        ),
        ("C11", "command:", "/command", json!(null)),
        ("C11", "command: []", "/command", json!([])),
        ("C11", "command: ''", "/command", json!([])),
        (
            "C12",
            "extra_hosts: {h: [1.1.1.1, \"::1\"], g: \"[::2]\"}",
            "/extra_hosts",
            json!(["g=::2", "h=1.1.1.1", "h=::1"]),
        ),
        (
            "C12",
            "extra_hosts: [\"h:1.1.1.1\", \"g=::1\"]",
            "/extra_hosts",
            json!(["g=::1", "h=1.1.1.1"]),
        ),
        ("C13", "mem_limit: 64m", "/mem_limit", json!("67108864")),
        ("C13", "memswap_limit: -1", "/memswap_limit", json!("-1")),
        (
            "C14",
            "stop_grace_period: 90s",
            "/stop_grace_period",
            json!("1m30s"),
        ),
        ("C15", "cpus: '0.5'", "/cpus", json!(0.5)),
        (
            "C16",
            "pull_policy: if_not_present",
            "/pull_policy",
            json!("missing"),
        ),
        (
            "C16",
            "pull_policy: every_12h",
            "/pull_policy",
            json!("every_12h"),
        ),
        (
            "C18",
            "expose: [80, 90-91/udp]",
            "/expose",
            json!(["80", "90-91/udp"]),
        ),
        (
            "C19",
            "labels: {a: 1, b: true, c: }",
            "/labels",
            json!({"a": "1", "b": "true", "c": ""}),
        ),
        (
            "C20",
            "build: {context: ., sbom: true, provenance: mode=max}",
            "/build/sbom",
            json!("true"),
        ),
        (
            "E11",
            "environment: {A: 1, B: true, C: 1.50, D: }",
            "/environment",
            json!({"A": "1", "B": "true", "C": "1.5", "D": null}),
        ),
        (
            "E7",
            "environment: [FOO, NO, X=y=z]",
            "/environment",
            json!({"FOO": "foo", "NO": null, "X": "y=z"}),
        ),
        (
            "Y1",
            "labels: &l {a: b}\nannotations: {<<: *l, c: d}",
            "/annotations",
            json!({"a": "b", "c": "d"}),
        ),
        (
            "I8",
            "privileged: '${FOO:+true}'\ntty: ${NO:-yes}",
            "/privileged",
            json!(true),
        ),
        ("I9", "tty: on", "/tty", json!(true)),
        ("V1", "networks: {}", "/networks", json!({"default": null})),
        ("V1", "network_mode: host", "/networks", json!(null)),
        ("local image", "volumes: []", "/image", json!("i")),
    ]);
    check(&[
        (
            "C7",
            "secrets: {s: {file: f}}\nservices: {a: {image: i, secrets: [s]}}",
            "/services/a/secrets/0",
            json!({"source": "s", "target": "/run/secrets/s"}),
        ),
        (
            "C17",
            "networks: {n: {external: {name: x}}}\nservices: {a: {image: i, networks: [n]}}",
            "/networks/n",
            json!({"name": "x", "ipam": {}, "external": true}),
        ),
        (
            "V2",
            "volumes: {vol: }\nservices: {a: {image: i, volumes: ['vol:/x']}}",
            "/volumes/vol/name",
            json!("p_vol"),
        ),
        (
            "V3",
            "services: {a: {image: i, links: ['b:c']}, b: {image: i}}",
            "/services/a/depends_on/b",
            json!({"condition": "service_started", "restart": true, "required": true}),
        ),
        (
            "V3",
            "services: {a: {image: i, volumes_from: [b]}, b: {image: i}}",
            "/services/a/depends_on/b",
            json!({"condition": "service_started", "required": true}),
        ),
        (
            "Y5",
            "x-a: {b: c}\nservices: {a: {image: i, x-y: 1}}",
            "/x-a/b",
            json!("c"),
        ),
        (
            "Y7",
            "services: {a.b: {image: i}}",
            "/services/a.b/image",
            json!("i"),
        ),
        (
            "F9",
            "services: {a: {image: 'i-${COMPOSE_PROJECT_NAME}'}}",
            "/services/a/image",
            json!("i-p"),
        ),
        (
            "rootfs",
            "services: {a: {image: 'rootfs:./r'}}",
            "/services/a/image",
            json!("rootfs:/p/r"),
        ),
        (
            "rootfs",
            "services: {a: {image: 'rootfs:/'}}",
            "/services/a/image",
            json!("rootfs:/"),
        ),
        (
            "oci",
            "services: {a: {image: 'oci:./l:v1'}}",
            "/services/a/image",
            json!("oci:/p/l:v1"),
        ),
        (
            "archive",
            "services: {a: {image: 'docker-archive:f.tar'}}",
            "/services/a/image",
            json!("docker-archive:/p/f.tar"),
        ),
        (
            "S5",
            "networks: {n: {}}\nservices: {a: {image: i}}",
            "/networks",
            json!({"default": {"name": "p_default", "ipam": {}}}),
        ),
    ]);
}

/// C5: a long form with `bind:` makes the directory unless it says otherwise; what it does not say
/// is not printed, as in every version of the reference.
#[test]
fn what_a_bind_does_not_say_is_true() {
    let made = |bind: &str| {
        let lines = format!("volumes: [{{type: bind, source: ., target: /x{bind}}}]");
        let loaded = load(&options(&[]), &[("compose.yaml", &service(&lines))]);
        let project = loaded.project.expect("it loads");
        match &project.services["a"].volumes[0].kind {
            compose::MountKind::Bind {
                create_host_path, ..
            } => *create_host_path,
            other => panic!("{other:?}"),
        }
    };
    assert!(made(", bind: {}"));
    assert!(made(", bind: {propagation: rslave}"));
    assert!(made(", bind: {create_host_path: true}"));
    assert!(!made(", bind: {create_host_path: false}"));
}

#[test]
fn mistakes_of_one_value() {
    refuse_service(&[
        (
            "C1",
            "build: {dockerfile: a, dockerfile_inline: b}",
            "mutually exclusive dockerfile",
        ),
        (
            "C2",
            "ports: ['127.0.1:80:80']",
            "Invalid ip address: 127.0.1",
        ),
        ("C2", "ports: ['9999999']", "Invalid containerPort: 9999999"),
        ("C2", "ports: [80/xyz]", "Invalid proto: xyz"),
        ("C3", "ports: [{published: 80}]", "target is required"),
        (
            "C3",
            "ports: [{target: 80, host_ip: x}]",
            "invalid ip address: x",
        ),
        ("C4", "volumes: [':foo']", "empty section between colons"),
        (
            "C5",
            "volumes: [{type: bind, target: /x}]",
            "field Source must not be empty",
        ),
        (
            "C9",
            "deploy: {resources: {reservations: {devices: [{count: 1}]}}}",
            "capabilities is required",
        ),
        ("C9", "gpus: [{count: 1, device_ids: [a]}]", "exclusive"),
        (
            "C10",
            "healthcheck: {test: [curl, x]}",
            "healthcheck.test must start either by",
        ),
        ("C14", "stop_grace_period: 10", "must be a string"),
        (
            "C14",
            "healthcheck: {interval: '10'}",
            "missing unit in duration",
        ),
        (
            "E11",
            "environment: ['A =b']",
            "environment variable A is declared with a trailing space",
        ),
        (
            "E11",
            "environment: {A: [b]}",
            "services.a.environment.A must be a string, number, boolean or null",
        ),
        ("I6", "user: ${A", "invalid interpolation format"),
        (
            "I6",
            "user: '${A:?need it}'",
            "required variable A is missing a value: need it",
        ),
        ("I8", "scale: x", "failed to cast to expected type"),
        (
            "Y2",
            "user: a\nuser: b",
            "mapping key \"user\" already defined at line 4",
        ),
        (
            "Y3",
            "labels: {1: a}",
            "non-string key in services.a.labels: 1",
        ),
        (
            "Y6",
            "imagee: x",
            "services.a: additional properties 'imagee' not allowed",
        ),
        (
            "V6",
            "container_name: x\nscale: 2",
            "can't set container_name and more than one replica",
        ),
        (
            "V6",
            "scale: 2\ndeploy: {replicas: 3}",
            "can't set distinct values on 'scale' and 'deploy.replicas'",
        ),
        ("V6", "scale: -1", "greater than or equal to 0"),
        (
            "V6",
            "mem_limit: 1g\ndeploy: {resources: {limits: {memory: 2g}}}",
            "can't set distinct values on 'mem_limit'",
        ),
        (
            "V6",
            "network_mode: host\nnetworks: [x]",
            "mutually exclusive `network_mode` and `networks`",
        ),
        ("V6", "networks: [x]", "refers to undefined network x"),
        (
            "V6",
            "volumes: ['vol:/x']",
            "refers to undefined volume vol",
        ),
        ("V6", "secrets: [s]", "refers to undefined secret s"),
        ("V6", "configs: [c]", "refers to undefined config c"),
        ("V6", "models: [m]", "refers to undefined model m"),
        (
            "V6",
            "volumes: ['/a:/x', '/b:/x/']\ntmpfs: /x",
            "duplicate mount target /x",
        ),
        (
            "V6",
            "build: .\ndevelop: {watch: [{path: ., action: sync}]}",
            "target is required",
        ),
        (
            "V6",
            "platform: linux/amd64\nbuild: {context: ., platforms: [linux/arm64]}",
            "MUST include service.platform",
        ),
        (
            "V6",
            "build: {context: ., additional_contexts: {x: 'service:no'}}",
            "unknown service \"no\"",
        ),
        (
            "G2",
            "pre_start: [{command: x, per_replica: true}]",
            "per_replica is not supported",
        ),
        ("C16", "pull_policy: everry_day", "invalid pull policy"),
        (
            "restart",
            "restart: sometimes",
            "invalid restart policy: sometimes",
        ),
        (
            "cgroup",
            "cgroup: hosts",
            "must be one of the following: \"host\", \"private\"",
        ),
    ]);
    refuse(&[
        ("P6", "[a]", "top-level object must be a mapping"),
        ("P6", "", "empty compose file"),
        (
            "V4",
            "services: {a: {image: i, depends_on: [b]}, b: {image: i, depends_on: [a]}}",
            "dependency cycle detected: a -> b -> a",
        ),
        (
            "V4",
            "services: {a: {image: i, depends_on: [b]}}",
            "service \"a\" depends on undefined service \"b\"",
        ),
        (
            "V6",
            "services: {a: {}}",
            "service \"a\" has neither an image nor a build context specified",
        ),
        (
            "V6",
            "secrets: {s: {file: a, environment: B}}\nservices: {a: {image: i}}",
            "mutually exclusive",
        ),
        (
            "Z7",
            "secrets: {s: {driver: d}}\nservices: {a: {image: i, secrets: [s]}}",
            "secrets.s: one of file|environment must be set",
        ),
        (
            "V7",
            "services: {a: {image: i, container_name: c}, b: {image: i, container_name: c}}",
            "container name \"c\" is already in use by service \"a\"",
        ),
        (
            "C17",
            "networks: {n: {name: a, external: {name: b}}}\nservices: {a: {image: i}}",
            "name and external.name conflict",
        ),
        (
            "V6",
            "volumes: {v: {external: true, driver: x}}\nservices: {a: {image: i}}",
            "conflicting parameters \"external\" and \"driver\"",
        ),
        (
            "X3",
            "services: {a: {extends: b}, b: {extends: a}}",
            "Circular reference:",
        ),
        (
            "X3",
            "services: {a: {extends: {service: b}}}",
            "service \"b\" not found",
        ),
        (
            "X3",
            "services: {a: {extends: {file: x.yaml}}}",
            "service is required",
        ),
        (
            "Y4",
            "services: {a: &x {image: i, x-b: *x}}",
            "cycle detected",
        ),
        (
            "Y1",
            "services: {a: {<<: 5, image: i}}",
            "map merge requires",
        ),
        (
            "F11",
            "include: ['https://example.com/r.git']\nservices: {}",
            "is not supported",
        ),
        (
            "volumes",
            "services: {a: {image: i}}\nvolumes:\n",
            "volumes must be a mapping",
        ),
    ]);
}

fn two(first: &str, second: &str) -> Loaded {
    let mut options = options(&[("FOO", "foo")]);
    options.files = vec!["a.yaml".into(), "b.yaml".into()];
    load(
        &options,
        &[("a.yaml", &service(first)), ("b.yaml", &service(second))],
    )
}

#[test]
fn merge_section_6() {
    for (id, first, second, pointer, expected) in [
        (
            "M1",
            "labels: {a: x}",
            "labels: {b: y}",
            "/labels",
            json!({"a": "x", "b": "y"}),
        ),
        ("M1", "user: x", "user:", "/user", json!("x")),
        (
            "M1",
            "cap_add: [A]",
            "cap_add: [B, A]",
            "/cap_add",
            json!(["A", "B"]),
        ),
        (
            "M2",
            "command: [a, b]",
            "command: [c]",
            "/command",
            json!(["c"]),
        ),
        (
            "M2",
            "healthcheck: {test: a, retries: 3}",
            "healthcheck: {test: [NONE]}",
            "/healthcheck",
            json!({"test": ["NONE"], "retries": 3}),
        ),
        (
            "M3",
            "environment: [A=1, B=2]",
            "environment: {B: 3}",
            "/environment",
            json!({"A": "1", "B": "3"}),
        ),
        (
            "M3",
            "environment: {FOO: x}",
            "environment: [FOO]",
            "/environment",
            json!({"FOO": "foo"}),
        ),
        (
            "M4",
            "volumes: ['/a:/x', '/b:/y']",
            "volumes: ['/c:/x']",
            "/volumes/0/source",
            json!("/c"),
        ),
        (
            "M5",
            "ports: ['8080:80']",
            "ports: ['9090:80', '8080:80']",
            "/ports/1/published",
            json!("9090"),
        ),
        (
            "M6",
            "security_opt: [a]",
            "security_opt: [a]",
            "/security_opt",
            json!(["a", "a"]),
        ),
        (
            "M8",
            "networks: {default: {aliases: [x]}}",
            "networks: [default]",
            "/networks/default/aliases",
            json!(["x"]),
        ),
        (
            "M9",
            "build: ./x",
            "build: {target: t}",
            "/build",
            json!({"context": "/p/x", "dockerfile": "Dockerfile", "target": "t"}),
        ),
        (
            "M10",
            "extra_hosts: ['h=1.1.1.1']",
            "extra_hosts: ['h=1.1.1.1', 'h=2.2.2.2']",
            "/extra_hosts",
            json!(["h=1.1.1.1", "h=2.2.2.2"]),
        ),
        (
            "M11",
            "logging: {driver: a, options: {x: 1}}",
            "logging: {driver: b, options: {y: 2}}",
            "/logging",
            json!({"driver": "b", "options": {"y": "2"}}),
        ),
        (
            "M11",
            "logging: {driver: a, options: {x: 1}}",
            "logging: {options: {y: 2}}",
            "/logging/options",
            json!({"x": "1", "y": "2"}),
        ),
        (
            "M12",
            "ulimits: {n: {soft: 1, hard: 2}}",
            "ulimits: {n: 5}",
            "/ulimits",
            json!({"n": 5}),
        ),
        (
            "M13",
            "ports: ['80:80']",
            "ports: !reset []",
            "/ports",
            json!(null),
        ),
        (
            "M13",
            "ports: ['80:80']",
            "ports: !override ['81:81']",
            "/ports/0/target",
            json!(81),
        ),
        (
            "M13",
            "environment: {A: x, B: y}",
            "environment: {A: !reset null}",
            "/environment",
            json!({"B": "y"}),
        ),
        ("M14", "user: !reset x", "tty: true", "/user", json!(null)),
    ] {
        let loaded = two(first, second);
        let document = document_for(id, second, &loaded);
        let found = document
            .pointer(&format!("/services/a{pointer}"))
            .cloned()
            .unwrap_or(Value::Null);
        assert_eq!(found, expected, "{id}: {first} + {second}");
    }
    let loaded = two("ports: ['80:80']", "ports: {a: b}");
    assert!(!errors(&loaded).is_empty(), "M1");
    let loaded = load(
        &options(&[]),
        &[(
            "compose.yaml",
            "services: {a: {image: i, depends_on: {b: {condition: service_healthy}}}, b: {image: i}}\n---\nservices: {a: {depends_on: [b]}}",
        )],
    );
    let found = document(&loaded)
        .pointer("/services/a/depends_on/b/condition")
        .cloned();
    assert_eq!(found, Some(json!("service_started")), "M7 P5");
}

#[test]
fn extends_and_include_sections_7_and_8() {
    let base = "services:\n  b:\n    build: ./ctx\n    volumes: ['./data:/d']\n    env_file: e.env\n    ports: ['80:80']\n    extends: c\n  c:\n    labels: {from: '${FOO}'}\n";
    let loaded = load(
        &options(&[("FOO", "foo")]),
        &[
            (
                "compose.yaml",
                "services:\n  a:\n    extends: {file: sub/base.yaml, service: b}\n    ports: ['81:81']\n",
            ),
            ("sub/base.yaml", base),
            ("sub/e.env", "K=v\n"),
        ],
    );
    let a = document(&loaded)["services"]["a"].clone();
    assert_eq!(a["build"]["context"], "/p/sub/ctx", "X4");
    assert_eq!(a["volumes"][0]["source"], "/p/sub/data", "X4");
    assert_eq!(a["environment"]["K"], "v", "X4");
    assert_eq!(a["labels"]["from"], "foo", "X6");
    assert_eq!(a["ports"].as_array().map(Vec::len), Some(2), "X2");

    let loaded = load(
        &options(&[("FOO", "foo")]),
        &[
            (
                "compose.yaml",
                "include: [sub/compose.yaml]\nservices:\n  a: {extends: inc}\n  inc: {labels: {over: ride}}\n",
            ),
            (
                "sub/compose.yaml",
                "services:\n  inc: {image: 'i-${FOO}-${BAR}', volumes: ['./d:/d', 'vol:/v']}\nvolumes: {vol: {}}\n",
            ),
            ("sub/.env", "FOO=other\nBAR=bar\n"),
        ],
    );
    let document = document(&loaded);
    assert_eq!(
        document["services"]["inc"]["image"], "i-foo-bar",
        "N2: parent wins"
    );
    assert_eq!(
        document["services"]["inc"]["volumes"][0]["source"], "/p/sub/d",
        "N2"
    );
    assert_eq!(document["services"]["inc"]["labels"]["over"], "ride", "N3");
    assert_eq!(document["services"]["a"]["image"], "i-foo-bar", "X7");
    assert_eq!(document["volumes"]["vol"]["name"], "p_vol", "N6");

    let loaded = load(
        &options(&[]),
        &[(
            "compose.yaml",
            "include: [compose.yaml]\nservices: {a: {image: i}}\n",
        )],
    );
    assert!(
        errors(&loaded)[0].starts_with("include cycle detected:\n/p/compose.yaml\n include"),
        "N4"
    );
}

#[test]
fn names_files_and_environment_sections_1_and_2() {
    let yaml = "name: From_File.\nservices: {a: {image: 'i:${TAG-none}'}}\n";
    let name = |options: &LoadOptions, files: &[(&str, &str)]| {
        load(options, files).project.map(|p| p.name.to_string())
    };
    let files = &[("compose.yaml", yaml)][..];
    assert_eq!(
        name(&options(&[]), files).as_deref(),
        Some("from_file"),
        "F6 F7"
    );
    assert_eq!(
        name(&options(&[("COMPOSE_PROJECT_NAME", "env")]), files).as_deref(),
        Some("env"),
        "F6"
    );
    let mut named = options(&[("COMPOSE_PROJECT_NAME", "env")]);
    named.project_name = Some("flag".into());
    assert_eq!(name(&named, files).as_deref(), Some("flag"), "F6");
    named.project_name = Some("Flag".into());
    assert!(
        errors(&load(&named, files))[0].starts_with("invalid project name \"Flag\""),
        "F7"
    );

    let mut up = options(&[]);
    up.current_dir = "/p/deep/er".into();
    let loaded = load(
        &up,
        &[
            ("compose.yaml", yaml),
            ("compose.override.yml", "services: {a: {user: u}}"),
            ("docker-compose.yml", yaml),
        ],
    );
    assert_eq!(document(&loaded)["services"]["a"]["user"], "u", "F1 F2");
    assert!(
        loaded.diagnostics.iter().any(|d| d.code == "several-files"),
        "F1"
    );

    let env = ("dot.env", "TAG=file\nB=${TAG}\n");
    let loaded = load(
        &options(&[("TAG", "os")]),
        &[("compose.yaml", yaml), (".env", env.1)],
    );
    assert_eq!(loaded.environment["B"], "os", "E4");
    assert_eq!(document(&loaded)["services"]["a"]["image"], "i:os", "E1");
    let mut explicit = options(&[]);
    explicit.env_files = vec!["dot.env".into(), "two.env".into()];
    let loaded = load(
        &explicit,
        &[
            ("compose.yaml", yaml),
            env,
            ("two.env", "TAG=two\n"),
            (".env", "TAG=no"),
        ],
    );
    assert_eq!(document(&loaded)["services"]["a"]["image"], "i:two", "E2");
    explicit.env_files = vec!["absent.env".into()];
    assert!(
        errors(&load(&explicit, files))[0].contains("couldn't find env file"),
        "E2"
    );
    let loaded = load(
        &options(&[("COMPOSE_DISABLE_ENV_FILE", "true")]),
        &[("compose.yaml", yaml), (".env", "TAG=no")],
    );
    assert_eq!(document(&loaded)["services"]["a"]["image"], "i:none", "E3");

    let loaded = load(
        &options(&[]),
        &[
            (
                ".env",
                "COMPOSE_FILE=x.yaml:y.yaml\nCOMPOSE_PROFILES=on, off",
            ),
            ("x.yaml", "services: {a: {image: i, profiles: [on]}}"),
            ("y.yaml", "services: {b: {image: i, profiles: [nope]}}"),
        ],
    );
    let project = loaded.project.expect("it loads");
    assert_eq!(
        project.services.keys().collect::<Vec<_>>(),
        ["a"],
        "F3 F4 S1"
    );
    assert_eq!(project.disabled_services, ["b"], "S6");

    let mut stdin = options(&[]);
    stdin.files = vec!["-".into()];
    let memory = Memory {
        stdin: yaml.into(),
        ..Memory::default()
    };
    assert!(compose::load(&stdin, &memory).project.is_some(), "F3 stdin");
    assert!(
        errors(&load(&options(&[]), &[]))[0].contains("no configuration file provided"),
        "F1"
    );
    assert!(
        compose::project_name(&options(&[]), &Memory::default()).is_err(),
        "F12"
    );
    let mut by_name = options(&[]);
    by_name.project_name = Some("x".into());
    assert_eq!(
        compose::project_name(&by_name, &Memory::default())
            .map(|n| n.to_string())
            .ok()
            .as_deref(),
        Some("x"),
        "F12"
    );
}

#[test]
fn env_files_of_services() {
    let yaml = "services:\n  a:\n    image: i\n    env_file:\n      - a.env\n      - {path: no.env, required: false}\n      - {path: raw.env, format: raw}\n    environment: {A: own, D: dee}\n    label_file: l.env\n";
    let files = [
        ("compose.yaml", yaml),
        ("a.env", "A=file\nB=${D}-${FOO}\nC=1\n"),
        ("raw.env", "C='$x'\n"),
        ("l.env", "x=y\n"),
    ];
    let loaded = load(&options(&[("FOO", "foo")]), &files);
    let a = document(&loaded)["services"]["a"].clone();
    assert_eq!(
        a["environment"],
        json!({"A": "own", "B": "dee-foo", "C": "'$x'", "D": "dee"}),
        "E7 E8 E9"
    );
    assert_eq!(a["labels"], json!({"x": "y"}), "E12");
    assert!(a.get("env_file").is_none(), "E10");
    let mut unread = options(&[]);
    unread.resolve_environment = false;
    let loaded = load(&unread, &files);
    assert_eq!(
        document(&loaded)["services"]["a"]["env_file"][0]["path"],
        "/p/a.env",
        "E10"
    );
    let loaded = load(
        &options(&[]),
        &[(
            "compose.yaml",
            "services: {a: {image: i, env_file: gone.env}}",
        )],
    );
    assert!(
        errors(&loaded)[0].contains("env file /p/gone.env not found"),
        "E9"
    );
    let mut one = options(&[]);
    one.services = vec!["b".into()];
    let loaded = load(
        &one,
        &[(
            "compose.yaml",
            "services: {a: {image: i, env_file: gone.env}, b: {image: i}}",
        )],
    );
    assert!(
        loaded.project.is_some(),
        "E10: unselected services are not read"
    );
}

#[test]
fn profiles_and_selection_section_9() {
    let yaml = "services:\n  web: {image: i, depends_on: [db]}\n  db: {image: i}\n  dbg: {image: i, profiles: [debug], depends_on: [tool]}\n  tool: {image: i, profiles: [debug]}\n  opt: {image: i, depends_on: {tool: {condition: service_started, required: false}}}\n";
    let run = |services: &[&str], profiles: &[&str]| {
        let mut options = options(&[]);
        options.services = services.iter().map(|s| (*s).to_owned()).collect();
        options.profiles = profiles.iter().map(|s| (*s).to_owned()).collect();
        let loaded = load(&options, &[("compose.yaml", yaml)]);
        match &loaded.project {
            Some(project) => project
                .services
                .keys()
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
            None => errors(&loaded).join("; "),
        }
    };
    assert_eq!(run(&[], &[]), "web db opt", "S1 S3");
    assert_eq!(run(&[], &["*"]), "web db dbg tool opt", "S1");
    assert_eq!(run(&["dbg"], &[]), "dbg tool", "S2");
    assert_eq!(run(&["w*"], &[]), "web db", "S4");
    assert_eq!(run(&["wen"], &[]), "no such service: wen", "S4");
    refuse(&[(
        "S3",
        "services: {a: {image: i, depends_on: [b]}, b: {image: i, profiles: [x]}}",
        "service \"b\" is required by \"a\" but is disabled. Can be enabled by profiles [x]",
    )]);
}

#[test]
fn three_mistakes_in_two_files_are_all_shown() {
    let mut options = options(&[]);
    options.files = vec!["compose.yaml".into(), "over.yaml".into()];
    let loaded = load(
        &options,
        &[
            (
                "compose.yaml",
                "services:\n  web:\n    imagee: nginx\n    ports:\n      - \"80:80:80:80x\"\n",
            ),
            (
                "over.yaml",
                "services:\n  web:\n    image: ünï\n    depends_on: [dbb]\n  db:\n    image: x\n",
            ),
        ],
    );
    insta::assert_snapshot!(source::render(&loaded.diagnostics, &loaded.sources, false), @r#"
    error[unknown-key]: services.web: additional properties 'imagee' not allowed
     --> compose.yaml:3:5
      |
    3 |     imagee: nginx
      |     ^^^^^^ unknown key
      |
      = help: did you mean `image`?

    error[port]: Invalid ip address: 80:80
     --> compose.yaml:5:9
      |
    5 |       - "80:80:80:80x"
      |         ^^^^^^^^^^^^^^
      |
      = help: write it as [[HOST_IP:]HOST_PORT:]CONTAINER_PORT[/PROTOCOL]

    error[undefined-dependency]: service "web" depends on undefined service "dbb"
     --> over.yaml:4:18
      |
    4 |     depends_on: [dbb]
      |                  ^^^
      |
      = help: did you mean `db`?
    "#);
    let json = source::render_json(&loaded.diagnostics, &loaded.sources);
    assert_eq!(json[2]["labels"][0]["line"], 4);
    assert_eq!(json[2]["labels"][0]["column"], 18);
}

/// What people get wrong most, in one run over four files: each with its place and, where one is
/// known, a remedy.
#[test]
fn typical_mistakes_have_remedies() {
    let files = [
        (
            "compose.yaml",
            "services:
  web:
    image: nginx
    port: ['80:80']
    environment:
      - DB_PASSWORD = hunter2
      - A: b
    depends_on: {dbb: {condition: healthy}}
    volumes: [data/x:/b, './a:/a:rx:y', '${EMPTY}:/c']
    healthcheck: {test: [curl, x], interval: 10}
    restart: on_failure
    networks: [frnt]
    command: echo ${UNDEF
    mem_limit: 512 megs
    stop_grace_period: 10 s
    privileged: maybe
    expose: '80'
    user: 1000
    cpus: ${CPUS}
  db:
    extends: {file: base.yaml, service: bas}
networks: {front: {}}
secret: {pw: {file: x}}
x-one: &one {TOKEN: '${NEED:?set it}'}
x-two: *one
",
        ),
        (
            "over.yaml",
            "services:\n  web:\n    labels: {a: [b]}\n    ports: {a: b}\n    build: {contxt: .}\n",
        ),
        ("base.yaml", "services: {base: {image: i}}\n"),
        (".env", "EMPTY=\nCPUS=1,5\n"),
    ];
    let mut options = options(&[]);
    options.files = vec!["compose.yaml".into(), "over.yaml".into()];
    let loaded = load(&options, &files);
    let shown: Vec<String> = loaded
        .diagnostics
        .iter()
        .map(|d| {
            let places = d.labels.iter().map(|label| {
                let place = loaded.sources.place(label.span);
                let file = &loaded.sources.file(label.span.file).path;
                let name = file.file_name().expect("a name").to_string_lossy();
                format!("{name}:{}:{}", place.line, place.column)
            });
            let places: Vec<String> = places.collect();
            let help = d.help.as_deref().unwrap_or("-");
            format!(
                "[{}] {}\n  {}\n  {help}",
                d.code,
                d.message,
                places.join(" ")
            )
        })
        .collect();
    insta::assert_snapshot!("typical_mistakes", shown.join("\n"));
    let text = source::render(&loaded.diagnostics, &loaded.sources, false);
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn places_reach_the_project() {
    let loaded = load(
        &options(&[]),
        &[(
            "compose.yaml",
            "services:\n  a:\n    image: i\n    ports:\n      - 80\n      - 81\nvolumes: {}\n",
        )],
    );
    let project = loaded.project.expect("it loads");
    let at = |path: &str| project.locations[path].to_string();
    assert_eq!(at("services.a"), "/p/compose.yaml:2:3");
    assert_eq!(at("services.a.image"), "/p/compose.yaml:3:5");
    assert_eq!(at("services.a.ports.1"), "/p/compose.yaml:6:9");
}

#[test]
fn secrets_from_the_environment_are_never_printed() {
    let yaml = "secrets: {s: {environment: TOKEN}}\nservices: {a: {image: i, secrets: [s]}}\n";
    let loaded = load(&options(&[("TOKEN", "hunter2")]), &[("compose.yaml", yaml)]);
    let mut project = loaded.project.expect("it loads");
    compose::resolve_environment_objects(&mut project, &loaded.environment).expect("it is set");
    assert_eq!(project.secrets["s"].content.as_deref(), Some("hunter2"));
    let yaml_out = to_yaml(&project, PrintOptions::default());
    assert!(
        !yaml_out.contains("hunter2") && yaml_out.contains("environment: TOKEN"),
        "V8"
    );
    let error = compose::resolve_environment_objects(&mut project, &BTreeMap::new());
    assert_eq!(
        error.map_err(|e| e[0].to_string()),
        Err("environment variable \"TOKEN\" required by secret \"s\" is not set".into()),
        "T3"
    );
}

#[test]
fn hostile_texts_end_with_a_diagnostic() {
    let deep_flow = "[".repeat(20_000);
    let deep_block: String = (0..2_000).map(|n| " ".repeat(n) + "a:\n").collect();
    let mut bomb = "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for (name, of) in ["b", "c", "d", "e", "f", "g", "h", "i"]
        .iter()
        .zip(["a", "b", "c", "d", "e", "f", "g", "h"])
    {
        bomb.push_str(&format!(
            "x-{name}: &{name} [{}]\n",
            vec![format!("*{of}"); 10].join(",")
        ));
    }
    let chain: String = "services:\n".to_owned()
        + &(0..5_000)
            .map(|n| format!("  s{n}: {{extends: s{}}}\n", n + 1))
            .collect::<String>()
        + "  s5000: {image: i}\n";
    let dependencies: String = "services:\n".to_owned()
        + &(0..5_000)
            .map(|n| format!("  s{n}: {{image: i, depends_on: [s{}]}}\n", n + 1))
            .collect::<String>()
        + "  s5000: {image: i, depends_on: [s0]}\n";
    for (name, text, is_error) in [
        ("flow", deep_flow.as_str(), true),
        ("block", &deep_block, true),
        ("bomb", &bomb, true),
        ("chain", &chain, false),
        ("dependencies", &dependencies, true),
        ("nul", "services: {a: {image: \"x\\0y\"}}", false),
        ("tab", "services:\n\ta: 1\n", true),
        ("tags", "services: !!map {a: !foo {image: !!str 5}}", false),
        ("only anchors", "&a *a", true),
        (
            "bom and crlf",
            "\u{feff}services:\r\n  a:\r\n    image: i\r\n",
            false,
        ),
    ] {
        let loaded = load(&options(&[]), &[("compose.yaml", text)]);
        assert_eq!(
            loaded.project.is_none(),
            is_error,
            "{name}: {:?}",
            errors(&loaded)
        );
        _ = source::render(&loaded.diagnostics, &loaded.sources, true);
    }
    let ports: String = "services:\n".to_owned()
        + &(0..1_000)
            .map(|n| format!("  s{n}: {{image: i, ports: ['1-65535:1-65535']}}\n"))
            .collect::<String>();
    let loaded = load(&options(&[]), &[("compose.yaml", &ports)]);
    assert!(
        errors(&loaded)
            .iter()
            .any(|e| e.contains("publishes more than")),
        "ports"
    );
    let unknown: String = (0..10_000).map(|n| format!("imageserv{n}: x\n")).collect();
    assert_eq!(
        errors(&load(&options(&[]), &[("compose.yaml", &unknown)])).len(),
        10_000
    );
    let doubling: Vec<(String, String)> = (0..30)
        .map(|n| {
            let next = n + 1;
            (
                format!("i{n}.yaml"),
                format!("include: [i{next}.yaml, i{next}.yaml]\nservices: {{}}\n"),
            )
        })
        .chain([
            (
                "i30.yaml".to_owned(),
                "services: {a: {image: i}}\n".to_owned(),
            ),
            ("compose.yaml".to_owned(), "include: [i0.yaml]\n".to_owned()),
        ])
        .collect();
    let doubling: Vec<(&str, &str)> = doubling
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let found = errors(&load(&options(&[]), &doubling));
    assert!(
        found.iter().any(|e| e.contains("models are included")),
        "{found:?}"
    );
    let mut latin = Memory::default();
    latin.files.insert(
        "/p/compose.yaml".into(),
        b"services: {a: {image: \xe9}}".to_vec(),
    );
    assert!(errors(&compose::load(&options(&[]), &latin))[0].contains("not UTF-8 at byte 22"));
}

#[test]
fn what_is_printed_loads_again_to_the_same() {
    let yaml = "services:\n  a:\n    image: 'i$$x'\n    command: [sh, -c, 'echo $$HOME # yes', 'null', '1', 'no', '- x', \"a\\nb\\n\"]\n    environment: {A: '*a', B: 'x: y', C: '', D: ' lead', E: '0x1', F: '~', G: \"tab\\t\"}\n    ports: ['80:80', '90-91:90-91/udp']\n    volumes: ['./a:/a:ro', 'vol:/v', '/anon']\n    build: {context: ., ssh: [default, k=/k]}\n    healthcheck: {test: 'x || y', interval: 1m30s, disable: false}\n    ulimits: {n: 1}\n    cpus: 1.5\nvolumes: {vol: {driver_opts: {o: bind, device: ./dev, type: none}}}\n";
    let first = load(&options(&[]), &[("compose.yaml", yaml)]);
    let project = first.project.as_ref().expect("it loads");
    let text = to_yaml(
        project,
        PrintOptions {
            escape_dollar: true,
        },
    );
    let second = load(&options(&[]), &[("compose.yaml", &text)]);
    assert_eq!(document(&first), document(&second), "{text}");
    assert_eq!(
        project.services,
        second.project.as_ref().expect("it loads").services
    );
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "[ -~\n\t]{0,300}|(services|image|ports|: |\n  |- |\\[|\\{|&a|\\*a|\\$\\{|\\}|!reset |<<: |\"|')*") {
        let loaded = load(&options(&[]), &[("compose.yaml", &text)]);
        _ = source::render(&loaded.diagnostics, &loaded.sources, false);
        proptest::prop_assert_eq!(loaded.project.is_none(), loaded.diagnostics.iter().any(source::Diagnostic::is_error));
    }

    #[test]
    fn no_service_makes_the_loader_panic(lines in proptest::collection::vec("(ports|volumes|command|environment|extra_hosts|devices|networks|build|deploy|healthcheck|ulimits): ([a-z0-9:/.$\\-]{0,12}|\\[[a-z0-9:/.=\\-]{0,12}\\]|\\{[a-z]{1,8}: [a-z0-9:/.]{0,9}\\})", 0..6)) {
        let loaded = load(&options(&[]), &[("compose.yaml", &service(&lines.join("\n")))]);
        _ = source::render(&loaded.diagnostics, &loaded.sources, false);
    }
}

/// A file of many services with what real ones hold.
fn large(n: usize) -> String {
    let mut text = "x-common: &common\n  restart: unless-stopped\n  logging: {driver: json-file, options: {max-size: 10m}}\nservices:\n".to_owned();
    for i in 0..n {
        text.push_str(&format!(
            "  s{i}:\n    <<: *common\n    image: registry.example.com/team/app-{i}:${{TAG:-1.2.3}}\n    command: [\"serve\", \"--port\", \"8080\"]\n    environment:\n      A: one\n      B: ${{FOO}}\n      C: three\n      D: 4\n    ports: [\"{}:80\"]\n    volumes:\n      - data:/var/lib/data\n      - ./conf/{i}:/etc/app:ro\n    networks: [front, back]\n    labels:\n      com.example.a: x\n      com.example.b: y\n    healthcheck: {{test: [CMD, curl, -f, http://localhost], interval: 5s, timeout: 3s, retries: 5}}\n    deploy: {{resources: {{limits: {{cpus: '0.5', memory: 128M}}}}}}\n",
            10_000 + i
        ));
        if i > 0 {
            text.push_str(&format!(
                "    depends_on: {{s{}: {{condition: service_healthy}}}}\n",
                i - 1
            ));
        }
    }
    text.push_str("volumes: {data: {}}\nnetworks: {front: {}, back: {}}\n");
    text
}

#[test]
fn time_grows_with_the_file_and_not_faster() {
    let time = |n: usize| {
        let text = large(n);
        let files = [("compose.yaml", text.as_str())];
        let options = options(&[("FOO", "foo")]);
        let start = std::time::Instant::now();
        let loaded = load(&options, &files);
        assert_eq!(
            loaded.project.map(|p| p.services.len()),
            Some(n),
            "{:?}",
            loaded.diagnostics.first()
        );
        start.elapsed()
    };
    let best = |n| (0..3).map(|_| time(n)).min().expect("three runs");
    let (small, large) = (best(100), best(1_000));
    // Ten times the services; quadratic work anywhere would make this a hundred.
    assert!(
        large < small * 30,
        "100 services: {small:?}, 1,000: {large:?}"
    );
}

/// Every key of the specification and of the reference implementation is known.
#[test]
fn every_key_is_in_the_table() {
    use wharf::compose::schema::{self, Shape};

    fn has(shape: &Shape, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return true;
        };
        match shape {
            Shape::OneOf(shapes) => shapes.iter().any(|shape| has(shape, path)),
            Shape::Object(object) => object.shape(first).is_some_and(|shape| has(shape, rest)),
            Shape::Dict(item) => *first == "*" && has(item, rest),
            Shape::List(item) | Shape::Set(item) => *first == "[]" && has(item, rest),
            Shape::Pairs => matches!(*first, "*" | "[]") && rest.is_empty(),
            _ => false,
        }
    }
    let keys = include_str!("data/compose/keys.txt");
    let root = Shape::Object(&schema::PROJECT);
    let missing: Vec<&str> = keys
        .lines()
        .filter(|key| !has(&root, &key.split('.').collect::<Vec<_>>()))
        .collect();
    assert!(keys.lines().count() > 350);
    assert_eq!(missing, Vec::<&str>::new());
}

/// One file with every key: typed, printed, and read back to the same.
#[test]
fn every_key_is_typed_and_survives_printing() {
    let mut options = options(&[("COMPOSE_PROFILES", "p"), ("HOME", "/h")]);
    let text = include_str!("data/compose/everything.yaml");
    let first = load(&options, &[("compose.yaml", text)]);
    assert_eq!(errors(&first), Vec::<String>::new());
    let project = first.project.as_ref().expect("it loads");
    let printed = to_yaml(
        project,
        PrintOptions {
            escape_dollar: true,
        },
    );
    options.all_resources = true;
    let second = load(&options, &[("compose.yaml", &printed)]);
    assert_eq!(errors(&second), Vec::<String>::new(), "{printed}");
    let again = second.project.as_ref().expect("it loads");
    assert_eq!(project.services, again.services);
    assert_eq!(project.networks, again.networks);
    assert_eq!(project.volumes, again.volumes);
    assert_eq!(document(&first), document(&second));

    let sent = serde_json::to_string(project).expect("it serialises");
    let received: compose::Project = serde_json::from_str(&sent).expect("it deserialises");
    assert_eq!(received.services, project.services);

    let mut printed = printed;
    printed.truncate(
        printed
            .find("\nnetworks:\n")
            .expect("the top level goes on"),
    );
    insta::assert_snapshot!("everything", printed);
    insta::assert_json_snapshot!("everything_typed", project.services["all"]);
}

#[test]
fn reset_and_override_work_in_extends_include_and_aliases() {
    let files = [
        (
            "compose.yaml",
            "include: [inc.yaml]\nservices:\n  child:\n    extends: {service: base, file: base.yaml}\n    ports: !override ['81:81']\n    environment: {A: !reset null}\n    volumes: !reset []\n  shared:\n    labels: !override {only: this}\n    command: !reset null\n",
        ),
        (
            "base.yaml",
            "services:\n  base: {image: i, ports: ['80:80'], environment: {A: x, B: y}, volumes: ['./v:/v']}\n",
        ),
        (
            "inc.yaml",
            "services:\n  shared: {image: s, labels: {a: b}, command: run}\n",
        ),
    ];
    let document = document(&load(&options(&[]), &files));
    let child = &document["services"]["child"];
    assert_eq!(child["ports"].as_array().map(Vec::len), Some(1), "M13 X2");
    assert_eq!(child["environment"], json!({"B": "y"}), "M13 X2");
    assert_eq!(child.get("volumes"), None, "M13 X2");
    let shared = &document["services"]["shared"];
    assert_eq!(shared["labels"], json!({"only": "this"}), "M13 N3");
    assert_eq!(shared["command"], Value::Null, "M13 N3");
}

#[test]
fn switches_leave_out_one_phase_each() {
    let yaml = "services:\n  a:\n    image: 'i:${TAG:?}'\n    ports: ['${PORT}:80', '81:81']\n    volumes: ['./x:/x', '${V}:/v']\n    mem_limit: ${MEM}\n    cpus: ${CPUS}\n    depends_on: [gone]\n    command: run ${WHAT}\n";
    let mut options = options(&[]);
    options.interpolate = false;
    options.consistency = false;
    options.resolve_paths = false;
    options.normalize = false;
    let loaded = load(&options, &[("compose.yaml", yaml)]);
    let a = document(&loaded)["services"]["a"].clone();
    assert_eq!(a["image"], "i:${TAG:?}", "I11");
    assert_eq!(a["ports"][0], "${PORT}:80");
    assert_eq!(a["ports"][1]["target"], 81);
    assert_eq!(a["volumes"][0]["source"], "./x");
    assert_eq!(a["mem_limit"], "${MEM}");
    assert_eq!(a["command"], "run ${WHAT}");
    assert_eq!(a.get("networks"), None);
    let mut names: Vec<&str> = loaded.variables.iter().map(|v| &*v.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["CPUS", "MEM", "PORT", "TAG", "V", "WHAT"], "I12");
}

#[test]
fn a_missing_base_is_the_only_mistake_reported() {
    let files = [(
        "compose.yaml",
        "services:\n  a:\n    extends: {file: gone.yaml, service: b}\n    networks: [n]\n",
    )];
    let loaded = load(&options(&[]), &files);
    assert_eq!(
        errors(&loaded),
        ["open /p/gone.yaml: no such file or directory"]
    );
    assert!(loaded.is_file_missing());
    assert_eq!(loaded.diagnostics[0].labels.len(), 1, "it names the line");
}

#[test]
fn explain_names_every_file_that_had_a_part() {
    let mut options = options(&[("OS", "os")]);
    options.files = vec!["compose.yaml".into(), "over.yaml".into()];
    let loaded = load(
        &options,
        &[
            (
                "compose.yaml",
                "include: [inc/compose.yaml]\nx-log: &log {driver: local}\nservices:\n  web:\n    extends: {file: base.yaml, service: b}\n    logging: *log\n    image: 'web:${TAG}'\n    ports: ['${PORT:-80}:80']\n    environment: {A: '${OS}', C: }\n    env_file: w.env\n",
            ),
            (
                "over.yaml",
                "services:\n  web:\n    image: over:${TAG}\n    ports: ['81:81']\n    command: !override [b]\n    volumes: ['/o:/v']\n",
            ),
            (
                "base.yaml",
                "services:\n  b:\n    extends: c\n    user: u\n    command: a\n    volumes: ['/b:/v']\n  c: {working_dir: /w}\n",
            ),
            ("inc/compose.yaml", "services: {inc: {image: i}}\n"),
            (".env", "# tags\nTAG=1\nC=see\n"),
            ("w.env", "A=file\n\nW=double\n"),
        ],
    );
    let project = loaded
        .project
        .as_ref()
        .unwrap_or_else(|| panic!("{:?}", errors(&loaded)));
    let shown = |path: &str| {
        let mut text = String::new();
        for explanation in compose::explain::explain(&loaded, project, path).expect(path) {
            let value = explanation.value.map(|v| v.to_string()).unwrap_or_default();
            text.push_str(&format!("{} = {value}\n", explanation.path));
            for cause in explanation.causes {
                let at = cause.location.map(|l| l.to_string()).unwrap_or_default();
                text.push_str(&format!("  {} {} {at}\n", cause.rule, cause.text));
            }
        }
        text
    };
    insta::assert_snapshot!(
        "explain",
        [
            "services.web.image",
            "services.web.ports",
            "services.web.user",
            "services.web.working_dir",
            "services.web.command",
            "services.web.volumes[0]",
            "services.web.logging",
            "services.web.environment",
            "services.web.networks",
            "services.inc.image",
            "networks.default.name",
        ]
        .map(shown)
        .join("\n")
    );
    let error = compose::explain::explain(&loaded, project, "services.web.prots");
    assert_eq!(
        error,
        Err(compose::explain::ExplainError::Nothing {
            path: "services.web.prots".into(),
            near: Some("services.web.ports".into())
        })
    );
}

/// Every kind of path: what stands there, the files that had a part in it, and the rules by which.
#[test]
fn explain_tells_of_every_kind_of_value() {
    let files = [
        (
            "one.yaml",
            "services:
  web:
    extends: {file: base.yaml, service: mid}
    image: one
    environment: {A: one, S: '${SHELL_VAR}', F: '${FILE_VAR}', D: '${NONE:-dflt}'}
    labels: {x: one}
    networks: [front]
    volumes: ['data:/d']
    healthcheck: {test: one, interval: 5s}
    depends_on: [db]
  db: {image: db}
networks: {front: {}}
volumes: {data: {}}
",
        ),
        (
            "two.yaml",
            "services:
  web:
    image: two
    environment: [A=two]
    labels: {x: two, y: two}
    ports: ['82:82']
    healthcheck: {test: two}
",
        ),
        (
            "three.yaml",
            "services:
  web:
    image: three-${FILE_VAR}
    environment: {A: three}
    labels: {x: three}
    ports: ['83:83']
    cap_add: !override [C3]
",
        ),
        (
            "base.yaml",
            "services:
  mid: {extends: {file: root.yaml, service: root}, user: mid}
",
        ),
        (
            "root.yaml",
            "services:
  root: {image: root, ports: ['81:81'], cap_add: [C1], working_dir: /root, env_file: e.env}
",
        ),
        ("vars.env", "FILE_VAR=from-file\n"),
        ("e.env", "A=env\nE=env\n"),
    ];
    let mut options = options(&[("SHELL_VAR", "shell")]);
    options.files = ["one.yaml", "two.yaml", "three.yaml"]
        .map(PathBuf::from)
        .into();
    options.env_files = vec!["vars.env".into()];
    let loaded = load(&options, &files);
    let project = loaded
        .project
        .as_ref()
        .unwrap_or_else(|| panic!("{:?}", errors(&loaded)));
    // The value, then the files, then the rules, each sorted and named once.
    for (path, value, in_files, rules) in [
        (
            "services.web.image",
            json!("three-from-file"),
            "one.yaml root.yaml three.yaml two.yaml vars.env",
            "replace variable written",
        ),
        (
            "services.web.environment.A",
            json!("three"),
            "e.env one.yaml three.yaml two.yaml",
            "replace written",
        ),
        (
            "services.web.labels.x",
            json!("three"),
            "one.yaml three.yaml two.yaml",
            "replace written",
        ),
        ("services.web.labels.y", json!("two"), "two.yaml", "written"),
        (
            "services.web.environment.E",
            json!("env"),
            "e.env root.yaml",
            "env-file written",
        ),
        (
            "services.web.environment.S",
            json!("shell"),
            "one.yaml",
            "variable written",
        ),
        (
            "services.web.environment.F",
            json!("from-file"),
            "one.yaml vars.env",
            "variable written",
        ),
        (
            "services.web.environment.D",
            json!("dflt"),
            "one.yaml",
            "variable written",
        ),
        (
            "services.web.ports[0].target",
            json!(81),
            "base.yaml one.yaml root.yaml",
            "extends written",
        ),
        (
            "services.web.ports[2].published",
            json!("83"),
            "three.yaml",
            "written",
        ),
        (
            "services.web.ports[1].protocol",
            json!("tcp"),
            "two.yaml",
            "written",
        ),
        (
            "services.web.cap_add[0]",
            json!("C3"),
            "three.yaml",
            "written",
        ),
        (
            "services.web.working_dir",
            json!("/root"),
            "base.yaml one.yaml root.yaml",
            "extends written",
        ),
        (
            "services.web.user",
            json!("mid"),
            "base.yaml one.yaml",
            "extends written",
        ),
        (
            "services.web.healthcheck.test[1]",
            json!("two"),
            "two.yaml",
            "written",
        ),
        (
            "services.web.healthcheck.interval",
            json!("5s"),
            "one.yaml",
            "written",
        ),
        (
            "services.web.volumes[0].source",
            json!("data"),
            "one.yaml",
            "written",
        ),
        (
            "services.web.depends_on.db.condition",
            json!("service_started"),
            "one.yaml",
            "written",
        ),
        (
            "services.db.networks.default",
            json!(null),
            "one.yaml",
            "default-network",
        ),
        (
            "networks.front.name",
            json!("p_front"),
            "one.yaml",
            "resource-name",
        ),
    ] {
        let found = compose::explain::explain(&loaded, project, path)
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(found.len(), 1, "{path}");
        let one = &found[0];
        assert_eq!(one.value.as_ref(), Some(&value), "{path}");
        let sorted = |mut words: Vec<String>| {
            words.sort();
            words.dedup();
            words.join(" ")
        };
        let places = one
            .causes
            .iter()
            .filter_map(|cause| cause.location.as_ref());
        let names = places.map(|l| l.file.file_name().expect("a name").to_string_lossy().into());
        let by = one.causes.iter().map(|cause| cause.rule.to_owned());
        assert_eq!(
            (
                sorted(names.collect()).as_str(),
                sorted(by.collect()).as_str()
            ),
            (in_files, rules),
            "{path}: {:#?}",
            one.causes
        );
    }
    // Of lists and mappings the whole is told, too.
    let whole = compose::explain::explain(&loaded, project, "services.web.ports").expect("ports");
    assert_eq!(whole[0].value, None);
    let by: Vec<&str> = whole[0].causes.iter().map(|cause| cause.rule).collect();
    assert_eq!(by, ["written", "append", "append"]);
}

fn several(files: &[(&str, &str)], names: &[&str]) -> Loaded {
    let mut options = options(&[("FOO", "foo")]);
    options.files = names.iter().map(PathBuf::from).collect();
    load(&options, files)
}

#[test]
fn order_of_phases_section_0() {
    // P1, P4: an override alone need not be valid, and is interpolated before it is merged.
    let loaded = several(
        &[
            (
                "a.yaml",
                "services: {a: {image: i, labels: {x: '${FOO}'}}}\n",
            ),
            (
                "b.yaml",
                "services: {a: {ports: ['80:80'], labels: {y: $$FOO}}}\n",
            ),
        ],
        &["a.yaml", "b.yaml"],
    );
    let a = document(&loaded)["services"]["a"].clone();
    assert_eq!(a["labels"], json!({"x": "foo", "y": "$FOO"}), "P1 P4");
    // P4: an anchor is known in its own file only.
    let loaded = several(
        &[
            ("a.yaml", "x-a: &a {b: c}\nservices: {a: {image: i}}\n"),
            ("b.yaml", "services: {a: {labels: *a}}\n"),
        ],
        &["a.yaml", "b.yaml"],
    );
    assert!(!errors(&loaded).is_empty(), "P4");
    // P2: defaults come after the merge, so `protocol` of the second file is no duplicate.
    let loaded = two(
        "ports: [{target: 80, published: '80'}]",
        "ports: [{target: 80, published: '80', protocol: tcp}]",
    );
    let ports = document(&loaded)["services"]["a"]["ports"].clone();
    assert_eq!(ports.as_array().map(Vec::len), Some(1), "P2");
    // P3: names are made once for the whole project; profiles come before the checks.
    check(&[(
        "P3",
        "services: {a: {image: i}, b: {profiles: [p], image: i, networks: [gone]}}",
        "/networks/default/name",
        json!("p_default"),
    )]);
}

#[test]
fn directories_and_names_section_1() {
    let yaml = "services: {a: {image: i, volumes: ['./d:/d']}}\n";
    let source = |loaded: &Loaded| {
        document(loaded)["services"]["a"]["volumes"][0]["source"]
            .as_str()
            .map(str::to_owned)
    };
    // F5: all files resolve against the directory of the first one.
    let loaded = several(
        &[
            ("sub/a.yaml", yaml),
            ("b.yaml", "services: {a: {user: u}}\n"),
        ],
        &["sub/a.yaml", "b.yaml"],
    );
    assert_eq!(source(&loaded).as_deref(), Some("/p/sub/d"), "F5");
    let mut elsewhere = options(&[]);
    elsewhere.files = vec!["sub/a.yaml".into()];
    elsewhere.project_directory = Some("/p/else".into());
    let loaded = load(&elsewhere, &[("sub/a.yaml", yaml)]);
    assert_eq!(source(&loaded).as_deref(), Some("/p/else/d"), "F5");
    assert_eq!(
        loaded.project.map(|p| p.name.to_string()).as_deref(),
        Some("else"),
        "F5 F6"
    );
    // F8: the root directory has no name.
    let mut root = options(&[]);
    root.project_directory = Some("/".into());
    root.files = vec!["a.yaml".into()];
    let loaded = load(&root, &[("a.yaml", yaml)]);
    assert_eq!(errors(&loaded), ["project name must not be empty"], "F8");
    // F10: once per file.
    let loaded = several(
        &[
            (
                "a.yaml",
                "version: '3'\nservices: {a: {image: i}}\n---\nversion: '3'\n",
            ),
            ("b.yaml", "version: '2.4'\nservices: {a: {user: u}}\n"),
        ],
        &["a.yaml", "b.yaml"],
    );
    let count = loaded
        .diagnostics
        .iter()
        .filter(|d| d.code == "obsolete-version")
        .count();
    assert_eq!(count, 2, "F10");
    assert_eq!(document(&loaded).get("version"), None, "F10");
    // E5: the tool's own variables of .env are handed on with the rest. E6: PWD is always there.
    let loaded = load(
        &options(&[]),
        &[
            ("compose.yaml", "services: {a: {image: 'i:$PWD'}}\n"),
            (".env", "COMPOSE_REMOVE_ORPHANS=1\n"),
        ],
    );
    assert_eq!(loaded.environment["COMPOSE_REMOVE_ORPHANS"], "1", "E5");
    assert_eq!(document(&loaded)["services"]["a"]["image"], "i:/p", "E6");
}

#[test]
fn a_linked_directory_is_named_by_its_link_f8_and_watched_paths_lose_theirs_h1() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| root.path().canonicalize().expect("it is there").join(name);
    std::fs::create_dir_all(at("real/src/deep")).expect("it is made");
    std::os::unix::fs::symlink(at("real"), at("link")).expect("a link");
    std::os::unix::fs::symlink(at("real/src"), at("real/code")).expect("a link");
    std::fs::write(
        at("real/compose.yaml"),
        "services:\n  a:\n    build: .\n    develop:\n      watch:\n        - {path: code/deep, action: rebuild}\n        - {path: ./src, action: rebuild}\n        - {path: absent, action: rebuild}\n",
    )
    .expect("it is written");
    let load_in = |name: &str| {
        let options = LoadOptions::new(at(name), BTreeMap::new());
        compose::load(&options, &source::files::HostFiles)
    };
    let loaded = load_in("link");
    assert!(
        loaded
            .diagnostics
            .iter()
            .any(|d| d.code == "symlinked-directory"),
        "F8"
    );
    assert_eq!(
        loaded.project.map(|p| p.name.to_string()).as_deref(),
        Some("link"),
        "F8"
    );
    let paths = |loaded: &Loaded| -> Vec<String> {
        let rules = document(loaded)["services"]["a"]["develop"]["watch"].clone();
        let rules = rules.as_array().cloned().unwrap_or_default();
        rules
            .iter()
            .filter_map(|r| Some(r["path"].as_str()?.to_owned()))
            .collect()
    };
    let real = |name: &str| at("real").join(name).to_string_lossy().into_owned();
    let expected = [real("src/deep"), real("src"), real("absent")];
    assert_eq!(paths(&load_in("real")), expected, "H1");
    let first_only = [real("code/deep"), real("src"), real("absent")];
    assert_eq!(
        paths(&load_in("link")),
        first_only,
        "H1: the first link of a path is resolved"
    );
}

#[test]
fn what_is_interpolated_section_4() {
    check(&[
        (
            "I7",
            "services: {a: {image: i, command: ['$FOO'], labels: ['k=$FOO'], environment: {$FOO: $FOO}}}",
            "/services/a",
            json!({"command": ["foo"], "entrypoint": null, "environment": {"$FOO": "foo"}, "image": "i", "labels": {"k": "foo"}, "networks": {"default": null}}),
        ),
        (
            "I10",
            "services: {a: {image: 'i:${foo-case}'}}",
            "/services/a/image",
            json!("i:case"),
        ),
    ]);
    // Y8, X1: null alone is completed by another file or a base.
    let loaded = several(
        &[
            (
                "a.yaml",
                "services: {a: , b: {extends: c}, c: {image: i}}\n",
            ),
            ("b.yaml", "services: {a: {image: i}}\n"),
        ],
        &["a.yaml", "b.yaml"],
    );
    assert_eq!(document(&loaded)["services"]["a"]["image"], "i", "Y8");
    assert_eq!(
        document(&loaded)["services"]["b"]["image"],
        "i",
        "X1: a name alone"
    );
}

#[test]
fn forms_of_extends_and_include_sections_7_and_8() {
    // X1: the file may be this one; the base's own `extends.file` is relative to the base.
    let loaded = load(
        &options(&[]),
        &[
            (
                "compose.yaml",
                "services:\n  a: {extends: {file: sub/b.yaml, service: b}}\n  z: {image: z}\n",
            ),
            (
                "sub/b.yaml",
                "services:\n  b: {extends: {file: c.yaml, service: c}, links: [z], depends_on: [z], network_mode: 'service:z', volumes_from: [z]}\n",
            ),
            ("sub/c.yaml", "services: {c: {image: i}}\n"),
        ],
    );
    let a = document(&loaded)["services"]["a"].clone();
    assert_eq!(a["image"], "i", "X1");
    for key in ["links", "depends_on", "network_mode", "volumes_from"] {
        assert!(!a[key].is_null(), "X8: {key}");
    }
    // X5: what the base names must be in the main model.
    let base = (
        "b.yaml",
        "networks: {n: {}}\nservices: {b: {image: i, networks: [n], volumes: ['v:/v']}}\nvolumes: {v: {}}\n",
    );
    let yaml = "services: {a: {extends: {file: b.yaml, service: b}}}\n";
    let found = errors(&load(&options(&[]), &[("compose.yaml", yaml), base]));
    assert!(
        found
            .iter()
            .any(|e| e.contains("refers to undefined network n")),
        "X5 {found:?}"
    );

    // N1: a path, a list of paths, a directory, env files.
    let files = [
        (
            "compose.yaml",
            "include:\n  - one.yaml\n  - path: [sub/two.yaml, sub/over.yaml]\n    project_directory: dir\n    env_file: [my.env]\nservices: {}\n",
        ),
        (
            "one.yaml",
            "services: {one: {image: i, volumes: ['./x:/x']}}\n",
        ),
        (
            "sub/two.yaml",
            "services: {two: {image: 'i:$V', volumes: ['./x:/x']}}\nsecrets: {s: {environment: TOKEN}}\n",
        ),
        (
            "sub/over.yaml",
            "services: {two: {user: u, secrets: [s]}}\n",
        ),
        ("my.env", "V=2\nTOKEN=from-the-include\n"),
    ];
    let loaded = load(&options(&[]), &files);
    let all = document(&loaded)["services"].clone();
    assert_eq!(all["one"]["volumes"][0]["source"], "/p/x", "N1");
    assert_eq!(all["two"]["volumes"][0]["source"], "/p/dir/x", "N1 N2");
    assert_eq!(
        (&all["two"]["image"], &all["two"]["user"]),
        (&json!("i:2"), &json!("u")),
        "N1"
    );
    let mut project = loaded.project.expect("it loads");
    compose::resolve_environment_objects(&mut project, &loaded.environment).expect("it is set");
    assert_eq!(
        project.secrets["s"].content.as_deref(),
        Some("from-the-include"),
        "N5"
    );

    // M13: a reset of what the same file's include and an earlier file say.
    let loaded = several(
        &[
            (
                "a.yaml",
                "services: {web: {image: i, ports: ['80:80'], user: u}}\n",
            ),
            (
                "b.yaml",
                "include: [inc.yaml]\nservices: {web: {ports: !reset [], user: !override v}}\n",
            ),
            (
                "inc.yaml",
                "services: {web: {image: j, ports: ['81:81']}}\n",
            ),
        ],
        &["a.yaml", "b.yaml"],
    );
    let web = document(&loaded)["services"]["web"].clone();
    assert_eq!(web.get("ports"), None, "M13");
    assert_eq!(web["user"], "v", "M13");
}

#[test]
fn paths_section_11() {
    let mut options = options(&[("HOME", "/h")]);
    let yaml = "services:\n  a:\n    image: i\n    security_opt: ['seccomp:./s.json']\n    build:\n      context: ~/c\n      dockerfile: ./D\n      additional_contexts: {u: 'https://x/y.git', d: ./d, s: 'service:b'}\n      ssh: [k=./key]\n    volumes: ['~/v:/v', 'C:\\x:/w', {type: volume, source: v, target: /s, volume: {subpath: ./s}}]\n  b: {build: 'git@github.com:x/y.git'}\nvolumes: {v: {driver_opts: {o: 'bind', device: ./dev}}}\nconfigs: {c: {file: ./f}}\n";
    options.all_resources = true;
    let loaded = load(&options, &[("compose.yaml", yaml)]);
    let found = document(&loaded);
    let a = &found["services"]["a"];
    assert_eq!(a["build"]["context"], "/h/c", "H2");
    assert_eq!(
        a["build"]["additional_contexts"],
        json!({"d": "/p/d", "s": "service:b", "u": "https://x/y.git"}),
        "H1 H2"
    );
    assert_eq!(a["volumes"][0]["source"], "/h/v", "H2");
    assert_eq!(a["volumes"][1]["source"], "C:\\x", "H2");
    assert_eq!(
        found["services"]["b"]["build"]["context"], "git@github.com:x/y.git",
        "H2"
    );
    assert_eq!(a["build"]["dockerfile"], "./D", "H3");
    assert_eq!(a["security_opt"], json!(["seccomp:./s.json"]), "H3");
    assert_eq!(a["volumes"][2]["volume"]["subpath"], "./s", "H3");
    assert_eq!(
        found["volumes"]["v"]["driver_opts"]["device"], "/p/dev",
        "H1"
    );
    assert_eq!(found["configs"]["c"]["file"], "/p/f", "H1");
    options
        .environment
        .insert("COMPOSE_CONVERT_WINDOWS_PATHS".into(), "1".into());
    let loaded = load(&options, &[("compose.yaml", yaml)]);
    assert_eq!(
        document(&loaded)["services"]["a"]["volumes"][1]["source"],
        "/c/x",
        "H4"
    );
}

#[test]
fn normalisation_and_mismatches_sections_12_and_21() {
    check(&[
        (
            "V5",
            "services: {a: {image: i, pre_start: [{command: x}], build: {context: ., args: [FOO, GONE, X=1]}}}",
            "/services/a/build/args",
            json!({"FOO": "foo", "X": "1"}),
        ),
        (
            "V5",
            "services: {a: {image: i, pre_start: [{command: x}]}}",
            "/services/a/pre_start/0/image",
            json!("i"),
        ),
        (
            "Z1",
            "services: {a: {image: i, pull_refresh_after: 1d, models: {m: }, build: {context: ., no_cache_filter: s}}}\nmodels: {m: {model: x}}",
            "/services/a/build/no_cache_filter",
            json!(["s"]),
        ),
        (
            "Z6",
            "services: {a: {image: i, models: [m]}}\nmodels: {m: {model: x}}",
            "/models/m/model",
            json!("x"),
        ),
        (
            "Z5",
            "services: {a: {build: ., develop: {watch: [{path: ., target: /x, action: sync+exec, initial_sync: true, exec: {command: x}}]}}}",
            "/services/a/develop/watch/0/initial_sync",
            json!(true),
        ),
    ]);
    // Z2: the local file is an override of what it includes, never a conflict; N3: the earlier of
    // two includes wins.
    let loaded = load(
        &options(&[]),
        &[
            (
                "compose.yaml",
                "include: [one.yaml, two.yaml]\nservices: {a: {user: local}}\n",
            ),
            ("one.yaml", "services: {a: {image: one, user: one}}\n"),
            ("two.yaml", "services: {a: {image: two, hostname: two}}\n"),
        ],
    );
    let a = document(&loaded)["services"]["a"].clone();
    assert_eq!(
        (&a["image"], &a["user"], &a["hostname"]),
        (&json!("one"), &json!("local"), &json!("two")),
        "Z2 N3"
    );
    // Z4: an override replaces a limit whole.
    let loaded = two(
        "ulimits: {n: {soft: 1, hard: 2}}",
        "ulimits: {n: {soft: 1}}",
    );
    assert!(
        errors(&loaded)[0].contains("ulimits.n hard is required"),
        "Z4"
    );
}

#[test]
fn a_later_file_mends_a_bad_value() {
    let bad = "mem_limit: lots\ncommand: \"a 'b\"\nshm_size: huge\n";
    let loaded = two(bad, "mem_limit: 1m\ncommand: [c]\nshm_size: !reset null");
    assert_eq!(errors(&loaded), Vec::<String>::new());
    assert_eq!(document(&loaded)["services"]["a"]["mem_limit"], "1048576");
    let found = errors(&two(bad, "tty: true"));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_bare_name_after_oci_is_a_tag() {
    let files = [
        (
            "compose.yaml",
            "services: {a: {image: 'oci:layout'}, b: {image: 'oci:other'}}\n",
        ),
        ("layout/index.json", "{}"),
    ];
    let loaded = load(&options(&[]), &files);
    assert_eq!(document(&loaded)["services"]["a"]["image"], "oci:layout");
    let warned: Vec<&str> = loaded.diagnostics.iter().map(|d| d.code).collect();
    assert_eq!(warned, ["bare-layout"]);
}

#[test]
fn long_numbers_are_printed_as_the_reference_prints_them() {
    let yaml = "x-a: 1000000.0\nx-b: 1234567.5\nx-c: 999999.5\nx-d: 1.0\nservices: {a: {image: i, environment: {A: 1e6, B: 100000.5}}}\n";
    let loaded = load(&options(&[]), &[("compose.yaml", yaml)]);
    let project = loaded.project.as_ref().expect("it loads");
    let text = to_yaml(project, PrintOptions::default());
    for line in [
        "x-a: 1e+06\n",
        "x-b: 1.2345675e+06\n",
        "x-c: 999999.5\n",
        "x-d: 1\n",
        "A: \"1e+06\"\n",
        "B: \"100000.5\"\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert_eq!(
        document(&loaded)["x-a"],
        1_000_000,
        "JSON has no short form for it"
    );
}

#[test]
fn secrets_do_not_show_in_messages() {
    let yaml = "services:\n  a:\n    image: i\n    environment:\n      - DB_PASSWORD =hunter2\n";
    let loaded = load(&options(&[]), &[("compose.yaml", yaml)]);
    let shown = source::render(&loaded.diagnostics, &loaded.sources, false);
    assert!(
        shown.contains("DB_PASSWORD") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn values_of_secrets_do_not_show_wherever_they_break() {
    for (yaml, env) in [
        (
            "services: {a: {image: i, environment: {DB_PASSWORD: 'hunter2${'}}}\n",
            "",
        ),
        (
            "services: {a: {image: i, environment: ['DB_PASSWORD=hunter2${x/']}}\n",
            "",
        ),
        (
            "services: {a: {image: i, cpus: '$DB_PASSWORD'}}\n",
            "DB_PASSWORD=hunter2\n",
        ),
        ("services: {a: {image: i}}\n", "DB_PASSWORD=\"hunter2\n"),
        ("services: {a: {image: i}}\n", "DB@PASSWORD=hunter2\n"),
    ] {
        let loaded = load(&options(&[]), &[("compose.yaml", yaml), (".env", env)]);
        assert_ne!(errors(&loaded), Vec::<String>::new(), "{yaml}{env}");
        let shown = source::render(&loaded.diagnostics, &loaded.sources, false);
        let json = source::render_json(&loaded.diagnostics, &loaded.sources).to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(!json.contains("hunter2"), "{json}");
    }
    // A `$` that a password happens to have is not a missing variable of the user's.
    let yaml = "services: {a: {image: i, environment: {DB_PASSWORD: 'a$bc'}}}\n";
    let loaded = load(&options(&[]), &[("compose.yaml", yaml)]);
    let help = loaded.diagnostics[0].help.as_deref().unwrap_or_default();
    assert!(help.contains("single quotes"), "{help}");
}

/// Said once for the whole project, at their places, and nothing is dropped.
#[test]
fn keys_for_clusters_are_noted_once() {
    let yaml = "services:
  a:
    image: i
    cpu_count: 2
    deploy: {mode: global, placement: {constraints: [x]}, update_config: {order: stop-first}}
  b: {image: i, deploy: {mode: replicated, resources: {reservations: {memory: 1m}}}}
networks: {default: {attachable: true}}
";
    let loaded = load(&options(&[]), &[("compose.yaml", yaml)]);
    let found: Vec<(&str, &str, usize)> = loaded
        .diagnostics
        .iter()
        .map(|d| (d.code, d.message.as_str(), d.labels.len()))
        .collect();
    let message = "services.a.cpu_count, services.a.deploy.mode, services.a.deploy.placement and 2 more keys have no effect on one machine";
    assert_eq!(found, [("no-effect", message, 3)]);
    let document = document(&loaded);
    assert_eq!(
        document.pointer("/services/a/deploy/mode"),
        Some(&json!("global"))
    );
    let quiet = load(
        &options(&[]),
        &[("compose.yaml", "services: {a: {image: i}}\n")],
    );
    assert_eq!(quiet.diagnostics, []);
}

/// E5: the tool's own variables may stand in `.env` beside the file, below the process's.
#[test]
fn variables_for_the_tool_come_from_env_files_too() {
    let files = memory(&[
        ("compose.yaml", "services: {a: {image: i}}\n"),
        (".env", "COMPOSE_ANSI=never\nCOMPOSE_PROGRESS=json\n"),
    ]);
    let options = options(&[("COMPOSE_PROGRESS", "plain")]);
    let variables = compose::variables(&options, &files);
    let get = |name: &str| variables.get(name).map(String::as_str);
    assert_eq!(get("COMPOSE_ANSI"), Some("never"));
    assert_eq!(get("COMPOSE_PROGRESS"), Some("plain"));
}

/// Values that the reference's schema bounds, and those that only an engine minds.
#[test]
fn bounds_of_values() {
    refuse_service(&[
        ("V6", "container_name: x", "does not match pattern"),
        ("V6", "container_name: a b", "does not match pattern"),
        ("V6", "container_name: -xy", "does not match pattern"),
        ("V6", "cpu_count: -1", "must be greater than or equal to 0"),
        ("V6", "cpu_percent: 101", "must be between 0 and 100"),
        ("V6", "cpu_percent: '-1'", "must be between 0 and 100"),
        (
            "C19",
            "networks: {default: {driver_opts: {a: }}}",
            "driver_opts.a must be a string or a number",
        ),
    ]);
    refuse(&[(
        "C19",
        "services: {a: {image: i}}\nnetworks: {default: {driver_opts: {a: }}}\n",
        "networks.default.driver_opts.a must be a string or a number",
    )]);
    check_service(&[
        (
            "V6",
            "container_name: a-b.c_1",
            "/container_name",
            json!("a-b.c_1"),
        ),
        ("V6", "cpu_percent: 12.5", "/cpu_percent", json!(12.5)),
    ]);
    // `config` prints what an engine would refuse, and says so.
    let mut lenient = options(&[]);
    lenient.check_values = false;
    for lines in ["container_name: -xy", "ports: [{target: 80, host_ip: x}]"] {
        let loaded = load(&lenient, &[("compose.yaml", &service(lines))]);
        assert!(loaded.project.is_some(), "{lines}: {:?}", errors(&loaded));
        assert_eq!(loaded.diagnostics.len(), 1, "{lines}");
    }
}

/// V8: keys of the user's in the order of the reference's YAML.
#[test]
fn numbers_in_keys_are_printed_in_their_order() {
    let yaml =
        "services: {s10: {image: i}, s2: {image: i, labels: {l10: a, l9: b}}, s1b: {image: i}}\n";
    let loaded = load(&options(&[]), &[("compose.yaml", yaml)]);
    let project = loaded.project.as_ref().expect("it loads");
    let printed = to_yaml(project, PrintOptions::default());
    let at = |key: &str| {
        printed
            .find(key)
            .unwrap_or_else(|| panic!("{key}: {printed}"))
    };
    assert!(
        at("  s1b:") < at("  s2:") && at("  s2:") < at("  s10:"),
        "{printed}"
    );
    assert!(at("l9:") < at("l10:"), "{printed}");
    let json = to_json(project, PrintOptions::default());
    assert!(json.find("\"s10\"") < json.find("\"s2\""), "{json}");
}

/// L1: names are joined by `_` where the flag, the environment or `.env` asks for it.
#[test]
fn names_of_the_first_compose() {
    let files = |env: &'static str| {
        [
            ("compose.yaml", "services: {a: {image: i}}\n"),
            (".env", env),
        ]
    };
    let joined = |options: &LoadOptions, env: &'static str| {
        load(options, &files(env))
            .project
            .expect("it loads")
            .separator()
    };
    assert_eq!(joined(&options(&[]), ""), '-');
    assert_eq!(joined(&options(&[]), "COMPOSE_COMPATIBILITY=1\n"), '_');
    assert_eq!(
        joined(&options(&[("COMPOSE_COMPATIBILITY", "true")]), ""),
        '_'
    );
    let mut flag = options(&[]);
    flag.compatibility = true;
    assert_eq!(joined(&flag, "COMPOSE_COMPATIBILITY=0\n"), '_');
}

/// Blanks that are tabs.
#[test]
fn tabs_are_refused_as_indentation() {
    for (lines, is_sound) in [
        ("  a:\t{image: i}\n", true),
        ("\ta: {image: i}\n", false),
        ("  a:\n  \timage: i\n", false),
        ("  a:\n    image: i\n    command:\n    \t- x\n", false),
        ("  a:\n    image:\ti\n", true),
        ("  a: {image: i,\n\tuser: x}\n", true),
    ] {
        let text = format!("services:\n{lines}");
        let loaded = load(&options(&[]), &[("compose.yaml", &text)]);
        assert_eq!(
            loaded.project.is_some(),
            is_sound,
            "{text:?}: {:?}",
            errors(&loaded)
        );
    }
}

/// What the reference refuses within one file (its schema's `uniqueItems` and plain types), and what
/// it takes.
#[test]
fn strictness_of_the_schema() {
    refuse_service(&[
        ("M6", "security_opt: [a, a]", "items at 0 and 1 are equal"),
        ("M6", "volumes_from: [b, b]", "items at 0 and 1 are equal"),
        (
            "I8",
            "networks: {default: {priority: '5'}}",
            "must be an integer",
        ),
        (
            "C13",
            "deploy: {resources: {limits: {memory: 1024}}}",
            "must be a string",
        ),
        ("C7", "secrets: [{target: x}]", "without saying which"),
        ("C7", "secrets: [{source: a, uid: 5}]", "must be a string"),
        ("C6", "devices: [{source: /dev/a}]", "target is required"),
        (
            "C19",
            "build: {additional_contexts: [a]}",
            "expected key=value",
        ),
        (
            "V4",
            "depends_on: {no: {condition: service_started, required: false}}",
            "undefined service",
        ),
    ]);
    refuse(&[
        (
            "F10",
            "version: 3.8\nservices: {a: {image: i}}\n",
            "version must be a string",
        ),
        (
            "Y2",
            "services: {a: {image: i, labels: {<<: {a: 1}, <<: {b: 1}}}}\n",
            "already defined",
        ),
        (
            "P6",
            "services: {a: {image: i}}\n---\n",
            "must be a mapping",
        ),
    ]);
    let merged = several(
        &[
            ("a.yaml", "services: {a: {image: i, security_opt: [x]}}\n"),
            ("b.yaml", "services: {a: {security_opt: [x]}}\n"),
        ],
        &["a.yaml", "b.yaml"],
    );
    assert_eq!(
        document(&merged).pointer("/services/a/security_opt"),
        Some(&json!(["x", "x"])),
        "M6"
    );
}
