//! One test's world: an engine with roots of its own, projects, and the `wharf` program.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use wharf::engine::Roots;

use super::{image, kernel, wait};

/// How long one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// An engine's roots and everything that a test makes beside them, below one short path.
pub struct TestEnv {
    root: PathBuf,
    /// Directories of the projects made so far, for the clearing at the end.
    projects: Mutex<Vec<Project>>,
    before: Snapshot,
}

/// What is compared before and after.
struct Snapshot {
    mounts: Vec<kernel::Mount>,
    links: std::collections::BTreeSet<String>,
    tables: std::collections::BTreeSet<String>,
    ports: std::collections::BTreeSet<String>,
}

impl Snapshot {
    fn take() -> Snapshot {
        let mut mounts = kernel::own_mounts();
        mounts.sort();
        Snapshot {
            mounts,
            links: kernel::links(),
            tables: kernel::nft_tables(),
            ports: kernel::bound_ports(),
        }
    }
}

/// A directory with a Compose file, and its project name.
#[derive(Clone)]
pub struct Project {
    pub name: String,
    pub directory: PathBuf,
    root: PathBuf,
}

/// How a command ended.
pub struct Run {
    command: String,
    /// 128 + signal when one ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl TestEnv {
    /// Makes the world in a directory that is empty; `Drop` does nothing, see [`TestEnv::finish`].
    pub fn new(root: &Path) -> TestEnv {
        image::busybox_rootfs(&root.join("busybox"));
        TestEnv {
            root: root.to_owned(),
            projects: Mutex::new(Vec::new()),
            before: Snapshot::take(),
        }
    }

    /// The tag in the names of the kernel objects that an engine in this directory makes.
    pub fn tag_for(root: &Path) -> String {
        Roots {
            data: root.join("d"),
            run: root.join("r"),
            socket: root.join("r/wharf.sock"),
        }
        .tag()
    }

    pub fn tag(&self) -> String {
        TestEnv::tag_for(&self.root)
    }

