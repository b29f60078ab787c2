//! Input that means harm, or was made by accident: the real program on it, with limits that the
//! kernel keeps.
//!
//! Each row names what happens: the exit status and a part of the message. That it takes no more
//! time and memory than `LIMITS` is what the row proves beside that; a program that asks for more
//! is killed by a signal, which is no exit status.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode};

/// Kilobytes of address space, seconds of processor time. A program that is not optimised is some
/// ten times slower than the one that is shipped.
const LIMITS: (u32, u32) = (1_000_000, 20);

const FILE_NOT_FOUND: i32 = 14;
const PARSE: i32 = 15;

/// Runs `wharf` in a directory under the limits.
fn wharf(directory: &Path, args: &[&str], stdin: Stdio) -> Output {
    let (kilobytes, seconds) = LIMITS;
    let script = format!("ulimit -v {kilobytes}; ulimit -t {seconds}; exec \"$0\" \"$@\"");
    Command::new("/bin/sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_wharf")])
        .args(args)
        .current_dir(directory)
        .env_clear()
        .stdin(stdin)
        .output()
        .expect("a shell")
}

/// The end of a run, with enough of what it said to see why.
fn judge(name: &str, output: &Output, status: i32, part: &str) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(status) && said.contains(part) {
        return Ok(());
    }
    let said: String = said.chars().take(400).collect();
    Err(format!(
        "{name}: {} instead of {status} and {part:?}: {said}",
        output.status
    ))
}

fn agree(outcomes: Vec<Result<(), String>>) {
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Runs `config` on each text as the Compose file.
fn texts(rows: &[(&str, Vec<u8>, i32, &str)]) {
    let outcomes = rows.iter().map(|(name, text, status, part)| {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("compose.yaml"), text).expect("the file");
        let output = wharf(directory.path(), &["-p", "p", "config"], Stdio::null());
        judge(name, &output, *status, part)
    });
    agree(outcomes.collect());
}

/// A name, the files of a project, and what `config` ends with and says.
type ProjectRow<'a> = (&'a str, Vec<(String, String)>, i32, &'a str);

/// Runs `config` in a directory of its own for each list of files.
fn projects(rows: &[ProjectRow<'_>]) {
    let outcomes = rows.iter().map(|(name, files, status, part)| {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            std::fs::write(directory.path().join(path), text).expect("the file");
        }
        let output = wharf(directory.path(), &["-p", "p", "config"], Stdio::null());
        judge(name, &output, *status, part)
    });
    agree(outcomes.collect());
}

fn file(name: &str, text: impl Into<String>) -> (String, String) {
    (name.to_owned(), text.into())
}

const SOUND: &str = "services: {a: {image: i}}\n";

#[test]
fn anchors_that_multiply() {
    // Ten of ten of ten …: as lists, as merged mappings, as one long text.
    let mut lists = "x-0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    let mut maps = "x-0: &a0 {k: v}\n".to_owned();
    for n in 1..12 {
        let of = n - 1;
        let ten = vec![format!("*a{of}"); 10].join(",");
        _ = writeln!(lists, "x-{n}: &a{n} [{ten}]");
        let ten: Vec<String> = (0..10).map(|k| format!("k{k}: *a{of}")).collect();
        _ = writeln!(maps, "x-{n}: &a{n} {{{}}}", ten.join(", "));
    }
    let text = "x".repeat(1 << 20);
    let long = format!(
        "x-0: &a \"{text}\"\nx-1: [{}]\n",
        vec!["*a"; 50_000].join(",")
    );
    let merged: String = (0..2_000).map(|n| format!("x-{n}: {{<<: *a}}\n")).collect();
    let keys: Vec<String> = (0..2_000).map(|n| format!("k{n}: v")).collect();
    let merged = format!("x-a: &a {{{}}}\n{merged}", keys.join(", "));
    let refused = "aliases expand to more than";
    texts(&[
        ("lists", lists.into(), PARSE, refused),
        ("maps", maps.into(), PARSE, refused),
        ("text", long.into(), PARSE, refused),
        ("merge keys", merged.into(), PARSE, refused),
        ("in itself", "x-a: &a [*a]\n".into(), PARSE, "cycle"),
    ]);
}

