//! Letting another daemon go on, of the same program or another one.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::engine::Engine;
use super::serve::leave;

/// Exit status of a daemon whose mount waits for the next one (EX_TEMPFAIL): not a failure, and no
/// end.
pub(super) const AGAIN: i32 = 75;

/// Why no other daemon can go on.
#[derive(Debug, Error)]
pub enum UpgradeError {
    /// There is no daemon.
    #[error("no daemon serves the state {}; `narfs mount` starts one", .0.display())]
    NoDaemon(PathBuf),
    /// It was started in the foreground by hand.
    #[error(
        "nobody would start the next daemon: this one was started with --foreground by something \
         that is no service manager; unmount it, and mount it again with the new program"
    )]
    NotSupervised,
    /// The service manager knows the program.
    #[error(
        "the program of a service stands in its unit: put the new one in its place, and give no \
         --program"
    )]
    ProgramOfService,
    /// There is none at the moment.
    #[error("the keeper of the daemon was killed; another one takes its place, so try again")]
    NoKeeper(#[source] std::io::Error),
}

impl Engine {
    /// Ends this daemon, so that who looks after it starts the next one; a keeper starts `program`.
    /// Returns only if that cannot be.
    pub(super) fn upgrade(&self, program: Option<&Path>) -> UpgradeError {
        let Some(supervisor) = self.supervisor.get() else {
            return UpgradeError::NoDaemon(self.store.dir().to_owned());
        };
        match program {
            _ if !supervisor.restarts() => return UpgradeError::NotSupervised,
            Some(_) if !supervisor.is_keeper() => return UpgradeError::ProgramOfService,
            Some(program) => {
                if let Err(e) = supervisor.replace(program) {
                    return UpgradeError::NoKeeper(e);
                }
            }
            None => {}
        }
        tracing::info!("another daemon goes on");
        leave(&self.store, AGAIN);
    }
}
