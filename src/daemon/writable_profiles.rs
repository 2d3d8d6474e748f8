//! Profiles that programs change through symlinks in a writable mount.
//!
//! Invariant: such a change is made like that of a command: one after the other, each based on the
//! current state, in one write of the store.

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
    /// Accepts profile changes by programs, at the mount points of [`Daemon::mount_profiles`]; to
    /// be called once. `fs` looks up the store paths that the links name.
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

    /// Mounts writable profiles below a mount point of the state.
    pub(super) fn mount_profiles(&self, mountpoint: &Path) -> Result<(), MountError> {
        // Only an existing superblock is bound at one more mount point.
        let (Some(profiles), Some(superblock)) = (
            self.writable_profiles.get(),
            self.engine.serving.superblock(),
        ) else {
            return Ok(());
        };
        let mut session = self.profiles_session();
        if let Some(there) = &*session
            && there.bind_again(mountpoint)?
        {
            return Ok(());
        }
        let dir = self.store().dir();
        let new = ProfilesSession::start(profiles, dir, superblock, mountpoint)?;
        self.keep_profiles(&new);
        *session = Some(new);
        Ok(())
    }

    /// Takes over the writable profiles of the previous daemon. If that fails, they become
    /// read-only, which does not affect the rest of the mount.
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
                    tracing::error!("cannot take over the writable profiles: {e}");
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

    /// Unmounts writable profiles that are bound elsewhere than the main mount, and has the
    /// supervisor drop their connection.
    pub(super) fn detach_profiles(&self) {
        if let Some(session) = self.profiles_session().take() {
            if let Err(e) = session.detach() {
                tracing::warn!("{}", chain(&e));
            }
            let name = format!("{PROFILES}{}", session.connection().1);
            self.supervisor.forget(&name);
        }
    }

    /// Mount points of writable profiles.
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
