//! A chunk record decodes to at most a chunk, or is refused; what is encoded comes back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| narfs_fuzz::targets::chunk_record::run(data));
