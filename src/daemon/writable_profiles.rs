//! Profiles that programs change by their links, in a mount that lets them.
//!
//! Invariant: such a change is made as those of commands are: one after the other, each on what is
//! true when it is made, in one write of the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use super::process::Daemon;
use crate::command::chain;
use crate::fs::{FileSystem, FsError, WritableProfiles};
use crate::fuse::{self, MountError, ProfilesSession};
use crate::profile::{LinkChange, ProfileName};
use crate::supervision::kept::PROFILES;
use crate::sync;

impl Daemon {
    /// Lets programs change profiles where [`Daemon::mount_profiles`] says; once. Store paths that
    /// they name are looked for by `fs`.
    pub(super) fn take_profile_links(&self, fs: Arc<FileSystem>) {
        let engine = Arc::downgrade(&self.engine);
        let completion = Arc::downgrade(&self.completion);
        let change = move |name: &ProfileName, change: &LinkChange| {
            let ending = || FsError::Change("the daemon is ending".to_owned());
            let engine = engine.upgrade().ok_or_else(ending)?;
            engine.change_by_link(name, change)?;
            if let Some(completion) = completion.upgrade() {
                completion.begin(&engine);
            }
            Ok(())
        };
        let profiles = WritableProfiles::new(fs, Box::new(change));
        let _ = self.writable_profiles.set(Arc::new(profiles));
    }

    /// Has programs change the profiles of the state below a place where it is mounted.
    pub(super) fn mount_profiles(&self, mountpoint: &Path) -> Result<(), MountError> {
        // Only what is mounted is mounted at one more place.
        let (Some(profiles), Some(superblock)) = (
            self.writable_profiles.get(),
            self.engine.serving.superblock(),
        ) else {
            return Ok(());
        };
        let mut session = self.profiles_session();
        if let Some(there) = &*session
            && there.show_again(mountpoint)?
        {
            return Ok(());
        }
        let dir = self.store().dir();
        let new = ProfilesSession::start(profiles, dir, superblock, mountpoint)?;
        self.keep_profiles(&new);
        *session = Some(new);
        Ok(())
    }

    /// Goes on with what a daemon before this one has left of it. If that fails, profiles cannot be
    /// changed there, which is not worth the rest.
    pub(super) fn take_over_profiles(&self) {
        let supervisor = &self.supervisor;
        let Some(profiles) = self.writable_profiles.get() else {
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
        let (device, agreement) = session.connection();
        let name = format!("{PROFILES}{agreement}");
        self.supervisor.keep(&name, device);
    }

    /// Takes writable profiles away where they were bound to other places than the rest, and has
    /// nobody keep them.
    pub(super) fn detach_profiles(&self) {
        if let Some(session) = self.profiles_session().take() {
            if let Err(e) = session.detach() {
                tracing::warn!("{}", chain(&e));
            }
            let name = format!("{PROFILES}{}", session.connection().1);
            self.supervisor.forget(&name);
        }
    }

    /// Where programs may change profiles.
    pub(super) fn writable_mountpoints(&self) -> Result<Vec<PathBuf>, MountError> {
        let session = self.profiles_session();
        session
            .as_ref()
            .map_or(Ok(Vec::new()), ProfilesSession::mountpoints)
    }

    fn profiles_session(&self) -> MutexGuard<'_, Option<ProfilesSession>> {
        sync::lock(&self.profiles_session)
    }
}
