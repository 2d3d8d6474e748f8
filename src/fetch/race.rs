//! The sources that are tried for one path: the next one joins where one fails, is late with the first byte,
//! or falls below the least rate.
//!
//! Invariants: each source has one transfer of the path; the first that is whole and verified is the only one
//! that is published, and the others end; a transfer is never given up for its slowness, since no other may
//! come to its end.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument, Span};

use super::attempt::{Attempt, FIRST_BYTE, Pace};
use super::error::FetchError;
use super::priorities::Place;
use super::source::{Asked, Offer};
use super::sources::Sources;
use super::transfer::{Errand, Transfer};
use crate::store::Publication;

/// Interval between looks how the transfers do, and whether the user stopped them.
const LOOK: Duration = Duration::from_millis(200);
/// Time for a further source to say whether it has the path.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module.
struct Race {
    errand: Arc<Errand>,
    running: JoinSet<Ended>,
    /// All transfers so far.
    transfers: Vec<Running>,
    /// The place of the last one that failed, until another one begins.
    place: Option<Arc<Place>>,
    failure: Option<FetchError>,
}

/// A transfer, as it is watched.
struct Running {
    attempt: Arc<Attempt>,
    place: Arc<OnceLock<Weak<Place>>>,
    since: Instant,
    pace: Pace,
    has_ended: bool,
}

/// How a transfer ended.
struct Ended {
    at: usize,
    place: Option<Arc<Place>>,
    result: Result<Publication, FetchError>,
}

/// Further sources, and what one of them offers.
type Found = (Option<Sources>, Option<Offer>);

/// Fetches and verifies a path from the source of the offer and, where that does not do well, from others.
pub(super) async fn fetch(errand: Errand, offer: Offer) -> Result<Publication, FetchError> {
    let mut race = Race {
        errand: Arc::new(errand),
        running: JoinSet::new(),
        transfers: Vec::new(),
        place: None,
        failure: None,
    };
    let outcome = race.run(&offer).await;
    if outcome.is_err()
        && let Some(among) = &race.errand.among
    {
        // Before the next transfer begins: what refers to this path is not worth fetching.
        among.publisher.fail(offer.info.store_path.hash());
    }
    outcome
}

impl Race {
    async fn run(&mut self, offer: &Offer) -> Result<Publication, FetchError> {
        let mut asking: JoinSet<Found> = JoinSet::new();
        let mut rest = self.errand.sources.besides(&offer.source);
        self.begin(offer.clone());
        loop {
            if !self.does_well()
                && asking.is_empty()
                && let Some(others) = rest.take()
            {
                asking.spawn(self.next(others, offer));
            }
            tokio::select! {
                Some(ended) = self.running.join_next() => {
                    if let Some(outcome) = self.ended(ended) {
                        return outcome;
                    }
                }
                Some(found) = asking.join_next() => {
                    let (others, found) = found.unwrap_or_default();
                    rest = others;
                    if let Some(other) = found {
                        self.begin(other);
                    }
                }
                () = tokio::time::sleep(LOOK) => {
                    if self.errand.progress.stopped() {
                        return Err(self.stop().await);
                    }
                }
            }
            if self.running.is_empty() && asking.is_empty() && rest.is_none() {
                return Err(self.failure.take().unwrap_or(FetchError::Stopped));
            }
        }
    }

    /// Has a transfer begin as soon as there is a place at its source.
    fn begin(&mut self, offer: Offer) {
        if let Some(error) = &self.failure {
            let (path, next) = (&offer.info.store_path, offer.source.url());
            tracing::warn!(%path, next, "trying the next source: {error}");
        }
        // It may be what another path waits for that has a place where this one needs it.
        self.place = None;
        let (at, errand) = (self.transfers.len(), self.errand.clone());
        let attempt = Attempt::new(&errand.progress);
        let shown: Arc<OnceLock<Weak<Place>>> = Arc::default();
        self.transfers.push(Running {
            attempt: attempt.clone(),
            place: shown.clone(),
            since: Instant::now(),
            pace: Pace::default(),
            has_ended: false,
        });
        let bytes = offer.info.file_size.unwrap_or(offer.info.nar_size);
        let work = async move {
            let mut ended = attempt.ended();
            let place = tokio::select! {
                place = errand.urgency.enter(offer.source.url(), bytes) => Some(Arc::new(place)),
                _ = ended.wait_for(|ended| *ended) => None,
            };
            let result = match &place {
                Some(place) => {
                    shown.get_or_init(|| Arc::downgrade(place));
                    let place = place.clone();
                    Transfer {
                        errand,
                        attempt,
                        place,
                    }
                    .begun(offer)
                    .await
                }
                None => Err(FetchError::Stopped),
            };
            Ended { at, place, result }
        };
        self.running.spawn(work.instrument(Span::current()));
    }

    /// Whether a transfer is under way that does what can be expected. One that is slow leaves its place.
    fn does_well(&mut self) -> bool {
        let is_urgent = self.errand.urgency.is_raised();
        let mut well = false;
        for running in self.transfers.iter_mut().filter(|r| !r.has_ended) {
            well |= match running.place.get().and_then(Weak::upgrade) {
                // Who has time waits for a turn.
                None => !is_urgent || running.since.elapsed() < FIRST_BYTE,
                Some(place) => {
                    let (pace, attempt) = (&mut running.pace, &running.attempt);
                    let is_slow = pace.is_slow(attempt, place.transfers());
                    if is_slow {
                        place.leave();
                    }
                    let memory = &self.errand.store.transfers().decoders;
                    if pace.had_little() && memory.is_wanted() {
                        attempt.give_back();
                    }
                    !is_slow && !Pace::is_late(attempt)
                }
            };
        }
        well
    }

    /// The best offer of the other sources, and the sources that are left then.
    fn next(&self, others: Sources, offer: &Offer) -> impl Future<Output = Found> + use<> {
        let errand = self.errand.clone();
        let (asked, references) = (
            Asked::from(&offer.info.store_path),
            offer.info.references.clone(),
        );
        async move {
            let mut rest = Some(others);
            while let Some(others) = rest {
                let store_dir = errand.store.store_dir();
                let answer = others.find(&asked, store_dir, &errand.trust);
                let Ok(Ok(other)) = tokio::time::timeout(ANSWER, answer).await else {
                    break;
                };
                rest = others.besides(&other.source);
                // With other references it is not what was planned for: they may not be here.
                if other.info.references == references {
                    return (rest, Some(other));
                }
            }
            (None, None)
        }
    }

    /// What the end of a transfer means for the path, if it is the end of that, too.
    fn ended(
        &mut self,
        ended: Result<Ended, JoinError>,
    ) -> Option<Result<Publication, FetchError>> {
        let Ok(Ended { at, place, result }) = ended else {
            return Some(Err(FetchError::Stopped));
        };
        self.place = place;
        self.transfers[at].has_ended = true;
        match result {
            Err(error) if error.is_of_source() => {
                self.failure = Some(error);
                None
            }
            outcome => Some(outcome),
        }
    }

    /// Waits until all transfers have ended that the user stopped.
    async fn stop(&mut self) -> FetchError {
        self.end();
        while self.running.join_next().await.is_some() {}
        FetchError::Stopped
    }

    fn end(&self) {
        self.transfers.iter().for_each(|r| r.attempt.end());
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.end();
    }
}
