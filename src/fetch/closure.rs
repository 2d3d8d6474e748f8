//! Closures that are only known: what narinfos say of them, without any contents.
//!
//! Invariant: what is registered was believed as what is fetched would be, by a signature or by
//! the user's word; what was seen is not collected until all of it is known.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::lazy::{Fetcher, Inner, registration};
use super::{CopyFailure, FetchError, Progress};
use crate::nix::store_path::{StorePath, StorePathHash};

/// Narinfos that are asked for at once.
const ASKING: usize = 16;
/// How long others are asked for after one could not be, because a source does not answer: each
/// may wait for that source in its turn.
const HOPE: Duration = Duration::from_secs(10);

type Wanted = (StorePathHash, Option<StorePath>);

impl Fetcher {
    /// Registers paths that the state does not know, with their closures if `recursive`. Returns
    /// those that no source has, or that could not be asked for.
    ///
    /// # Errors
    /// It was stopped by `progress`.
    pub async fn register(
        &self,
        wanted: Vec<Wanted>,
        recursive: bool,
        progress: &Progress,
    ) -> Result<Vec<CopyFailure>, FetchError> {
        let mut unasked = VecDeque::from(wanted);
        let mut seen = HashSet::new();
        let mut asking: JoinSet<(Wanted, Result<Vec<StorePath>, FetchError>)> = JoinSet::new();
        let mut failures = Vec::new();
        let mut silent: Option<(Instant, Arc<FetchError>)> = None;
        let kept = self.0.store.roots().temporary();
        loop {
            if progress.stopped() {
                return Err(FetchError::Stopped);
            }
            while asking.len() < ASKING
                && let Some((hash, path)) = unasked.pop_front()
            {
                if seen.insert(hash) {
                    kept.add(hash);
                    if let Some((since, error)) = &silent
                        && since.elapsed() > HOPE
                        && self.0.store.paths().info(hash)?.is_none()
                    {
                        let error = error.clone().into();
                        failures.push(CopyFailure { hash, path, error });
                        continue;
                    }
                    let inner = self.0.clone();
                    asking.spawn(async move {
                        let known = register_one(&inner, hash, path.as_ref()).await;
                        ((hash, path), known)
                    });
                }
            }
            let Some(asked) = asking.join_next().await else {
                return Ok(failures);
            };
            let ((hash, path), known) = asked.map_err(|_| FetchError::Stopped)?;
            progress.narinfos.fetch_add(1, Ordering::Relaxed);
            match known {
                Ok(references) if recursive => {
                    unasked.extend(references.into_iter().map(|r| (r.hash(), Some(r))));
                }
                Ok(_) => {}
                Err(error) => {
                    let error = Arc::new(error);
                    if error.is_transient() && silent.is_none() {
                        silent = Some((Instant::now(), error.clone()));
                    }
                    let error = error.into();
                    failures.push(CopyFailure { hash, path, error });
                }
            }
        }
    }
}

/// Registers a path, unless it is known; what it refers to.
async fn register_one(
    inner: &Arc<Inner>,
    hash: StorePathHash,
    path: Option<&StorePath>,
) -> Result<Vec<StorePath>, FetchError> {
    if let Some(there) = inner.store.paths().info(hash)? {
        let registered = there.registration;
        if path.is_some_and(|asked| *asked != registered.path) {
            return Err(FetchError::OtherName(registered.path));
        }
        return Ok(registered.references);
    }
    let offer = inner.offer(hash, path).await?;
    let registration = registration(&offer);
    let references = registration.references.clone();
    inner.store.paths().register(&[(registration, None)])?;
    Ok(references)
}
