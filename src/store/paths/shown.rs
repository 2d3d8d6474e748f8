//! The paths that programs read before they are published.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};

use super::loaded::ServedPath;
use super::path_info::PathOrdinal;
use crate::sync::lock;

/// The paths that are shown.
#[derive(Debug, Default)]
pub(super) struct AllShown {
    pub(super) paths: Mutex<HashMap<PathOrdinal, ServedPath>>,
    pub(super) fewer: Condvar,
}

/// A path that is shown until this is dropped.
#[derive(Debug)]
pub struct Shown {
    pub(super) all: Arc<AllShown>,
    pub(super) ordinal: PathOrdinal,
}

impl Drop for Shown {
    fn drop(&mut self) {
        lock(&self.all.paths).remove(&self.ordinal);
        self.all.fewer.notify_all();
    }
}
