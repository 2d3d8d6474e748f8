//! Contents that were added here, restored from what is kept of them a second time.

use std::sync::Arc;

use super::attempt::Attempt;
use super::receive::{AddError, Expected, unpack};
use crate::store::{Origin, PathInfo, Publication, Registration, Store};

/// Has the contents of a path that was added here be there again; `false` if they are not kept. What comes is
/// the NAR that is registered.
///
/// # Errors
/// It is another NAR, or the state failed.
pub fn restore(store: &Store, info: &PathInfo) -> Result<bool, AddError> {
    let there = &info.registration;
    let Some(nar) = store.paths().small_contents(there.path.hash())? else {
        return Ok(false);
    };
    let expected = Expected {
        nar_hash: there.nar_hash,
        nar_size: there.nar_size,
    };
    let attempt = Attempt::new(&Arc::default());
    let references = &there.references;
    let received = unpack(store, &nar[..], references, Some(expected), None, &attempt)?;
    if info.tree().is_some() {
        store.paths().restore_tree(&received.unpacked.tree)?;
        return Ok(true);
    }
    store.paths().publish(&[Publication {
        registration: Registration {
            references: received.unpacked.references,
            ..there.clone()
        },
        origin: Origin::Added,
        tree: received.unpacked.tree,
        hold: received.hold,
    }])?;
    Ok(true)
}
