//! Profiles: their names, generations and manifests, and the user environments that generations
//! point to, which are computed and never written out.
//!
//! Everything but [`StoredPackages`] is a pure function of values. Invariant: if real Nix would make a store
//! path of the same packages, ours has the same bytes.
//!
//! - [`ProfileName`]: what a profile may be called, and the links that show it
//! - [`Generations`]: numbers, switches, rollbacks, deletions
//! - [`LinkChange`]: changes that programs make by the links of a profile
//! - [`Manifest`]: `manifest.json`, the packages of a profile, or `manifest.nix` of `nix-env`
//! - [`synthesize`]: packages, read through a [`PackageSource`] → [`Environment`]
//! - [`StoredPackages`]: the packages of a state as a [`PackageSource`]
//! - [`realise_profile`]: environment and manifest → [`ProfileTree`], a store path
//! - [`compare_closures`]: what two closures have of each package
//! - [`channel`]: names of packages → store paths

pub mod channel;
mod difference;
mod environment;
mod forest;
mod generations;
mod link_change;
mod manifest;
mod name;
mod nix_env;
mod publication;
mod recorded;
mod resolution;
mod source;
mod stored;

pub use difference::{ClosurePart, PackageChange, compare_closures};
pub use environment::{
    DEFAULT_PRIORITY, Environment, EnvironmentError, Package, Warning, synthesize,
};
pub use forest::{Directory, Entry, ManifestEntry};
pub use generations::{
    Advance, DeleteSpec, DeleteSpecError, Generation, GenerationError, Generations, Switch,
};
pub use link_change::LinkChange;
pub use manifest::{
    Element, ElementSource, Manifest, ManifestError, ManifestVersion, package_name,
};
pub use name::{GenerationNumber, NameDefect, NameError, ProfileEntry, ProfileName};
pub use publication::{ProfileTree, ProfileTreeError, realise_profile};
pub use source::PackageSource;
pub use stored::{StoredPackages, StoredPackagesError};

#[cfg(test)]
mod memory;
