//! What holds for every project, tried on random ones.
//!
//! A random service takes some keys, each in one of the forms that it may be written in, with
//! random texts in between. All of them are sound, so a load that fails is a finding, too.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use serde_json::Value;
use wharf::compose::print::{PrintOptions, to_json, to_yaml};
use wharf::compose::{self, LoadOptions, Project};
use wharf::source::{self, Files};

/// Keys of a service and ways to write their values; TEXT stands for a random one.
const KEYS: &[(&str, &[&str])] = &[
    ("annotations", &["{a: TEXT, b: 5}", "[a=b, c]"]),
    ("attach", &["false", "true"]),
    (
        "blkio_config",
        &["{weight: 300, device_read_bps: [{path: /dev/sda, rate: 12mb}]}"],
    ),
    (
        "build",
        &[
            "./dir",
            "{target: t, args: {A: TEXT, B: }, labels: [x=y], ssh: [default, k=/k]}",
            "{context: ., dockerfile_inline: TEXT, extra_hosts: ['h:1.1.1.1'], no_cache: true}",
            "{context: 'https://example.com/r.git#b', secrets: [sec, {source: sec2, mode: 0400}]}",
        ],
    ),
    ("cap_add", &["[ALL]", "[NET_ADMIN, SYS_TIME]"]),
    ("cap_drop", &["[MKNOD]"]),
    ("cgroup", &["host", "private"]),
    (
        "command",
        &["run 'a b' TEXT", "[TEXT, '-x', '']", "null", "[]", "''"],
    ),
    (
        "configs",
        &[
            "[conf]",
            "[{source: conf, target: /c, uid: '5', mode: '0440'}]",
        ],
    ),
    ("cpu_shares", &["512", "'0'"]),
    ("cpus", &["1.5", "'0.25'", "2"]),
    (
        "depends_on",
        &[
            "[db]",
            "{db: {condition: service_healthy, restart: true}}",
            "{db: {condition: service_started, required: false}}",
        ],
    ),
    (
        "deploy",
        &[
            "{replicas: 2, labels: {a: TEXT}, restart_policy: {condition: on-failure, delay: 5s}}",
            "{resources: {reservations: {devices: [{capabilities: [gpu]}]}}, endpoint_mode: vip}",
            "{mode: global, placement: {constraints: [TEXT]}, update_config: {parallelism: 0}}",
        ],
    ),
    (
        "develop",
        &["{watch: [{path: ./src, action: sync, target: /src, ignore: [x/]}]}"],
    ),
    (
        "devices",
        &[
            "[/dev/null, '/dev/zero:/dev/z:r']",
            "['vendor.com/gpu=all']",
        ],
    ),
    ("dns", &["1.1.1.1", "[1.1.1.1, 8.8.8.8]"]),
    ("dns_opt", &["[use-vc]"]),
    ("dns_search", &["example.com", "[a.example, b.example]"]),
    ("entrypoint", &["sh -c 'TEXT'", "[TEXT]", "null", "[]"]),
    (
        "environment",
        &[
            "{A: TEXT, B: 5, C: true, D: , FOO: , E: 1.50}",
            "[A=TEXT, FOO, 'C=x=y', 'D=']",
        ],
    ),
    (
        "env_file",
        &[
            "e.env",
            "[e.env, {path: none.env, required: false}]",
            "[{path: e.env, format: raw}]",
        ],
    ),
    ("expose", &["['80', 90-91]", "[53/udp]"]),
    (
        "extra_hosts",
        &[
            "{h: 1.1.1.1, g: ['::1', 2.2.2.2]}",
            "['h=1.1.1.1', 'h:[::2]']",
        ],
    ),
    ("group_add", &["[wheel, 5]"]),
    ("gpus", &["all", "[{count: 2, driver: d}]"]),
    (
        "healthcheck",
        &[
            "{test: TEXT, interval: 90s, retries: 0}",
            "{test: [CMD, x, TEXT], start_period: 1d, timeout: 1500ms}",
            "{disable: true}",
        ],
    ),
    ("hostname", &["h"]),
    ("init", &["true", "false"]),
    ("labels", &["{a.b: TEXT, n: 5, e: }", "[a.b=TEXT, bare]"]),
    (
        "logging",
        &[
            "{driver: json-file, options: {max-size: 10m, max-file: 3}}",
            "{options: {a: TEXT}}",
        ],
    ),
    ("mem_limit", &["64m", "'67108864'", "1.5gb"]),
    ("memswap_limit", &["-1", "1g"]),
    (
        "networks",
        &[
            "[front, back]",
            "{front: , back: {aliases: [x, y], ipv4_address: 10.1.2.3, priority: 5}}",
        ],
    ),
    ("oom_score_adj", &["-500"]),
    ("pids_limit", &["100", "'-1'"]),
    ("platform", &["linux/amd64"]),
    (
        "ports",
        &[
            "['80', '8080:80', '127.0.0.1:90-91:90-91/udp']",
            "[{target: 80, published: 81, host_ip: 127.0.0.1, name: TEXT}, 443]",
            "['9000-9010:80', '[::1]:82:82']",
        ],
    ),
    (
        "post_start",
        &["[{command: [TEXT], user: root}, {command: [a, b], environment: [X=y]}]"],
    ),
    ("privileged", &["true"]),
    ("profiles", &["[on]"]),
    ("pull_policy", &["always", "if_not_present", "every_12h"]),
    ("read_only", &["true", "'false'"]),
    ("restart", &["unless-stopped", "on-failure:3", "'no'"]),
    (
        "secrets",
        &["[sec]", "[{source: sec, target: t, mode: 0o400}, sec2]"],
    ),
    ("security_opt", &["['seccomp:unconfined']"]),
    ("shm_size", &["64m", "1048576"]),
    ("stop_grace_period", &["1m30s", "500ms"]),
    ("storage_opt", &["{size: 1G}"]),
    (
        "sysctls",
        &["{net.core.somaxconn: 1024}", "[net.ipv4.tcp_syncookies=0]"],
    ),
    ("tmpfs", &["/run", "['/tmp:size=1m', /run]"]),
    ("ulimits", &["{nproc: 65535, nofile: {soft: 1, hard: 2}}"]),
    ("user", &["TEXT", "'1000:1000'"]),
    (
        "volumes",
        &[
            "['./a:/a:ro', 'data:/d', '/anon', '~/x:/x:z']",
            "[{type: bind, source: ., target: /b, bind: {propagation: rslave}}]",
            "[{type: bind, source: ., target: /b, bind: {create_host_path: false}}]",
            "[{type: tmpfs, target: /t, tmpfs: {size: 1m, mode: 0700}}]",
            "[{type: volume, source: data, target: /d, volume: {nocopy: true, subpath: s}}]",
        ],
    ),
    ("working_dir", &["/w"]),
    ("x-own", &["{a: [1, 2.5, null, true, TEXT]}"]),
];

