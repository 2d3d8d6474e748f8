//! Data that must be local before a request can be answered.
//!
//! Invariant: callers are never blocked by the network. If the data is local, the request continues
//! at once, on the caller's thread; otherwise the data is fetched first, and the request continues
//! on another thread.

use std::sync::Arc;

use super::{FileSystem, FsError, Inode, Place, Special};
use crate::fetch::{FetchError, Need, Requester};
use crate::nix::store_path::StorePath;
use crate::store::{Contents, PathOrdinal, RootKind, StoreError};

/// Number of fetches when contents are dropped between their arrival and the read, or are found damaged by
/// it. The first happens if the budget is smaller than what is read at the same time.
const MAX_FETCHES: u32 = 3;

/// The part of a path that a request needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Names, kinds, sizes and targets.
    Tree,
    /// Also the contents of files.
    Contents,
}

impl FileSystem {
    /// Calls `then` when the metadata of the path that contains `inode` is local.
    pub fn when_local(
        self: &Arc<Self>,
        inode: Inode,
        requester: Requester,
        then: impl FnOnce(&Self, Result<(), FsError>) + Send + 'static,
    ) {
        let need = self.inside(inode, Part::Tree);
        self.when_satisfied(need, requester, |fs, met| then(fs, met));
    }

    /// Calls `then` when a lookup of `name` in `parent` can be answered.
    pub fn when_resolvable(
        self: &Arc<Self>,
        parent: Inode,
        name: &[u8],
        requester: Requester,
        then: impl FnOnce(&Self, Result<(), FsError>) + Send + 'static,
    ) {
        let need = match parent.place() {
            Ok(Place::Special(Special::Store)) => self.root_needed(name),
            Ok(Place::ViewStore(view)) => match self.has_member(view, name) {
                Ok(true) => self.root_needed(name),
                Ok(false) => Ok(None),
                Err(e) => Err(e),
            },
            _ => self.inside(parent, Part::Tree),
        };
        self.when_satisfied(need, requester, |fs, met| then(fs, met));
    }

    /// Calls `then` with at most `length` bytes of a file, from `offset` on; fewer only at its end.
    pub fn read_when_local(
        self: &Arc<Self>,
        inode: Inode,
        (offset, length): (u64, u32),
        requester: Requester,
        then: impl FnOnce(Result<Vec<u8>, FsError>) + Send + 'static,
    ) {
        self.read_again(inode, (offset, length), requester, MAX_FETCHES, then);
    }

    fn read_again(
        self: &Arc<Self>,
        inode: Inode,
        part: (u64, u32),
        requester: Requester,
        again: u32,
        then: impl FnOnce(Result<Vec<u8>, FsError>) + Send + 'static,
    ) {
        let need = self.inside(inode, Part::Contents);
        self.when_satisfied(need, requester, move |fs, met| {
            match met.and_then(|()| fs.read(inode, part.0, part.1)) {
                Err(FsError::Store(e))
                    if again > 0 && fs.fetcher.is_some() && can_come_again(&e) =>
                {
                    // Boxed, since a closure cannot contain its own type.
                    let then: Box<dyn FnOnce(_) + Send> = Box::new(then);
                    fs.read_again(inode, part, requester, again - 1, then);
                }
                read => then(read),
            }
        });
    }

    fn when_satisfied(
        self: &Arc<Self>,
        need: Result<Option<Need>, FsError>,
        requester: Requester,
        then: impl FnOnce(&Arc<Self>, Result<(), FsError>) + Send + 'static,
    ) {
        match (need, &self.fetcher) {
            (Ok(Some(need)), Some(fetcher)) => {
                let fs = self.clone();
                let inside = match &need {
                    Need::Contents(path) => Some(path.clone()),
                    Need::Root(_) => None,
                };
                fetcher.request(need, requester, move |met| {
                    then(&fs, met.map_err(|e| fs.unmet(e, inside)))
                });
            }
            (Ok(_), _) => then(self, Ok(())),
            (Err(e), _) => then(self, Err(e)),
        }
    }

    /// Why a need is not met. What was inside a path does not become absent when no source has it any more.
    fn unmet(&self, error: Arc<FetchError>, inside: Option<StorePath>) -> FsError {
        let was_here = |path: &StorePath| match self.store.paths().info(path.hash()) {
            Ok(info) => info.is_some_and(|info| info.tree().is_some()),
            Err(_) => true,
        };
        match inside.filter(was_here) {
            Some(path) if error.is_absent() => {
                let what = format!("no source has the contents of {path}, which cannot be read");
                FsError::Store(StoreError::Damaged { what })
            }
            _ => FsError::Fetch(error),
        }
    }

    /// What a request within a path needs.
    fn inside(&self, inode: Inode, part: Part) -> Result<Option<Need>, FsError> {
        let ordinal = match inode.place()? {
            Place::Node(ordinal, _) => ordinal,
            Place::Member(member, _) => self.ordinal_of(member)?,
            _ => return Ok(None),
        };
        self.recorder.touch(ordinal);
        if part == Part::Contents {
            self.store.paths().touch(ordinal);
        }
        let Some(fetcher) = &self.fetcher else {
            return Ok(None);
        };
        if self.has(ordinal, part)? {
            fetcher.hit();
            return Ok(None);
        }
        Ok(self
            .store
            .paths()
            .with_ordinal(ordinal)?
            .map(Need::Contents))
    }

    fn has(&self, ordinal: PathOrdinal, part: Part) -> Result<bool, FsError> {
        let can_be_read = |path| match part {
            Part::Tree => Ok(true),
            Part::Contents => self.store.paths().can_be_read(&path),
        };
        let served = self.store.paths().serve(ordinal);
        match served.and_then(|path| path.map_or(Ok(false), can_be_read)) {
            Ok(has) => Ok(has),
            Err(e) if can_come_again(&e) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Names that are not store paths are answered without a query.
    fn root_needed(&self, name: &[u8]) -> Result<Option<Need>, FsError> {
        let Ok(path) = StorePath::parse_base_name(name) else {
            return Ok(None);
        };
        let Some(fetcher) = &self.fetcher else {
            return Ok(None);
        };
        // From here on a collection does not remove the path before the reply.
        let there = match self.store.paths().look_up(path.hash()) {
            // Registered anew, as if it were not known.
            Err(e) if e.is_damage() => None,
            there => there?,
        };
        let Some(there) = there else {
            return Ok(Some(Need::Root(path)));
        };
        if there.registration.path != path {
            return Ok(None);
        }
        fetcher.doubt(&there).map_err(FsError::Fetch)?;
        Ok(match there.contents {
            // What the root is, its tree says, which may be damaged.
            Contents::Local(_) if !self.has(there.ordinal, Part::Tree)? => {
                Some(Need::Contents(path))
            }
            Contents::Local(_) | Contents::Absent(Some(RootKind::Directory)) => {
                fetcher.hit();
                None
            }
            Contents::Absent(_) => Some(Need::Root(path)),
        })
    }
}

/// Whether what a read met is mended when the path is fetched again.
fn can_come_again(error: &StoreError) -> bool {
    matches!(error, StoreError::Dropped { .. }) || error.is_damage()
}
