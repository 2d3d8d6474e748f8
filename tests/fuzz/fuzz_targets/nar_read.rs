//! What the reader accepts, the writer reproduces; and the cut of the input into reads does not matter.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::nar_read::run(data));
