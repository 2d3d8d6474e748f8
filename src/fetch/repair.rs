//! Damaged paths, fetched again.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::error::FetchError;
use super::priorities::{Priorities, Urgency};
use super::race;
use super::source::{Asked, Trust};
use super::sources::Sources;
use super::transfer::Errand;
use crate::store::{PathInfo, Store};

/// Fetches a registered path again, to replace those of its chunks that were found damaged. What
/// comes must be the NAR that is registered. Blocks; `runtime` is for the network.
///
/// # Errors
/// No source has it, or the state failed.
pub fn repair(
    store: &Arc<Store>,
    runtime: &Handle,
    sources: &Sources,
    trust: &Trust,
    info: &PathInfo,
) -> Result<(), FetchError> {
    let asked = Asked::from(&info.registration.path);
    let offer = runtime.block_on(sources.find(&asked, store.store_dir(), trust))?;
    if offer.info.nar_hash != info.registration.nar_hash {
        return Err(sources.nowhere(&asked, Vec::new()));
    }
    let errand = Errand {
        store: store.clone(),
        runtime: runtime.clone(),
        sources: sources.clone(),
        trust: trust.clone(),
        progress: Arc::default(),
        urgency: Urgency::new(&Priorities::for_copy(1, sources.urls().count())),
        among: None,
    };
    let publication = runtime.block_on(race::fetch(errand, offer))?;
    store.paths().restore_tree(&publication.tree)?;
    Ok(())
}
