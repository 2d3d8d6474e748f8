//! Why a profile cannot be shown or changed. Where Nix has a text for it, it is the beginning.

use thiserror::Error;

use crate::engine::error::SupplyError;
use crate::nix::store_path::StorePath;
use crate::profile::{
    DeleteSpecError, EnvironmentError, GenerationError, GenerationNumber, ManifestError, NameError,
    ProfileName, ProfileTreeError, StoredPackagesError,
};
use crate::store::StoreError;

/// Why a profile cannot be shown or changed.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is none of this name.
    #[error("there is no profile '{name}'; {there}")]
    Absent { name: ProfileName, there: String },
    /// It has generations, and none of them is current.
    #[error(
        "profile '{0}' has no current generation; `narfs profile switch` makes one of its \
         generations current"
    )]
    NoCurrent(ProfileName),
    /// A name that lies below another, or above.
    #[error("there cannot be profiles '{new}' and '{old}': one would be a directory and a link")]
    Conflict {
        /// The profile that was to be made.
        new: ProfileName,
        /// The profile that is there.
        old: ProfileName,
    },
    /// Generations.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// Which generations to delete.
    #[error(transparent)]
    DeleteSpec(#[from] DeleteSpecError),
    /// The current generation is no environment of packages.
    #[error(
        "profile '{profile}' is incompatible with installing and removing packages: its version \
         {number} is {target}, which has no manifest.json; use `narfs profile set` instead, or \
         another profile"
    )]
    NoManifest {
        profile: ProfileName,
        /// Its current generation.
        number: GenerationNumber,
        /// What that points to.
        target: StorePath,
    },
    /// The manifest of a generation cannot be understood.
    #[error("{path}/manifest.json")]
    Manifest {
        /// What the generation points to.
        path: StorePath,
        #[source]
        source: ManifestError,
    },
    /// Nothing installed has this name.
    #[error("profile '{profile}' has no package {named}; it has {there}")]
    NoElement {
        profile: ProfileName,
        /// What was named, in quotes.
        named: String,
        /// What is installed.
        there: String,
    },
    /// A path is declared twice.
    #[error("profile '{profile}' names {path} twice")]
    Twice {
        profile: ProfileName,
        path: StorePath,
    },
    /// A file in a store path, where the path is needed.
    #[error("{0:?} is a place in a store path; name the store path itself")]
    Place(String),
    /// The packages make no environment.
    #[error(transparent)]
    Environment(#[from] EnvironmentError<StoredPackagesError<SupplyError>>),
    /// A store path cannot be looked into.
    #[error(transparent)]
    Packages(#[from] StoredPackagesError<SupplyError>),
    /// The environment does not become a store path.
    #[error(transparent)]
    Tree(#[from] ProfileTreeError<StoreError>),
    /// Something is not here.
    #[error(transparent)]
    Supply(#[from] SupplyError),
}
