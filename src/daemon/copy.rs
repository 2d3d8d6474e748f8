//! Bringing closures from binary caches.
//!
//! Invariant: what a copy has brought counts as fetched, and room is made for it when it is done.

use std::sync::atomic::Ordering;

use super::command::{CommandError, CopyReport, CopyRequest, Output};
use super::engine::Engine;
use crate::fetch::{self, CopyOptions, Wanted};

impl Engine {
    pub(super) fn copy(
        &self,
        request: &CopyRequest,
        output: &mut dyn Output,
    ) -> Result<CopyReport, CommandError> {
        let sources = request.sources.or(&self.defaults);
        let trust = sources.trust()?;
        let wanted = self.wanted(request)?;
        let jobs = match request.jobs {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            n => n,
        };
        let options = CopyOptions {
            recursive: request.recursive,
            jobs,
            room: Some(self.room.clone()),
        };
        let runtime = self.runtime()?;
        let dropped = self.room.evicted();
        let summary = self.showing(output, |progress| {
            let opened = self.sources(&sources);
            let sources = runtime.block_on(opened)?;
            let (store, handle) = (&*self.store, runtime.handle());
            let copied = fetch::copy(store, handle, &sources, &trust, &wanted, options, progress);
            let sent = progress.fetched_bytes.load(Ordering::Relaxed);
            self.fetched.fetch_add(sent, Ordering::Relaxed);
            Ok::<_, CommandError>(copied?)
        });
        self.room.settle();
        let summary = summary?;
        Ok(CopyReport {
            copied: summary.copied,
            already: summary.already,
            nar_bytes: summary.nar_bytes,
            fetched_bytes: summary.fetched_bytes,
            dropped: self.room.evicted() - dropped,
            failures: self.failures(&summary.failures),
        })
    }

    fn wanted(&self, request: &CopyRequest) -> Result<Wanted, CommandError> {
        if request.all {
            return Ok(Wanted::All);
        }
        if request.paths.is_empty() {
            return Err(CommandError::Usage("name store paths, or give --all"));
        }
        let named = request.paths.iter().map(|text| {
            let named = self.named(text)?;
            Ok((named.hash, named.path))
        });
        Ok(Wanted::Paths(named.collect::<Result<_, CommandError>>()?))
    }
}
