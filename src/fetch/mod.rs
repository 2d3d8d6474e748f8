//! From a source to the state: narinfo → trust → unpack → verify → publish.
//!
//! Invariant: nothing is published whose NarHash and NarSize were not checked over the whole
//! NAR, nor (unless the user gave up on signatures) without a signature by a trusted key or a
//! content address that its contents fulfil; and of a closure that is copied nothing is published
//! before its references.
//!
//! Every path comes by a *flight*, one transfer that all who want the path wait for. From the top:
//!
//! | file | has |
//! | --- | --- |
//! | `copy`, `prefetch`, `register`, `on_demand` | what commands and file systems ask for |
//! | `plan` | what a copy needs, references first |
//! | `batch` | many flights for one command, begun in order and counted |
//! | `fetcher` | the sources of a mount or command, and how a flight of theirs goes |
//! | `flights` | what is on its way into the state, and who waits for it |
//! | `walk` | the walk over closures |
//! | `vouching`, `doubts` | references that nobody vouches for, asked for anew |
//! | `offers`, `sources`, `question` | what the sources say of paths, and which one is asked when |
//! | `availability`, `health`, `source` | one source: whether it answers, and what it says |
//! | `race` | the sources that are tried for one path, one after another or beside each other |
//! | `transfer`, `attempt` | one NAR from one source, with further tries; how it does |
//! | `decode`, `receive` | its decoder, with memory that is shared; its verification |
//! | `publish` | groups that are published together, and the order of a copy |
//! | `priorities`, `budget` | who goes first at each source, and how much may stay |

mod activity;
mod attempt;
mod availability;
mod batch;
mod budget;
mod copy;
mod decode;
mod doubts;
mod error;
mod fetcher;
mod flights;
mod health;
mod offers;
mod on_demand;
mod options;
mod outcomes;
mod plan;
mod prefetch;
mod priorities;
mod progress;
mod publish;
mod question;
mod race;
mod rate_limit;
mod receive;
mod register;
mod repair;
mod requester;
mod restore;
mod source;
mod sources;
mod transfer;
mod vouching;
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
pub use restore::restore;
pub use source::{AskedSource, CACHE_NIXOS_ORG, Trust, ask_source};
pub use sources::Sources;

#[cfg(test)]
mod tests;
