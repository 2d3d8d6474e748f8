//! Closures and traces that are fetched before anything asks for them.
//!
//! Invariant: what is fetched is begun in the order in which it was found, while the rest of the
//! closure is still asked for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch::{Batch, Fetched, Missing};
use super::error::FetchError;
use super::fetcher::{Fetcher, Inner};
use super::progress::Progress;
use super::source::Asked;
use super::walk::Walk;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{PathInfo, Registration};

/// Narinfos that are asked for at once.
const ASKING: usize = 16;
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
        let inner = self.0.clone();
        let mut walk = Walk::new(&self.0.to.store, ASKING, move |asked| {
            know(inner.clone(), asked)
        });
        walk.add(wanted);
        let mut batch = Batch::new(&self.0, progress);
        loop {
            if progress.stopped() {
                return Err(FetchError::Stopped);
            }
            batch.begin();
            if walk.is_done() && batch.is_idle() {
                return Ok(batch.done);
            }
            let (asked, known) = tokio::select! {
                Some(found) = walk.found() => found?,
                step = batch.step() => {
                    step?;
                    continue;
                }
            };
            progress.narinfos.fetch_add(1, Ordering::Relaxed);
            match known {
                Ok((known, is_here)) => {
                    let Registration {
                        path,
                        nar_size,
                        references,
                        ..
                    } = known.registration;
                    if recursive {
                        walk.add_hashes(&references);
                    }
                    if is_here {
                        batch.done.already += 1;
                        batch.done.already_bytes += nar_size;
                    } else {
                        progress.expect(nar_size);
                        batch.unbegun.push_back(Missing {
                            path,
                            nar_size,
                            offer: None,
                        });
                    }
                }
                Err(error) => batch.done.failures.push(asked.failed(error)),
            }
        }
    }
}

async fn know(inner: Arc<Inner>, asked: Asked) -> Result<(PathInfo, bool), FetchError> {
    // Registered, so that what a pin keeps is known before it arrives: the closure is walked from
    // its root.
    let known = inner.registered(&asked).await?;
    let is_here = inner.to.store.paths().has_contents(&known)?;
    if is_here {
        // Or it would be the first to go for what comes after it.
        inner.to.store.paths().touch(known.ordinal);
    }
    Ok((known, is_here))
}
