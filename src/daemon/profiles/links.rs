//! Profiles that programs change by their links, in a mount that lets them.
//!
//! Invariant: such a change is made as those of commands are: one after the other, each on what is
//! true when it is made, in one write of the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use super::super::command::CommandError;
use super::super::engine::{Engine, chain};
use super::{ProfileError, now};
use crate::fs::{FileSystem, FsError, WritableProfiles};
use crate::fuse::{self, MountError, ProfilesSession};
use crate::profile::{LinkChange, ProfileName};

/// What the supervisor keeps of them, as of the rest: after this the agreement.
const PROFILES: &str = "profiles-";

impl Engine {
    /// Lets programs change profiles where [`Engine::mount_profiles`] says; once. Store paths that
    /// they name are looked for by `fs`.
    pub(in super::super) fn take_profile_links(self: &Arc<Self>, fs: Arc<FileSystem>) {
        let engine = Arc::downgrade(self);
        let change = move |name: &ProfileName, change: &LinkChange| match engine.upgrade() {
            Some(engine) => engine.change_by_link(name, change),
            None => Err(FsError::Change("the daemon is ending".to_owned())),
        };
        let profiles = WritableProfiles::new(fs, Box::new(change));
        let _ = self.writable_profiles.set(Arc::new(profiles));
    }

    /// Has programs change the profiles of the state below a place where it is mounted.
    pub(in super::super) fn mount_profiles(&self, mountpoint: &Path) -> Result<(), MountError> {
        // Only what is mounted is mounted at one more place.
        let (Some(profiles), Some(superblock)) = (self.writable_profiles.get(), self.superblock())
        else {
            return Ok(());
        };
        let mut session = self.profiles_session();
        if let Some(there) = &*session
            && there.show_again(mountpoint)?
        {
            return Ok(());
        }
        let dir = self.store.dir();
        let new = ProfilesSession::start(profiles, dir, superblock, mountpoint)?;
        self.keep_profiles(&new);
        *session = Some(new);
        Ok(())
    }

    /// Goes on with what a daemon before this one has left of it. If that fails, profiles cannot be
    /// changed there, which is not worth the rest.
    pub(in super::super) fn take_over_profiles(&self) {
        let (Some(profiles), Some(supervisor)) =
            (self.writable_profiles.get(), self.supervisor.get())
        else {
            return;
        };
        while let Some((agreement, device)) = supervisor.take(PROFILES) {
            let name = format!("{PROFILES}{agreement}");
            if !fuse::is_connected(&device) {
                supervisor.forget(&name);
                continue;
            }
            let taken = agreement
                .parse()
                .and_then(|agreement| ProfilesSession::take_over(profiles, device, &agreement));
            match taken {
                Ok(session) => {
                    self.keep_profiles(&session);
                    *self.profiles_session() = Some(session);
                }
                Err(e) => {
                    tracing::error!("the writable profiles are not taken over: {e}");
                    supervisor.forget(&name);
                }
            }
        }
    }

    fn keep_profiles(&self, session: &ProfilesSession) {
        if let Some(supervisor) = self.supervisor.get() {
            let (device, agreement) = session.connection();
            supervisor.keep(&format!("{PROFILES}{agreement}"), device);
        }
    }

    /// Takes writable profiles away where they were bound to other places than the rest, and has
    /// nobody keep them.
    pub(in super::super) fn detach_profiles(&self) {
        if let Some(session) = self.profiles_session().take() {
            if let Err(e) = session.detach() {
                tracing::warn!("{}", chain(&e));
            }
            if let Some(supervisor) = self.supervisor.get() {
                supervisor.forget(&format!("{PROFILES}{}", session.connection().1));
            }
        }
    }

    /// Where programs may change profiles.
    pub(in super::super) fn writable_mountpoints(&self) -> Result<Vec<PathBuf>, MountError> {
        let session = self.profiles_session();
        session
            .as_ref()
            .map_or(Ok(Vec::new()), ProfilesSession::mountpoints)
    }

    fn profiles_session(&self) -> MutexGuard<'_, Option<ProfilesSession>> {
        let session = self.profiles_session.lock();
        session.unwrap_or_else(PoisonError::into_inner)
    }

    fn change_by_link(&self, name: &ProfileName, change: &LinkChange) -> Result<(), FsError> {
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
            Err(CommandError::Store(e)) => return Err(e.into()),
            Err(error) => error,
        };
        tracing::warn!(profile = %name, "not changed through its links: {}", chain(&error));
        match error {
            CommandError::Profile(e) => match *e {
                ProfileError::Generation(e) => Err(e.into()),
                ProfileError::Conflict { .. } => Err(FsError::Exists),
                other => Err(FsError::Change(chain(&other))),
            },
            other => Err(FsError::Change(chain(&other))),
        }
    }
}