/// What the services refer to.
const REST: &str = "
networks: {front: , back: {driver: bridge, ipam: {config: [{subnet: 10.1.0.0/16}]}}}
volumes: {data: {labels: [a=b]}}
secrets: {sec: {file: ./s}, sec2: {environment: FOO}}
configs: {conf: {content: 'a $$b'}}
";

/// A text as it may stand in quotes of YAML, with whatever makes trouble in plain ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "[a-z:#'\" -]{0,8}",
        "(null|yes|0x1f|1_000|1e3|2020-01-02|~|=|<<|a: b|- c|a #b|\\\\|it's|é|\u{2028}|\u{1f600}| x|x )",
        "[a-z]{0,4}\n{0,2}[ a-z]{0,4}\n?",
    ]
}

/// The lines of a service, as a mapping in one line.
fn service(keys: &'static [&'static str]) -> impl Strategy<Value = String> {
    let usable: Vec<usize> = (0..KEYS.len())
        .filter(|at| !keys.contains(&KEYS[*at].0))
        .collect();
    let chosen = subsequence(usable, 0..12);
    let forms = proptest::collection::vec((any::<Index>(), text()), 12);
    (chosen, forms).prop_map(|(chosen, forms)| {
        let entries: Vec<String> = chosen
            .iter()
            .zip(&forms)
            .map(|(at, (form, text))| {
                let (key, values) = KEYS[*at];
                format!("{key}: {}", fill(form.get::<&str>(values), text))
            })
            .collect();
        entries.join(", ")
    })
}

/// Puts a text into a form: quoted as JSON quotes it, or its letters alone inside other texts.
fn fill(form: &str, text: &str) -> String {
    let quoted = Value::String(text.replace('$', "$$")).to_string();
    let letters: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut out = String::new();
    let mut rest = form;
    while let Some((before, after)) = rest.split_once("TEXT") {
        out.push_str(before);
        let is_whole = (before.is_empty() || before.ends_with([' ', '[']))
            && (after.is_empty() || after.starts_with([',', '}', ']']))
            && !before.starts_with("run");
        out.push_str(if is_whole { &quoted } else { &letters });
        rest = after;
    }
    out.push_str(rest);
    out
}

