//! How long it takes to load a project: in process against its budget, and as a process against
//! another `docker-compose`.
//!
//! The other program is named by `WHARF_BENCH_PEER_EXEC`: a program and its first arguments,
//! divided by blanks. `WHARF_BENCH_DIRECTORY` names a directory that it can read as well; the
//! system's temporary one otherwise. Every number is the best of several runs, because on a busy
//! machine only the best one says something of the program.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wharf::compose::print::{PrintOptions, to_yaml};
use wharf::compose::{self, LoadOptions};
use wharf::source::files::HostFiles;

/// A file of services as real ones are: anchors, merge keys, variables, health checks.
fn file(n: usize) -> String {
    let mut text = "\
x-common: &common
  restart: unless-stopped
  logging: &logging {driver: json-file, options: {max-size: 10m, max-file: '3'}}
  networks: [front, back]
x-health: &health
  interval: 5s
  timeout: 3s
  retries: 5
  start_period: 10s
services:
"
    .to_owned();
    for i in 0..n {
        _ = write!(
            text,
            "  s{i}:
    <<: *common
    image: registry.example.com/team/app-{i}:${{TAG:-1.2.3}}
    command: [\"serve\", \"--port\", \"8080\"]
    environment:
      A: one
      B: ${{FOO:-foo}}
      C: three
      D: 4
    ports: [\"{port}:80\"]
    volumes:
      - data:/var/lib/data
      - ./conf/{i}:/etc/app:ro
    labels:
      com.example.a: x
      com.example.b: y
    healthcheck:
      <<: *health
      test: [CMD, curl, -f, http://localhost]
    deploy: {{resources: {{limits: {{cpus: '0.5', memory: 128M}}}}}}
",
            port = 10_000 + i
        );
        if i > 0 {
            let before = i - 1;
            _ = writeln!(
                text,
                "    depends_on: {{s{before}: {{condition: service_healthy}}}}"
            );
        }
    }
    text.push_str("volumes: {data: {}}\nnetworks: {front: {}, back: {}}\n");
    text
}

/// The shortest time of several runs, as the clock on the wall tells it.
fn best(n: usize, mut run: impl FnMut()) -> Duration {
    let one = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..n).map(one).min().unwrap_or_default()
}

/// The least CPU time of several runs. Loading is one thread's work, so on an idle machine this is
/// what the clock shows; on a busy one the clock would show the neighbours.
fn least(n: usize, mut run: impl FnMut()) -> Duration {
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
    };
    let one = |_| {
        let start = now();
        run();
        now().saturating_sub(start)
    };
    (0..n).map(one).min().unwrap_or_default()
}

fn load(directory: &Path) -> Duration {
    least(20, || {
        let options = LoadOptions::new(directory.to_owned(), BTreeMap::new());
        let loaded = compose::load(&options, &HostFiles);
        assert!(loaded.project.is_some(), "{:?}", loaded.diagnostics.first());
    })
}

fn print(directory: &Path) -> Duration {
    let options = LoadOptions::new(directory.to_owned(), BTreeMap::new());
    let loaded = compose::load(&options, &HostFiles);
    let project = loaded.project.expect("the file is sound");
    least(20, || {
        assert!(!to_yaml(&project, PrintOptions::default()).is_empty());
    })
}

fn process(program: &[&str], directory: &Path) -> io::Result<Duration> {
    let mut failure = None;
    let file = directory.join("compose.yaml");
    let time = best(10, || {
        let status = Command::new(program[0])
            .args(&program[1..])
            .arg("-f")
            .arg(&file)
            .arg("config")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => failure = Some(io::Error::other(format!("{}: {status}", program[0]))),
            Err(error) => failure = Some(error),
        }
    });
    match failure {
        Some(failure) => Err(failure),
        None => Ok(time),
    }
}

fn main() -> io::Result<()> {
    // `cargo test --benches` runs this too; a debug build has nothing to say about time.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    let place =
        std::env::var_os("WHARF_BENCH_DIRECTORY").map_or_else(std::env::temp_dir, Into::into);
    let root = tempfile::tempdir_in(place)?;
    let sizes = [57, 250, 500, 1_000, 2_000];
    let mut times = BTreeMap::new();
    for n in sizes {
        let directory = root.path().join(format!("services-{n}"));
        std::fs::create_dir(&directory)?;
        std::fs::write(directory.join("compose.yaml"), file(n))?;
        let (load, print) = (load(&directory), print(&directory));
        writeln!(
            out,
            "{n:>5} services: load {load:>10.2?}  print {print:>10.2?}"
        )?;
        times.insert(n, load);
    }
    let ms = |n: usize| times[&n].as_secs_f64() * 1e3;
    writeln!(
        out,
        "   57 services: {:.2} of the budget of 5 ms",
        ms(57) / 5.0
    )?;
    writeln!(
        out,
        " 1000 services: {:.2} of the budget of 80 ms",
        ms(1_000) / 80.0
    )?;
    writeln!(
        out,
        " 2000 services: {:.2} times 500 services; 4 is linear",
        ms(2_000) / ms(500)
    )?;

    let small = root.path().join("services-57");
    let ours = process(&[env!("CARGO_BIN_EXE_wharf")], &small)?;
    writeln!(out, "process, 57 services: {ours:.2?}")?;
    if let Ok(peer) = std::env::var("WHARF_BENCH_PEER_EXEC") {
        let program: Vec<&str> = peer.split_whitespace().collect();
        let theirs = process(&program, &small)?;
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        writeln!(
            out,
            "the other program:    {theirs:.2?}, {ratio:.1} times ours"
        )?;
    }
    Ok(())
}
