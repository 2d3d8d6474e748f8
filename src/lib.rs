//! narfs mounts a Nix store that you have not downloaded.
//!
//! The modules are layers; an import points to a lower layer only (checked by
//! `tests/architecture.rs`). From top to bottom:
//!
//! | layer | owns |
//! | --- | --- |
//! | [`cli`] | one file a command; flags become requests, reports become text |
//! | [`daemon`] | the serving process: mounts, the control socket's answers, HTTP, volumes, its end |
//! | [`doctor`] | what could keep a daemon from working, looked at from outside |
//! | [`engine`] | what a request does to a state, with a daemon or without |
//! | [`control`] | the control socket: frames, versions, the client |
//! | [`supervision`] | who starts a daemon and looks after it, and what outlives a daemon |
//! | [`command`] | requests, reports, errors that cross the control socket |
//! | [`http`] | serving HTTP: listening sockets, the bounds for strangers, and what is answered |
//! | [`fuse`] | the adapter from the kernel's requests to [`fs`]; it decides nothing |
//! | [`fs`] | lookup, readdir, read, attributes, inode numbers, errno; testable without a kernel |
//! | [`profile`] | profile names, generations, manifests, user environments made from trees |
//! | [`fetch`] | narinfo → verify → unpack → publish |
//! | [`store`] | the state directory: RocksDB schema, chunks, trees, path infos |
//! | [`substituter`] | where paths come from: `file://`, `http(s)://` |
//! | [`tree`] | the immutable metadata value of a store path |
//! | [`chunk`] | digest, chunker, reference mask, compression |
//! | [`nix`] | pure formats: nix32, hash, store path, NAR, narinfo, signature, listing |
//! | [`measure`] | how long things take: histograms; how much memory they may take |
//! | [`sync`] | locks and threads |
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
pub mod profile;
pub mod store;
pub mod substituter;
pub mod supervision;
pub mod sync;
pub mod tree;
