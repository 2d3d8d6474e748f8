//! Errors of profiles. Where Nix has an error text, ours begins with it.

use thiserror::Error;

use crate::engine::error::SupplyError;
use crate::nix::store_path::StorePath;
use crate::profile::{
    DeleteSpecError, EnvironmentError, GenerationError, GenerationNumber, ManifestError, NameError,
    ProfileName, ProfileTreeError, StoredPackagesError,
};
use crate::store::StoreError;

#[derive(Debug, Error)]
pub enum ProfileError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no profile '{name}'; {there}")]
    Absent { name: ProfileName, there: String },
    #[error(
        "profile '{0}' has no current generation; `narfs profile switch` makes one of its \
         generations current"
    )]
    NoCurrent(ProfileName),
    /// One name lies below the other.
    #[error("there cannot be profiles '{new}' and '{old}': one would be a directory and a link")]
    Conflict {
        /// The profile to be created.
        new: ProfileName,
        /// The existing profile.
        old: ProfileName,
    },
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The specification of generations to delete is invalid.
    #[error(transparent)]
    DeleteSpec(#[from] DeleteSpecError),
    /// The current generation is not a user environment.
    #[error(
        "profile '{profile}' is incompatible with installing and removing packages: its version \
         {number} is {target}, which has no manifest.json and no manifest.nix; use `narfs profile set` \
         instead, or another profile"
    )]
    NoManifest {
        profile: ProfileName,
        number: GenerationNumber,
        target: StorePath,
    },
    /// The manifest cannot be parsed.
    #[error("{path}/{file}")]
    Manifest {
        /// Target of the generation.
        path: StorePath,
        file: &'static str,
        #[source]
        source: ManifestError,
    },
    #[error("profile '{profile}' has no package {named}; it has {there}")]
    NoElement {
        profile: ProfileName,
        /// The given names, quoted.
        named: String,
        /// The installed packages.
        there: String,
    },
    #[error("profile '{profile}' names {path} twice")]
    Twice {
        profile: ProfileName,
        path: StorePath,
    },
    /// A path within a store path, where a store path is needed.
    #[error("{0:?} lies within a store path; give the store path itself")]
    Place(String),
    /// The packages do not form an environment.
    #[error(transparent)]
    Environment(#[from] EnvironmentError<StoredPackagesError<SupplyError>>),
    /// A package cannot be read.
    #[error(transparent)]
    Packages(#[from] StoredPackagesError<SupplyError>),
    /// The environment cannot be turned into a store path.
    #[error(transparent)]
    Tree(#[from] ProfileTreeError<StoreError>),
    #[error(transparent)]
    Supply(#[from] SupplyError),
}
