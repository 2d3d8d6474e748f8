//! Closures that are only known: what narinfos say of them, without any contents.
//!
//! Invariant: what is registered was believed as what is fetched would be, by a signature or by
//! the user's word; what was seen is not collected until all of it is known.

use std::sync::atomic::Ordering;

use super::error::{CopyFailure, FetchError};
use super::fetcher::Fetcher;
use super::progress::Progress;
use super::walk::Walk;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Narinfos that are asked for at once.
const ASKING: usize = 16;

impl Fetcher {
    /// Registers paths that the state does not know, with their closures if `recursive`. Returns
    /// those that no source has, or that could not be asked for.
    ///
    /// # Errors
    /// It was stopped by `progress`.
    pub async fn register(
        &self,
        wanted: Vec<(StorePathHash, Option<StorePath>)>,
        recursive: bool,
        progress: &Progress,
    ) -> Result<Vec<CopyFailure>, FetchError> {
        let inner = self.0.clone();
        let mut walk = Walk::new(&self.0.to.store, ASKING, move |asked| {
            let inner = inner.clone();
            async move { Ok(inner.registered(&asked).await?.registration.references) }
        });
        walk.add(wanted);
        let mut failures = Vec::new();
        while let Some(found) = walk.found().await {
            progress.narinfos.fetch_add(1, Ordering::Relaxed);
            match found? {
                (_, Ok(references)) if recursive => walk.add_named(&references),
                (_, Ok(_)) => {}
                (asked, Err(error)) => failures.push(asked.failed(error)),
            }
            if progress.stopped() {
                return Err(FetchError::Stopped);
            }
        }
        Ok(failures)
    }
}
