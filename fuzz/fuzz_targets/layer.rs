//! Whole layers, unpacked below a directory of their own: nothing is written beside it, and what is
//! accepted comes out again byte by byte. Meant for a tmpfs, as root.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wharf::engine::image::fuzzing;

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("wharf-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("there is room for temporary files");
    directory
});

fuzz_target!(|bytes: &[u8]| {
    fuzzing::layer(bytes, &DIRECTORY);
    fuzzing::layer(&fuzzing::with_checksums(bytes), &DIRECTORY);
});
