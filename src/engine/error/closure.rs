//! Why a closure view cannot be shown or changed.

use thiserror::Error;

use crate::profile::ProfileName;
use crate::store::ViewNameError;

/// Why a closure view cannot be shown or changed.
#[derive(Debug, Error)]
pub enum ClosureError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] ViewNameError),
    /// There is none of this name.
    #[error("there is no closure view {name:?}; {there}")]
    Absent { name: String, there: String },
    /// Views would be no bound.
    #[error(
        "the state is mounted with -o file-handles, by which programs reach what a closure view does not \
         show; mount it without, to have views and volumes"
    )]
    Unbounded,
    /// There are views already.
    #[error(
        "with -o file-handles programs reach what a closure view does not show, and there is the view \
         {view:?}; remove all views with `narfs closure --delete`, or mount without file-handles"
    )]
    Handles {
        /// The name of one.
        view: String,
    },
    /// A profile that leads nowhere.
    #[error(
        "the profile {0} has no current generation that a closure view could follow; `narfs profile \
         switch` makes one current"
    )]
    NoCurrent(ProfileName),
}
