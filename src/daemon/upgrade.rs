//! Hand-over to a new daemon, of the same or another executable.

use std::path::Path;

use super::error::UpgradeError;
use super::process::Daemon;

impl Daemon {
    /// Exits, so that the supervisor starts the next daemon; a keeper starts `program`. Returns
    /// only if that is not possible.
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
        tracing::info!("handing over to the next daemon");
        self.hand_over_to_next();
    }
}
