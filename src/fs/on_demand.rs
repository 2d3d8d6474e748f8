//! What must be here before a request can be answered.
//!
//! Invariant: whoever calls is never blocked by the network. What is here is gone on with at
//! once, on the caller's thread; what is not is fetched first, and gone on with elsewhere.

use std::sync::Arc;

use super::{FileSystem, FsError, Inode, Place, Special};
use crate::fetch::Need;
use crate::nix::store_path::StorePath;
use crate::store::{Contents, RootKind};

impl FileSystem {
    /// Goes on with `then` when the contents of the path that `inode` is in are here.
    pub fn when_here(
        self: &Arc<Self>,
        inode: Inode,
        then: impl FnOnce(&Self, Result<(), FsError>) + Send + 'static,
    ) {
        let need = self.contents_needed(inode);
        self.when_met(need, then);
    }

    /// Goes on with `then` when a lookup of `name` in `parent` can be answered.
    pub fn when_known(
        self: &Arc<Self>,
        parent: Inode,
        name: &[u8],
        then: impl FnOnce(&Self, Result<(), FsError>) + Send + 'static,
    ) {
        let need = match parent.place() {
            Ok(Place::Special(Special::Store)) => self.root_needed(name),
            _ => self.contents_needed(parent),
        };
        self.when_met(need, then);
    }

    fn when_met(
        self: &Arc<Self>,
        need: Result<Option<Need>, FsError>,
        then: impl FnOnce(&Self, Result<(), FsError>) + Send + 'static,
    ) {
        match (need, &self.fetcher) {
            (Ok(Some(need)), Some(fetcher)) => {
                let fs = self.clone();
                fetcher.request(need, move |met| then(&fs, met.map_err(FsError::Fetch)));
            }
            (Ok(_), _) => then(self, Ok(())),
            (Err(e), _) => then(self, Err(e)),
        }
    }

    fn contents_needed(&self, inode: Inode) -> Result<Option<Need>, FsError> {
        let Place::Node(ordinal, _) = inode.place()? else {
            return Ok(None);
        };
        if self.fetcher.is_none() || self.store.load(ordinal)?.is_some() {
            return Ok(None);
        }
        Ok(self.store.path_of(ordinal)?.map(Need::Contents))
    }

    /// Names that are no store paths are answered without asking anybody.
    fn root_needed(&self, name: &[u8]) -> Result<Option<Need>, FsError> {
        let Ok(path) = StorePath::parse_base_name(name) else {
            return Ok(None);
        };
        if self.fetcher.is_none() {
            return Ok(None);
        }
        let there = self.store.path_info(path.hash())?;
        Ok(
            match there.map(|i| (i.registration.path == path, i.contents)) {
                Some((false, _) | (true, Contents::Local(_)))
                | Some((true, Contents::Absent(Some(RootKind::Directory)))) => None,
                Some((true, Contents::Absent(_))) | None => Some(Need::Root(path)),
            },
        )
    }
}
