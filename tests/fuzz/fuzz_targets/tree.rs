//! A NAR that is unpacked comes out as it went in; bytes that claim to be a tree are refused or
//! can be walked whole.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::tree::run(data));
