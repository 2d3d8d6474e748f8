//! What links outside of the state pointed to when they could be looked at last.
//!
//! A root that is a link to a link on a disk is not lost while that disk is away. One record has them
//! all: they are few.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::nix::store_path::StorePath;
use crate::store::error::StoreError;
use crate::store::records::{Batch, Durability, Family, Reader, Records, Writer};

const KEY: &[u8] = b"linked-roots";
const VERSION: u8 = 1;

/// A link outside of the state, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedRoot {
    /// The store path that it pointed to.
    pub path: StorePath,
    /// Where what it lies on was mounted.
    pub mount_point: PathBuf,
}

/// All of them, by the links in the state that point to them.
pub type LinkedRoots = BTreeMap<PathBuf, LinkedRoot>;

fn encode(all: &LinkedRoots) -> Vec<u8> {
    let mut out = Writer::versioned(VERSION);
    for (link, root) in all {
        out.string(link.as_os_str().as_bytes());
        out.string(root.path.base_name());
        out.string(root.mount_point.as_os_str().as_bytes());
    }
    out.finish()
}

fn decode(record: &[u8]) -> Result<LinkedRoots, StoreError> {
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let what = || "what links outside of the state pointed to".into();
    Reader::whole(record, what, |fields| {
        fields.version(VERSION)?;
        let mut all = LinkedRoots::new();
        while !fields.is_at_end() {
            let link = path(fields.byte_string()?);
            let root = LinkedRoot {
                path: StorePath::parse_base_name(fields.byte_string()?).ok()?,
                mount_point: path(fields.byte_string()?),
            };
            all.insert(link, root);
        }
        Some(all)
    })
}

pub(super) fn read(records: &Records) -> Result<LinkedRoots, StoreError> {
    match records.get(Family::Meta, KEY)? {
        Some(record) => decode(&record),
        None => Ok(LinkedRoots::new()),
    }
}

pub(super) fn write(records: &Records, all: &LinkedRoots) -> Result<(), StoreError> {
    let mut writes = Batch::default();
    writes.put(Family::Meta, KEY, encode(all));
    writes.set_irreplaceable();
    records.write(writes, Durability::Power, "roots were noted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_any_name_are_kept() {
        let path = StorePath::parse_base_name(format!("{}-x", "1".repeat(32)).as_bytes()).unwrap();
        let odd = PathBuf::from(OsString::from_vec(b"/a/\xff b".to_vec()));
        let root = LinkedRoot {
            path,
            mount_point: odd.clone(),
        };
        let all = LinkedRoots::from([(odd, root.clone()), ("/b".into(), root)]);
        let record = encode(&all);
        assert_eq!(decode(&record).ok(), Some(all));
        assert_eq!(decode(&record[..record.len() - 1]).ok(), None);
        assert_eq!(decode(&[VERSION]).ok(), Some(LinkedRoots::new()));
        assert_eq!(decode(&[2]).ok(), None);
    }
}
