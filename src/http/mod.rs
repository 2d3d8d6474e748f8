//! Serving HTTP: listening sockets, and the bounds within which strangers are answered.
//!
//! Invariant: whoever connects costs little, and hinders nobody: what waits for a client has a
//! deadline, what a client sends has a limit, connections that wait for a request make way for new
//! ones, and a handler that panics ends its own connection and nothing else. What handlers wait
//! for themselves they bound themselves.

mod calls;
mod connections;
mod listener;
mod observation;
mod request_body;
mod server;
mod stream;

pub use calls::calls;
pub use listener::{Address, AddressError, Listener};
pub use observation::{Watched, observation};
pub use server::{Limits, Server, serve};
