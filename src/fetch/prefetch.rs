//! Closures and traces that are fetched before anything asks for them.
//!
//! Invariant: what is fetched is begun in the order in which it was found, while the rest of the
//! closure is still asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::batch::{Batch, Fetched, Missing};
use super::error::FetchError;
use super::fetcher::{Fetcher, Inner};
use super::progress::Progress;
use super::sources::Asked;
use super::walk::{Found, Walk};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::PathInfo;

/// Narinfos that are asked for at once.
const ASKING: usize = 16;
/// How often it is counted what has arrived.
const COUNT: Duration = Duration::from_millis(100);

/// What is known of a path, and whether its contents are here.
type Known = (PathInfo, bool);

impl Fetcher {
    /// Makes paths local, with their closures if `recursive`, in their order; what programs wait
    /// for goes first. Paths that cannot be had are in the summary.
    ///
    /// # Errors
    /// It was stopped by `progress`.
    pub async fn prefetch(
        &self,
        wanted: Vec<(StorePathHash, Option<StorePath>)>,
        recursive: bool,
        progress: &Progress,
    ) -> Result<Fetched, FetchError> {
        let mut walk = Walk::new(&self.0.to.store, ASKING);
        walk.add(wanted);
        let mut batch = Batch::new(&self.0, progress, None);
        let mut tick = tokio::time::interval(COUNT);
        loop {
            if progress.stopped() {
                return Err(FetchError::Stopped);
            }
            while let Some(asked) = walk.next() {
                let (inner, wanted) = (self.0.clone(), asked.clone());
                walk.look(asked, async move { know(&inner, &wanted).await });
            }
            batch.begin();
            if walk.is_idle() && batch.is_idle() {
                batch.count();
                return Ok(batch.done);
            }
            tokio::select! {
                Some(found) = walk.found() => {
                    progress.narinfos.fetch_add(1, Ordering::Relaxed);
                    if let Some(known) = batch.take(found?) && recursive {
                        walk.add_hashes(&known.registration.references);
                    }
                }
                Some(arrived) = batch.arrival() => arrived?,
                _ = tick.tick() => batch.count(),
            }
        }
    }
}

impl Batch<'_> {
    /// Takes what a walk found, to be fetched where it is not here.
    fn take(&mut self, (asked, known): Found<Known>) -> Option<PathInfo> {
        let (known, is_here) = match known {
            Ok(known) => known,
            Err(error) => {
                self.done.failures.push(asked.failed(error));
                return None;
            }
        };
        let (path, nar_size) = (known.registration.path.clone(), known.registration.nar_size);
        if is_here {
            self.done.already += 1;
            self.done.already_bytes += nar_size;
        } else {
            self.progress.expect(nar_size);
            self.unbegun.push_back(Missing {
                path,
                nar_size,
                offer: None,
            });
        }
        Some(known)
    }
}

async fn know(inner: &Arc<Inner>, asked: &Asked) -> Result<Known, FetchError> {
    // Registered, so that what a pin keeps is known before it arrives: the closure is walked from
    // its root.
    let known = inner.registered(asked).await?;
    let is_here = inner.to.store.has_contents(&known)?;
    if is_here {
        // Or it would be the first to go for what comes after it.
        inner.to.store.touch(known.ordinal);
    }
    Ok((known, is_here))
}
