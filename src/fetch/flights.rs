//! Flights: a flight is one fetch of one path, which all who want that path wait for.
//!
//! Invariants: all fetchers into one state share its flights, whatever their sources are; all who
//! wait get the outcome; a flight does not end because someone stops waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::watch;

use super::error::FetchError;
use super::priorities::{Priorities, Urgency};
use super::progress::Progress;
use crate::nix::store_path::StorePath;
use crate::sync;

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// That it is registered, and known what its root is.
    Root(StorePath),
    /// Its tree and contents.
    Contents(StorePath),
}

impl Need {
    pub(super) fn path(&self) -> &StorePath {
        match self {
            Self::Root(path) | Self::Contents(path) => path,
        }
    }
}

/// How a flight ended.
pub(super) type Outcome = Result<(), Arc<FetchError>>;

/// Takes the outcome of a flight.
pub(super) type Landing = watch::Sender<Option<Outcome>>;

/// One fetch.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) progress: Arc<Progress>,
    pub(super) urgency: Arc<Urgency>,
    pub(super) since: Instant,
    waiting: AtomicU64,
    /// Whether programs can read the path already.
    shown: watch::Sender<bool>,
    landed: watch::Receiver<Option<Outcome>>,
}

impl Flight {
    /// A number that changes when something arrives or, while the flight waits for a place, when something
    /// arrives for those that have one.
    pub(super) fn arrived(&self) -> u64 {
        let own = self.progress.advanced.load(Ordering::Relaxed);
        own.wrapping_add(self.urgency.arrived_before())
    }

    /// Says that programs can read the path, while it is still to be published.
    pub(super) fn show(&self) {
        self.shown.send_replace(true);
    }

    /// Returns when programs can read the path before it is published; never if it comes otherwise.
    pub(super) async fn shown(&self) {
        let mut shown = self.shown.subscribe();
        if shown.wait_for(|shown| *shown).await.is_err() {
            std::future::pending().await
        }
    }

    /// How many wait for it.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A share in the wait for a flight.
pub(super) struct Waiting(pub(super) Arc<Flight>);

impl Waiting {
    fn new(flight: Arc<Flight>) -> Self {
        flight.waiting.fetch_add(1, Ordering::Relaxed);
        Self(flight)
    }

    pub(super) async fn outcome(&self) -> Outcome {
        let mut landed = self.0.landed.clone();
        match landed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // It ended with the runtime.
            _ => Err(Arc::new(FetchError::Stopped)),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The flights into a state.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<Need, Arc<Flight>>>);

impl Flights {
    fn all(&self) -> MutexGuard<'_, HashMap<Need, Arc<Flight>>> {
        sync::lock(&self.0)
    }

    pub(super) fn get(&self, need: &Need) -> Option<Arc<Flight>> {
        self.all().get(need).cloned()
    }

    /// The flights of the fetcher with these priorities.
    pub(super) fn of(&self, priorities: &Arc<Priorities>) -> Vec<(Need, Arc<Flight>)> {
        let all = self.all();
        let own = all.iter().filter(|(_, f)| f.urgency.is_of(priorities));
        own.map(|(need, f)| (need.clone(), f.clone())).collect()
    }

    /// Joins the flight for a need. Where there is none, the caller has to carry it out, unless `stop`
    /// is set, and then to `land` it.
    pub(super) fn join(
        &self,
        need: &Need,
        priorities: &Arc<Priorities>,
        stop: &Arc<AtomicBool>,
    ) -> (Waiting, Option<Landing>) {
        let mut all = self.all();
        if let Some(flight) = all.get(need) {
            return (Waiting::new(flight.clone()), None);
        }
        let (landing, landed) = watch::channel(None);
        let flight = Arc::new(Flight {
            progress: Arc::new(Progress {
                stop: stop.clone(),
                ..Progress::default()
            }),
            urgency: Urgency::new(priorities),
            since: Instant::now(),
            waiting: AtomicU64::new(0),
            shown: watch::channel(false).0,
            landed,
        });
        all.insert(need.clone(), flight.clone());
        (Waiting::new(flight), Some(landing))
    }

    /// Ends a flight; the next request begins another one.
    pub(super) fn land(&self, need: &Need, landing: &Landing, outcome: Outcome) {
        self.all().remove(need);
        landing.send_replace(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::attempt::Attempt;
    use crate::fetch::options::PrefetchPolicy;

    #[test]
    fn what_comes_out_of_a_decoder_is_progress_and_so_is_what_comes_nearer_to_ones_turn() {
        let path = format!("{}-name", "0".repeat(32));
        let path = StorePath::parse_base_name(path.as_bytes()).unwrap();
        let (flights, priorities) = (
            Flights::default(),
            Priorities::for_programs(1, PrefetchPolicy::None),
        );
        let need = Need::Contents(path);
        let (waiting, _landing) = flights.join(&need, &priorities, &Arc::default());
        let flight = &waiting.0;
        let attempt = Attempt::new(&flight.progress);
        let mut seen = flight.arrived();
        let mut has_moved = || std::mem::replace(&mut seen, flight.arrived()) != flight.arrived();
        assert!(!has_moved());
        // Nothing more is sent for it.
        attempt.note_unpacked(1);
        assert!(has_moved() && !has_moved());
        attempt.note_turn(true);
        assert!(has_moved() && !has_moved());
        attempt.note_turn(false);
        assert!(!has_moved());
    }
}
