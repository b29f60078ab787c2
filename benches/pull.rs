//! A cold pull from a registry on loopback, beside the least that it can cost: digest, inflate and
//! unpack the same layers in parallel, from memory, on the same machine and in the same run. With a
//! Docker Engine at hand, beside its pull of the same image, too.
//!
//! Root. Variables:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WHARF_BENCH_LAYERS_FROM` | a directory whose subdirectories become the layers, in order of their names |
//! | `WHARF_BENCH_MEGABYTES` | without it: unpacked size of all layers together, default 60 |
//! | `WHARF_BENCH_LAYERS` | number of layers, default 10 |
//! | `WHARF_BENCH_FILE_KILOBYTES` | size of a file, default 64; 1 makes many small files |
//! | `WHARF_BENCH_ROUNDS` | rounds, default 3 |
//! | `WHARF_BENCH_PROGRAM` | the program, default the one that was built with this bench |
//! | `WHARF_BENCH_PEER_EXEC` | a program that runs its arguments where `docker` works |
//!
//! Runs in a mount and a network namespace of its own, with everything under `/var/tmp`. The
//! registry listens in the peer's network namespace, too.
//!
//! The floor hashes the blob, inflates it, hashes that, and makes the files with their modes and
//! times; it does not bring them to the disk, which a pull does before it says that it is done. What
//! that costs is printed as a floor of its own.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;
use sha2::{Digest, Sha256};

const ADDRESS: &str = "127.0.0.1:5000";

fn main() -> ExitCode {
    // `cargo test --benches` runs benches, too, without this flag: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "pull: {message}");
            ExitCode::FAILURE
        }
    }
}

fn number(variable: &str, default: usize) -> usize {
    let value = std::env::var(variable).ok();
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Its diff id, its blob, and its length unpacked.
type Made = (String, Vec<u8>, usize);

/// A layer of files whose bytes compress to about a third, as programs do.
fn layer(seed: u64, n_bytes: usize, file_bytes: usize) -> Made {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut builder = tar::Builder::new(Vec::new());
    let mut content = vec![0; file_bytes];
    for n in 0..n_bytes.div_ceil(file_bytes) {
        for chunk in content.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // A few random bytes among repeated ones.
            let bytes = (state & 0x0000_00ff_0000_ffff).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(file_bytes as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        let path = format!("srv/{seed}/{}/{n}", n / 100);
        builder
            .append_data(&mut header, path, &content[..])
            .expect("memory takes it");
    }
    packed(&builder.into_inner().expect("memory takes it"))
}

fn packed(plain: &[u8]) -> Made {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(plain).expect("memory takes it");
    let blob = encoder.finish().expect("memory takes it");
    (digest(plain), blob, plain.len())
}

/// A layer for each subdirectory.
fn layers_from(directory: &Path) -> io::Result<Vec<Made>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    let pack = |path: &PathBuf| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        builder.append_dir_all("", path)?;
        Ok(packed(&builder.into_inner()?))
    };
    paths.iter().map(pack).collect()
}

/// What the registry answers, by path.
type Answers = Arc<HashMap<String, (&'static str, Vec<u8>)>>;

fn serve(listener: TcpListener, answers: Answers) {
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let answers = Arc::clone(&answers);
            // A client that goes away ends its thread.
            std::thread::spawn(move || drop(converse(connection, &answers)));
        }
    });
}

fn converse(connection: TcpStream, answers: &Answers) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut out = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
    // A registry on loopback is asked by TLS first.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return Ok(());
    }
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let mut words = request.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match answers.get(path) {
            Some((media_type, body)) => {
                // In one piece: small ones would wait for each other (Nagle) and for the receiver's
                // delayed acknowledgement, 40 ms that no real registry costs.
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
                     Docker-Content-Digest: {}\r\n\r\n",
                    body.len(),
                    path.rsplit('/')
                        .next()
                        .filter(|name| name.contains(':'))
                        .map_or_else(|| digest(body), str::to_owned),
                );
                out.write_all(head.as_bytes())?;
                if method != "HEAD" {
                    out.write_all(body)?;
                }
            }
            None => out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

