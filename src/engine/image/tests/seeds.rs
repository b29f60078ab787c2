//! The seeds of the fuzz targets, replayed without a fuzzer.

use std::path::Path;

use super::is_root;
use crate::engine::image::fuzzing;

/// Calls for every seed of a target, and some changes of it. Returns the names of those that were
/// accepted as they are.
fn replay(target: &str, run: impl Fn(&[u8]) -> bool) -> Vec<String> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/fuzz")
        .join(target);
    let mut accepted = Vec::new();
    for entry in std::fs::read_dir(seeds).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        if run(&bytes) {
            accepted.push(entry.file_name().into_string().unwrap());
        }
        for at in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
            run(&bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 0x15;
            run(&changed);
        }
    }
    accepted.sort();
    accepted
}

#[test]
fn seeds_of_archives() {
    let accepted = replay("layer", |bytes| {
        fuzzing::tar(&fuzzing::with_checksums(bytes));
        fuzzing::tar(bytes)
    });
    assert_eq!(accepted.len(), 11, "{accepted:?}");
}

#[test]
fn seeds_of_layers() {
    let directory = tempfile::tempdir().unwrap();
    let accepted = replay("layer", |bytes| {
        fuzzing::layer(&fuzzing::with_checksums(bytes), directory.path());
        fuzzing::layer(bytes, directory.path())
    });
    // Owners and devices need root; that nothing panics does not.
    if is_root() {
        let refused = ["dot-dot"];
        assert_eq!(accepted.len(), 10, "{accepted:?}");
        assert!(!accepted.iter().any(|name| refused.contains(&&**name)));
    }
}

#[test]
fn seeds_of_configs_and_manifests() {
    assert_eq!(replay("image_config", fuzzing::config), ["full", "small"]);
    assert_eq!(
        replay("manifest", fuzzing::manifest),
        ["docker", "index", "manifest"]
    );
}
