//! The pure formats of Nix: bytes in, values out, and back.
//!
//! Nothing here talks to a network, a database or a kernel; parsers are functions of bytes, never panic, and
//! refuse what Nix's newest release refuses. From bottom to top (imports point only upwards in this list):
//!
//! - [`nix32`]: the base-32 text encoding of hashes
//! - [`hash`]: hashes, their text forms, and streaming SHA-256
//! - [`store_path`]: store directories, store paths and how they are computed, content addresses, the search
//!   for hashes of store paths in bytes
//! - [`signature`]: ed25519 keys and signatures
//! - [`compression`]: the compression methods of a binary cache
//! - [`nar`]: the archive format
//! - [`listing`]: the unsigned `.ls` listing of a NAR
//! - [`cache_info`]: the `nix-cache-info` file
//! - [`nix_conf`]: the syntax of `nix.conf`
//! - [`derivation`]: the outputs of a `.drv` file
//! - [`worker_protocol`]: what clients of nix-daemon and the daemon say to each other
//! - [`narinfo`]: the signed metadata of a store path, and whether to trust it

pub mod cache_info;
pub mod compression;
pub mod derivation;
pub mod hash;
pub mod listing;
pub mod nar;
pub mod narinfo;
pub mod nix32;
pub mod nix_conf;
pub mod signature;
pub mod store_path;
pub mod worker_protocol;
