//! Changes of profiles that programs make through symlinks.
//!
//! Invariant: such a change is made like that of a request: serialised, based on the current state,
//! in one write of the store.

use super::change::now;
use crate::command::chain;
use crate::engine::error::{EngineError, ProfileError};
use crate::engine::state::Engine;
use crate::fs::FsError;
use crate::profile::{LinkChange, ProfileName};

impl Engine {
    /// Makes the change of a profile that corresponds to a change of its links.
    ///
    /// # Errors
    /// The change is not valid, or the state failed.
    pub fn change_by_link(&self, name: &ProfileName, change: &LinkChange) -> Result<(), FsError> {
        let made = self.change_profiles(&[name], false, |before| {
            let after = before.iter().map(|before| {
                let after = change.apply(name, before, now());
                Ok(self.unchanged(name, &after.map_err(ProfileError::from)?))
            });
            after.collect()
        });
        let error = match made {
            Ok(_) => {
                tracing::info!(profile = %name, "changed through its links: {change:?}");
                return Ok(());
            }
            Err(EngineError::Store(e)) => return Err(e.into()),
            Err(error) => error,
        };
        tracing::warn!(profile = %name, "not changed through its links: {}", chain(&error));
        match error {
            EngineError::Profile(e) => match *e {
                ProfileError::Generation(e) => Err(e.into()),
                ProfileError::Conflict { .. } => Err(FsError::Exists),
                other => Err(FsError::Change(chain(&other))),
            },
            other => Err(FsError::Change(chain(&other))),
        }
    }
}