#[test]
fn files_that_are_long() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("compose.yaml");
    let mut file = File::create(&path).expect("the file");
    file.write_all(SOUND.as_bytes()).expect("it is written");
    let line = [b'#'; 4095].into_iter().chain([b'\n']).collect::<Vec<u8>>();
    for _ in 0..100 << 20 >> 12 {
        file.write_all(&line).expect("it is written");
    }
    drop(file);
    let output = wharf(directory.path(), &["config"], Stdio::null());
    agree(vec![judge("100 MB", &output, PARSE, "longer than 16 MiB")]);
    let sparse = File::create(&path).expect("the file");
    sparse.set_len(1 << 40).expect("it is sparse");
    let output = wharf(directory.path(), &["config"], Stdio::null());
    agree(vec![judge("1 TB", &output, PARSE, "longer than 16 MiB")]);

    let endless = File::open("/dev/zero").expect("it is there");
    let output = wharf(directory.path(), &["-f", "-", "config"], endless.into());
    agree(vec![judge("stdin", &output, PARSE, "longer than 16 MiB")]);

    let all = (16 << 20) - 64;
    let items = format!("x-a:\n{}", "- a\n".repeat(all / 4));
    let word = format!("{SOUND}x-a: {}\n", "a".repeat(all));
    let comment = format!("{SOUND}{}", "#\n".repeat(all / 2));
    let keys: String = (0..200_000).map(|n| format!("key{n}: a\n")).collect();
    texts(&[
        ("items", items.into(), PARSE, "document has more than"),
        ("one word", word.into(), 0, ""),
        ("comments", comment.into(), 0, ""),
        ("unknown keys", keys.into(), PARSE, "and 199000 more"),
    ]);
}

/// One line holds everything, and every mistake is shown with its part of it.
#[test]
fn a_project_on_one_line() {
    let wrong: Vec<String> = (0..20_000).map(|n| format!("bad{n}: x")).collect();
    let wrong = format!("services: {{a: {{image: i, {}}}}}", wrong.join(", "));
    let mut sound: String = "{\"services\": {".to_owned();
    for n in 0..3_000 {
        let comma = if n > 0 { ", " } else { "" };
        _ = write!(
            sound,
            "{comma}\"s{n}\": {{\"image\": \"ï\", \"ports\": [\"80\"]}}"
        );
    }
    sound.push_str("}}");
    texts(&[
        ("mistakes", wrong.into(), PARSE, "compose.yaml:1:27"),
        ("services", sound.into(), 0, ""),
    ]);
}

#[test]
fn values_that_are_nested() {
    let n = 20_000;
    let (deep, limit) = ("nested more than", "recursion limit exceeded");
    texts(&[
        ("lists", "[".repeat(n).into(), PARSE, limit),
        (
            "closed",
            ("[".repeat(n) + &"]".repeat(n)).into(),
            PARSE,
            limit,
        ),
        ("maps", "{a: ".repeat(n).into(), PARSE, limit),
        ("keys", "{? ".repeat(n).into(), PARSE, ""),
        ("dashes", "- ".repeat(n).into(), PARSE, deep),
        ("questions", "? ".repeat(n).into(), PARSE, ""),
        ("anchors", "&a [".repeat(n).into(), PARSE, limit),
        ("tags", "!a ".repeat(n).into(), PARSE, ""),
        ("quotes", "\"".repeat(n + 1).into(), PARSE, ""),
        (
            "defaults",
            format!(
                "services: {{a: {{image: '{}{}'}}}}",
                "${A:-".repeat(n),
                "}".repeat(n)
            )
            .into(),
            PARSE,
            "nested too deeply",
        ),
        (
            "braces",
            format!("services: {{a: {{image: '{}'}}}}", "${".repeat(n)).into(),
            PARSE,
            "invalid interpolation format",
        ),
    ]);
}

