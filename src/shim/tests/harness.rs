//! A root file system, a spawner, and containers to ask things of.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use crate::runtime::cgroup::Cgroup;
use crate::shim::protocol::log::Stream;
use crate::shim::protocol::{
    Answer, Bundle, Call, Event, ExitRecord, Failure, Message, Request, Rootfs, ShimRecord, Spawn,
    StartRecord, file, log,
};
use crate::shim::spawner;
use crate::sys::{process, socket};

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this process may make containers; says so when not.
pub fn is_privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: needs root\n");
    }
    root
}

/// A static busybox of this machine, or one from its distribution's archive.
fn busybox() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        for path in ["/bin/busybox", "/usr/bin/busybox"] {
            if Path::new(path).exists() {
                return PathBuf::from(path);
            }
        }
        let cache = std::env::temp_dir().join("wharf-test-busybox");
        let binary = cache.join("bin/busybox");
        if !binary.exists() {
            let work = tempfile::tempdir().unwrap();
            let script = "apt-get -q download busybox-static && dpkg-deb -x busybox-static*.deb x";
            let done = Command::new("sh")
                .args(["-c", script])
                .current_dir(work.path())
                .output()
                .unwrap();
            assert!(
                done.status.success(),
                "{}",
                String::from_utf8_lossy(&done.stderr)
            );
            std::fs::create_dir_all(cache.join("bin")).unwrap();
            std::fs::copy(
                work.path().join("x/bin/busybox"),
                binary.with_extension("new"),
            )
            .unwrap();
            std::fs::rename(binary.with_extension("new"), &binary).unwrap();
        }
        binary
    })
}

/// An image, and a spawner to start containers of it.
pub struct Rig {
    dir: tempfile::TempDir,
    spawner: OwnedFd,
}

impl Rig {
    pub fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        for name in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(image.join(name)).unwrap();
        }
        std::fs::copy(busybox(), image.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "sleep", "true", "false", "echo", "ls", "id", "kill", "ps", "mount",
            "touch", "tty", "head", "grep", "stat", "pwd", "mkdir", "readlink", "hostname", "stty",
            "printf", "wc", "env", "dd",
        ] {
            std::os::unix::fs::symlink("busybox", image.join("bin").join(name)).unwrap();
        }
        std::fs::write(
            image.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\n",
        )
        .unwrap();
        std::fs::write(
            image.join("etc/group"),
            "root:x:0:\napp:x:1001:\nwheel:x:10:app\n",
        )
        .unwrap();
        Rig {
            dir,
            spawner: spawner::fork().unwrap(),
        }
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a shim for `sh -c script`, after `change` had its say.
    pub fn spawn(&self, script: &str, change: impl FnOnce(&mut Value)) -> Running {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "t{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = self.dir.path().join(&id);
        for name in ["run", "upper", "work"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let mut bundle = json!({
            "container_id": id,
            "spec": spec(script),
            "rootfs": {"type": "overlay", "lower": [self.image()], "upper": dir.join("upper"), "work": dir.join("work")},
            "log_path": dir.join("log"),
            "cgroup": format!("wharf-shim-test/{id}"),
            "stop_signal": 15,
            "stop_grace_ms": 1000,
            "default_seccomp": true,
        });
        change(&mut bundle);
        let bundle: Bundle = serde_json::from_value(bundle).unwrap();
        assert!(matches!(bundle.rootfs, Rootfs::Overlay { .. }));
        std::fs::write(
            dir.join("run").join(file::BUNDLE),
            serde_json::to_vec(&bundle).unwrap(),
        )
        .unwrap();
        let (control, shim) = socket::pair().unwrap();
        let spawn = Spawn {
            dir: dir.join("run"),
            has_netns: false,
        };
        socket::send(
            &self.spawner,
            &serde_json::to_vec(&spawn).unwrap(),
            &[shim.as_fd()],
        )
        .unwrap();
        drop(shim);
        Running {
            control,
            dir,
            id,
            next: Cell::new(1),
            events: Vec::new(),
        }
    }

    /// Runs a script to its end: its record, stdout and stderr.
    pub fn run_with(
        &self,
        script: &str,
        change: impl FnOnce(&mut Value),
    ) -> (ExitRecord, String, String) {
        let mut running = self.spawn(script, change);
        let record = running.exited();
        let (out, err) = running.output();
        running.release();
        (record, out, err)
    }

    pub fn run(&self, script: &str) -> (ExitRecord, String, String) {
        self.run_with(script, |_| {})
    }

    pub fn fails(&self, change: impl FnOnce(&mut Value)) -> Failure {
        let mut running = self.spawn("true", change);
        match running.next_event() {
            Event::StartFailed { failure } => failure,
            other => panic!("started: {other:?}"),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The parent of the containers' cgroups goes with the last test that uses it.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_dir(hierarchy.path().join("wharf-shim-test"));
        }
    }
}

