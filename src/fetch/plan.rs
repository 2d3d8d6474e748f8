//! Which paths a copy needs: the closure, from narinfos, in the order of publication.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{CopyFailure, FetchError};
use super::fetcher::Inner;
use super::progress::Progress;
use super::sources::Offer;
use super::walk::Walk;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::TemporaryRoots;

/// Narinfos that are asked for at once, as in Nix.
const PARALLEL: usize = 25;

/// What a copy is to bring.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// These paths; where a name is given, the source's must be the same.
    Paths(Vec<(StorePathHash, Option<StorePath>)>),
    /// Whatever the sources list.
    All,
}

/// What is to be done for a copy.
pub(super) struct Plan {
    /// References before referrers.
    pub(super) offers: Vec<Offer>,
    pub(super) failures: Vec<CopyFailure>,
    pub(super) already: u64,
    /// Keeps what was found here, and what is published before what refers to it.
    pub(super) kept: TemporaryRoots,
}

/// Finds what is missing for `wanted` (with references, if `recursive`). The sources are asked anew,
/// whatever is remembered of them.
pub(super) async fn plan(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    recursive: bool,
    progress: &Progress,
) -> Result<Plan, FetchError> {
    let (store, sources) = (&inner.to.store, inner.offers.slots.answered());
    let mut walk = Walk::new(store, PARALLEL);
    match wanted {
        Wanted::Paths(paths) => walk.add(paths.iter().cloned()),
        Wanted::All => {
            for source in &sources.0 {
                let listed = source.substituter.list().await?;
                walk.add(listed.into_iter().map(|hash| (hash, None)));
            }
        }
    }
    let (mut found, mut failures, mut already) = (HashMap::new(), Vec::new(), 0);
    loop {
        while let Some(asked) = walk.next() {
            let known = store.path_info(asked.hash)?;
            // A record that cannot be read is for `verify` to mend.
            let here = known.filter(|info| store.has_contents(info).unwrap_or(true));
            if let Some(here) = here {
                let path = here.registration.path;
                if asked.path.as_ref().is_some_and(|asked| *asked != path) {
                    failures.push(asked.failed(FetchError::OtherName(path)));
                    continue;
                }
                already += 1;
                if recursive {
                    walk.add_hashes(&here.registration.references);
                }
                continue;
            }
            let (inner, sources, wanted) = (inner.clone(), sources.clone(), asked.clone());
            walk.look(asked, async move {
                let (store_dir, trust) = (inner.to.store.store_dir(), &inner.offers.trust);
                let offer = sources.offer(&wanted, store_dir, trust).await?;
                offer.ok_or_else(|| wanted.nowhere(sources.names()))
            });
        }
        let Some(answer) = walk.found().await else {
            break;
        };
        let (asked, offer) = answer?;
        if progress.stopped() {
            return Err(FetchError::Stopped);
        }
        progress.narinfos.fetch_add(1, Ordering::Relaxed);
        match offer {
            Ok(offer) => {
                if recursive {
                    walk.add_hashes(&offer.info.references);
                }
                progress.expect(offer.info.nar_size);
                found.insert(asked.hash, offer);
            }
            Err(error) => failures.push(asked.failed(error)),
        }
    }
    Ok(Plan {
        offers: order(found),
        failures,
        already,
        kept: walk.into_kept(),
    })
}

/// References first. A cycle, which no honest source has, ends anywhere.
fn order(mut found: HashMap<StorePathHash, Offer>) -> Vec<Offer> {
    let mut roots: Vec<_> = found.keys().copied().collect();
    roots.sort_unstable();
    let mut out = Vec::with_capacity(found.len());
    let mut entered = HashSet::new();
    for root in roots {
        // Each entry: a path, and whether its references were pushed.
        let mut stack = vec![(root, false)];
        while let Some((hash, expanded)) = stack.pop() {
            if expanded {
                out.extend(found.remove(&hash));
            } else if entered.insert(hash)
                && let Some(offer) = found.get(&hash)
            {
                stack.push((hash, true));
                let references = offer.info.references.iter().rev();
                stack.extend(references.map(|r| (r.hash(), false)));
            }
        }
    }
    out
}
