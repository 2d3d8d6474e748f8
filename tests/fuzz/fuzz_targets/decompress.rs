//! No decoder panics, hangs, or says different things for different cuts of its input. The first
//! byte chooses the method.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::decompress::run(data));
