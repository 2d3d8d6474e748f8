//! The HTTP server: listening sockets, and limits for untrusted clients.
//!
//! Invariant: a client costs little and cannot block others: waiting for a client has a deadline,
//! what it sends has a size limit, connections waiting for a request are closed for new ones, and a
//! panic in a handler ends only its connection. Handlers bound their own waiting.

mod calls;
mod connections;
mod listener;
mod monitoring;
mod request_body;
mod server;
mod stream;

pub use calls::calls;
pub use listener::{Address, AddressError, Listener};
pub use monitoring::{Monitored, monitoring};
pub use server::{Limits, Server, serve};