/// Digest of the blob, inflation, digest of the content, files: all layers in parallel.
fn floor(layers: &[Vec<u8>], into: &Path) -> io::Result<f64> {
    let begun = Instant::now();
    let n_threads = std::thread::available_parallelism().map_or(2, usize::from);
    // The largest first, so that the last one to end is a small one.
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(layers[*n].len()));
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let Some(&n) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = unpack(&layers[n], &into.join(n.to_string())) {
                        *failure.lock().expect("no panic under this lock") = Some(error);
                    }
                }
            });
        }
    });
    let failure = failure.into_inner().expect("no panic under this lock");
    failure.map_or(Ok(milliseconds(begun)), Err)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: io::Read> io::Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

fn unpack(blob: &[u8], into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    let compressed = Hashed {
        inner: blob,
        hasher: Sha256::new(),
    };
    let compressed = BufReader::with_capacity(1 << 17, compressed);
    let plain = Hashed {
        inner: flate2::bufread::GzDecoder::new(compressed),
        hasher: Sha256::new(),
    };
    // Hashed and inflated in large pieces.
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 17, plain));
    make_files(&mut archive, into)?;
    let mut plain = archive.into_inner();
    io::copy(&mut plain, &mut io::sink())?;
    std::hint::black_box(plain.into_inner().hasher.finalize());
    Ok(())
}

/// Files below a directory, with their modes and times: what no unpacker can leave out.
fn make_files(archive: &mut tar::Archive<impl io::Read>, into: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
    let mut last: Option<(PathBuf, std::os::fd::OwnedFd)> = None;
    let mut buffer = vec![0; 1 << 17];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            continue;
        };
        if last.as_ref().is_none_or(|(known, _)| known != parent) {
            let directory = into.join(parent);
            fs::create_dir_all(&directory)?;
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&directory, flags, Mode::empty())?;
            last = Some((parent.to_owned(), fd));
        }
        let (_, parent) = last.as_ref().expect("it was opened just now");
        let link = || -> io::Result<PathBuf> {
            let link = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            Ok(link.into_owned())
        };
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(into.join(&path))?,
            tar::EntryType::Symlink => rustix::fs::symlinkat(link()?, parent, name)?,
            tar::EntryType::Link => {
                let target = into.join(link()?);
                rustix::fs::linkat(CWD, target, parent, name, AtFlags::empty())?;
            }
            _ => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let mut file = fs::File::from(rustix::fs::openat(parent, name, flags, mode)?);
                let time = Timespec {
                    tv_sec: entry.header().mtime()? as i64,
                    tv_nsec: 0,
                };
                loop {
                    let n = io::Read::read(&mut entry, &mut buffer)?;
                    if n == 0 {
                        break;
                    }
                    file.write_all(&buffer[..n])?;
                }
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::futimens(&file, &times)?;
            }
        }
    }
    Ok(())
}

