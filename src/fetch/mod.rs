//! From a source to the state: narinfo → trust → unpack → verify → publish.
//!
//! Invariant: nothing is published whose NarHash and NarSize were not checked over the whole
//! NAR, nor (unless the user gave up on signatures) without a signature by a trusted key or a
//! content address that its contents fulfil; and of a closure nothing is published before its
//! references.

mod activity;
mod availability;
mod budget;
mod closure;
mod copy;
mod error;
mod group;
mod lazy;
mod options;
mod outcomes;
mod plan;
mod prefetch;
mod priorities;
mod progress;
mod rate_limit;
mod receive;
mod requester;
mod sources;
mod transfer;

pub use activity::{Activity, FlightReport};
pub use availability::{SourceReport, SourceState};
pub use budget::{Budget, Keep};
pub use copy::{CopyFailure, CopyOptions, CopySummary, copy, repair};
pub use error::FetchError;
pub use lazy::{Fetcher, Need};
pub use options::{Deadlines, FetchOptions, PrefetchPolicy};
pub use outcomes::{FetcherTimes, OutcomeReport};
pub use plan::Wanted;
pub use prefetch::Prefetched;
pub use progress::{Progress, Snapshot};
pub use receive::{AddError, ReceiveError, Received, add};
pub use requester::Requester;
pub use sources::{AskedSource, CACHE_NIXOS_ORG, Source, Sources, Trust, ask_source};

#[cfg(test)]
mod tests;
