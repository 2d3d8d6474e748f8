//! Giving the space of deleted chunks back to the disk.

use super::{Store, StoreError};

impl Store {
    /// Gives the space of dropped contents back to the disk.
    ///
    /// # Errors
    /// The database failed.
    pub fn reclaim(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
