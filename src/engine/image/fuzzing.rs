//! Doors for the fuzz targets in `fuzz/`, and for the test that replays their seeds: what bytes
//! from elsewhere reach first. Each panics when something is not as it must be, and returns whether
//! the bytes were accepted.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::layer::{self, Allowance, Expected, Limits, Target};
use super::recipe::Recipe;
use super::tar_stream::{EntryKind, Streamed, TarStream};
use super::{Digest, compare, config, source};
use crate::sys::beneath;

/// What a fuzzer's archive may ask of the machine.
const LIMITS: Limits = Limits {
    max_bytes: 1 << 22,
    free_bytes: 1 << 22,
    max_ratio: 1,
    max_entries: 200,
    max_depth: 64,
    max_xattr_bytes: 1 << 16,
    max_path_bytes: 1 << 16,
};

/// The same bytes with right checksums in every block: without them no change of a header would
/// get any further than the check.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// Headers of an archive: entries lie one behind the other within the bytes.
pub fn tar(bytes: &[u8]) -> bool {
    let mut tar = TarStream::new(Streamed(bytes));
    let mut end = 0;
    loop {
        match tar.next_entry() {
            Ok(None) => return true,
            Err(_) => return false,
            Ok(Some(entry)) => {
                assert!(entry.data_offset >= end + 512, "entries overlap");
                assert!(entry.kind == EntryKind::Regular || entry.size == 0);
                assert!(!entry.path.contains(&0) && !entry.link.contains(&0));
                if let Some(map) = &entry.sparse {
                    let data: u64 = map.iter().map(|(_, length)| length).sum();
                    assert_eq!(data, entry.size);
                    assert!(map.iter().all(|(at, n)| at + n <= entry.file_size));
                }
                end = entry.data_offset + entry.size;
                let mut data = Vec::new();
                match (&mut tar).take(1 << 16).read_to_end(&mut data) {
                    Ok(_) => assert!(data.len() as u64 == entry.size.min(1 << 16)),
                    Err(_) => return false,
                }
            }
        }
    }
}

/// A whole layer below an empty directory: nothing is written beside it, and what was accepted
/// comes out again byte by byte and is as the archive says.
pub fn layer(bytes: &[u8], directory: &Path) -> bool {
    let into = directory.join("layer");
    let recipe = directory.join("recipe");
    std::fs::create_dir(&into).expect("the directory is empty");
    let target = Target {
        directory: open(&into),
        recipe: std::fs::File::create_new(&recipe).expect("the directory is empty"),
    };
    let expected = Expected {
        blob: None,
        blob_bytes: None,
        diff_id: Digest::of(bytes),
    };
    let unpacked = layer::unpack(bytes, &expected, target, &Allowance::new(LIMITS), &|_| ())
        .and_then(|extracted| extracted.complete(None));
    let accepted = unpacked.is_ok();
    if accepted {
        let recipe = Recipe::open(&recipe).expect("it is complete");
        let mut out = Vec::new();
        let root = open(&into);
        let scratch = || {
            std::fs::File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(directory.join("scratch"))
        };
        recipe
            .assemble(root.as_fd(), scratch, &mut out)
            .expect("it was recorded");
        assert!(out == bytes, "the archive does not come out as it went in");
        let difference = compare::first_difference(bytes, root.as_fd());
        assert_eq!(difference.expect("it was accepted"), None);
    }
    // `remove_tree` copes with whatever an archive can make.
    let top = open(directory);
    for name in beneath::names(top.as_fd()).expect("it is ours") {
        assert!(
            ["layer", "recipe", "scratch"]
                .iter()
                .any(|known| name == *known),
            "{name:?} was written beside the layer"
        );
        beneath::remove_tree(top.as_fd(), &name).expect("it can be removed");
    }
    accepted
}

fn open(path: &Path) -> OwnedFd {
    beneath::open_root(path).expect("it is there")
}

/// An image config: what is kept is within its bounds.
pub fn config(bytes: &[u8]) -> bool {
    let Ok(checked) = config::check(bytes) else {
        return false;
    };
    if let Some(inner) = checked.config.config() {
        for label in inner.labels().iter().flatten() {
            assert!(!label.0.starts_with("com.docker.compose."));
        }
        for volume in inner.volumes().iter().flatten() {
            let climbs = volume.split('/').any(|name| name == "..");
            assert!(volume.starts_with('/') && !climbs, "{volume:?}");
        }
        for variable in inner.env().iter().flatten() {
            assert!(variable.contains('=') && !variable.contains('\0'));
        }
    }
    true
}

/// An index or a manifest.
pub fn manifest(bytes: &[u8]) -> bool {
    source::is_document(bytes)
}
