//! The daemon: the process that serves mounts.
//!
//! Invariant: it answers only requests that need a daemon; the engine executes all others.

mod answering;
mod completion;
mod ending;
mod error;
mod execute;
mod figures;
mod http;
mod memory;
mod mounts;
mod nix_worker;
mod process;
mod request;
mod serve;
mod shared_answers;
mod startup;
mod status;
mod unix_socket;
mod unprivileged;
mod upgrade;
mod upkeep;
mod volumes;
mod writable_profiles;

pub use error::ServeError;
pub use http::{HttpError, HttpService};
pub use request::{Mounting, ServeRequest};
pub use serve::serve;
pub use startup::Startup;
pub use upkeep::Show;
