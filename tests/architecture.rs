//! The rules of the house that no compiler knows: who may import whom, where `unsafe` and printing
//! may stand, how long a file may be.
//!
//! Works on the text of `src/`, with comments and literals blanked. Each rule is a function from
//! text to violations, so that the rules themselves are tested on small fixtures below.

use std::fs;
use std::path::{Path, PathBuf};

/// A room and the paths under `crate::` that it may name, beside itself.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "api::client",
            "api::wire",
            // The words of `ps`, which the API says in its own answers, too.
            "api::status_text",
            "compose",
            "source",
            "plan",
            "reconcile",
            // Where the socket is; nothing else of the engine.
            "engine::Roots",
        ],
    ),
    ("api", &["engine", "reconcile", "plan", "compose"]),
    (
        "engine",
        &["reconcile", "plan", "compose", "shim::protocol", "sys"],
    ),
    ("reconcile", &["plan", "compose"]),
    ("plan", &["compose"]),
    ("compose", &["source"]),
    ("source", &[]),
    ("shim", &["runtime", "sys"]),
    ("runtime", &["sys"]),
    ("sys", &[]),
];

/// Files that put the rooms together and may therefore name all of them.
const ASSEMBLY: &[&str] = &["main.rs", "lib.rs", "boot.rs"];

/// Module names that say nothing and attract everything.
const NAMELESS: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "manager", "misc", "types",
];

/// Lines outside a file's test module.
const MAX_LINES: usize = 1000;

#[test]
fn imports_point_down_only() {
    report(violations(|file, code| {
        foreign_imports(&file.room, file.depth, code)
    }));
}

#[test]
fn unsafe_code_stands_in_sys_only() {
    report(violations(|file, code| {
        if file.room == "sys" {
            return Vec::new();
        }
        lines_with_word(code, "unsafe")
    }));
}

#[test]
fn only_the_output_room_prints() {
    report(violations(|file, code| {
        // A test tells why it was skipped in the only way that there is.
        if file.path.starts_with("cli/output") || is_test_file(&file.path) {
            return Vec::new();
        }
        printing_lines(before_tests(code))
    }));
}

#[test]
fn the_daemon_side_starts_processes_only_through_sys() {
    // The engine has many threads, and what they hold at a fork is held for ever in the child.
    report(violations(|file, code| {
        if !["api", "reconcile", "plan", "compose", "source"].contains(&file.room.as_str()) {
            return Vec::new();
        }
        lines_with(code, &["Command::new(", "fork("])
    }));
}

#[test]
fn pure_rooms_read_no_clock_and_no_environment() {
    report(violations(|file, code| {
        // `files.rs` is the one door to the disk, behind a trait.
        let is_door = file.path == Path::new("source/files.rs");
        if !["source", "plan"].contains(&file.room.as_str()) || is_door || is_test_file(&file.path)
        {
            return Vec::new();
        }
        lines_with(
            code,
            &[
                "std::fs::",
                "std::env::",
                "Instant::now",
                "SystemTime::now",
                "std::process::",
                "std::net::Tcp",
            ],
        )
    }));
}

#[test]
fn no_error_is_a_bare_string() {
    report(violations(|_, code| {
        lines_with(code, &["Other(String)", "Custom(String)"])
    }));
}

#[test]
fn modules_have_names_that_say_something() {
    let found = sources()
        .into_iter()
        .filter(|file| has_nameless_part(&file.path))
        .map(|file| file.path.display().to_string())
        .collect();
    report(found);
}

#[test]
fn every_file_says_what_it_owns() {
    let found = sources()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{} does not begin with `//!`", file.path.display()))
        .collect();
    report(found);
}

#[test]
fn no_file_is_longer_than_a_person_reads() {
    let found = sources()
        .into_iter()
        .filter(|file| n_lines_of_code(&file.text) > MAX_LINES)
        .map(|file| {
            format!(
                "{} has {} lines",
                file.path.display(),
                n_lines_of_code(&file.text)
            )
        })
        .collect();
    report(found);
}

