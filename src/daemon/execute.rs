//! Execution of requests: those that need a daemon, and those of the engine.

use super::ending::{EXIT_RESTART, PUBLICATION, leave};
use super::error::DaemonError;
use super::process::Daemon;
use crate::command::{Output, Report, Request};
use crate::engine::EngineError;

impl Daemon {
    /// Executes a request.
    ///
    /// # Errors
    /// The request failed as a whole; failures of single paths are in the report.
    pub(super) fn execute(
        &self,
        request: Request,
        output: &mut dyn Output,
    ) -> Result<Report, DaemonError> {
        // What a program has read is here for commands, too.
        self.store().paths().await_shown(PUBLICATION);
        match request {
            Request::Mount(request) => self.mount(&request),
            Request::Upgrade { program } => Err(self.upgrade(program.as_deref()).into()),
            Request::Status => Ok(Report::Status(self.status()?)),
            Request::Figures => Ok(Report::Figures(Box::new(self.figures()))),
            request => {
                let can_be_repeated = request.can_be_repeated();
                let done = self.engine.execute(request, output);
                if can_be_repeated
                    && done.as_ref().is_err_and(EngineError::comes_of_damage)
                    && self.store().has_new_damage()
                    && self.supervisor.restarts()
                {
                    // The next daemon takes out what is damaged, and the client asks it again.
                    leave(self.store(), EXIT_RESTART);
                }
                // Even a request that failed later may have switched a profile that a view follows.
                self.complete_views();
                let mut report = done?;
                if let Report::Closures(views) = &mut report {
                    let unknown = views.iter_mut().map(|view| &mut view.unknown_paths);
                    unknown.for_each(|unknown| self.completion.explain(unknown));
                }
                Ok(report)
            }
        }
    }
}
