//! Headers of archives: whatever the bytes, entries follow each other and lie within them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::engine::image::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::tar(bytes);
    fuzzing::tar(&fuzzing::with_checksums(bytes));
});
