//! References that are the word of a source alone, asked for anew by fetchers that require signatures.
//!
//! Invariants: before a fetcher that requires signatures follows such references, it asks its own
//! sources; what these vouch for takes their place. Where no source can say, it goes on with them and
//! says so. What a source vouches for and is not what is here is an error, never passed over.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{CopyFailure, FetchError};
use super::fetcher::{Fetcher, Inner};
use super::flights::Need;
use super::progress::Progress;
use super::source::{Asked, Offer, Vouched};
use super::walk::Walk;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Contents, PathInfo};
use crate::substituter;

/// Paths that are asked for at once.
const ASKING: usize = 16;

impl Inner {
    /// Whether the references of a path are not to be followed before its sources were asked.
    fn doubts(&self, there: &PathInfo) -> bool {
        self.offers.trust.require_signatures && !there.registration.vouched
    }

    /// What is known of a path that is here, or registered, once the sources were asked for what nobody
    /// vouches for yet.
    ///
    /// # Errors
    /// What they vouch for is something else than what is here.
    pub(super) async fn vouched(self: &Arc<Self>, there: PathInfo) -> Result<PathInfo, FetchError> {
        if !self.doubts(&there) {
            return Ok(there);
        }
        let path = there.registration.path.clone();
        let error = match self.ask_unless_answered(&there).await {
            Ok(now) => return Ok(now),
            Err(error) => error,
        };
        if error.is_contradiction() || error.is_final() {
            return Err(error.into());
        }
        if let Some(unsaid) = self.doubts.log_limit.say() {
            tracing::warn!(
                %path, unsaid,
                "its references were taken without a signature, and are used since no source vouches for \
                 others: {error}"
            );
        }
        Ok(there)
    }

    async fn ask_unless_answered(
        self: &Arc<Self>,
        there: &PathInfo,
    ) -> Result<PathInfo, Arc<FetchError>> {
        let hash = there.registration.path.hash();
        if let Some(error) = self.doubts.answered(hash) {
            return Err(error);
        }
        let asked = self.ask_anew(there).await.map_err(Arc::new);
        if let Err(error) = &asked
            && !error.is_final()
        {
            self.doubts.note(hash, error.clone());
        }
        asked
    }

    async fn ask_anew(self: &Arc<Self>, there: &PathInfo) -> Result<PathInfo, FetchError> {
        let (store, path) = (&self.to.store, &there.registration.path);
        let offer = self.offers.get(&Asked::from(path)).await?;
        contradicts(&offer, there)?;
        store.paths().register(&[(offer.registration(), None)])?;
        let mut now = store.paths().info(path.hash())?;
        if now.as_ref().is_some_and(|now| !now.registration.vouched) {
            // The tree that is here has other references; the NAR brings one with these.
            let need = Need::Contents(path.clone());
            let waiting = self.join(&need, false, Some(&offer));
            self.met(waiting, &need, false, Some(&offer)).await?;
            now = store.paths().info(path.hash())?;
        }
        let url = substituter::redacted(offer.source.url());
        tracing::info!(%path, source = url, "it is vouched for now");
        now.ok_or_else(|| self.offers.sources.nowhere(&Asked::from(path), Vec::new()))
    }

    /// An offer of contents that are known by what is vouched for: with the references that this says, not
    /// those of a source without signatures.
    pub(super) fn as_vouched(&self, offer: Arc<Offer>) -> Result<Arc<Offer>, FetchError> {
        let info = &offer.info;
        let there = self.to.store.paths();
        let there = there.readable_info(info.store_path.hash())?;
        let known = there.map(|there| there.registration).filter(|known| {
            let is_same = (&known.path, known.nar_hash, known.nar_size)
                == (&info.store_path, info.nar_hash, info.nar_size);
            is_same && known.vouched && offer.vouched == Vouched::Unsigned
        });
        Ok(match known {
            Some(known) => {
                let mut offer = Offer::clone(&offer);
                offer.info.references = known.references;
                offer.info.references.sort();
                Arc::new(offer)
            }
            None => offer,
        })
    }

    /// Whether contents that are here are good enough, whatever is known of their references.
    pub(super) fn is_believed(&self, there: &PathInfo) -> bool {
        !self.doubts(there)
    }
}

/// Fails if an offer is of other contents than those that are here.
fn contradicts(offer: &Offer, there: &PathInfo) -> Result<(), FetchError> {
    let (info, ours) = (&offer.info, &there.registration);
    let is_same = (info.nar_hash, info.nar_size) == (ours.nar_hash, ours.nar_size);
    match there.contents {
        Contents::Local(_) if !is_same => Err(FetchError::Contradiction {
            url: offer.source.url().to_owned(),
            path: ours.path.clone(),
            theirs: info.nar_hash,
            ours: ours.nar_hash,
        }),
        _ => Ok(()),
    }
}

impl Fetcher {
    /// Whether the references of a path are not to be followed before the sources were asked.
    pub fn doubts(&self, there: &PathInfo) -> bool {
        self.0.doubts(there)
    }

    /// Asks the sources for paths that nobody vouches for. Returns those that they do not vouch for either.
    ///
    /// # Errors
    /// It was stopped by `progress`.
    pub async fn vouch(
        &self,
        wanted: Vec<(StorePathHash, Option<StorePath>)>,
        progress: &Progress,
    ) -> Result<Vec<CopyFailure>, FetchError> {
        let inner = self.0.clone();
        let mut walk = Walk::new(&self.0.to.store, ASKING, move |asked| {
            let inner = inner.clone();
            async move {
                match inner.to.store.paths().readable_info(asked.hash)? {
                    Some(there) => Ok(inner.ask_unless_answered(&there).await.map(drop)?),
                    None => Ok(()),
                }
            }
        });
        walk.add(wanted);
        let mut failures = Vec::new();
        while let Some(found) = walk.found().await {
            let (asked, answer) = found?;
            failures.extend(answer.err().map(|error| asked.failed(error)));
            progress.narinfos.fetch_add(1, Ordering::Relaxed);
            if progress.stopped() {
                return Err(FetchError::Stopped);
            }
        }
        Ok(failures)
    }

    /// Has the sources asked in the background for a path that is used and that nobody vouches for.
    ///
    /// # Errors
    /// They were asked before, and vouch for other contents than those that are here.
    pub fn doubt(&self, there: &PathInfo) -> Result<(), Arc<FetchError>> {
        if !self.0.doubts(there) {
            return Ok(());
        }
        let inner = self.0.clone();
        match inner.doubts.answered(there.registration.path.hash()) {
            Some(error) if error.is_contradiction() => return Err(error),
            Some(_) => return Ok(()),
            None => {}
        }
        let there = there.clone();
        self.0.to.runtime.spawn(async move {
            let _permit = inner.background.acquire().await;
            if let Err(error) = inner.vouched(there).await {
                tracing::error!("{error}");
            }
            // What has other references now may belong to views.
            let store = inner.to.store.clone();
            let completed = tokio::task::spawn_blocking(move || store.views().complete()).await;
            if let Ok(Err(error)) = completed {
                tracing::warn!("closure views are not looked at again: {error}");
            }
        });
        Ok(())
    }
}