#[test]
fn every_example_explains_itself_and_is_run_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let suite = fs::read_to_string(root.join("tests/privileged/examples.rs")).unwrap();
    let mut found = Vec::new();
    let mut n_examples = 0;
    for entry in fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        n_examples += 1;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for part in ["README.md", "compose.yaml"] {
            if !path.join(part).is_file() {
                found.push(format!("examples/{name} has no {part}"));
            }
        }
        if !suite.contains(&format!("\"{name}\"")) {
            found.push(format!("examples/{name} is run by no test"));
        }
    }
    assert!(n_examples >= 2, "quickstart and stack are there");
    report(found);
}

/// A file of `src/`.
struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    /// The first part of its module path.
    room: String,
    /// How many `super::` lead from the file's module to the crate root.
    depth: usize,
    text: String,
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories = vec![src.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let relative = path.strip_prefix(&src).unwrap().to_owned();
            found.push(Source {
                room: room_of(&relative),
                depth: depth_of(&relative),
                text: fs::read_to_string(&path).unwrap(),
                path: relative,
            });
        }
    }
    assert!(found.len() > 20, "the walk found the sources");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn violations(rule: impl Fn(&Source, &str) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for file in sources() {
        if ASSEMBLY.contains(&file.path.to_str().unwrap()) {
            continue;
        }
        let code = code_only(&file.text);
        for violation in rule(&file, &code) {
            found.push(format!("src/{}: {violation}", file.path.display()));
        }
    }
    found
}

#[track_caller]
fn report(found: Vec<String>) {
    assert!(
        found.is_empty(),
        "{} violations:\n{}",
        found.len(),
        found.join("\n")
    );
}

fn room_of(relative: &Path) -> String {
    let first = relative.components().next().unwrap();
    let name = Path::new(first.as_os_str()).file_stem().unwrap();
    name.to_str().unwrap().to_owned()
}

fn depth_of(relative: &Path) -> usize {
    let n_parts = relative.components().count();
    if relative.file_name().is_some_and(|name| name == "mod.rs") {
        n_parts - 1
    } else {
        n_parts
    }
}

/// Imports by `crate::…` or a chain of `super::` that the room has no arrow for.
fn foreign_imports(room: &str, depth: usize, code: &str) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("the room {room} is in no arrow of this test")];
    };
    let mut found = Vec::new();
    for (index, _) in code.match_indices("crate::") {
        if code[..index].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        for path in named_paths(&code[index + "crate::".len()..]) {
            let inside = path == room || path.starts_with(&format!("{room}::"));
            let along = allowed
                .iter()
                .any(|arrow| path == *arrow || path.starts_with(&format!("{arrow}::")));
            if !inside && !along {
                found.push(format!(
                    "line {}: {room} may not import {path}",
                    line_of(code, index)
                ));
            }
        }
    }
    // An inline test module is one level deeper than its file.
    let test_module = test_module_at(code).unwrap_or(code.len());
    let mut rest = 0;
    while let Some(offset) = code[rest..].find("super::") {
        let start = rest + offset;
        let mut end = start;
        while code[end..].starts_with("super::") {
            end += "super::".len();
        }
        let n_supers = (end - start) / "super::".len();
        let from = depth + usize::from(start > test_module);
        if n_supers >= from {
            found.push(format!(
                "line {}: super:: leaves the room {room}",
                line_of(code, start)
            ));
        }
        rest = end;
    }
    found
}

/// The paths that a use tree names, each to at most two segments: `{a::b, c}` gives `a::b`, `c`.
fn named_paths(tree: &str) -> Vec<String> {
    fn parse<'a>(mut rest: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
        rest = rest.trim_start();
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = group.trim_start();
                if let Some(after) = group.strip_prefix('}') {
                    return after;
                }
                if group.is_empty() {
                    return group;
                }
                let before = group.len();
                group = parse(group, prefix, found);
                group = group.trim_start();
                group = group.strip_prefix(',').unwrap_or(group);
                if group.len() == before {
                    // Not a use tree after all (a macro fragment): stop rather than loop.
                    return "";
                }
            }
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let path = if prefix.is_empty() {
            rest[..end].to_owned()
        } else {
            format!("{prefix}::{}", &rest[..end])
        };
        let n_segments = path.matches("::").count() + 1;
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(after) if n_segments < 3 => parse(after, &path, found),
            _ => {
                // `use a::{self}` names `a`.
                found.push(path.trim_end_matches("::self").to_owned());
                rest = rest.trim_start();
                if let Some(alias) = rest.strip_prefix("as ") {
                    rest = alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
                }
                rest
            }
        }
    }
    let mut found = Vec::new();
    parse(tree, "", &mut found);
    found
}

