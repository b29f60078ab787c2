//! Docker Compose's own `config` output for hundreds of files, compared with ours.
//!
//! `tests/data/compose/cases` holds inputs, outputs and exit statuses of version 2.26.1. Where the
//! specification is newer than that version, the case is in `EXCEPTIONS` with the reason, and is
//! compared with a newer version's output.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wharf::compose::{self, LoadOptions};
use wharf::source::files::HostFiles;
use wharf::source::{self, Files, dotenv, interpolate};

/// What a case whose outcome differs on purpose is compared with instead.
#[derive(Clone, Copy, PartialEq)]
enum Newer {
    /// The text that 2.40.3 prints.
    Text,
    /// What 5.6.1 prints, as data: it has another order of keys.
    Data,
    /// No version agrees; it has to load.
    Loads,
}

/// Cases whose outcome differs on purpose: part of the name, why, and what it is then. The outputs
/// of newer versions are under `newer/`.
const EXCEPTIONS: &[(&str, &str, Newer)] = &[
    (
        "loader_loader_test/L02192/",
        "a network named x-… is a network to the reference's library, which its command loses (Y5)",
        Newer::Loads,
    ),
    (
        "loader_normalize_test/L00381/",
        "2.26 has no pre_start (G2)",
        Newer::Data,
    ),
    (
        "loader_tests_service_hooks_test/L00102/",
        "2.26 has no pre_start (G2)",
        Newer::Data,
    ),
    (
        "loader_reset_test/L00151/",
        "2.26 confused service names with dots (Y7)",
        Newer::Data,
    ),
    (
        "loader_tests_build_extra_test/L00163/",
        "2.26 has no build.sbom (C20)",
        Newer::Text,
    ),
    (
        "loader_tests_build_extra_test/L00177/",
        "2.26 has no build.no_cache_filter (Z1)",
        Newer::Data,
    ),
    (
        "loader_tests_build_test/L00113/",
        "file modes are printed in octal now (C15)",
        Newer::Text,
    ),
    (
        "loader_tests_configs_test/L00027/",
        "file modes are printed in octal now (C15)",
        Newer::Text,
    ),
    (
        "loader_tests_secrets_test/L00027/",
        "file modes are printed in octal now (C15)",
        Newer::Text,
    ),
    (
        "loader_tests_gw_priority_test/L00027/",
        "2.26 dropped gw_priority (K2)",
        Newer::Text,
    ),
    (
        "override_merge_models_test/L00153/",
        "2.26 has no models (O1)",
        Newer::Text,
    ),
    (
        "override_merge_models_test/L00172/",
        "2.26 has no models (O1)",
        Newer::Text,
    ),
    (
        "override_merge_models_test/L00207/",
        "2.26 has no models (O1)",
        Newer::Text,
    ),
];

struct Case {
    name: String,
    file: Option<String>,
    /// Compose's exit status; "14" is a missing file.
    exit: String,
    error: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compose/cases")
}

fn cases() -> Vec<Case> {
    let index = std::fs::read_to_string(root().join("index.tsv")).expect("the index is there");
    index
        .lines()
        .skip(1)
        .map(|line| {
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or_default().to_owned();
            let (name, args, exit, error) = (next(), next(), next(), next());
            Case {
                file: args.strip_prefix("-f ").map(str::to_owned),
                exit,
                name,
                error,
            }
        })
        .collect()
}

