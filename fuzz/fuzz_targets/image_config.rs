//! Image configs: what is kept of them is within its bounds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf::engine::image::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::config(bytes);
});
