//! The transfer of one path: from its offer to a tree that is ready to be published.

use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;

use super::budget::Budget;
use super::error::FetchError;
use super::offers::Offers;
use super::priorities::Urgency;
use super::progress::Progress;
use super::receive::{Expected, ReceiveError, Received, unpack};
use super::source::{Offer, Trust, Vouched};
use super::sources::Sources;
use crate::nix::compression::Compression;
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::ContentVerifier;
use crate::store::{Origin, Publication, Registration, Store};
use crate::substituter::{Retries, Stream};
use crate::tree::UnpackError;

/// Interval between looks whether the user stopped it.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of a transfer after which the budget is looked at again.
const BUDGET_STEP: u64 = 1 << 20;

/// Counts what a source sends, lets what programs wait for go first, and keeps to the budget.
struct Counting {
    inner: Stream,
    at: u64,
    progress: Arc<Progress>,
    urgency: Arc<Urgency>,
    budget: Option<Arc<Budget>>,
}

impl Read for Counting {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.urgency.give_way();
        let n = self.inner.read(out)?;
        let last = self.at;
        self.at += n as u64;
        self.urgency.note_arrived(n as u64);
        let progress = &self.progress;
        progress
            .fetched_bytes
            .fetch_add(n as u64, Ordering::Relaxed);
        progress.furthest.fetch_max(self.at, Ordering::Relaxed);
        if let Some(budget) = &self.budget
            && self.at / BUDGET_STEP != last / BUDGET_STEP
        {
            budget.make_room();
        }
        Ok(n)
    }
}

/// The transfer of one path.
pub(super) struct Transfer<'a> {
    pub(super) store: &'a Store,
    /// For the network; the transfer itself blocks.
    pub(super) runtime: &'a Handle,
    pub(super) sources: &'a Sources,
    pub(super) trust: &'a Trust,
    /// Where the offer is remembered.
    pub(super) offers: Option<&'a Offers>,
    pub(super) progress: &'a Arc<Progress>,
    pub(super) urgency: &'a Arc<Urgency>,
    pub(super) budget: Option<&'a Arc<Budget>>,
}

impl Transfer<'_> {
    /// Fetches from the source of the offer and, where that fails, from the sources after it.
    pub(super) fn fetch(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let mut result = self.fetch_from(offer);
        if let Err(error) = &result
            && error.is_gone()
            && let Some(anew) = self.asked_anew(offer)
        {
            result = self.fetch_from(&anew);
        }
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

    /// What the source of the offer says by now, if that differs: it may have moved the NAR since.
    fn asked_anew(&self, offer: &Offer) -> Option<Offer> {
        let path = &offer.info.store_path;
        if let Some(offers) = self.offers {
            offers.forget(path.hash());
        }
        let asked = path.into();
        let anew = offer
            .source
            .offer(&asked, self.store.store_dir(), self.trust);
        let anew = self.unless_stopped(anew).ok()?.ok()??;
        let is_same = anew.info.references == offer.info.references;
        let is_news =
            (&anew.info.url, &anew.info.further) != (&offer.info.url, &offer.info.further);
        (is_same && is_news).then_some(anew)
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

    /// Unpacks a NAR from a stream, once.
    fn receive(
        &self,
        info: &NarInfo,
        compression: Compression,
        stream: Stream,
        content: Option<ContentVerifier>,
    ) -> Result<Received, ReceiveError> {
        let stream = Counting {
            inner: stream,
            at: 0,
            progress: self.progress.clone(),
            urgency: self.urgency.clone(),
            budget: self.budget.cloned(),
        };
        let nar = compression.reader(stream)?;
        let expected = Expected {
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
        };
        let references = &info.references;
        unpack(
            self.store,
            nar,
            references,
            Some(expected),
            content,
            self.progress,
        )
    }

    /// Fetches from the first of the files that hold the NAR; from the next one where that fails.
    fn fetch_from(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let info = &offer.info;
        self.check_known(offer)?;
        let mut result = self.fetch_file(offer, &info.url, info.compression);
        for file in &info.further {
            match &result {
                Err(error) if error.is_of_source() => tracing::debug!(
                    path = %info.store_path,
                    source = offer.source.url(),
                    "trying {} instead: {error}",
                    file.url
                ),
                _ => break,
            }
            let other = self.fetch_file(offer, &file.url, file.compression);
            if other.is_ok() {
                result = other;
            }
        }
        result
    }

    fn fetch_file(
        &self,
        offer: &Offer,
        url: &str,
        compression: Compression,
    ) -> Result<Publication, FetchError> {
        let info = &offer.info;
        let fail = |error| match error {
            ReceiveError::Unpack(UnpackError::Sink(e)) => e.into(),
            error => FetchError::Receive {
                url: match error.is_ours() {
                    true => "the state".to_owned(),
                    false => format!("{}: {}", offer.source.url(), info.store_path),
                },
                error: Box::new(error),
            },
        };
        // As Nix, which compares the contents with what a signed narinfo says of them, too.
        let address = info.ca.as_ref().filter(|ca| ca.can_be_verified());
        let is_vouched_for = offer.vouched != Vouched::ContentAddress;
        let own = info.store_path.hash();
        let verifier = |ca| ContentVerifier::new(ca, &own, is_vouched_for);
        let mut retries = Retries::default();
        let received = loop {
            self.urgency.give_way();
            let stream = self
                .unless_stopped(offer.source.substituter.nar(url))??
                .ok_or_else(|| fail(ReceiveError::Gone))?;
            let content = address.filter(|ca| !info.is_proven(ca));
            let content = content.map(verifier).transpose();
            let content = content.map_err(|e| fail(e.into()))?;
            match self.receive(info, compression, stream, content) {
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
        offer.source.answered();
        tracing::info!(
            path = %info.store_path,
            source = offer.source.url(),
            nar_bytes = info.nar_size,
            "fetched"
        );
        Ok(Publication {
            registration: Registration {
                references: received.unpacked.references,
                ca: address
                    .filter(|ca| info.is_named_by(ca, self.store.store_dir()))
                    .copied(),
                ..offer.registration()
            },
            origin: Origin::Fetched,
            tree: received.unpacked.tree,
            hold: received.hold,
        })
    }
}
