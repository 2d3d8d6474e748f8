//! What has changed in a state, and the observer that is told of it.

use std::sync::{Arc, RwLock};

use super::{ChangedView, ProfilesChanged};
use crate::nix::store_path::StorePath;
use crate::sync;

/// What has changed in a state.
#[derive(Clone, Copy, Debug)]
pub enum Change<'c> {
    /// The set of paths: there are more. Closure views may show more, too.
    Paths,
    /// These paths are there no more.
    Removed(&'c [StorePath]),
    /// Profiles and their directories.
    Profiles(&'c ProfilesChanged),
    /// Closure views.
    Views(&'c [ChangedView]),
}

type Observer = dyn Fn(&Change<'_>) + Send + Sync;

/// The observer, which is told of each change by the thread that made it and before that goes on.
#[derive(Default)]
pub(super) struct Observers(RwLock<Option<Arc<Observer>>>);

impl Observers {
    /// Has `observer` told. There is one; a second takes its place.
    pub(super) fn set(&self, observer: impl Fn(&Change<'_>) + Send + Sync + 'static) {
        *sync::write(&self.0) = Some(Arc::new(observer));
    }

    /// Tells of a change. Returns whether there is anybody to tell.
    pub(super) fn tell(&self, change: &Change<'_>) -> bool {
        // It may take long, and another one may take its place meanwhile.
        let observer = sync::read(&self.0).clone();
        if let Some(observer) = &observer {
            observer(change);
        }
        observer.is_some()
    }
}
