//! Copying closures from binary caches.
//!
//! Invariant: what a copy has fetched counts towards the budget, which is enforced when the copy is
//! done.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use crate::command::{CopyReport, CopyRequest, Output};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::fetch::{Fetcher, Trust, Wanted};
use crate::nix::store_path::StorePath;

impl Engine {
    pub(super) fn copy(
        &self,
        request: &CopyRequest,
        output: &mut dyn Output,
    ) -> Result<CopyReport, EngineError> {
        let trust = request.sources.or(&self.network.defaults).trust()?;
        let wanted = self.wanted(request)?;
        let jobs = match request.jobs {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            n => n,
        };
        if let Some(already) = self.all_there(&wanted, request.recursive, &trust)? {
            return Ok(CopyReport {
                already,
                ..CopyReport::default()
            });
        }
        let runtime = self.runtime()?;
        let dropped = self.budget.evicted();
        let summary = self.with_progress(output, |progress| {
            let opened = self.sources(&request.sources);
            let sources = runtime.block_on(opened)?;
            let fetcher = Fetcher::for_copy(self.destination()?, sources, trust, jobs);
            let copied = runtime.block_on(fetcher.copy(&wanted, request.recursive, progress));
            let sent = fetcher.fetched_bytes();
            self.network.fetched.fetch_add(sent, Ordering::Relaxed);
            Ok::<_, EngineError>(copied?)
        });
        self.budget.settle();
        let summary = summary?;
        Ok(CopyReport {
            copied: summary.fetched,
            already: summary.already,
            nar_bytes: summary.nar_bytes,
            fetched_bytes: summary.fetched_bytes,
            dropped: self.budget.evicted() - dropped,
            failures: self.failures(&summary.failures),
        })
    }

    /// How many paths a copy wants, if all of them are here and nothing is to be asked of a source: then
    /// none is opened, which takes longer than all the rest. `None` otherwise.
    fn all_there(
        &self,
        wanted: &Wanted,
        recursive: bool,
        trust: &Trust,
    ) -> Result<Option<u64>, EngineError> {
        let Wanted::Paths(named) = wanted else {
            return Ok(None);
        };
        let paths = self.store.paths();
        let mut seen: HashSet<_> = named.iter().map(|(hash, _)| *hash).collect();
        let mut unread: Vec<_> = named.clone();
        while let Some((hash, name)) = unread.pop() {
            let Some(there) = paths.readable_info(hash)? else {
                return Ok(None);
            };
            let registration = &there.registration;
            let is_it = name.is_none_or(|name| name == registration.path);
            let is_believed = registration.vouched || !trust.require_signatures;
            if !(is_it && is_believed && paths.has_contents(&there)?) {
                return Ok(None);
            }
            let references = registration.references.iter().filter(|_| recursive);
            let references = references.map(StorePath::hash);
            unread.extend(references.filter(|h| seen.insert(*h)).map(|h| (h, None)));
        }
        Ok(Some(seen.len() as u64))
    }

    fn wanted(&self, request: &CopyRequest) -> Result<Wanted, EngineError> {
        if request.all {
            return Ok(Wanted::All);
        }
        if request.paths.is_empty() {
            return Err(EngineError::Usage("name store paths, or give --all"));
        }
        let named = request.paths.iter().map(|text| {
            let named = self.named(text)?;
            Ok((named.hash, named.path))
        });
        Ok(Wanted::Paths(named.collect::<Result<_, EngineError>>()?))
    }
}
