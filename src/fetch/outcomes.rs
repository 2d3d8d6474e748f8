//! How fetches on demand ended, and how long they took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::error::FetchError;
use super::flights::{Flight, Need};
use crate::measure::{Histogram, Latencies};

/// What fetches end with: it is here, no source has it, it failed.
const RESULTS: [&str; 3] = ["ok", "absent", "error"];
/// What is fetched.
const KINDS: [&str; 2] = ["root", "contents"];
/// For whom: it is ahead as long as no program has waited for it.
const PURPOSES: [&str; 2] = ["program", "ahead"];

/// Running counts.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    ended: [[[AtomicU64; RESULTS.len()]; PURPOSES.len()]; KINDS.len()],
    times: [Latencies; KINDS.len()],
}

/// How many fetches of one kind ended in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeReport {
    /// `root` for what a path is, or `contents`.
    pub kind: String,
    /// `program` if one waited, else `ahead`.
    pub purpose: String,
    /// `ok`, `absent` (no source has it) or `error`.
    pub result: String,
    pub count: u64,
}

/// What a fetcher has done, for statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetcherTimes {
    /// Fetches that have ended; those that several waited for count once.
    pub outcomes: Vec<OutcomeReport>,
    /// How long they took, by `root` and `contents`.
    pub times: Vec<(String, Histogram)>,
    /// From asking to the heads of the answers, by the URLs of the sources; those that were asked.
    pub sources: Vec<(String, Histogram)>,
}

impl Outcomes {
    /// Counts a fetch that ended.
    pub(super) fn count(&self, need: &Need, flight: &Flight, failure: Option<&Arc<FetchError>>) {
        let kind = usize::from(matches!(need, Need::Contents(_)));
        let result = match failure {
            None => 0,
            Some(e) if e.is_absent() => 1,
            Some(_) => 2,
        };
        let purpose = usize::from(!flight.urgency.is_raised());
        self.ended[kind][purpose][result].fetch_add(1, Ordering::Relaxed);
        self.times[kind].add(flight.since.elapsed());
    }

    /// What a fetcher with these latencies of its `sources` has done so far.
    pub(super) fn times(&self, sources: Vec<(String, Histogram)>) -> FetcherTimes {
        let each = KINDS.iter().zip(&self.ended).flat_map(|(kind, purposes)| {
            let each = PURPOSES.iter().zip(purposes);
            each.flat_map(move |(purpose, results)| {
                RESULTS
                    .iter()
                    .zip(results)
                    .map(move |(result, count)| OutcomeReport {
                        kind: (*kind).to_owned(),
                        purpose: (*purpose).to_owned(),
                        result: (*result).to_owned(),
                        count: count.load(Ordering::Relaxed),
                    })
            })
        });
        let times = KINDS.iter().zip(&self.times);
        FetcherTimes {
            outcomes: each.collect(),
            times: times
                .map(|(kind, times)| ((*kind).to_owned(), times.snapshot()))
                .collect(),
            sources,
        }
    }
}
