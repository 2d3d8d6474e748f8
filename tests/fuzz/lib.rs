//! The format layer of narfs, included by path so that nothing else is built.

#[path = "../../src/nix/mod.rs"]
pub mod nix;
