//! The engine: execution of requests on a state, with or without a daemon.

mod channels;
mod chunked;
mod closures;
mod collect;
mod contents;
mod copy;
mod debug;
#[cfg(test)]
mod durability;
mod error;
mod execute;
mod forget;
mod in_use;
mod keys;
mod location;
#[cfg(test)]
mod model;
mod network;
mod network_state;
mod nix_db;
mod paths;
mod profiles;
mod rebuild;
mod roots;
mod state;
mod supply;
mod traces;
mod unreadable;
mod users;
mod valid_paths;
mod verify;

#[cfg(test)]
#[allow(dead_code)]
#[path = "../../tests/support/binary_cache.rs"]
pub(crate) mod binary_cache;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../tests/support/reference_model.rs"]
mod reference_model;

pub use closures::store_directory;
pub use error::{ClosureError, EngineError};
pub use rebuild::open_for;
pub use state::Engine;
pub use supply::{Supply, Wanted};
pub use valid_paths::ValidPaths;
