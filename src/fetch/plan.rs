//! Which paths a copy needs: the closure, from narinfos, in the order of publication.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{CopyFailure, FetchError};
use super::fetcher::Inner;
use super::progress::Progress;
use super::source::{Asked, Offer};
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
    let mut walk = Walk::new(&inner.to.store, PARALLEL, {
        let inner = inner.clone();
        move |asked| look(inner.clone(), asked)
    });
    match wanted {
        Wanted::Paths(paths) => walk.add(paths.iter().cloned()),
        Wanted::All => {
            let listed = inner.offers.sources.list(inner.to.store.store_dir());
            walk.add(listed.await?.into_iter().map(|hash| (hash, None)));
        }
    }
    let follow = |walk: &mut Walk<_>, references: &[StorePath]| {
        if recursive {
            walk.add_hashes(references);
        }
    };
    let (mut offers, mut failures, mut already) = (HashMap::new(), Vec::new(), 0);
    while let Some(answer) = walk.found().await {
        let (asked, found) = answer?;
        if progress.stopped() {
            return Err(FetchError::Stopped);
        }
        match found {
            Ok(Seen::Here(references)) => {
                already += 1;
                follow(&mut walk, &references);
            }
            Ok(Seen::Offered(offer)) => {
                progress.narinfos.fetch_add(1, Ordering::Relaxed);
                progress.expect(offer.info.nar_size);
                follow(&mut walk, &offer.info.references);
                offers.insert(asked.hash, *offer);
            }
            // The state ends the whole copy.
            Err(FetchError::Store(e)) => return Err(e.into()),
            Err(error) => {
                progress.narinfos.fetch_add(1, Ordering::Relaxed);
                failures.push(asked.failed(error));
            }
        }
    }
    Ok(Plan {
        offers: order(offers),
        failures,
        already,
        kept: walk.into_kept(),
    })
}

/// Where a path is: here, with these references, or at a source.
enum Seen {
    Here(Vec<StorePath>),
    Offered(Box<Offer>),
}

async fn look(inner: Arc<Inner>, asked: Asked) -> Result<Seen, FetchError> {
    let store = &inner.to.store;
    let known = store.paths().readable_info(asked.hash)?;
    // What the database cannot say is for `verify`.
    if let Some(here) = known.filter(|info| store.paths().has_contents(info).unwrap_or(true)) {
        let path = &here.registration.path;
        return match &asked.path {
            Some(asked) if asked != path => Err(FetchError::OtherName(path.clone())),
            _ => Ok(Seen::Here(
                inner.vouched(here).await?.registration.references,
            )),
        };
    }
    let (sources, trust) = (&inner.offers.sources, &inner.offers.trust);
    let offer = sources.find(&asked, store.store_dir(), trust).await;
    let offer = offer.map_err(|error| inner.unless_lost(asked.hash, error))?;
    Ok(Seen::Offered(Box::new(offer)))
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
