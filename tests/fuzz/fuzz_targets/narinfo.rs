//! A narinfo that is accepted survives writing and reading, with the same fingerprint and signatures.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::narinfo::run(data));
