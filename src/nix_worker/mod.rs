//! The worker for Nix: clients of nix-daemon's protocol use the state, and what its sources have, as a store.
//!
//! Invariants: nothing is written but roots; what the state or a source has is valid, without its contents; a
//! source that does not answer is an error that names it. The number of clients is bounded, each has its own
//! thread, and one that stops in the middle of a message is cut off.

mod accept;
mod answers;
mod client;
mod error;
mod session;

pub use accept::serve;

#[cfg(test)]
mod tests;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../tests/support/worker_client.rs"]
mod worker_client;
