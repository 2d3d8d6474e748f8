//! Dispatch of requests.
//!
//! Invariant: a request has the same effect in every process, since it is executed only here.

use crate::command::{Output, Report, Request};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;

impl Engine {
    /// Executes a request.
    ///
    /// # Errors
    /// The request failed as a whole; failures of single paths are in the report.
    pub fn execute(
        &self,
        request: Request,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        match request {
            Request::Copy(request) => Ok(Report::Copy(self.copy(&request, output)?)),
            Request::Add { from, name } => self.add(&from, name),
            Request::PathInfo {
                paths,
                closure,
                sizes,
            } => self.path_info(&paths, closure, sizes),
            Request::Ls { path, recursive } => self.ls(&path, recursive),
            Request::Cat { path } => self.cat(&path, output),
            Request::Dump { path } => self.dump(&path, output),
            Request::Stats { paths } => self.stats(&paths),
            Request::Verify { paths, repair } => self.verify(&paths, repair, output),
            Request::Debug(request) => self.debug(&request),
            Request::Prefetch(request) => self.prefetch(&request, output),
            Request::Unpin { paths } => self.unpin(&paths),
            Request::Pins => self.pins(),
            Request::Evict { to } => self.evict(to),
            Request::Gc(request) => self.gc(&request, output),
            Request::Roots => Ok(Report::Roots(self.roots()?)),
            Request::AddRoot { link, path } => self.add_root(&link, &path),
            Request::Trace(request) => self.trace(request),
            Request::Profile(request) => self.profile(&request, output),
            Request::Apply(request) => self.apply(&request, output),
            Request::Channel(request) => self.channel(request),
            Request::Closure(request) => self.closures(&request, output),
            Request::ForgetKey(request) => self.forget_key(&request, output),
            Request::Forget(request) => self.forget(&request),
            Request::NixDb(request) => self.nix_db(&request, output),
            // Only a daemon can execute these.
            Request::Mount(_) | Request::Upgrade { .. } | Request::Status | Request::Figures => {
                Err(EngineError::NoDaemon(self.store.dir().to_owned()))
            }
        }
    }
}
