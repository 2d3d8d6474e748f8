//! How the synthesis of environments reads packages.

use crate::nix::store_path::StorePath;
use crate::tree::{NodeIndex, Tree};

/// Gives the trees of store paths, and the contents of small files in them.
pub trait PackageSource {
    /// A store path that was found; held while an environment is made.
    type Package;
    /// Why a store path cannot be read.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Finds a store path by its hash and its name; `None` if there is none.
    ///
    /// # Errors
    /// It is not known whether there is one.
    fn find(&self, path: &StorePath) -> Result<Option<Self::Package>, Self::Error>;

    /// The tree of a package.
    fn tree<'p>(&self, package: &'p Self::Package) -> &'p Tree;

    /// The target of a link of a package, hashes put back; `None` if it is no link.
    fn target(&self, package: &Self::Package, link: NodeIndex) -> Option<Vec<u8>>;

    /// The contents of a file of a package.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(&self, package: &Self::Package, file: NodeIndex) -> Result<Vec<u8>, Self::Error>;
}
