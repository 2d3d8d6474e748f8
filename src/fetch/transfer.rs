//! The transfer of one path from one source: from its offer to a tree that is ready to be published.

use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use super::attempt::Attempt;
use super::budget::Budget;
use super::decode::Decoder;
use super::error::FetchError;
use super::offers::Offers;
use super::priorities::{FAST_STEP, Place, Urgency};
use super::progress::Progress;
use super::publish::Publisher;
use super::receive::{Expected, ReceiveError, Received, unpack};
use super::source::{Offer, Trust, Vouched};
use super::sources::Sources;
use crate::nix::compression::Compression;
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::ContentVerifier;
use crate::store::{Origin, Publication, Registration, Store};
use crate::substituter::{Retries, Stream};
use crate::tree::UnpackError;

/// Bytes of a transfer after which the budget is looked at again.
const BUDGET_STEP: u64 = 1 << 20;

/// A path that is to be fetched: what its transfers share.
pub(super) struct Errand {
    pub(super) store: Arc<Store>,
    /// For the network; a transfer itself blocks.
    pub(super) runtime: Handle,
    pub(super) sources: Sources,
    pub(super) trust: Trust,
    pub(super) progress: Arc<Progress>,
    pub(super) urgency: Arc<Urgency>,
    /// `None` if it is fetched for itself alone.
    pub(super) among: Option<Among>,
}

/// What paths that are fetched by one fetcher share.
pub(super) struct Among {
    /// Where the offer is remembered.
    pub(super) offers: Arc<Offers>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) budget: Arc<Budget>,
}

impl Errand {
    fn make_room(&self) {
        if let Some(among) = &self.among {
            among.budget.make_room();
        }
    }
}

/// Counts what a source sends, lets what programs wait for go first, and keeps to the budget.
struct Counting {
    inner: Stream,
    at: u64,
    /// When it went on after its last pause, or the last step that was measured; and where.
    step: (Instant, u64),
    errand: Arc<Errand>,
    attempt: Arc<Attempt>,
    place: Arc<Place>,
}

impl Counting {
    fn measure(&mut self) {
        let (since, from) = self.step;
        if self.at - from >= FAST_STEP {
            self.place.note_step(since.elapsed());
            self.step = (Instant::now(), self.at);
        }
    }
}

impl Read for Counting {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.errand.urgency.give_way(&self.place) {
            // What came meanwhile says nothing of the source.
            self.step = (Instant::now(), self.at);
        }
        let inner = &mut self.inner;
        let read = self.attempt.waiting(|| inner.read(out));
        // Where it was ended, the stream may have ended early.
        self.attempt.check_wanted()?;
        let n = read?;
        let last = self.at;
        self.at += n as u64;
        self.measure();
        if self.errand.urgency.is_raised() {
            self.place.note_arrived(n as u64);
        }
        self.attempt.note_sent(n as u64, self.at);
        if self.at / BUDGET_STEP != last / BUDGET_STEP {
            self.errand.make_room();
        }
        Ok(n)
    }
}

/// The transfer of a path from one source.
pub(super) struct Transfer {
    pub(super) errand: Arc<Errand>,
    pub(super) attempt: Arc<Attempt>,
    pub(super) place: Arc<Place>,
}

impl Transfer {
    /// Fetches what is offered, on a thread that may block.
    pub(super) async fn begun(self, offer: Offer) -> Result<Publication, FetchError> {
        if self.attempt.check_wanted().is_err() {
            return Err(FetchError::Stopped);
        }
        let among = self.errand.among.as_ref();
        let missing = among.and_then(|a| a.publisher.missing(&offer.info.references));
        if let Some(missing) = missing {
            return Err(FetchError::Reference(missing));
        }
        let span = tracing::Span::current();
        let transfer = move || {
            let _inside = span.enter();
            self.fetch(&offer)
        };
        let fetched = tokio::task::spawn_blocking(transfer).await;
        fetched.unwrap_or(Err(FetchError::Stopped))
    }

