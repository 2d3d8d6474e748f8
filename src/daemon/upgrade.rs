//! Letting another daemon go on, of the same program or another one.

use std::path::Path;

use super::error::UpgradeError;
use super::process::Daemon;

impl Daemon {
    /// Ends this daemon, so that who looks after it starts the next one; a keeper starts `program`.
    /// Returns only if that cannot be.
    pub(super) fn upgrade(&self, program: Option<&Path>) -> UpgradeError {
        let supervisor = &self.supervisor;
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
        self.leave_to_next();
    }
}
