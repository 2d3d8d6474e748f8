//! Whatever is taken for a listing is JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::listing::run(data));
