//! A cold pull from a registry on loopback, beside the least that it can cost: digest, inflate and
//! unpack the same layers in parallel, from memory, on the same machine and in the same run.
//!
//! Root. Variables:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `WHARF_BENCH_MEGABYTES` | unpacked size of all layers together, default 60 |
//! | `WHARF_BENCH_LAYERS` | number of layers, default 10 |
//! | `WHARF_BENCH_FILE_KILOBYTES` | size of a file, default 64; 1 makes many small files |
//! | `WHARF_BENCH_ROUNDS` | rounds, default 3 |
//!
//! Runs in a mount and a network namespace of its own, with everything under `/var/tmp`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
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

/// A layer of files whose bytes compress to about a third, as programs do.
fn layer(seed: u64, n_bytes: usize, file_bytes: usize) -> (String, Vec<u8>) {
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
    let plain = builder.into_inner().expect("memory takes it");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain).expect("memory takes it");
    (digest(&plain), encoder.finish().expect("memory takes it"))
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
    let mut out = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
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
                write!(
                    out,
                    "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
                     Docker-Content-Digest: {}\r\n\r\n",
                    body.len(),
                    path.rsplit('/')
                        .next()
                        .filter(|name| name.contains(':'))
                        .map_or_else(|| digest(body), str::to_owned),
                )?;
                if method != "HEAD" {
                    out.write_all(body)?;
                }
            }
            None => write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

/// Digest of the blob, inflation, digest of the content, files: all layers in parallel.
fn floor(layers: &[Vec<u8>], into: &Path) -> io::Result<f64> {
    let begun = Instant::now();
    let n_threads = std::thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(blob) = layers.get(n) else {
                        return;
                    };
                    if let Err(error) = unpack(blob, &into.join(n.to_string())) {
                        *failure.lock().expect("no panic under this lock") = Some(error);
                    }
                }
            });
        }
    });
    let failure = failure.into_inner().expect("no panic under this lock");
    failure.map_or(Ok(begun.elapsed().as_secs_f64() * 1e3), Err)
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
    let mut archive = tar::Archive::new(plain);
    archive.unpack(into)?;
    let mut plain = archive.into_inner();
    io::copy(&mut plain, &mut io::sink())?;
    std::hint::black_box(plain.hasher.finalize());
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

    let made: Vec<(String, Vec<u8>)> = (0..n_layers)
        .map(|n| layer(n as u64 + 1, n_bytes / n_layers, file_bytes))
        .collect();
    let diff_ids: Vec<&String> = made.iter().map(|(diff_id, _)| diff_id).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let layers: Vec<Vec<u8>> = made.iter().map(|(_, bytes)| bytes.clone()).collect();
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
    answers.insert(
        "/v2/bench/manifests/1".to_owned(),
        (manifest_type, manifest),
    );
    let listener = TcpListener::bind(ADDRESS).map_err(failed("no registry"))?;
    serve(listener, Arc::new(answers));

    let scratch = tempfile::Builder::new()
        .prefix("wharf-bench-")
        .tempdir_in("/var/tmp")
        .map_err(failed("no scratch directory"))?;
    let mut floors = Vec::new();
    let mut pulls = Vec::new();
    let mut agains = Vec::new();
    let mut above_idle = Vec::new();
    for round in 0..rounds {
        let directory = scratch.path().join(format!("floor{round}"));
        floors.push(floor(&layers, &directory).map_err(failed("the floor"))?);
        fs::remove_dir_all(&directory).map_err(failed("the floor's files"))?;
        let root = scratch.path().join(format!("wharf{round}"));
        fs::create_dir_all(&root).map_err(failed("no roots"))?;
        let wharf = |arguments: &[&str]| -> Result<f64, String> {
            let begun = Instant::now();
            let output = Command::new(env!("CARGO_BIN_EXE_wharf"))
                .args(arguments)
                .env("HOME", &root)
                .env("WHARF_DATA_ROOT", root.join("d"))
                .env("WHARF_RUN_ROOT", root.join("r"))
                .stdin(Stdio::null())
                .output()
                .map_err(|error| format!("wharf does not start: {error}"))?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned());
            }
            Ok(begun.elapsed().as_secs_f64() * 1e3)
        };
        wharf(&["engine", "start"])?;
        let idle = engine_kilobytes(&root, "VmRSS")?;
        let image = format!("{ADDRESS}/bench:1");
        pulls.push(wharf(&["image", "pull", "-q", &image])?);
        above_idle.push((engine_kilobytes(&root, "VmHWM")?.saturating_sub(idle)) as f64 / 1024.0);
        agains.push(wharf(&["image", "pull", "-q", &image])?);
        wharf(&["engine", "stop"])?;
        fs::remove_dir_all(&root).map_err(failed("the roots"))?;
    }
    let n_compressed: usize = layers.iter().map(Vec::len).sum();
    let (floor, pull) = (median(&mut floors), median(&mut pulls));
    let lines = [
        format!(
            "{n_layers} layers, {} MB unpacked, {} MB compressed, median of {rounds}",
            n_bytes / 1_000_000,
            n_compressed / 1_000_000
        ),
        format!("floor (digest + inflate + untar)  {floor:8.0} ms"),
        format!(
            "pull, cold                        {pull:8.0} ms   {:.2}× the floor",
            pull / floor
        ),
        format!(
            "pull, nothing new                 {:8.1} ms",
            median(&mut agains)
        ),
        format!(
            "engine's memory above idle        {:8.1} MiB",
            median(&mut above_idle)
        ),
    ];
    let mut out = io::stdout().lock();
    for line in lines {
        // Who closes our output does not want the rest.
        let _ = writeln!(out, "{line}");
    }
    Ok(())
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// A field of the engine's `/proc/<pid>/status`.
fn engine_kilobytes(root: &Path, field: &str) -> Result<u64, String> {
    let lock = root.join("r");
    for entry in fs::read_dir("/proc")
        .map_err(|error| error.to_string())?
        .flatten()
    {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !command.contains("engine run")
            || !command.contains(&*lock.to_string_lossy())
            || name.starts_with("wharf-")
        {
            continue;
        }
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field));
        let value = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        return value.ok_or_else(|| format!("the engine has no {field}"));
    }
    Err("the engine is not there".to_owned())
}
