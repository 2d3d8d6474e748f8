//! What the sources of a fetcher say of paths: asked for once, and remembered.
//!
//! Invariant: that no source has a path is remembered for a short time only, and a source that
//! cannot be reached is never taken for one that has not got the path, unless it is optional.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::error::FetchError;
use super::source::{Asked, Offer, Trust};
use super::sources::Sources;
use crate::nix::store_path::{StoreDir, StorePathHash};

/// Narinfos that are kept in memory, so that contents need not ask for them again.
const OFFERS: usize = 1 << 14;
/// Paths that are remembered as absent.
const ABSENT: usize = 1 << 16;
/// Time for which that is remembered at most where an optional source could not be asked: it may be
/// back at any moment.
const BRIEFLY: Duration = Duration::from_secs(1);

/// That no source has a path.
#[derive(Clone)]
struct Nowhere {
    since: Instant,
    /// Optional sources that could not be asked.
    unreachable: Vec<String>,
}

/// See the module.
pub(super) struct Offers {
    pub(super) sources: Sources,
    pub(super) trust: Trust,
    store_dir: StoreDir,
    /// How long it is remembered that no source has a path.
    remember: Duration,
    known: Cache<StorePathHash, Arc<Offer>>,
    absent: Cache<StorePathHash, Nowhere>,
}

impl Offers {
    pub(super) fn new(
        sources: Sources,
        trust: Trust,
        store_dir: StoreDir,
        remember: Duration,
    ) -> Self {
        Self {
            sources,
            trust,
            store_dir,
            remember,
            known: Cache::new(OFFERS),
            absent: Cache::new(ABSENT),
        }
    }

    /// The best offer of a path; asked for once, however many want it. Where a name is given, it
    /// is the path of that name or none.
    pub(super) async fn get(&self, asked: &Asked) -> Result<Arc<Offer>, FetchError> {
        let (hash, path) = (asked.hash, &asked.path);
        let ask = async {
            // Looked at here, so that those who waited for the same question share the answer.
            if let Some(absent) = self.absent.get(&hash)
                && absent.since.elapsed() < self.remembered(&absent)
            {
                return Err(self.sources.nowhere(asked, absent.unreachable));
            }
            // All who want this hash share the answer, under whatever name.
            let any = Asked { hash, path: None };
            let found = self.sources.find(&any, &self.store_dir, &self.trust);
            match found.await {
                Err(FetchError::Absent { unreachable, .. }) => {
                    let absent = Nowhere {
                        since: Instant::now(),
                        unreachable: unreachable.clone(),
                    };
                    self.absent.insert(hash, absent);
                    Err(self.sources.nowhere(asked, unreachable))
                }
                found => Ok(Arc::new(found?)),
            }
        };
        let offer = self.known.get_or_insert_async(&hash, ask).await?;
        if path
            .as_ref()
            .is_some_and(|path| offer.info.store_path != *path)
        {
            // The hash is another path's, so that there is none of this name.
            return Err(self.sources.nowhere(asked, Vec::new()));
        }
        Ok(offer)
    }

    fn remembered(&self, absent: &Nowhere) -> Duration {
        match absent.unreachable.is_empty() {
            true => self.remember,
            false => self.remember.min(BRIEFLY),
        }
    }

    /// Whether a path need not be asked for any more.
    pub(super) fn knows(&self, hash: StorePathHash) -> bool {
        self.known.get(&hash).is_some()
    }

    /// Has the next try ask again: the narinfo may be mended by then.
    pub(super) fn forget(&self, hash: StorePathHash) {
        self.known.remove(&hash);
    }
}
