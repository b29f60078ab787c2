//! Compose files in git repositories: fetched into a cache, and confined to it (S46).
//!
//! The repositories are bare ones on this machine, read over `file://`. Without a `git` program the
//! tests say so and end.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use wharf::cli::remote::RemoteFiles;
use wharf::compose::{self, LoadOptions, Loaded};
use wharf::source::Files;

struct World {
    root: tempfile::TempDir,
}

impl World {
    /// A bare repository with these files on `main` and the tag `v1`; `None` without git.
    fn new(files: &[(&str, &str)]) -> Option<World> {
        if Command::new("git").arg("--version").output().is_err() {
            _ = io::Write::write_all(&mut io::stderr(), b"skipped: no git here\n");
            return None;
        }
        let world = World {
            root: tempfile::tempdir().expect("a temporary directory"),
        };
        let work = world.at("work");
        for (path, text) in files {
            let path = work.join(path);
            std::fs::create_dir_all(path.parent().expect("below work")).expect("it is made");
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, &path).expect("a link"),
                None => std::fs::write(&path, text).expect("it is written"),
            }
        }
        world.git(&work, &["init", "-q", "-b", "main"]);
        world.commit();
        world.git(&work, &["tag", "v1"]);
        let bare = world.at("repo.git").to_string_lossy().into_owned();
        world.git(&work, &["clone", "-q", "--bare", ".", &bare]);
        world.git(&work, &["remote", "add", "origin", &bare]);
        Some(world)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn git(&self, directory: &Path, arguments: &[&str]) {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
            .args(["-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(directory)
            .output()
            .expect("git runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    fn commit(&self) {
        let work = self.at("work");
        self.git(&work, &["add", "-A"]);
        self.git(&work, &["commit", "-q", "-m", "x"]);
    }

    fn url(&self, fragment: &str) -> String {
        format!("file://{}{fragment}", self.at("repo.git").display())
    }

    fn fetching(&self) -> RemoteFiles<'static> {
        RemoteFiles::fetching().with_cache(self.at("cache"))
    }

    fn cached(&self) -> RemoteFiles<'static> {
        RemoteFiles::cached().with_cache(self.at("cache"))
    }

    fn load(&self, yaml: &str, files: &RemoteFiles<'_>) -> Loaded {
        let project = self.at("project");
        std::fs::create_dir_all(&project).expect("it is made");
        std::fs::write(project.join("compose.yaml"), yaml).expect("it is written");
        compose::load(&LoadOptions::new(project, BTreeMap::new()), files)
    }
}

fn errors(loaded: &Loaded) -> String {
    let errors = loaded.diagnostics.iter().filter(|d| d.is_error());
    errors
        .map(|d| d.message.clone())
        .collect::<Vec<_>>()
        .join("; ")
}

const FILES: &[(&str, &str)] = &[
    ("compose.yaml", "services: {top: {image: 'top:${V}'}}\n"),
    (".env", "V=1\n"),
    (
        "sub/dir/compose.yaml",
        "services:\n  deep: {image: deep, build: ./ctx}\n",
    ),
    (
        "base.yaml",
        "services: {base: {image: base, env_file: e.env}}\n",
    ),
    ("e.env", "FROM=repository\n"),
    ("link.yaml", "-> /etc/passwd"),
    ("out", "-> /etc"),
];

