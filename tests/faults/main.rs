//! Nothing wrong is ever published.
//!
//! The program, on binary caches and states that are broken in every way that we could think of.
//! The caches are made here, with the library's own writer and keys. What each case must show: one
//! error line that names the path, the digest or the URL; exit status 1; nothing of the path
//! that failed can be seen; the other paths of the same command are there; and the state is whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod archives;
#[path = "../support/binary_cache.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod binary_cache;
mod channels;
mod collection;
mod concurrency;
mod configuration;
mod content_addresses;
mod crashes;
mod credentials;
mod damage;
mod foreign_states;
mod full_disk;
mod golden;
mod local_trees;
#[path = "../support/lossy_disk.rs"]
mod lossy_disk;
mod lost_database;
mod memory;
#[path = "../support/namespaces.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod namespaces;
mod narinfos;
mod networks;
mod power_loss;
mod private_mount;
mod profiles;
mod program;
#[path = "../support/server.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod server;
mod servers;
mod several_sources;
mod socks;
mod sources;
mod transfers;
mod vouching;
#[path = "../support/waiting.rs"]
mod waiting;
#[path = "../support/write_points.rs"]
mod write_points;