/// Whether the whole file is part of a test module.
fn is_test_file(relative: &Path) -> bool {
    relative.components().any(|part| {
        let name = part.as_os_str().to_str().unwrap_or_default();
        name == "tests" || name == "testing.rs" || name.ends_with("tests.rs")
    })
}

fn before_tests(code: &str) -> &str {
    &code[..test_module_at(code).unwrap_or(code.len())]
}

fn printing_lines(code: &str) -> Vec<String> {
    ["println!", "eprintln!", "print!", "eprint!", "dbg!"]
        .iter()
        .flat_map(|name| lines_with_word(code, name))
        .collect()
}

fn lines_with(code: &str, needles: &[&str]) -> Vec<String> {
    code.lines()
        .enumerate()
        .take_while(|(_, line)| !line.contains("#[cfg(test)]"))
        .filter(|(_, line)| needles.iter().any(|needle| line.contains(needle)))
        .map(|(n, line)| format!("line {}: {}", n + 1, line.trim()))
        .collect()
}

fn lines_with_word(code: &str, word: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.lines()
        .enumerate()
        .filter(|(_, line)| {
            line.match_indices(word).any(|(at, _)| {
                !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
            })
        })
        .map(|(n, line)| format!("line {}: {}", n + 1, line.trim()))
        .collect()
}

fn has_nameless_part(relative: &Path) -> bool {
    relative.components().any(|part| {
        let stem = Path::new(part.as_os_str()).file_stem();
        stem.and_then(|stem| stem.to_str())
            .is_some_and(|stem| NAMELESS.contains(&stem))
    })
}

/// Lines up to the file's test module.
fn n_lines_of_code(text: &str) -> usize {
    let end = test_module_at(text).unwrap_or(text.len());
    text[..end].lines().count()
}

fn test_module_at(code: &str) -> Option<usize> {
    code.find("#[cfg(test)]\nmod ")
}

fn line_of(code: &str, index: usize) -> usize {
    code[..index].matches('\n').count() + 1
}

/// The text with comments, string and character literals blanked; line breaks stay.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest, at.checked_sub(1).map(|i| bytes[i])) {
            length
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if let Some(length) = character(rest) {
            length
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        out.extend(
            rest[..length]
                .iter()
                .map(|b| if *b == b'\n' { b'\n' } else { b' ' }),
        );
        at += length;
    }
    // Only ASCII bytes were replaced one for one, or whole literals by spaces.
    String::from_utf8(out).expect("blanking keeps UTF-8 whole")
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|b| (b.is_ascii_alphanumeric() && b != b'b') || b == b'_') {
        return None;
    }
    let hashes = rest.strip_prefix(b"r")?;
    let n_hashes = hashes.iter().take_while(|b| **b == b'#').count();
    let body = hashes[n_hashes..].strip_prefix(b"\"")?;
    let mut end = vec![b'"'];
    end.resize(n_hashes + 1, b'#');
    let length = body.windows(end.len()).position(|window| window == end)?;
    Some(1 + n_hashes + 1 + length + end.len())
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal; `None` for a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' || rest.len() < 3 {
        return None;
    }
    if rest[1] == b'\\' {
        let end = rest[3..].iter().position(|b| *b == b'\'')?;
        return Some(3 + end + 1);
    }
    let end = rest[1..].iter().take(5).position(|b| *b == b'\'')?;
    // One character of up to four bytes between the quotes; `'a, 'b` is two lifetimes.
    let inner = std::str::from_utf8(&rest[1..1 + end]).ok()?;
    (inner.chars().count() == 1).then_some(end + 2)
}

