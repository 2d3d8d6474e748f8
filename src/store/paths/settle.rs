//! Path infos that came back without their trees.

use super::ordinals::{self, DIRECTORY_HERE, name_path};
use super::path_info::{Contents, Origin, PathInfo, RootKind};
use crate::nix::store_path::StorePath;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Family, Records};

/// What is written so that a path is no longer said to be here.
pub(in crate::store) struct Settled {
    pub(in crate::store) writes: Batch,
    /// The path, if what was here was added on this machine.
    pub(in crate::store) lost: Option<StorePath>,
}

/// Has a path info that came back be that of a path whose contents are yet to come, if its tree is not here;
/// `None` if it is right. What it says of NarHash, references and who vouches for them stays.
pub(in crate::store) fn settled(
    records: &Records,
    key: &[u8],
    record: &[u8],
) -> Result<Option<Settled>, StoreError> {
    // What cannot be read is for `verify` to name.
    let Ok(mut info) = PathInfo::scanned(key, record) else {
        return Ok(None);
    };
    let Some(tree) = info.tree() else {
        return Ok(None);
    };
    match records.get(Family::Trees, &tree.0) {
        Ok(None) => {}
        Ok(Some(_)) => return Ok(None),
        // It can be mended.
        Err(e) if e.is_damage() => return Ok(None),
        Err(e) => return Err(e),
    }
    let ordinal = info.ordinal.0.to_be_bytes();
    let named = records.get(Family::Ordinals, &ordinal)?;
    let is_directory = named.is_some_and(|n| n.first() == Some(&DIRECTORY_HERE));
    info.contents = Contents::Absent(is_directory.then_some(RootKind::Directory));
    let path = &info.registration.path;
    let mut writes = Batch::default();
    if let Some(feature) = info.needed_feature() {
        writes.need(feature);
    }
    writes.put(Family::Paths, key, info.encode());
    writes.put(
        Family::Ordinals,
        ordinal,
        name_path(ordinals::NOT_HERE, path),
    );
    let lost = (info.origin == Origin::Added).then(|| path.clone());
    Ok(Some(Settled { writes, lost }))
}