/// Runs a case; `Ok` is the printed document with the root written as `/CORPUS`.
fn run(case: &Case) -> Result<String, (bool, String)> {
    let input = root().join("input");
    let directory = input.join(&case.name);
    let directory = directory
        .parent()
        .expect("a case is below the root")
        .to_owned();
    let environment = BTreeMap::from([
        ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
        ("HOME".to_owned(), "/home/u".to_owned()),
        ("TZ".to_owned(), "UTC".to_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    let mut options = LoadOptions::new(directory, environment);
    options.check_values = false;
    options.files = case.file.iter().map(PathBuf::from).collect();
    let loaded = compose::load(&options, &HostFiles);
    let Some(project) = &loaded.project else {
        let errors = loaded.diagnostics.iter().filter(|d| d.is_error());
        let text: Vec<String> = errors.map(|d| d.message.clone()).collect();
        return Err((loaded.is_file_missing(), text.join("; ")));
    };
    let text = compose::print::to_yaml(
        project,
        compose::print::PrintOptions {
            escape_dollar: true,
        },
    );
    Ok(text.replace(&*input.to_string_lossy(), "/CORPUS"))
}

#[test]
fn config_agrees_with_the_reference() {
    let mut wrong = Vec::new();
    let mut n_checked = 0;
    for case in cases() {
        if EXCEPTIONS.iter().any(|(part, ..)| case.name.contains(part)) {
            continue;
        }
        n_checked += 1;
        match (case.exit == "0", run(&case)) {
            (false, Err((is_missing, error))) => {
                // Hanging and crashing are no behaviours to copy; else 14 and 15 are told apart.
                if matches!(&*case.exit, "14" | "15") && is_missing != (case.exit == "14") {
                    wrong.push(format!("{}: status {}: {error}", case.name, case.exit));
                }
            }
            (false, Ok(_)) => wrong.push(format!("{}: must fail: {}", case.name, case.error)),
            (true, Err((_, error))) => wrong.push(format!("{}: must load: {error}", case.name)),
            (true, Ok(printed)) => {
                let path = root().join("expected").join(format!("{}.out", case.name));
                let expected = std::fs::read_to_string(&path).expect("an output for a status of 0");
                if printed != expected {
                    wrong.push(format!(
                        "{}\n--- expected\n{expected}--- printed\n{printed}",
                        case.name
                    ));
                }
            }
        }
    }
    assert!(n_checked > 250, "only {n_checked} cases were found");
    assert!(
        wrong.is_empty(),
        "{} of {n_checked} cases differ:\n\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// The exceptions are as newer versions of the reference have them.
#[test]
fn exceptions_agree_with_newer_versions() {
    let cases = cases();
    let mut wrong = Vec::new();
    for (part, why, newer) in EXCEPTIONS {
        let case = cases.iter().find(|case| case.name.contains(part));
        let case = case.unwrap_or_else(|| panic!("no case {part}"));
        let printed = match run(case) {
            Ok(printed) => printed,
            Err((_, error)) => {
                wrong.push(format!("{part} ({why}): must load: {error}"));
                continue;
            }
        };
        if *newer == Newer::Loads {
            continue;
        }
        let path = root().join("newer").join(format!("{}.out", case.name));
        let expected = std::fs::read_to_string(&path).expect("an output");
        let is_equal = match newer {
            Newer::Data => data(&printed) == data(&expected),
            _ => printed == expected,
        };
        if !is_equal {
            wrong.push(format!(
                "{part} ({why})\n--- expected\n{expected}--- printed\n{printed}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A printed document without the networks of hooks, which are newer than the specification here.
fn data(text: &str) -> serde_json::Value {
    let mut data: serde_json::Value = serde_yaml::from_str(text).expect("it is YAML");
    let services = data["services"].as_object_mut().into_iter().flatten();
    for (_, service) in services {
        let hooks = service.get_mut("pre_start").and_then(|h| h.as_array_mut());
        for hook in hooks.into_iter().flatten() {
            hook.as_object_mut().map(|hook| hook.remove("networks"));
        }
    }
    data
}

/// Small files, each about one form of one key, one merge, one template or one line of an env file,
/// with what version 2.40.3 prints for them. Where ours differs on purpose there is no entry: see
/// `docs/compose-decisions.md`.
#[test]
fn variations_agree_with_the_reference() {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compose/variations.json"),
    )
    .expect("the variations are there");
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("they are a list");
    assert!(all.len() > 400, "only {} variations", all.len());
    let mut wrong = Vec::new();
    for one in &all {
        let root = Path::new("/tmp/dc/t");
        let texts = |key: &str| -> BTreeMap<String, String> {
            let map = one[key].as_object().into_iter().flatten();
            map.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect()
        };
        let mut files = BTreeMap::new();
        for (name, content) in texts("files") {
            files.insert(root.join(name), content.into_bytes());
        }
        let stdin = one["stdin"].as_str().unwrap_or_default();
        files.insert("-".into(), stdin.as_bytes().to_vec());
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
            ("HOME".to_owned(), "/home/u".to_owned()),
            ("TZ".to_owned(), "UTC".to_owned()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        environment.extend(texts("env"));
        let directory = match one["cwd"].as_str() {
            Some(below) => root.join(below),
            None => root.to_owned(),
        };
        let mut options = LoadOptions::new(directory, environment);
        options.check_values = false;
        let mut escape_dollar = true;
        let mut args = one["args"].as_array().into_iter().flatten();
        while let Some(arg) = args.next().and_then(serde_json::Value::as_str) {
            let mut value = || {
                let next = args.next().and_then(serde_json::Value::as_str);
                next.unwrap_or_default().to_owned()
            };
            match arg {
                "-f" => options.files.push(value().into()),
                "-p" => options.project_name = Some(value()),
                "--project-directory" => options.project_directory = Some(value().into()),
                "--env-file" => options.env_files.push(value().into()),
                "--profile" => options.profiles.push(value()),
                "--no-interpolate" => (options.interpolate, escape_dollar) = (false, false),
                "--no-normalize" => options.normalize = false,
                "--no-path-resolution" => options.resolve_paths = false,
                "--no-consistency" => options.consistency = false,
                "--no-env-resolution" => options.resolve_environment = false,
                "config" => {}
                service => options.services.push(service.to_owned()),
            }
        }
        let loaded = compose::load(&options, &Memory(files));
        let print = compose::print::PrintOptions { escape_dollar };
        let printed = loaded
            .project
            .as_ref()
            .map(|project| compose::print::to_yaml(project, print));
        if printed.as_deref() != one["out"].as_str() {
            wrong.push(format!(
                "{}\n--- expected\n{}--- printed\n{}",
                one["name"],
                one["out"].as_str().unwrap_or("(an error)\n"),
                printed.as_deref().unwrap_or("(an error)\n"),
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n\n")
    );
}

/// Files in memory, for texts that no disk needs to hold.
struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.0.get(path).cloned();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_stdin(&self) -> io::Result<Vec<u8>> {
        self.read(Path::new("-"))
    }

    fn is_file(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.0
            .keys()
            .any(|file| file != path && file.starts_with(path))
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(path.to_owned())
    }
}

/// Loads a text and everything that shows it; an error means no project, and no text takes long.
fn load_broken(text: &[u8], other: &[u8]) {
    let files = Memory(BTreeMap::from([
        ("/p/compose.yaml".into(), text.to_vec()),
        ("/p/other.yaml".into(), other.to_vec()),
    ]));
    let mut options = LoadOptions::new("/p".into(), BTreeMap::new());
    options.files = vec!["compose.yaml".into()];
    let start = Instant::now();
    let loaded = compose::load(&options, &files);
    _ = source::render(&loaded.diagnostics, &loaded.sources, false);
    _ = source::render_json(&loaded.diagnostics, &loaded.sources);
    let shown = || String::from_utf8_lossy(text).into_owned();
    let failed = loaded.diagnostics.iter().any(source::Diagnostic::is_error);
    assert_eq!(loaded.project.is_none(), failed, "{}", shown());
    assert!(start.elapsed() < Duration::from_secs(20), "{}", shown());
}

/// Copies of every input that end early, or in which bytes were exchanged, doubled and lost.
#[test]
fn broken_copies_of_every_case_end_with_a_diagnostic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        // Marsaglia's xorshift: the same copies in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    const MARKS: &[u8] = b":-{}[]&*!|>'\"#%@`$\n \t\0\xff<,?";
    let mut n_files = 0;
    for case in cases() {
        let Some(file) = &case.file else { continue };
        let path = root().join("input").join(&case.name).with_file_name(file);
        let Ok(text) = std::fs::read(&path) else {
            continue;
        };
        n_files += 1;
        for _ in 0..6 {
            load_broken(&text[..random(text.len())], b"");
            let mut copy = text.clone();
            for _ in 0..=random(4) {
                if copy.is_empty() {
                    break;
                }
                let at = random(copy.len());
                match random(3) {
                    0 => copy[at] = MARKS[random(MARKS.len())],
                    1 => copy.insert(at, MARKS[random(MARKS.len())]),
                    _ => _ = copy.remove(at),
                }
            }
            load_broken(&copy, b"");
        }
    }
    assert!(n_files > 250, "only {n_files} files were found");
    // The tests of this file share the process; all of them together stay below this.
    let status = std::fs::read_to_string("/proc/self/status").expect("it is there");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|p| p.trim().split(' ').next()?.parse::<u64>().ok());
    assert!(kilobytes.is_some_and(|n| n < 1_000_000), "{peak:?}");
}

/// The seeds of the fuzz targets, with what those found.
#[test]
fn seeds_of_the_fuzz_targets_are_replayed() {
    let seeds = |target: &str| -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/fuzz")
            .join(target);
        let entries = std::fs::read_dir(directory).expect("the target has seeds");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .map(|path| std::fs::read(path).expect("a seed"))
            .collect()
    };
    for seed in seeds("loader") {
        let at = seed.iter().position(|b| *b == 0).unwrap_or(seed.len());
        let (first, rest) = seed.split_at(at);
        load_broken(first, rest.get(1..).unwrap_or_default());
    }
    let lookup = |name: &str| (name == "HOST").then(|| "host".to_owned());
    for seed in seeds("dotenv") {
        let text = String::from_utf8_lossy(&seed);
        for found in [
            dotenv::parse(&text, &dotenv::Scope::above(&lookup), &mut |_| {}),
            dotenv::parse_raw(&text, &lookup),
        ] {
            for (name, assignment) in found.into_iter().flatten() {
                let at = assignment.start as usize..assignment.end as usize;
                assert_eq!(text.get(at), Some(&*name));
            }
        }
    }
    for seed in seeds("interpolate") {
        let text = String::from_utf8_lossy(&seed);
        let escaped = text.replace('$', "$$");
        let same = interpolate::substitute(&escaped, &lookup, &mut |_| {});
        assert_eq!(same.as_deref().ok(), Some(&*text));
        _ = interpolate::substitute(&text, &lookup, &mut |_| {});
    }
}
