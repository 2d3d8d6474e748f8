//! The serving process.
//!
//! Invariant: it answers what only a daemon can answer itself, and everything else is the engine's.

mod answering;
mod beginning;
mod completion;
mod ending;
mod error;
mod execute;
mod figures;
mod http;
mod memory;
mod mounts;
mod process;
mod request;
mod serve;
mod status;
mod unprivileged;
mod upgrade;
mod upkeep;
mod volumes;
mod writable_profiles;

pub use beginning::Beginning;
pub use error::ServeError;
pub use http::{HttpError, HttpService};
pub use request::{Mounting, ServeRequest};
pub use serve::serve;
pub use upkeep::Show;