struct Memory(BTreeMap<PathBuf, String>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.0.get(path).map(|text| text.clone().into_bytes());
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn is_file(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    fn is_dir(&self, _: &Path) -> bool {
        false
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

const ESCAPED: PrintOptions = PrintOptions {
    escape_dollar: true,
};

/// Loads texts as files that are merged in this order.
fn load(texts: &[&str]) -> Project {
    let mut files = BTreeMap::from([(PathBuf::from("/p/e.env"), "A=file\nB='x y'\n".to_owned())]);
    let names: Vec<String> = (0..texts.len()).map(|n| format!("{n}.yaml")).collect();
    for (name, text) in names.iter().zip(texts) {
        files.insert(Path::new("/p").join(name), (*text).to_owned());
    }
    let environment = [("FOO", "foo"), ("HOME", "/h")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut options = LoadOptions::new("/p".into(), BTreeMap::from(environment));
    options.files = names.iter().map(PathBuf::from).collect();
    options.profiles = vec!["on".to_owned()];
    options.all_resources = true;
    let loaded = compose::load(&options, &Memory(files));
    loaded.project.unwrap_or_else(|| {
        let said = source::render(&loaded.diagnostics, &loaded.sources, false);
        panic!("{}\n{said}", texts.join("\n---\n"))
    })
}

/// Everything of a project but where its values stand.
fn meaning(project: &Project) -> (Value, Project) {
    let printed = serde_json::from_str(&to_json(project, ESCAPED)).expect("it is JSON");
    let mut typed = project.clone();
    typed.locations.clear();
    typed.config_files.clear();
    typed.canonical = None;
    (printed, typed)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What `config` prints means what it was printed of, and is printed so again; in YAML and in
    /// JSON.
    #[test]
    fn config_of_its_own_output_is_itself(a in service(&[]), b in service(&["depends_on"])) {
        let text = format!("services: {{a: {{image: i, {a}}}, db: {{image: d, {b}}}}}{REST}");
        let project = load(&[&text]);
        let yaml = to_yaml(&project, ESCAPED);
        let json = to_json(&project, ESCAPED);
        let of_yaml = load(&[&yaml]);
        let of_json = load(&[&json]);
        prop_assert_eq!(&to_yaml(&of_yaml, ESCAPED), &yaml);
        prop_assert_eq!(&to_json(&of_json, ESCAPED), &json);
        prop_assert_eq!(&to_yaml(&of_json, ESCAPED), &yaml);
        prop_assert_eq!(meaning(&of_yaml), meaning(&project));
        prop_assert_eq!(meaning(&of_json), meaning(&project));
    }

    /// Files that speak of different things can be given in any order.
    #[test]
    fn disjoint_files_commute(a in service(&["depends_on"]), b in service(&["depends_on"])) {
        let rest = format!("services: {{c: {{image: c}}}}{REST}");
        let a = format!("name: p\nservices: {{a: {{image: i, {a}}}}}");
        let b = format!("x-b: 1\nservices: {{b: {{image: i, {b}}}}}");
        let first = load(&[&rest, &a, &b]);
        for order in [[&rest, &b, &a], [&b, &a, &rest], [&a, &rest, &b]] {
            let again = load(&order.map(String::as_str));
            prop_assert_eq!(&meaning(&again).0, &meaning(&first).0);
            prop_assert_eq!(&again.services, &first.services);
            prop_assert_eq!(&to_yaml(&again, ESCAPED), &to_yaml(&first, ESCAPED));
        }
    }

    /// A service that extends another is the two merged, as if a later file said what it says (X2).
    #[test]
    fn extends_is_a_merge(base in service(&[]), own in service(&[])) {
        let db = "db: {image: d}";
        let in_one = format!(
            "services: {{{db}, base: {{image: i, {base}}}, a: {{extends: base, {own}}}}}{REST}"
        );
        let in_one = load(&[&in_one]);
        let first = format!("services: {{{db}, a: {{image: i, {base}}}}}{REST}");
        let second = format!("services: {{a: {{{own}}}}}");
        let in_two = load(&[&first, &second]);
        prop_assert_eq!(&in_one.services["a"], &in_two.services["a"]);
        let printed = |project: &Project| meaning(project).0["services"]["a"].clone();
        prop_assert_eq!(printed(&in_one), printed(&in_two));
    }

    /// So are two documents of one file (P5).
    #[test]
    fn documents_are_merges(base in service(&[]), own in service(&[])) {
        let first = format!("services: {{db: {{image: d}}, a: {{image: i, {base}}}}}{REST}");
        let second = format!("services: {{a: {{{own}}}}}\n");
        let in_two = load(&[&first, &second]);
        let documents = load(&[&format!("{first}\n---\n{second}")]);
        prop_assert_eq!(meaning(&documents).0, meaning(&in_two).0);
        prop_assert_eq!(&documents.services, &in_two.services);
    }
}
