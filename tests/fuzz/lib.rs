//! The layers of narfs that are functions of bytes, included by path so that nothing else is
//! built.

#[path = "../../src/chunk/mod.rs"]
pub mod chunk;
#[path = "../../src/measure/mod.rs"]
pub mod measure;
#[path = "../../src/nix/mod.rs"]
pub mod nix;
#[path = "targets/mod.rs"]
pub mod targets;
#[path = "../../src/tree/mod.rs"]
pub mod tree;