#[test]
fn files_that_name_each_other() {
    let chain = |n: usize| -> Vec<(String, String)> {
        let mut files: Vec<(String, String)> = (1..n)
            .map(|at| {
                file(
                    &format!("{at}.yaml"),
                    format!("include: [{}.yaml]\n", at + 1),
                )
            })
            .collect();
        files.push(file("compose.yaml", "include: [1.yaml]\n"));
        files.push(file(&format!("{n}.yaml"), SOUND));
        files
    };
    let doubled: Vec<(String, String)> = (0..25)
        .map(|at| {
            let next = at + 1;
            let text = format!("include: [{next}.yaml, {next}.yaml]\n");
            file(&format!("{at}.yaml"), text)
        })
        .chain([
            file("25.yaml", SOUND),
            file("compose.yaml", "include: [0.yaml]\n"),
        ])
        .collect();
    let big = format!("{SOUND}x-a: {}\n", "a".repeat(4 << 20));
    let again = format!("include: [{}]\n", vec!["big.yaml"; 900].join(", "));
    projects(&[
        (
            "itself",
            vec![file("compose.yaml", "include: [compose.yaml]\n")],
            PARSE,
            "include cycle detected",
        ),
        (
            "two",
            vec![
                file("compose.yaml", "include: [b.yaml]\n"),
                file("b.yaml", "include: [compose.yaml]\n"),
            ],
            PARSE,
            "include cycle detected",
        ),
        (
            "long chain",
            chain(500),
            PARSE,
            "nested more than 32 levels",
        ),
        ("doubled", doubled, PARSE, "models are included"),
        (
            "again and again",
            vec![file("compose.yaml", again), file("big.yaml", big)],
            PARSE,
            "come to more than 64 MiB",
        ),
        (
            "extends",
            vec![
                file(
                    "compose.yaml",
                    "services: {a: {extends: {file: b.yaml, service: b}}}\n",
                ),
                file(
                    "b.yaml",
                    "services: {b: {extends: {file: c.yaml, service: c}}}\n",
                ),
                file(
                    "c.yaml",
                    "services: {c: {extends: {file: compose.yaml, service: a}}}\n",
                ),
            ],
            PARSE,
            "Circular reference",
        ),
        (
            "extends itself",
            vec![file("compose.yaml", "services: {a: {extends: a}}\n")],
            PARSE,
            "Circular reference",
        ),
        (
            "depends",
            vec![file(
                "compose.yaml",
                "services: {a: {image: i, depends_on: [b]}, b: {image: i, depends_on: [a]}}\n",
            )],
            PARSE,
            "dependency cycle detected: a -> b -> a",
        ),
        (
            "gone",
            vec![file("compose.yaml", "include: [gone.yaml]\n")],
            FILE_NOT_FOUND,
            "no such file",
        ),
    ]);
}

/// Services that copy from each other more than anybody wrote.
#[test]
fn bases_that_multiply() {
    let mut ladder = "services:\n  s0: {image: i}\n".to_owned();
    for n in 1..5_000 {
        let of = n - 1;
        _ = writeln!(ladder, "  s{n}: {{extends: s{of}, labels: {{l{n}: x}}}}");
    }
    let labels: Vec<String> = (0..5_000).map(|n| format!("l{n}: x")).collect();
    let mut crowd = format!(
        "services:\n  base: {{image: i, labels: {{{}}}}}\n",
        labels.join(", ")
    );
    let long = "x".repeat(2 << 20);
    let mut texts_of = format!("services:\n  base: {{image: i, labels: {{l: {long}}}}}\n");
    for n in 0..5_000 {
        _ = writeln!(crowd, "  s{n}: {{extends: base}}");
        _ = writeln!(texts_of, "  s{n}: {{extends: base}}");
    }
    let refused = "`extends` copies more than";
    texts(&[
        ("ladder", ladder.into(), PARSE, refused),
        ("crowd", crowd.into(), PARSE, refused),
        ("long texts", texts_of.into(), PARSE, refused),
    ]);
}

/// Variables made of variables, and one env file for many services.
#[test]
fn variables_that_multiply() {
    let mut bomb = "V0=xxxxxxxxxx\n".to_owned();
    for n in 1..20 {
        let of = n - 1;
        let ten = format!("${{V{of}}}").repeat(10);
        _ = writeln!(bomb, "V{n}={ten}");
    }
    let mut wide = format!("V={}\n", "x".repeat(500_000));
    for n in 0..10_000 {
        _ = writeln!(wide, "W{n}=$V");
    }
    let long = format!("V={}\n", "x".repeat(900_000));
    let images: String = (0..1_000)
        .map(|n| format!("  s{n}: {{image: '${{V}}'}}\n"))
        .collect();
    let readers: String = (0..10_000)
        .map(|n| format!("  s{n}: {{image: i, env_file: big.env}}\n"))
        .collect();
    let reader = |env_file: &str| format!("services: {{a: {{image: i, env_file: {env_file}}}}}\n");
    let expand = "variables expand to more than";
    projects(&[
        (
            "dotenv",
            vec![file(".env", &*bomb), file("compose.yaml", SOUND)],
            PARSE,
            expand,
        ),
        (
            "env_file",
            vec![file("b.env", &*bomb), file("compose.yaml", reader("b.env"))],
            PARSE,
            expand,
        ),
        (
            "wide",
            vec![file(".env", wide), file("compose.yaml", SOUND)],
            PARSE,
            expand,
        ),
        (
            "in the file",
            vec![
                file(".env", &*long),
                file("compose.yaml", format!("services:\n{images}")),
            ],
            PARSE,
            expand,
        ),
        (
            "in one value",
            vec![
                file(".env", long),
                file(
                    "compose.yaml",
                    format!("services: {{a: {{image: '{}'}}}}\n", "${V}".repeat(10_000)),
                ),
            ],
            PARSE,
            expand,
        ),
        (
            "many readers",
            vec![
                file("big.env", format!("V={}\n", "x".repeat(1 << 20))),
                file("compose.yaml", format!("services:\n{readers}")),
            ],
            PARSE,
            "more than 64 MiB",
        ),
    ]);
}

