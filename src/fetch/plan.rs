//! Which paths a copy needs: the closure, from narinfos, in the order of publication.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;

use super::sources::{Asked, Offer};
use super::{CopyFailure, FetchError, Progress, Sources, Trust};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Store, TemporaryRoots};

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
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// References before referrers.
    pub(super) offers: Vec<Offer>,
    pub(super) failures: Vec<CopyFailure>,
    pub(super) already: u64,
}

/// Finds what is missing for `wanted` (with references, if `recursive`). What it looks for, and
/// so what it finds here, stays as long as `kept` is there.
pub(super) async fn plan(
    (store, kept): (&Store, &TemporaryRoots),
    sources: &Sources,
    trust: &Trust,
    wanted: &Wanted,
    recursive: bool,
    progress: &Progress,
) -> Result<Plan, FetchError> {
    let (mut queue, names) = roots(sources, wanted).await?;
    let mut seen = HashSet::new();
    let mut found = HashMap::new();
    let mut plan = Plan::default();
    let mut asking = JoinSet::new();
    loop {
        while asking.len() < PARALLEL {
            let Some(hash) = queue.pop_front() else { break };
            if !seen.insert(hash) {
                continue;
            }
            kept.add(hash);
            let path = names.get(&hash).cloned();
            let known = store.paths().info(hash)?;
            let here = match &known {
                // A record that cannot be read is for `verify` to mend.
                Some(info) => store.paths().has_contents(info).unwrap_or(true),
                None => false,
            };
            if let Some(local) = known.filter(|_| here) {
                let there = &local.registration.path;
                if path.as_ref().is_some_and(|asked| asked != there) {
                    let error = FetchError::OtherName(there.clone());
                    plan.failures.push(CopyFailure { hash, path, error });
                    continue;
                }
                plan.already += 1;
                if recursive {
                    queue.extend(local.registration.references.iter().map(StorePath::hash));
                }
                continue;
            }
            let (sources, trust) = (sources.clone(), trust.clone());
            let store_dir = store.store_dir().clone();
            let asked = Asked { hash, path };
            asking.spawn(async move {
                let answer = sources.offer(&asked, &store_dir, &trust).await;
                (asked, answer)
            });
        }
        let Some(answer) = asking.join_next().await else {
            break;
        };
        // A task that panicked would be a path that is missing from the plan without a word.
        let Ok((Asked { hash, path }, answer)) = answer else {
            return Err(FetchError::Stopped);
        };
        if progress.stopped() {
            return Err(FetchError::Stopped);
        }
        progress.narinfos.fetch_add(1, Ordering::Relaxed);
        let absent = || FetchError::Absent {
            path: path.as_ref().map_or(hash.to_string(), ToString::to_string),
            sources: sources.names(),
        };
        match answer.and_then(|offer| offer.ok_or_else(absent)) {
            Ok(offer) => {
                if recursive {
                    queue.extend(offer.info.references.iter().map(StorePath::hash));
                }
                progress.paths.fetch_add(1, Ordering::Relaxed);
                let nar_bytes = &progress.nar_bytes;
                nar_bytes.fetch_add(offer.info.nar_size, Ordering::Relaxed);
                found.insert(hash, offer);
            }
            Err(error) => plan.failures.push(CopyFailure { hash, path, error }),
        }
    }
    plan.offers = order(found);
    Ok(plan)
}

/// Where to begin, and the names that were asked for.
async fn roots(
    sources: &Sources,
    wanted: &Wanted,
) -> Result<(VecDeque<StorePathHash>, HashMap<StorePathHash, StorePath>), FetchError> {
    let mut queue = VecDeque::new();
    let mut names = HashMap::new();
    match wanted {
        Wanted::Paths(paths) => {
            for (hash, path) in paths {
                queue.push_back(*hash);
                names.extend(path.clone().map(|p| (*hash, p)));
            }
        }
        Wanted::All => {
            for source in &sources.0 {
                queue.extend(source.substituter.list().await?);
            }
        }
    }
    Ok((queue, names))
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
