//! Indexes and manifests: what becomes a path is a digest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::engine::image::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::manifest(bytes);
});
