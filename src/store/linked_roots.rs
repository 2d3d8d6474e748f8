//! What links outside of the state pointed to when they could be looked at last.
//!
//! A root that is a link to a link on a disk is not lost while that disk is away. One record has them
//! all: they are few.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::database::META;
use super::write_batch::WriteBatch;
use super::{Store, StoreError};
use crate::nix::store_path::StorePath;
use crate::tree::{read_number, write_number};

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

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    write_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = usize::try_from(read_number(rest)?).ok()?;
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn encode(all: &LinkedRoots) -> Vec<u8> {
    let mut out = vec![VERSION];
    for (link, root) in all {
        put(&mut out, link.as_os_str().as_bytes());
        put(&mut out, root.path.base_name().as_bytes());
        put(&mut out, root.mount_point.as_os_str().as_bytes());
    }
    out
}

fn decode(bytes: &[u8]) -> Option<LinkedRoots> {
    let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
    let mut rest = bytes.strip_prefix(&[VERSION])?;
    let mut all = LinkedRoots::new();
    while !rest.is_empty() {
        let link = path(take(&mut rest)?);
        let root = LinkedRoot {
            path: StorePath::parse_base_name(take(&mut rest)?).ok()?,
            mount_point: path(take(&mut rest)?),
        };
        all.insert(link, root);
    }
    Some(all)
}

impl Store {
    /// What was seen last.
    ///
    /// # Errors
    /// The database failed, or the record is damaged.
    pub fn linked_roots(&self) -> Result<LinkedRoots, StoreError> {
        let Some(record) = self.database.get(META, KEY)? else {
            return Ok(LinkedRoots::new());
        };
        decode(&record).ok_or_else(|| StoreError::Damaged {
            what: "what links outside of the state pointed to".into(),
        })
    }

    /// Keeps what is seen now; durable when it returns.
    ///
    /// # Errors
    /// The database failed.
    pub fn set_linked_roots(&self, all: &LinkedRoots) -> Result<(), StoreError> {
        if self.linked_roots().is_ok_and(|before| before == *all) {
            return Ok(());
        }
        let mut writes = WriteBatch::default();
        writes.put(META, KEY, encode(all));
        self.database.write_synced(writes, "roots were noted")
    }
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
        assert_eq!(decode(&record), Some(all));
        assert_eq!(decode(&record[..record.len() - 1]), None);
        assert_eq!(decode(&[VERSION]), Some(LinkedRoots::new()));
        assert_eq!(decode(&[2]), None);
    }
}
