//! narfs mounts a Nix store that you have not downloaded.
//!
//! The modules are layers; an import points to a lower layer only (checked by
//! `tests/architecture.rs`). From top to bottom:
//!
//! | layer | owns |
//! | --- | --- |
//! | [`cli`] | one file per command; turns flags into requests, and reports into text |
//! | [`daemon`] | the daemon process: mounts, the server of the control socket, HTTP, volumes, its end |
//! | [`doctor`] | diagnosis of problems, from outside the daemon |
//! | [`nix_worker`] | the worker for Nix: its protocol at a socket, over the engine |
//! | [`engine`] | execution of requests on a state, with or without a daemon |
//! | [`control`] | the control socket: frames, versions, the client |
//! | [`supervision`] | start and restart of daemons, and what outlives a daemon |
//! | [`command`] | requests, reports, errors that cross the control socket |
//! | [`http`] | the HTTP server: listening sockets, limits of clients, endpoints |
//! | [`fuse`] | the adapter from the kernel's requests to [`fs`]; it decides nothing |
//! | [`fs`] | lookup, readdir, read, attributes, inode numbers, errno; testable without a kernel |
//! | [`profile`] | profile names, generations, manifests, user environments made from trees |
//! | [`fetch`] | narinfo → verify → unpack → publish |
//! | [`store`] | the state directory: RocksDB schema, chunks, trees, path infos |
//! | [`substituter`] | where paths come from: `file://`, `http(s)://` |
//! | [`tree`] | the immutable metadata value of a store path |
//! | [`chunk`] | digest, chunker, reference mask, compression |
//! | [`nix`] | pure formats: nix32, hash, store path, NAR, narinfo, signature, listing |
//! | [`measure`] | latency histograms, and budgets of memory |
//! | [`sync`] | locks, threads, turns |
//!
//! Layers beside each other never import each other: `daemon` and `doctor`; `engine`, `control` and
//! `supervision`; `store` and `substituter`.

// What tests of the program share is compiled into its own tests, too.
#[cfg(test)]
extern crate self as narfs;

pub mod chunk;
pub mod cli;
pub mod command;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod engine;
pub mod fetch;
pub mod fs;
pub mod fuse;
pub mod http;
pub mod measure;
pub mod nix;
pub mod nix_worker;
pub mod profile;
pub mod store;
pub mod substituter;
pub mod supervision;
pub mod sync;
pub mod tree;
