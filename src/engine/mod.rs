//! What a request does to a state, with a daemon or without.

mod channels;
mod chunked;
mod closures;
mod collect;
mod contents;
mod copy;
mod debug;
mod error;
mod execute;
mod in_use;
mod location;
mod network;
mod network_state;
mod paths;
mod profiles;
mod roots;
mod state;
mod supply;
mod traces;
mod users;
mod verify;

pub use closures::store_directory;
pub use error::{ClosureError, EngineError};
pub use state::Engine;
