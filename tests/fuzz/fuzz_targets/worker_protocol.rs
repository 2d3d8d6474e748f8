//! What a client of the worker protocol sends is read up to its end or its first error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::worker_protocol::run(data));