#[test]
fn repositories_are_included_and_extended() {
    let Some(world) = World::new(FILES) else {
        return;
    };
    let yaml = format!(
        "include: ['{}', '{}']\nservices:\n  a: {{extends: {{file: '{}', service: base}}}}\n",
        world.url("#main"),
        world.url("#v1:sub/dir"),
        world.url("#main:base.yaml"),
    );
    let before = world.load(&yaml, &world.cached());
    assert!(
        errors(&before).contains("has not been fetched"),
        "{}",
        errors(&before)
    );
    assert!(!world.at("cache").exists(), "reading has made nothing");

    let loaded = world.load(&yaml, &world.fetching());
    let project = loaded
        .project
        .as_ref()
        .unwrap_or_else(|| panic!("{}", errors(&loaded)));
    assert_eq!(project.services["top"].image.as_deref(), Some("top:1"));
    let context = project.services["deep"]
        .build
        .as_ref()
        .map(|b| b.context.clone());
    let context = context.expect("it is built");
    assert!(
        context.starts_with(&*world.at("cache").to_string_lossy()),
        "{context}"
    );
    assert!(context.ends_with("/sub/dir/ctx"), "{context}");
    assert_eq!(
        project.services["a"].environment.get("FROM"),
        Some(&Some("repository".to_owned()))
    );
    assert!(project.working_dir.ends_with("project"));

    // What was fetched serves commands that only read, and nothing else was left behind.
    assert!(world.load(&yaml, &world.cached()).project.is_some());
    let names: Vec<String> = std::fs::read_dir(world.at("cache/git"))
        .expect("it is there")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.len() == 64), "{names:?}");

    // A branch moves; the next command that may fetch follows it.
    std::fs::write(
        world.at("work/compose.yaml"),
        "services: {top: {image: new}}\n",
    )
    .expect("it is written");
    world.commit();
    world.git(&world.at("work"), &["push", "-q", "origin", "main"]);
    let image = |loaded: Loaded| loaded.project.and_then(|p| p.services["top"].image.clone());
    assert_eq!(
        image(world.load(&yaml, &world.cached())).as_deref(),
        Some("top:1")
    );
    assert_eq!(
        image(world.load(&yaml, &world.fetching())).as_deref(),
        Some("new")
    );

    let mut options = LoadOptions::new(world.at("project"), BTreeMap::new());
    options.files = vec![PathBuf::from(world.url("#main"))];
    let loaded = compose::load(&options, &world.cached());
    let project = loaded
        .project
        .as_ref()
        .unwrap_or_else(|| panic!("{}", errors(&loaded)));
    // Named after where the user stands; what the file names is in its own tree.
    assert_eq!(project.name.to_string(), "project", "F5 F11");
    let cache = world.at("cache");
    assert!(project.working_dir.starts_with(&cache), "F5 F11");
    options.project_directory = Some(world.at("project"));
    let elsewhere = compose::load(&options, &world.cached()).project;
    let elsewhere = elsewhere.expect("it loads");
    assert!(elsewhere.working_dir.starts_with(&cache), "F5 F11");
    options.project_directory = None;

    options
        .environment
        .insert("COMPOSE_EXPERIMENTAL_GIT_REMOTE".into(), "0".into());
    assert!(
        errors(&compose::load(&options, &world.fetching())).contains("switched off"),
        "F11"
    );
}

#[test]
fn nothing_leads_out_of_the_cache() {
    let Some(world) = World::new(FILES) else {
        return;
    };
    let files = world.fetching();
    let marker = world.at("executed");
    let command = format!("touch${{IFS}}{}", marker.display());
    let kind = |reference: &str| files.remote(reference).map_err(|e| e.kind());
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    for (reference, expected) in [
        (world.url("#main:../../etc"), PermissionDenied),
        (world.url("#main:/etc"), PermissionDenied),
        (world.url("#main:sub/../../x"), PermissionDenied),
        (world.url("#main:.git/config"), PermissionDenied),
        (
            world.url(&format!("#--upload-pack={command}")),
            InvalidInput,
        ),
        (world.url("#../x"), InvalidInput),
        (world.url("#a b"), InvalidInput),
        (world.url("#main^{tree}"), InvalidInput),
        (format!("--upload-pack={command}"), InvalidInput),
        (format!("ext::sh -c {command}"), InvalidInput),
        (format!("ssh://-oProxyCommand={command}/x"), InvalidInput),
        (format!("ssh://u@-oProxyCommand={command}/x"), InvalidInput),
        ("https://h/\nx".to_owned(), InvalidInput),
        ("oci://registry/x".to_owned(), Unsupported),
    ] {
        assert_eq!(kind(&reference), Err(expected), "{reference}");
    }
    assert!(!marker.exists());

    // Links come out as files with their target's name in them.
    let link = files
        .remote(&world.url("#main:link.yaml"))
        .expect("a plain file");
    assert!(!link.is_symlink());
    assert_eq!(
        std::fs::read_to_string(&link).ok().as_deref(),
        Some("/etc/passwd")
    );
    assert!(files.remote(&world.url("#main:out/passwd")).is_err());

    // Somebody else's link in the tree is refused too.
    let tree = link.parent().expect("below the cache").to_owned();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("planted.yaml")).expect("a link");
    let planted = world.cached().remote(&world.url("#main:planted.yaml"));
    assert_eq!(planted.map_err(|e| e.kind()), Err(PermissionDenied));
    assert!(!tree.join(".git").exists());
}

#[test]
fn passwords_of_urls_are_not_shown() {
    let world = World {
        root: tempfile::tempdir().expect("a temporary directory"),
    };
    let yaml = "include: ['https://user:hunter2@localhost:1/r.git']\nservices: {}\n";
    for files in [world.cached(), world.fetching()] {
        let loaded = world.load(yaml, &files);
        let found = errors(&loaded);
        assert!(
            found.contains("remote resource https://localhost:1/r.git"),
            "{found}"
        );
        assert!(!found.contains("hunter2"), "{found}");
        let shown = wharf::source::render(&loaded.diagnostics, &loaded.sources, false);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
