//! What came of asking the sources for paths that nobody vouches for.
//!
//! Invariant: no path is asked for again and again, and none at all while a source is silent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::error::FetchError;
use super::rate_limit::RateLimit;
use crate::nix::store_path::StorePathHash;
use crate::sync;

/// Time for which nothing is asked for anew after a source did not answer: a closure has hundreds of
/// paths, and each question may wait for that source.
const SILENCE: Duration = Duration::from_secs(2);
/// Paths of which it is remembered that no source vouches for them.
const REMEMBERED: usize = 1 << 14;
/// Time between two lines of the log.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What came of asking anew.
pub(super) struct Doubts {
    /// Paths that no source vouches for, and since when.
    refused: Cache<StorePathHash, (Instant, Arc<FetchError>)>,
    /// How long that is remembered, unless other contents were vouched for.
    remember: Duration,
    /// When a source did not answer last, and what came of that.
    silent: Mutex<Option<(Instant, Arc<FetchError>)>>,
    pub(super) log_limit: RateLimit,
}

impl Doubts {
    pub(super) fn new(remember: Duration) -> Self {
        Self {
            refused: Cache::new(REMEMBERED),
            remember,
            silent: Mutex::default(),
            log_limit: RateLimit::new(LOG_EVERY),
        }
    }

    /// What came of the last question for a path.
    fn refused(&self, hash: StorePathHash) -> Option<Arc<FetchError>> {
        let (since, error) = self.refused.get(&hash)?;
        let is_lasting = error.is_contradiction() || since.elapsed() < self.remember;
        is_lasting.then_some(error)
    }

    /// Why nothing is asked at the moment.
    fn silent(&self) -> Option<Arc<FetchError>> {
        let silent = sync::lock(&self.silent);
        let (since, error) = silent.as_ref()?;
        (since.elapsed() < SILENCE).then(|| error.clone())
    }

    /// Why a path is not to be asked for now.
    pub(super) fn answered(&self, hash: StorePathHash) -> Option<Arc<FetchError>> {
        self.refused(hash).or_else(|| self.silent())
    }

    pub(super) fn note(&self, hash: StorePathHash, error: Arc<FetchError>) {
        match error.is_transient() || error.is_out_of_reach() {
            true => *sync::lock(&self.silent) = Some((Instant::now(), error)),
            false => self.refused.insert(hash, (Instant::now(), error)),
        }
    }
}