    fn fetch(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let mut result = self.fetch_from(offer);
        if let Err(error) = &result
            && error.is_gone()
            && let Some(anew) = self.asked_anew(offer)
        {
            result = self.fetch_from(&anew);
        }
        // What has arrived is above the budget before it is published, so never after.
        self.errand.make_room();
        result
    }

    /// What the source of the offer says by now, if that differs: it may have moved the NAR since.
    fn asked_anew(&self, offer: &Offer) -> Option<Offer> {
        let path = &offer.info.store_path;
        let Errand { store, trust, .. } = &*self.errand;
        if let Some(among) = &self.errand.among {
            among.offers.forget(path.hash());
        }
        let asked = path.into();
        let anew = offer.source.offer(&asked, store.store_dir(), trust);
        let anew = self.unless_ended(anew).ok()?.ok()??;
        let is_same = anew.info.references == offer.info.references;
        let is_news =
            (&anew.info.url, &anew.info.further) != (&offer.info.url, &offer.info.further);
        (is_same && is_news).then_some(anew)
    }

    /// Waits for what the network does, at most until this is not wanted any more.
    fn unless_ended<T>(&self, waiting: impl Future<Output = T>) -> Result<T, FetchError> {
        let mut ended = self.attempt.ended();
        self.errand.runtime.block_on(async {
            tokio::select! {
                done = waiting => Ok(done),
                _ = ended.wait_for(|ended| *ended) => Err(FetchError::Stopped),
            }
        })
    }

    /// A path whose tree is here gets the contents of that tree, and no others.
    fn check_known(&self, offer: &Offer) -> Result<(), FetchError> {
        let info = &offer.info;
        let known = self.errand.store.paths();
        let known = known.readable_info(info.store_path.hash())?;
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
            step: (Instant::now(), 0),
            errand: self.errand.clone(),
            attempt: self.attempt.clone(),
            place: self.place.clone(),
        };
        let memory = &self.errand.store.transfers().decoders;
        let nar = Decoder::new(compression, stream, info.nar_size, memory, &self.attempt)?;
        let expected = Expected {
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
        };
        let references = &info.references;
        unpack(
            &self.errand.store,
            nar,
            references,
            Some(expected),
            content,
            &self.attempt,
        )
    }

    /// Asks for nothing while it is in the way: there is no connection to be kept yet.
    fn stand_back(&self) -> Result<(), FetchError> {
        while self.errand.urgency.is_in_the_way() {
            self.errand.urgency.give_way(&self.place);
            let wanted = self.attempt.check_wanted();
            wanted.map_err(|_| FetchError::Stopped)?;
        }
        Ok(())
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
            self.stand_back()?;
            let is_ahead = !self.errand.urgency.is_raised();
            let (substituter, ended) = (&offer.source.substituter, self.attempt.ended());
            let nar = substituter.nar_until(url, ended, is_ahead);
            let stream = self.attempt.waiting(|| self.unless_ended(nar));
            let stream = stream??.ok_or_else(|| fail(ReceiveError::Gone))?;
            let content = address.filter(|ca| !info.is_proven(ca));
            let content = content.map(verifier).transpose();
            let content = content.map_err(|e| fail(e.into()))?;
            match self.receive(info, compression, stream, content) {
                Ok(received) => break received,
                Err(_) if self.attempt.check_wanted().is_err() => return Err(FetchError::Stopped),
                Err(e) => {
                    let wait = e.is_transient().then(|| retries.failed()).flatten();
                    let Some(wait) = wait else {
                        return Err(fail(e));
                    };
                    let attempt = retries.failures();
                    tracing::debug!(path = %info.store_path, attempt, ?wait, "{e}; trying again");
                    self.unless_ended(async { tokio::time::sleep(wait).await })?;
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
        let ca = address.filter(|ca| info.is_named_by(ca, self.errand.store.store_dir()));
        Ok(Publication {
            registration: Registration {
                references: received.unpacked.references,
                ca: ca.copied(),
                vouched: ca.is_some() || offer.vouched != Vouched::Unsigned,
                ..offer.registration()
            },
            origin: Origin::Fetched,
            tree: received.unpacked.tree,
            hold: received.hold,
        })
    }
}