mod the_rules_themselves {
    use super::*;

    #[test]
    fn an_import_against_the_arrows_is_found_in_every_spelling() {
        let bad = [
            ("use crate::engine::Roots;", 1),
            ("use crate::{compose::Project, engine};", 1),
            (
                "use crate::{\n    plan::Step,\n    api::{client, server},\n};",
                2,
            ),
            ("fn f() -> crate::engine::Engine {}", 1),
            ("use super::super::engine::X;", 1),
        ];
        for (text, n_violations) in bad {
            let found = foreign_imports("plan", 2, text);
            assert_eq!(found.len(), n_violations, "{text}: {found:?}");
        }
    }

    #[test]
    fn imports_along_the_arrows_pass() {
        let good = "use crate::compose::{Project, Service};\nuse super::Step;\nuse crate::plan::x;";
        assert_eq!(foreign_imports("plan", 2, good), Vec::<String>::new());
        let cli = "use crate::api::client::Client;\nuse crate::api::wire;";
        assert_eq!(foreign_imports("cli", 2, cli), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_to_one_module_opens_no_other_of_that_room() {
        assert_eq!(
            foreign_imports("cli", 2, "use crate::api::server;").len(),
            1
        );
        assert_eq!(
            foreign_imports("engine", 2, "use crate::shim::supervise::run;").len(),
            1
        );
        assert_eq!(foreign_imports("engine", 2, "use crate::shim;").len(), 1);
    }

    #[test]
    fn a_test_module_may_go_one_super_higher() {
        let text = "use super::a;\n#[cfg(test)]\nmod tests {\n    use super::super::b;\n}";
        assert_eq!(foreign_imports("plan", 2, text), Vec::<String>::new());
        assert_eq!(foreign_imports("plan", 1, "use super::b;").len(), 1);
    }

    #[test]
    fn an_unknown_room_is_a_violation() {
        assert_eq!(foreign_imports("cellar", 2, "").len(), 1);
    }

    #[test]
    fn words_in_comments_and_literals_do_not_count() {
        let text = "// unsafe\n/* unsafe /* unsafe */ */ let a = \"unsafe \\\" unsafe\";\n\
                    let b = r#\"unsafe \" \"#; let c = 'u'; let d: &'static str = x;";
        assert_eq!(
            lines_with_word(&code_only(text), "unsafe"),
            Vec::<String>::new()
        );
        assert_eq!(code_only(text).lines().count(), text.lines().count());
        assert!(code_only(text).contains("&'static str = x;"));
        assert_eq!(
            lines_with_word(&code_only("let a = 'b'; unsafe { }"), "unsafe").len(),
            1
        );
        assert!(lines_with_word("#![deny(unsafe_code)]", "unsafe").is_empty());
    }

    #[test]
    fn printing_is_found_and_writing_is_not() {
        assert_eq!(printing_lines("fn f() { println!(); }").len(), 1);
        assert_eq!(printing_lines("eprint!(x);").len(), 1);
        assert!(printing_lines("writeln!(out)?; my_println!()").is_empty());
    }

    #[test]
    fn nameless_modules_are_found() {
        assert!(has_nameless_part(Path::new("engine/util.rs")));
        assert!(has_nameless_part(Path::new("common/net.rs")));
        assert!(!has_nameless_part(Path::new("engine/utility_room.rs")));
    }

    #[test]
    fn the_length_counts_code_without_the_test_module() {
        assert_eq!(n_lines_of_code("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
    }

    #[test]
    fn rooms_and_depths_come_from_the_path() {
        assert_eq!(room_of(Path::new("engine/network/dns.rs")), "engine");
        assert_eq!(room_of(Path::new("boot.rs")), "boot");
        assert_eq!(depth_of(Path::new("engine/mod.rs")), 1);
        assert_eq!(depth_of(Path::new("engine/network/dns.rs")), 3);
    }
}
