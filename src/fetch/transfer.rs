//! The transfer of one path: from its offer to a tree that is ready to be published.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::budget::Budget;
use super::priorities::Urgency;
use super::receive::{Counting, ReceiveError, receive};
use super::sources::{Expected, Offer, Vouched};
use super::{FetchError, Progress, Sources, Trust};
use crate::nix::store_path::ContentVerifier;
use crate::store::{Origin, Publication, Registration, Store};
use crate::substituter::Retries;

/// How often it is looked whether the user stopped it.
const LOOK: Duration = Duration::from_millis(100);

/// After this many bytes of a transfer the budget is looked at.
const LOOK_FOR_ROOM: u64 = 1 << 20;

/// What a transfer minds while it runs: who goes first, and the budget of the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    pub(super) urgency: Option<Arc<Urgency>>,
    pub(super) budget: Option<Arc<Budget>>,
}

impl Pace {
    /// Called before the next piece is read, of which `at` bytes have come. Blocks.
    pub(super) fn step(&self, at: u64, last: u64) {
        self.give_way();
        if let Some(budget) = &self.budget
            && at / LOOK_FOR_ROOM != last / LOOK_FOR_ROOM
        {
            budget.make();
        }
    }

    /// Lets what programs wait for go first. Blocks.
    fn give_way(&self) {
        if let Some(urgency) = &self.urgency {
            urgency.give_way();
        }
    }

    /// Called when so many bytes have come.
    pub(super) fn note_arrived(&self, bytes: u64) {
        if let Some(urgency) = &self.urgency {
            urgency.note_arrived(bytes);
        }
    }
}

/// What transfers of one command share.
pub(super) struct Transfer<'a> {
    pub(super) store: &'a Store,
    /// Carries the network; the transfer itself blocks.
    pub(super) runtime: &'a Handle,
    pub(super) sources: &'a Sources,
    pub(super) trust: &'a Trust,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) pace: Pace,
}

impl Transfer<'_> {
    /// Fetches from the source of the offer and, where that fails, from the sources after it.
    pub(super) fn fetch(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let mut result = self.fetch_from(offer);
        let mut rest = self.sources.after(&offer.source);
        let path = &offer.info.store_path;
        while let Err(error) = &result
            && error.is_of_source()
        {
            let store_dir = self.store.store_dir();
            let asked = path.into();
            let next = rest.offer(&asked, store_dir, self.trust);
            // The first failure says more than that another source has not got it either.
            let Ok(Some(other)) = self.runtime.block_on(next) else {
                break;
            };
            rest = rest.after(&other.source);
            // With other references it is not what was planned for: they may not be here.
            if other.info.references == offer.info.references {
                tracing::warn!(%path, "trying the next source: {error}");
                result = self.fetch_from(&other);
            }
        }
        result
    }

    /// Waits for what the network does, at most until the user stops it.
    fn unless_stopped<T>(&self, waiting: impl Future<Output = T>) -> Result<T, FetchError> {
        let stopped = async {
            while !self.progress.stopped() {
                tokio::time::sleep(LOOK).await;
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                done = waiting => Ok(done),
                () = stopped => Err(FetchError::Stopped),
            }
        })
    }

    /// A path whose tree is here gets the contents of that tree, and no others.
    fn check_known(&self, offer: &Offer) -> Result<(), FetchError> {
        let info = &offer.info;
        let known = self.store.paths().info(info.store_path.hash())?;
        match known.filter(|known| known.tree().is_some()) {
            Some(known) if known.registration.nar_hash != info.nar_hash => {
                Err(FetchError::OtherNar {
                    url: offer.source.url().to_owned(),
                    path: info.store_path.clone(),
                    theirs: info.nar_hash,
                    ours: known.registration.nar_hash,
                })
            }
            _ => Ok(()),
        }
    }

    fn fetch_from(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let info = &offer.info;
        let fail = |error| FetchError::Receive {
            url: format!("{}: {}", offer.source.url(), info.store_path),
            error: Box::new(error),
        };
        self.check_known(offer)?;
        let mut retries = Retries::default();
        let received = loop {
            self.pace.give_way();
            let stream = self
                .unless_stopped(offer.source.substituter.nar(&info.url))??
                .ok_or_else(|| fail(ReceiveError::Gone))?;
            let content = match (offer.vouched, &info.ca) {
                (Vouched::ContentAddress, Some(ca)) => {
                    let own = info.store_path.hash();
                    Some(ContentVerifier::new(ca, &own).map_err(|e| fail(e.into()))?)
                }
                _ => None,
            };
            let expected = Expected {
                nar_hash: info.nar_hash,
                nar_size: info.nar_size,
            };
            let result = receive(
                self.store,
                Counting::new(stream, self.progress, &self.pace),
                info.compression,
                &info.references,
                expected,
                content,
            );
            match result {
                Ok(received) => break received,
                Err(_) if self.progress.stopped() => return Err(FetchError::Stopped),
                Err(e) => {
                    let wait = e.is_transient().then(|| retries.failed()).flatten();
                    let Some(wait) = wait else {
                        return Err(fail(e));
                    };
                    let attempt = retries.failures();
                    tracing::debug!(path = %info.store_path, attempt, ?wait, "{e}; trying again");
                    self.unless_stopped(async { tokio::time::sleep(wait).await })?;
                }
            }
        };
        tracing::info!(
            path = %info.store_path,
            source = offer.source.url(),
            nar_bytes = info.nar_size,
            "fetched"
        );
        Ok(Publication {
            registration: Registration {
                path: info.store_path.clone(),
                nar_hash: info.nar_hash,
                nar_size: info.nar_size,
                references: received.unpacked.references,
                deriver: info.deriver.clone(),
                signatures: info.signatures.iter().map(ToString::to_string).collect(),
                ca: info.ca,
            },
            origin: Origin::Fetched,
            tree: received.unpacked.tree,
            hold: received.hold,
        })
    }
}
