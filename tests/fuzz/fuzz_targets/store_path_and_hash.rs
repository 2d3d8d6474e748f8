//! Texts of paths, hashes and content addresses; the search for hashes against a naive one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::store_path_and_hash::run(data));
