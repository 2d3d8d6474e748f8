//! Errors of closure views.

use thiserror::Error;

use crate::profile::ProfileName;
use crate::store::ViewNameError;

#[derive(Debug, Error)]
pub enum ClosureError {
    #[error(transparent)]
    Name(#[from] ViewNameError),
    #[error("there is no closure view {name:?}; {there}")]
    Absent { name: String, there: String },
    /// File handles are enabled, so a view would not restrict access.
    #[error(
        "the state is mounted with -o file-handles, which give programs access beyond a closure \
         view; mount it without, to use views and volumes"
    )]
    Unbounded,
    /// File handles cannot be enabled while views exist.
    #[error(
        "-o file-handles give programs access beyond a closure view, and there is the view \
         {view:?}; remove all views with `narfs closure --delete`, or mount without file-handles"
    )]
    Handles {
        /// The name of one view.
        view: String,
    },
    /// A profile without a current generation.
    #[error(
        "the profile {0} has no current generation that a closure view could follow; `narfs profile \
         switch` makes one current"
    )]
    NoCurrent(ProfileName),
}