fn bench() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    // Before any thread exists.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("no namespaces of our own: {error}"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|error| format!("the mounts stay shared: {error}"))?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    if !up.is_ok_and(|status| status.success()) {
        return Err("lo does not come up".to_owned());
    }
    let n_layers = number("WHARF_BENCH_LAYERS", 10).max(1);
    let n_bytes = number("WHARF_BENCH_MEGABYTES", 60) * 1_000_000;
    let file_bytes = number("WHARF_BENCH_FILE_KILOBYTES", 64).max(1) * 1024;
    let rounds = number("WHARF_BENCH_ROUNDS", 3).max(1);

    let made: Vec<Made> = match std::env::var_os("WHARF_BENCH_LAYERS_FROM") {
        Some(directory) => layers_from(Path::new(&directory)).map_err(failed("the layers"))?,
        None => (0..n_layers)
            .map(|n| layer(n as u64 + 1, n_bytes / n_layers, file_bytes))
            .collect(),
    };
    let diff_ids: Vec<&String> = made.iter().map(|(diff_id, ..)| diff_id).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let layers: Vec<Vec<u8>> = made.iter().map(|(_, blob, _)| blob.clone()).collect();
    let n_plain: usize = made.iter().map(|(.., n_bytes)| n_bytes).sum();
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let descriptors: Vec<_> = layers
        .iter()
        .map(|bytes| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(bytes),
                "size": bytes.len(),
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": descriptors,
    })
    .to_string()
    .into_bytes();
    let mut answers = HashMap::new();
    for blob in layers.iter().chain([&config]) {
        let path = format!("/v2/bench/blobs/{}", digest(blob));
        answers.insert(path, ("application/octet-stream", blob.clone()));
    }
    for name in [digest(&manifest), "1".to_owned()] {
        let path = format!("/v2/bench/manifests/{name}");
        answers.insert(path, (manifest_type, manifest.clone()));
    }
    // Docker looks first whether this is a registry.
    answers.insert("/v2/".to_owned(), ("application/json", b"{}".to_vec()));
    let answers = Arc::new(answers);
    let listener = TcpListener::bind(ADDRESS).map_err(failed("no registry"))?;
    serve(listener, Arc::clone(&answers));
    let peer = Peer::find()?;
    if let Some(peer) = &peer {
        serve(peer.listener()?, answers);
    }

    let scratch = tempfile::Builder::new()
        .prefix("wharf-bench-")
        .tempdir_in("/var/tmp")
        .map_err(failed("no scratch directory"))?;
    let program = std::env::var_os("WHARF_BENCH_PROGRAM")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_wharf").into());
    let image = format!("{ADDRESS}/bench:1");
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..rounds {
        // What one leaves to be written is not to be the next one's cost.
        rustix::fs::sync();
        let directory = scratch.path().join(format!("floor{round}"));
        let begun = Instant::now();
        let work = own_milliseconds();
        let floor = floor(&layers, &directory).map_err(failed("the floor"))?;
        let floor_work = own_milliseconds() - work;
        fs::File::open(&directory)
            .and_then(|file| Ok(rustix::fs::syncfs(&file)?))
            .map_err(failed("the floor's files"))?;
        let synced = milliseconds(begun);
        fs::remove_dir_all(&directory).map_err(failed("the floor's files"))?;

        let root = scratch.path().join(format!("wharf{round}"));
        fs::create_dir_all(&root).map_err(failed("no roots"))?;
        let wharf = |arguments: &[&str]| -> Result<f64, String> {
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .env("HOME", &root)
                .env("WHARF_DATA_ROOT", root.join("d"))
                .env("WHARF_RUN_ROOT", root.join("r"));
            timed(&mut command)
        };
        wharf(&["engine", "start"])?;
        let idle = engine_kilobytes(&root, "VmRSS")?;
        rustix::fs::sync();
        let work = engine_milliseconds(&root)?;
        let pull = wharf(&["image", "pull", "-q", &image])?;
        let pull_work = engine_milliseconds(&root)? - work;
        let most = engine_kilobytes(&root, "VmHWM")?;
        let agains: Result<Vec<f64>, String> = (0..10)
            .map(|_| wharf(&["image", "pull", "-q", &image]))
            .collect();
        let again = median(agains?);
        wharf(&["engine", "stop"])?;
        fs::remove_dir_all(&root).map_err(failed("the roots"))?;

        let theirs = match &peer {
            Some(peer) => {
                rustix::fs::sync();
                Some(peer.round(&image)?)
            }
            None => None,
        };
        rows.push(Row {
            floor,
            synced,
            floor_work,
            pull,
            pull_work,
            again,
            above_idle: most.saturating_sub(idle) as f64 / 1024.0,
            theirs,
        });
    }
    let n_compressed: usize = layers.iter().map(Vec::len).sum();
    let of = |field: fn(&Row) -> f64| median(rows.iter().map(field).collect());
    let (floor, pull) = (of(|row| row.floor), of(|row| row.pull));
    let mut lines = vec![
        format!(
            "{} layers, {} MB unpacked, {} MB compressed, median of {rounds}",
            layers.len(),
            n_plain / 1_000_000,
            n_compressed / 1_000_000
        ),
        format!("floor (digest + inflate + untar)  {floor:8.0} ms"),
        format!(
            "floor, on the disk                {:8.0} ms",
            of(|row| row.synced)
        ),
        format!(
            "pull, cold                        {pull:8.0} ms   {:.2}× the floor, {:.2}× the floor on the disk",
            of(|row| row.pull / row.floor),
            of(|row| row.pull / row.synced),
        ),
        format!(
            "processor time                    {:8.0} ms of the floor, {:.0} ms of the engine, {:.2}×",
            of(|row| row.floor_work),
            of(|row| row.pull_work),
            of(|row| row.pull_work / row.floor_work),
        ),
        format!(
            "pull, nothing new                 {:8.1} ms",
            of(|row| row.again)
        ),
        format!(
            "engine's memory above idle        {:8.1} MiB",
            of(|row| row.above_idle)
        ),
    ];
    lines.push(match &peer {
        Some(_) => format!(
            "Docker's pull, cold               {:8.0} ms   {:.2}× wharf's",
            of(|row| row.theirs.unwrap_or(f64::NAN)),
            of(|row| row.theirs.unwrap_or(f64::NAN) / row.pull),
        ),
        None => "no Docker: WHARF_BENCH_PEER_EXEC is not set".to_owned(),
    });
    let mut out = io::stdout().lock();
    for line in lines {
        // Who closes our output does not want the rest.
        let _ = writeln!(out, "{line}");
    }
    Ok(())
}

