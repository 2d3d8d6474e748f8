//! Closures that are only known: what narinfos say of them, without any contents.
//!
//! Invariant: what is registered was believed as what is fetched would be, by a signature or by
//! the user's word; what was seen is not collected until all of it is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::{CopyFailure, FetchError};
use super::fetcher::Fetcher;
use super::progress::Progress;
use super::walk::Walk;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Narinfos that are asked for at once.
const ASKING: usize = 16;
/// How long others are asked for after one could not be, because a source does not answer: each
/// may wait for that source in its turn.
const HOPE: Duration = Duration::from_secs(10);

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
        let store = &self.0.to.store;
        let mut walk = Walk::new(store, ASKING);
        walk.add(wanted);
        let mut failures = Vec::new();
        let mut silent: Option<(Instant, Arc<FetchError>)> = None;
        loop {
            if progress.stopped() {
                return Err(FetchError::Stopped);
            }
            while let Some(asked) = walk.next() {
                if let Some((since, error)) = &silent
                    && since.elapsed() > HOPE
                    && store.path_info(asked.hash)?.is_none()
                {
                    failures.push(asked.failed(error.clone().into()));
                    continue;
                }
                let (inner, wanted) = (self.0.clone(), asked.clone());
                walk.look(asked, async move { inner.registered(&wanted).await });
            }
            let Some(found) = walk.found().await else {
                return Ok(failures);
            };
            let (asked, known) = found?;
            progress.narinfos.fetch_add(1, Ordering::Relaxed);
            match known {
                Ok(known) if recursive => walk.add_named(&known.registration.references),
                Ok(_) => {}
                Err(error) => {
                    let error = Arc::new(error);
                    if error.is_transient() && silent.is_none() {
                        silent = Some((Instant::now(), error.clone()));
                    }
                    failures.push(asked.failed(error.into()));
                }
            }
        }
    }
}