    /// A path below the test's own directory.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    pub fn data_root(&self) -> PathBuf {
        self.root.join("d")
    }

    pub fn run_root(&self) -> PathBuf {
        self.root.join("r")
    }

    /// The busybox image as a reference.
    pub fn image(&self) -> String {
        format!("rootfs:{}", self.root.join("busybox").display())
    }

    /// A project with this Compose file; `IMAGE` in it stands for the busybox image, `ROOT` for the
    /// test's directory.
    pub fn project(&self, name: &str, compose: &str) -> Project {
        let directory = self.root.join("p").join(name);
        fs::create_dir_all(&directory).expect("the test's directory is ours");
        let project = Project {
            name: name.to_owned(),
            directory,
            root: self.root.clone(),
        };
        project.write(&self.fill_in(compose));
        self.projects
            .lock()
            .expect("no panic under this lock")
            .push(project.clone());
        project
    }

    /// A project whose directory stands elsewhere, such as an example.
    pub fn project_in(&self, name: &str, directory: &Path) -> Project {
        let project = Project {
            name: name.to_owned(),
            directory: directory.to_owned(),
            root: self.root.clone(),
        };
        self.projects
            .lock()
            .expect("no panic under this lock")
            .push(project.clone());
        project
    }

    pub fn fill_in(&self, compose: &str) -> String {
        compose
            .replace("IMAGE", &self.image())
            .replace("ROOT", self.root.to_str().expect("we chose its name"))
    }

    /// `wharf` without a project.
    pub fn wharf<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        let mut command = wharf_command(&self.root);
        command.args(arguments);
        run(command)
    }

    /// The program with this engine's roots, for what [`TestEnv::wharf`] is too simple for.
    pub fn command(&self) -> Command {
        wharf_command(&self.root)
    }

    /// The pid of this world's engine, when one runs.
    pub fn engine_pid(&self) -> Option<i32> {
        pids_in_role(|name| !name.starts_with("wharf-"))
            .first()
            .copied()
    }

    /// The pids of this world's engines. More than one is a bug, but a short one while a second
    /// finds the lock taken.
    pub fn engine_pids(&self) -> Vec<i32> {
        pids_in_role(|name| !name.starts_with("wharf-"))
    }

    /// The pids of this world's shims.
    pub fn shim_pids(&self) -> Vec<i32> {
        pids_in_role(|name| name == "wharf-shim")
    }

    /// Waits until no container has a process beside it.
    #[track_caller]
    pub fn expect_no_shims(&self) {
        wait::wait_for("all shims to end", || {
            self.shim_pids().is_empty().then_some(())
        });
    }

    /// Ends the projects and the engine, then reports what is left in the kernel and on disk.
    pub fn finish(&self) -> Result<(), String> {
        let projects = self
            .projects
            .lock()
            .expect("no panic under this lock")
            .clone();
        for project in projects.iter().filter(|project| project.directory.is_dir()) {
            let run = project.wharf(&["down", "-v", "-t", "0", "--remove-orphans"]);
            // A file that a test broke on purpose cannot be loaded; then nothing of it may be there.
            let _ = run.code;
        }
        let stop = self.wharf(&["engine", "stop"]);
        if stop.code != 0 && self.engine_pid().is_some() {
            return Err(format!("the engine does not stop: {stop}"));
        }
        let mut report = Vec::new();
        // What ends, ends soon, but not before `stop` has returned in every case.
        wait::poll(Duration::from_secs(5), || {
            report = self.leaks();
            report.is_empty().then_some(())
        });
        if report.is_empty() {
            Ok(())
        } else {
            Err(format!("left behind:\n  {}", report.join("\n  ")))
        }
    }

    /// What this world has that it did not have when it was made.
    pub fn leaks(&self) -> Vec<String> {
        let mut report = Vec::new();
        let after = Snapshot::take();
        for process in kernel::processes() {
            report.push(format!("process {} {}", process.pid, process.command));
        }
        for mount in &after.mounts {
            if !self.before.mounts.contains(mount) {
                report.push(format!("mount {} ({})", mount.target, mount.kind));
            }
        }
        for link in after.links.difference(&self.before.links) {
            report.push(format!("link {link}"));
        }
        for table in after.tables.difference(&self.before.tables) {
            report.push(format!("nftables table {table}"));
        }
        for port in after.ports.difference(&self.before.ports) {
            report.push(format!("port {port}"));
        }
        for cgroup in kernel::cgroups(&self.tag()) {
            report.push(format!("cgroup {}", cgroup.display()));
        }
        for (name, root) in [("data", self.data_root()), ("run", self.run_root())] {
            for path in kernel::entries_under(&root) {
                if !is_empty_store(&path) {
                    report.push(format!("{} in the {name} root", path.display()));
                }
            }
        }
        report
    }

    /// The end of the engine's log, for a failed test.
    pub fn engine_log(&self) -> String {
        let mut text = String::new();
        for root in [self.run_root(), self.data_root()] {
            for file in kernel::files_under(&root) {
                let is_log = file.extension().is_some_and(|extension| extension == "log");
                if !is_log || file.components().count() > 2 {
                    continue;
                }
                let bytes = fs::read(root.join(&file)).unwrap_or_default();
                let log = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                text += &format!("---- {}\n{tail}\n", root.join(&file).display());
            }
        }
        let running = kernel::processes();
        let lines = running
            .iter()
            .map(|process| format!("{} {} {}\n", process.pid, process.state, process.command));
        text + "---- processes\n" + &lines.collect::<String>()
    }
}

/// Processes that are an engine or were forked by one, with the names that those give themselves.
fn pids_in_role(has_role: impl Fn(&str) -> bool) -> Vec<i32> {
    kernel::processes()
        .into_iter()
        .filter(|process| process.state != 'Z')
        .filter(|process| {
            // The spawner and its shims are a program start of their own.
            process.command.contains(" engine run") || process.command == "wharf-spawner"
        })
        .filter(|process| has_role(&process.name))
        .map(|process| process.pid)
        .collect()
}

/// Whether a path in an engine's roots is there with no container, volume or network.
fn is_empty_store(path: &Path) -> bool {
    const FILES: &[&str] = &[
        "state.redb",
        "state.reserve",
        "boot_id",
        "births.lock",
        "engine.lock",
        "engine.lock.respawn",
        "start.lock",
        "engine.log",
    ];
    // Content of images stays until it is pruned, as the user expects of `down`.
    const CONTENT: &[&str] = &["blobs", "snapshots", "recipes"];
    FILES.iter().any(|name| path == Path::new(name))
        || CONTENT.iter().any(|name| path.starts_with(name))
}

impl Project {
    /// Replaces the Compose file.
    pub fn write(&self, compose: &str) {
        fs::write(self.directory.join("compose.yaml"), compose)
            .expect("the test's directory is ours");
    }

