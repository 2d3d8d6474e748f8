//! Flights: what is on its way into a state, each path once, however many wait for it.
//!
//! Invariants: all who fetch into one state share its flights, whatever their sources are; whoever
//! waits hears of the end, and takes nothing along by leaving.

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

/// The one who flies tells it the outcome.
pub(super) type Landing = watch::Sender<Option<Outcome>>;

/// The way of one path into the state.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) progress: Arc<Progress>,
    pub(super) urgency: Arc<Urgency>,
    pub(super) since: Instant,
    waiting: AtomicU64,
    landed: watch::Receiver<Option<Outcome>>,
}

impl Flight {
    /// Grows as long as there is hope: with what arrives, and while it waits for a place with what
    /// arrives for those that have one.
    pub(super) fn arrived(&self) -> u64 {
        let own = || self.progress.furthest.load(Ordering::Relaxed);
        self.urgency.arrived_before().unwrap_or_else(own)
    }

    /// How many wait for it.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// One who waits for a flight.
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

    /// Those that go by these priorities.
    pub(super) fn of(&self, priorities: &Arc<Priorities>) -> Vec<(Need, Arc<Flight>)> {
        let all = self.all();
        let own = all.iter().filter(|(_, f)| f.urgency.is_of(priorities));
        own.map(|(need, f)| (need.clone(), f.clone())).collect()
    }

    /// Waits with others for a need. Where nobody flies for it yet, the caller has to, unless `stop`
    /// is set.
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
            landed,
        });
        all.insert(need.clone(), flight.clone());
        (Waiting::new(flight), Some(landing))
    }

    /// Ends a flight: who comes now begins another.
    pub(super) fn land(&self, need: &Need, landing: &Landing, outcome: Outcome) {
        self.all().remove(need);
        landing.send_replace(Some(outcome));
    }
}
