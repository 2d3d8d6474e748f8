//! What a fetcher is doing, for whoever watches.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::availability::SourceReport;
use super::fetcher::Fetcher;
use super::flights::Need;
use super::outcomes::FetcherTimes;
use super::progress::Snapshot;

/// A path that is on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlightReport {
    pub path: String,
    /// Whether contents are fetched; else what the path is.
    pub contents: bool,
    /// Whether a program waits or has waited; else it is fetched ahead.
    pub urgent: bool,
    /// How many wait for it.
    pub waiting: u64,
    /// Since when, in seconds.
    pub seconds: f64,
    /// What has arrived; `nar_bytes` is 0 as long as it is not known.
    #[serde(flatten)]
    pub progress: Snapshot,
}

/// What a fetcher is doing and has done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Activity {
    /// Its sources, best first.
    pub sources: Vec<SourceReport>,
    /// Paths that are on their way, the oldest first.
    pub fetches: Vec<FlightReport>,
    /// Of these, those that wait for their turn.
    pub queued: u64,
    /// Requests that found what they needed here.
    pub hits: u64,
    /// Requests that waited for something to be fetched.
    pub misses: u64,
    /// Bytes that the sources sent for NARs, as far as their transfers have ended.
    pub fetched_bytes: u64,
}

impl Fetcher {
    /// Bytes that the sources sent for NARs so far, as far as their transfers have ended.
    pub fn fetched_bytes(&self) -> u64 {
        self.0.fetched.load(Ordering::Relaxed)
    }

    pub fn times(&self) -> FetcherTimes {
        self.0.outcomes.times(self.0.offers.sources.latencies())
    }

    pub fn activity(&self) -> Activity {
        let inner = &self.0;
        let flights = inner.to.flights.of(&inner.priorities).into_iter();
        let mut fetches: Vec<_> = flights
            .map(|(need, flight)| FlightReport {
                path: need.path().base_name(),
                contents: matches!(need, Need::Contents(_)),
                urgent: flight.urgency.is_raised(),
                waiting: flight.waiting(),
                seconds: flight.since.elapsed().as_secs_f64(),
                progress: flight.progress.snapshot(),
            })
            .collect();
        fetches.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Activity {
            sources: inner.offers.sources.report(),
            fetches,
            queued: inner.priorities.queued() as u64,
            hits: inner.hits.load(Ordering::Relaxed),
            misses: inner.misses.load(Ordering::Relaxed),
            fetched_bytes: self.fetched_bytes(),
        }
    }
}
