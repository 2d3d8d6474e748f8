//! The packages of a state, as the synthesis of environments reads them.
//!
//! Invariant: what is not local is fetched before it is read, so that an environment does not
//! depend on what happens to be local.

use thiserror::Error;

use super::source::PackageSource;
use crate::nix::store_path::StorePath;
use crate::store::{LoadedPath, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind, Tree};

/// Why a package of a state cannot be read.
#[derive(Debug, Error)]
pub enum StoredPackagesError<E: std::error::Error + Send + Sync + 'static> {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not local, and could not be fetched.
    #[error(transparent)]
    Bring(E),
}

/// The packages of a state. `bring` makes the contents of a path local, and returns whether
/// there is such a path.
pub struct StoredPackages<'s, B> {
    store: &'s Store,
    bring: B,
}

impl<B> std::fmt::Debug for StoredPackages<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredPackages({:?})", self.store.dir())
    }
}

impl<'s, B, E> StoredPackages<'s, B>
where
    B: Fn(&StorePath) -> Result<bool, E>,
    E: std::error::Error + Send + Sync + 'static,
{
    /// The packages of `store`, and those that `bring` fetches.
    pub fn new(store: &'s Store, bring: B) -> Self {
        Self { store, bring }
    }

    /// The path, if its tree is local.
    fn load(&self, path: &StorePath) -> Result<Option<LoadedPath>, StoreError> {
        let info = self.store.paths().info(path.hash())?;
        match info.filter(|info| info.registration.path == *path) {
            Some(info) => self.store.paths().load_info(info),
            None => Ok(None),
        }
    }

    fn contents(&self, package: &LoadedPath, file: NodeIndex) -> Result<Vec<u8>, StoreError> {
        let mut contents = Vec::new();
        let node = package.tree().node(file).map(|node| node.kind);
        if let Some(NodeKind::File { offset, size, .. }) = node {
            self.store
                .contents()
                .read(package.contents(), offset, size, &mut contents)?;
        }
        Ok(contents)
    }
}

impl<B, E> PackageSource for StoredPackages<'_, B>
where
    B: Fn(&StorePath) -> Result<bool, E>,
    E: std::error::Error + Send + Sync + 'static,
{
    type Package = LoadedPath;
    type Error = StoredPackagesError<E>;

    fn find(&self, path: &StorePath) -> Result<Option<LoadedPath>, Self::Error> {
        if let Some(here) = self.load(path)? {
            return Ok(Some(here));
        }
        if (self.bring)(path).map_err(StoredPackagesError::Bring)? {
            Ok(self.load(path)?)
        } else {
            Ok(None)
        }
    }

    fn tree<'p>(&self, package: &'p LoadedPath) -> &'p Tree {
        package.tree()
    }

    fn target(&self, package: &LoadedPath, link: NodeIndex) -> Option<Vec<u8>> {
        package.target(link)
    }

    fn read(&self, package: &LoadedPath, file: NodeIndex) -> Result<Vec<u8>, Self::Error> {
        match self.contents(package, file) {
            Err(StoreError::Dropped { path }) => {
                (self.bring)(&path).map_err(StoredPackagesError::Bring)?;
                // They may have come back in another tree of the same NAR, with the same nodes.
                let again = self.load(&path)?;
                Ok(self.contents(again.as_ref().unwrap_or(package), file)?)
            }
            read => Ok(read?),
        }
    }
}
