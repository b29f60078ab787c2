//! The files that a shim leaves for engines to come.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::shim::protocol::{ExitRecord, ShimRecord, StartRecord, VERSION, file};
use crate::sys::{atomic_file, process};

/// Nanoseconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub fn write_shim(dir: &Path) -> io::Result<()> {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let record = ShimRecord {
        version: VERSION,
        pid,
        start_ticks: process::start_ticks(pid)?,
        boot_id: boot_id.trim().to_owned(),
    };
    write(dir, file::SHIM, &record)
}

pub fn write_start(dir: &Path, record: &StartRecord) -> io::Result<()> {
    write(dir, file::START, record)
}

pub fn write_exit(dir: &Path, record: &ExitRecord) -> io::Result<()> {
    write(dir, file::EXIT, record)
}

fn write(dir: &Path, name: &str, record: &impl Serialize) -> io::Result<()> {
    atomic_file::write(&dir.join(name), &serde_json::to_vec(record)?)
}
