//! The real program beside a `.env` that holds switches of its own (E5, F4 and section 20 of the
//! behaviours).

use std::path::Path;
use std::process::Command;

/// Runs `wharf` in a directory; the exit code, what it prints and what it says.
fn wharf(directory: &Path, environment: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(args)
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("an exit code");
    (code, text(output.stdout), text(output.stderr))
}

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, text) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("its directory");
        std::fs::write(path, text).expect("the file");
    }
    directory
}

#[test]
fn switches_stand_in_the_env_file() {
    let files = [
        (
            "a.yaml",
            "services: {a: {image: 'i:${TAG}'}, dbg: {build: ., profiles: [debug]}}\n",
        ),
        ("b.yaml", "services: {a: {user: u}}\n"),
        (
            ".env",
            "COMPOSE_FILE=a.yaml,b.yaml\nCOMPOSE_PATH_SEPARATOR=,\nCOMPOSE_PROJECT_NAME=named\n\
             COMPOSE_PROFILES=debug\nCOMPOSE_COMPATIBILITY=1\nTAG=5\n",
        ),
    ];
    let directory = project(&files);
    let run = |environment: &[(&str, &str)], args: &[&str]| {
        let (code, out, err) = wharf(directory.path(), environment, args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        out
    };
    let out = run(&[], &["config"]);
    assert!(out.starts_with("name: named\n"), "{out}");
    assert!(
        out.contains("image: i:5\n") && out.contains("user: u\n"),
        "{out}"
    );
    assert_eq!(run(&[], &["config", "--services"]), "a\ndbg\n");
    assert_eq!(run(&[], &["config", "--images"]), "i:5\nnamed_dbg\n");

    // What the process has comes first, and flags before that.
    let over = [
        ("COMPOSE_PROJECT_NAME", "other"),
        ("COMPOSE_PROFILES", "none"),
        ("TAG", "6"),
    ];
    let out = run(&over, &["config"]);
    assert!(
        out.starts_with("name: other\n") && out.contains("image: i:6\n"),
        "{out}"
    );
    assert_eq!(run(&over, &["config", "--services"]), "a\n");
    assert!(run(&over, &["-p", "flag", "config"]).starts_with("name: flag\n"));
    assert!(!run(&[], &["-f", "a.yaml", "config"]).contains("user: u"));
    assert!(run(&[], &["--compatibility", "config", "--images"]).contains("named_dbg"));
}

#[test]
fn env_files_are_named_or_switched_off() {
    let directory = project(&[
        ("compose.yaml", "services: {a: {image: 'i:${TAG:-none}'}}\n"),
        (".env", "TAG=dot\n"),
        ("one.env", "TAG=one\nCOMPOSE_PROJECT_NAME=from-one\n"),
        ("two.env", "TAG=two\n"),
    ]);
    let image = |environment: &[(&str, &str)], args: &[&str]| {
        let args = [args, &["config", "--images"]].concat();
        wharf(directory.path(), environment, &args).1
    };
    assert_eq!(image(&[], &[]), "i:dot\n");
    assert_eq!(
        image(&[("COMPOSE_DISABLE_ENV_FILE", "true")], &[]),
        "i:none\n"
    );
    assert_eq!(
        image(&[("COMPOSE_ENV_FILES", "one.env,two.env")], &[]),
        "i:two\n"
    );
    assert_eq!(
        image(
            &[("COMPOSE_ENV_FILES", "two.env")],
            &["--env-file", "one.env"]
        ),
        "i:one\n"
    );
    let (_, out, _) = wharf(directory.path(), &[], &["--env-file", "one.env", "config"]);
    assert!(out.starts_with("name: from-one\n"), "{out}");
}

/// A switch that is no such value is said, wherever it stands.
#[test]
fn a_switch_that_is_wrong_is_named() {
    let sound = "services: {a: {image: i}}\n";
    for (env, part) in [
        ("COMPOSE_ANSI=blue\n", "COMPOSE_ANSI"),
        ("COMPOSE_PROGRESS=fast\n", "COMPOSE_PROGRESS"),
        ("COMPOSE_PARALLEL_LIMIT=many\n", "COMPOSE_PARALLEL_LIMIT"),
        ("COMPOSE_PROJECT_NAME=Not Legal\n", "invalid project name"),
        ("COMPOSE_FILE=gone.yaml\n", "gone.yaml"),
    ] {
        let directory = project(&[("compose.yaml", sound), (".env", env)]);
        let (code, out, err) = wharf(directory.path(), &[], &["config"]);
        assert!(
            code != 0 && out.is_empty() && err.contains(part),
            "{env}: {code} {err}"
        );
    }
    // Colours of messages by the switch of the file.
    let wrong = "services: {a: {imag: i}}\n";
    for (env, is_colored) in [
        ("COMPOSE_ANSI=always\n", true),
        ("COMPOSE_ANSI=never\n", false),
    ] {
        let directory = project(&[("compose.yaml", wrong), (".env", env)]);
        let (_, _, err) = wharf(directory.path(), &[], &["config"]);
        assert_eq!(err.contains('\u{1b}'), is_colored, "{env}: {err:?}");
    }
}