fn spec(script: &str) -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": "unused", "readonly": false},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/proc/interrupts", "/proc/no-such", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/no-such"],
        },
    })
}

/// A container that was asked for.
pub struct Running {
    pub control: OwnedFd,
    pub dir: PathBuf,
    pub id: String,
    next: Cell<u64>,
    events: Vec<Event>,
}

impl Running {
    fn receive(&self) -> Option<(Message, Vec<OwnedFd>)> {
        wait(self.control.as_fd());
        let mut buffer = vec![0; spawner::MAX_PACKET];
        let (n, fds) = socket::receive(&self.control, &mut buffer).ok()?;
        let packet = buffer.get(..n).filter(|packet| !packet.is_empty())?;
        Some((serde_json::from_slice(packet).unwrap(), fds))
    }

    pub fn next_event(&mut self) -> Event {
        if !self.events.is_empty() {
            return self.events.remove(0);
        }
        match self.receive() {
            Some((Message::Event { event }, _)) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    pub fn started(&mut self) -> StartRecord {
        match self.next_event() {
            Event::Started(record) => record,
            other => panic!("not started: {other:?}"),
        }
    }

    pub fn exited(&mut self) -> ExitRecord {
        loop {
            match self.next_event() {
                Event::Exited { record } => return record,
                Event::StartFailed { failure } => panic!("start failed: {failure}"),
                _ => {}
            }
        }
    }

    pub fn exec_exited(&mut self) -> i32 {
        loop {
            if let Event::ExecExited { code, .. } = self.next_event() {
                return code;
            }
        }
    }

    pub fn call(&mut self, call: Call, fds: &[BorrowedFd<'_>]) -> (Answer, Vec<OwnedFd>) {
        let id = self.next.replace(self.next.get() + 1);
        let request = serde_json::to_vec(&Request { id, call }).unwrap();
        socket::send(&self.control, &request, fds).unwrap();
        loop {
            match self.receive().expect("the shim is gone") {
                (Message::Reply { id: of, answer }, fds) if of == id => return (answer, fds),
                (Message::Reply { .. }, _) => {}
                (Message::Event { event }, _) => self.events.push(event),
            }
        }
    }

    pub fn done(&mut self, call: Call) {
        let (answer, _) = self.call(call, &[]);
        assert!(matches!(answer, Answer::Done), "{answer:?}");
    }

    /// Connects as a new engine.
    pub fn reconnect(&mut self) {
        self.control = socket::connect(&self.dir.join("run").join(file::SOCKET)).unwrap();
    }

    pub fn shim_pid(&self) -> i32 {
        let record = std::fs::read(self.dir.join("run").join(file::SHIM)).unwrap();
        serde_json::from_slice::<ShimRecord>(&record).unwrap().pid
    }

    pub fn output(&self) -> (String, String) {
        let bytes = std::fs::read(self.dir.join("log")).unwrap();
        let mut decoder = log::Decoder::new();
        decoder.push(&bytes);
        let mut texts = [Vec::new(), Vec::new()];
        while let Some(record) = decoder.next_record().unwrap() {
            texts[usize::from(record.stream == Stream::Stderr)].extend_from_slice(record.payload);
        }
        assert_eq!(decoder.remaining(), 0, "torn log");
        texts
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .into()
    }

    /// Waits until the output contains a text.
    pub fn expect_output(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.output().0.contains(text) {
            assert!(
                Instant::now() < deadline,
                "no {text:?} in {:?}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the shim and proves that it left nothing.
    pub fn release(&mut self) {
        self.done(Call::Release);
        assert!(self.receive().is_none());
        self.assert_nothing_left();
    }

    pub fn assert_nothing_left(&self) {
        let name = format!("wharf-shim-test/{}", self.id);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            assert!(
                !hierarchy.path().join(&name).exists(),
                "cgroup left in {hierarchy:?}"
            );
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.id), "mounts left:\n{mounts}");
    }
}

impl Drop for Running {
    /// A test that failed half way leaves nothing running.
    fn drop(&mut self) {
        if let Some(shim) = std::fs::read(self.dir.join("run").join(file::SHIM))
            .ok()
            .and_then(|text| serde_json::from_slice::<ShimRecord>(&text).ok())
            .filter(|record| {
                process::start_ticks(record.pid).is_ok_and(|at| at == record.start_ticks)
            })
        {
            let _ = crate::sys::signal::kill(shim.pid, libc::SIGKILL);
        }
        if let Ok(cgroup) = Cgroup::open(&Path::new("wharf-shim-test").join(&self.id)) {
            let _ = cgroup.kill_all();
            let _ = cgroup.remove();
        }
    }
}

fn wait(fd: BorrowedFd<'_>) {
    let timeout = Timespec {
        tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(),
        tv_nsec: 0,
    };
    let n = poll(
        &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
        Some(&timeout),
    )
    .unwrap();
    assert_eq!(n, 1, "the shim says nothing");
}

/// Waits for a condition, and says what it was when it does not come.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
