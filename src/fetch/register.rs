//! Closures that are only known: what narinfos say of them, without any contents.
//!
//! Invariant: what is registered was believed as what is fetched would be, by a signature or by
//! the user's word; what was seen is not collected until all of it is known.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::error::{CopyFailure, FetchError};
use super::fetcher::Fetcher;
use super::progress::Progress;
use super::walk::Walk;
use crate::nix::store_path::{StorePath, StorePathHash};

/// Narinfos that are asked for at once.
const ASKING: usize = 16;
/// Time for which the sources are asked further after one did not answer: each question may have
/// to wait for that source.
const PATIENCE: Duration = Duration::from_secs(10);

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
        let silent: Arc<OnceLock<(Instant, Arc<FetchError>)>> = Arc::default();
        let mut walk = Walk::new(&self.0.to.store, ASKING, move |asked| {
            let (inner, silent) = (inner.clone(), silent.clone());
            async move {
                if let Some((since, error)) = silent.get()
                    && since.elapsed() > PATIENCE
                    && inner.to.store.paths().info(asked.hash)?.is_none()
                {
                    return Err(error.clone().into());
                }
                let known = inner.registered(&asked).await.map_err(Arc::new);
                if let Err(error) = &known
                    && error.is_transient()
                {
                    silent.get_or_init(|| (Instant::now(), error.clone()));
                }
                Ok(known?.registration.references)
            }
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
