//! From a source to the state: narinfo → trust → unpack → verify → publish.
//!
//! Invariant: nothing is published whose NarHash and NarSize were not checked over the whole
//! NAR, nor (unless the user gave up on signatures) without a signature by a trusted key or a
//! content address that its contents fulfil; and of a closure nothing is published before its
//! references.

mod activity;
mod availability;
mod batch;
mod budget;
mod copy;
mod error;
mod fetcher;
mod flights;
mod offers;
mod on_demand;
mod options;
mod order;
mod outcomes;
mod plan;
mod prefetch;
mod priorities;
mod progress;
mod publish;
mod rate_limit;
mod receive;
mod register;
mod repair;
mod requester;
mod sources;
mod transfer;
mod walk;

pub use activity::{Activity, FlightReport};
pub use availability::{SourceReport, SourceState};
pub use batch::Fetched;
pub use budget::{Budget, Keep};
pub use error::{CopyFailure, FetchError};
pub use fetcher::{Destination, Fetcher};
pub use flights::{Flights, Need};
pub use options::{Deadlines, FetchOptions, PrefetchPolicy};
pub use outcomes::{FetcherTimes, OutcomeReport};
pub use plan::Wanted;
pub use progress::{Progress, Snapshot};
pub use receive::{AddError, ReceiveError, Received, add};
pub use repair::repair;
pub use requester::Requester;
pub use sources::{AskedSource, CACHE_NIXOS_ORG, Source, Sources, Trust, ask_source};

#[cfg(test)]
mod tests;