/// FIFOs that nobody writes to, devices that never end, directories, sockets, links to themselves:
/// in every place that names a file.
#[test]
fn files_that_are_none() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a FIFO");
    std::fs::create_dir(at("dir")).expect("a directory");
    std::os::unix::fs::symlink("loop", at("loop")).expect("a link");
    let socket = std::os::unix::net::UnixListener::bind(at("sock")).expect("a socket");
    let places = [
        ("include", "include: [WHAT]\n"),
        (
            "extends",
            "services: {a: {extends: {file: WHAT, service: b}}}\n",
        ),
        ("env_file", "services: {a: {image: i, env_file: WHAT}}\n"),
        (
            "label_file",
            "services: {a: {image: i, label_file: WHAT}}\n",
        ),
        (
            "include.env_file",
            "include: [{path: sound.yaml, env_file: WHAT}]\n",
        ),
    ];
    std::fs::write(at("sound.yaml"), SOUND).expect("the file");
    let mut outcomes = Vec::new();
    for what in [
        "fifo",
        "dir",
        "sock",
        "loop",
        "/dev/zero",
        "/dev/tty",
        "/dev/full",
    ] {
        // A message, whatever it is, and an end.
        let one = |name: String, args: &[&str]| {
            let output = wharf(directory.path(), args, Stdio::null());
            match output.status.code() {
                Some(FILE_NOT_FOUND | PARSE) if !output.stderr.is_empty() => Ok(()),
                _ => Err(format!(
                    "{name}: {}: {}",
                    output.status,
                    String::from_utf8_lossy(&output.stderr)
                )),
            }
        };
        for (place, text) in places {
            std::fs::write(at("compose.yaml"), text.replace("WHAT", what)).expect("the file");
            outcomes.push(one(format!("{what} as {place}"), &["-p", "p", "config"]));
        }
        outcomes.push(one(
            format!("{what} as -f"),
            &["-p", "p", "-f", what, "config"],
        ));
        std::fs::write(at("compose.yaml"), SOUND).expect("the file");
        let flag = ["-p", "p", "--env-file", what, "config"];
        outcomes.push(one(format!("{what} as --env-file"), &flag));
    }
    drop(socket);
    agree(outcomes);
}

/// Bytes that are no text, line ends of other systems, marks of other encodings.
#[test]
fn bytes_of_all_kinds() {
    let utf16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(SOUND.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    let random: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let crlf = "\u{feff}services:\r\n  a:\r\n    image: i\r\n    command: |\r\n      x\r\n";
    texts(&[
        (
            "latin-1",
            b"services: {a: {image: \xe9}}".to_vec(),
            PARSE,
            "not UTF-8 at byte 22",
        ),
        ("utf-16", utf16, PARSE, "not UTF-8 at byte 0"),
        ("random", random, PARSE, "not UTF-8"),
        ("crlf and mark", crlf.into(), 0, ""),
        (
            "carriage returns",
            "services:\r  a:\r    image: i\r".into(),
            0,
            "",
        ),
        ("nul", b"services: {a: {image: i\0}}".to_vec(), PARSE, ""),
        ("nothing", Vec::new(), PARSE, "empty compose file"),
        (
            "only a mark",
            b"\xef\xbb\xbf".to_vec(),
            PARSE,
            "empty compose file",
        ),
        ("zeros", vec![0; 1 << 20], PARSE, ""),
    ]);
    let outcomes = [
        ("latin-1", b"A=\xe9\n".to_vec(), PARSE),
        ("crlf and mark", b"\xef\xbb\xbfA=1\r\nB=2\r\n".to_vec(), 0),
        ("nul", b"A=\0\n".to_vec(), 0),
    ]
    .map(|(name, text, status)| {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at(".env"), text).expect("the file");
        std::fs::write(at("compose.yaml"), "services: {a: {image: 'i:${A}'}}\n").expect("the file");
        let output = wharf(directory.path(), &["-p", "p", "config"], Stdio::null());
        judge(&format!(".env: {name}"), &output, status, "")
    });
    agree(outcomes.into());
}