/// Milliseconds of one round, and mebibytes.
struct Row {
    floor: f64,
    synced: f64,
    /// Processor time, which does not depend on what else this machine does.
    floor_work: f64,
    pull: f64,
    pull_work: f64,
    again: f64,
    above_idle: f64,
    theirs: Option<f64>,
}

fn timed(command: &mut Command) -> Result<f64, String> {
    let begun = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{:?} does not start: {error}", command.get_program()))?;
    match output.status.success() {
        true => Ok(milliseconds(begun)),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A Docker Engine, reached through a program that runs its arguments beside it.
struct Peer {
    exec: PathBuf,
    network: fs::File,
}

impl Peer {
    fn find() -> Result<Option<Peer>, String> {
        let Some(exec) = std::env::var_os("WHARF_BENCH_PEER_EXEC").map(PathBuf::from) else {
            return Ok(None);
        };
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", exec.display());
        // Its network namespace is where it runs a program.
        let mut sleeper = Command::new(&exec)
            .args(["sleep", "60"])
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        let process = PathBuf::from(format!("/proc/{}", sleeper.id()));
        let begun = Instant::now();
        let is_there = || {
            let name = fs::read_to_string(process.join("comm"));
            name.is_ok_and(|name| name.trim() == "sleep")
        };
        while !is_there() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let network = match is_there() {
            true => fs::File::open(process.join("ns/net")).map_err(|error| failed(&error)),
            false => Err(failed(&"it does not become the program that it is given")),
        };
        // It is our child and has done its work.
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        Ok(Some(Peer {
            network: network?,
            exec,
        }))
    }

    /// At the same address, in its network namespace.
    fn listener(&self) -> Result<TcpListener, String> {
        std::thread::scope(|scope| {
            let bind = || {
                // Of this thread only, which ends with it.
                setns(&self.network, CloneFlags::CLONE_NEWNET)?;
                TcpListener::bind(ADDRESS)
            };
            let bound = scope.spawn(bind).join();
            bound
                .map_err(|_| "a thread panicked".to_owned())?
                .map_err(|error| format!("no registry beside the peer: {error}"))
        })
    }

    fn round(&self, image: &str) -> Result<f64, String> {
        let docker = |arguments: &[&str]| {
            let mut command = Command::new(&self.exec);
            timed(command.arg("docker").args(arguments))
        };
        let pull = docker(&["pull", "-q", image])?;
        docker(&["rmi", image])?;
        Ok(pull)
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Processor time of this process so far.
fn own_milliseconds() -> f64 {
    processor_milliseconds(Path::new("/proc/self")).unwrap_or(f64::NAN)
}

fn engine_milliseconds(root: &Path) -> Result<f64, String> {
    let process = engine(root)?;
    processor_milliseconds(&process).ok_or_else(|| "the engine has no times".to_owned())
}

/// Fields 14 and 15 of `/proc/<pid>/stat`, of all threads.
fn processor_milliseconds(process: &Path) -> Option<f64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
    Some(ticks * 1e3 / rustix::param::clock_ticks_per_second() as f64)
}

/// A field of the engine's `/proc/<pid>/status`.
fn engine_kilobytes(root: &Path, field: &str) -> Result<u64, String> {
    let status = fs::read_to_string(engine(root)?.join("status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    value.ok_or_else(|| format!("the engine has no {field}"))
}

/// The engine's directory in `/proc`.
fn engine(root: &Path) -> Result<PathBuf, String> {
    let lock = root.join("r");
    for entry in fs::read_dir("/proc")
        .map_err(|error| error.to_string())?
        .flatten()
    {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if command.contains("engine run")
            && command.contains(&*lock.to_string_lossy())
            && !name.starts_with("wharf-")
        {
            return Ok(entry.path());
        }
    }
    Err("the engine is not there".to_owned())
}