    /// `wharf` for this project.
    pub fn wharf<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        let mut command = self.command();
        command.args(arguments);
        run(command)
    }

    /// The program for this project, for what [`Project::wharf`] is too simple for.
    pub fn command(&self) -> Command {
        let mut command = wharf_command(&self.root);
        command
            .arg("--project-directory")
            .arg(&self.directory)
            .args(["-p", &self.name]);
        command
    }

    /// `up -d`, which has to succeed.
    #[track_caller]
    pub fn up(&self) -> Run {
        self.wharf(&["up", "-d"]).ok()
    }

    /// `down` without mercy, which has to succeed.
    #[track_caller]
    pub fn down(&self) -> Run {
        self.wharf(&["down", "-t", "1"]).ok()
    }

    /// The output of a command in a service's container, which has to succeed. The last line break
    /// is cut off.
    #[track_caller]
    pub fn exec(&self, service: &str, command: &[&str]) -> String {
        let mut arguments = vec!["exec", "-T", service];
        arguments.extend(command);
        let output = self.wharf(&arguments).ok().stdout;
        output.strip_suffix('\n').unwrap_or(&output).to_owned()
    }

    /// A shell script in a service's container, which has to succeed.
    #[track_caller]
    pub fn sh(&self, service: &str, script: &str) -> String {
        self.exec(service, &["sh", "-c", script])
    }

    /// The one process with exactly this command line, waited for.
    #[track_caller]
    pub fn pid_of(&self, command: &str) -> i32 {
        wait::wait_for(
            &format!("the process {command:?}"),
            || match kernel::pids_of(command)[..] {
                [pid] => Some(pid),
                _ => None,
            },
        )
    }

    /// What `ps --format json` knows about the containers, by name.
    #[track_caller]
    pub fn ps(&self) -> Vec<serde_json::Value> {
        let text = self.wharf(&["ps", "-a", "--format", "json"]).ok().stdout;
        text.lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).expect("ps prints one JSON object a line"))
            .collect()
    }

    /// One field of one container in `ps --format json`.
    #[track_caller]
    pub fn ps_field(&self, container: &str, field: &str) -> serde_json::Value {
        let rows = self.ps();
        let row = rows.iter().find(|row| row["Name"] == container);
        row.unwrap_or_else(|| panic!("no container {container} in {rows:?}"))[field].clone()
    }

    /// Waits until `ps` says so.
    #[track_caller]
    pub fn wait_for_state(&self, container: &str, state: &str) {
        wait::wait_for(&format!("{container} to be {state}"), || {
            let rows = self.ps();
            let row = rows.iter().find(|row| row["Name"] == container)?;
            (row["State"] == state).then_some(())
        });
    }
}

impl Run {
    #[track_caller]
    pub fn ok(self) -> Run {
        assert!(self.code == 0, "{self}");
        self
    }

    /// The command has to fail with this exit code.
    #[track_caller]
    pub fn fails_with(self, code: i32) -> Run {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }

    /// The command has to fail and to say all of this on stderr.
    #[track_caller]
    pub fn fails_saying(self, parts: &[&str]) -> Run {
        assert!(self.code != 0, "expected a failure: {self}");
        for part in parts {
            assert!(self.stderr.contains(part), "expected {part:?}: {self}");
        }
        self
    }

    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} → {}\n-- stdout\n{}\n-- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

fn wharf_command(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", root)
        .env("WHARF_DATA_ROOT", root.join("d"))
        .env("WHARF_RUN_ROOT", root.join("r"))
        .current_dir(root);
    command
}

/// Runs a command to its end and collects what it says.
///
/// Panics when it takes longer than [`COMMAND_LIMIT`], or when something that it started still
/// holds its output then: a shell's `$(wharf up -d)` would hang.
#[track_caller]
pub fn run(mut command: Command) -> Run {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let text: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    let text = text.join(" ");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // Fails only when nobody waits any more.
        let _ = sender.send(child.wait_with_output());
    });
    let limit = wait::limit(COMMAND_LIMIT);
    let output = match receiver.recv_timeout(limit) {
        Ok(output) => output.unwrap_or_else(|error| panic!("{text}: {error}")),
        Err(_) => panic!("{text}: not done after {limit:?}, or its output is held open"),
    };
    use std::os::unix::process::ExitStatusExt;
    Run {
        command: text,
        code: output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
