//! What holds for any bytes: a function for each fuzz target. The fuzzer calls them, and so does
//! `replay.rs` in the tests of narfs.

pub mod chunk_record;
pub mod decompress;
pub mod listing;
pub mod nar_read;
pub mod narinfo;
pub mod store_path_and_hash;
pub mod tree;
pub mod worker_protocol;
