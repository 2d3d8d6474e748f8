//! Paths whose path infos cannot be read: registered anew, as the sources say.

use crate::command::{Failure, Output, SourceRequest, chain};
use crate::engine::error::EngineError;
use crate::engine::location::{self, LocationError};
use crate::engine::state::Engine;
use crate::fetch::CopyFailure;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{PathInfo, StoreError, Unreadable, UnreadablePath};

impl Engine {
    /// The path infos of the given paths, or of all whose contents were here; and what of them cannot be
    /// read.
    pub(super) fn readable(
        &self,
        names: &[String],
    ) -> Result<(Vec<PathInfo>, Unreadable), EngineError> {
        let paths = self.store.paths();
        if names.is_empty() {
            return Ok((self.infos(&[])?, paths.unreadable()?));
        }
        let (mut infos, mut lost) = (Vec::new(), Vec::new());
        for name in names {
            match location::info(&self.store, name) {
                Ok(info) => infos.push(info),
                Err(LocationError::Store(StoreError::PathInfo { hash, .. })) => lost.push(hash),
                Err(e) => return Err(e.into()),
            }
        }
        let mut unreadable = Unreadable::default();
        for hash in lost {
            unreadable.paths.push(paths.unreadable_path(hash)?);
        }
        Ok((infos, unreadable))
    }

    /// Asks sources for what cannot be read, and registers what they say; with `contents` fetches what was
    /// here before as well. Returns what could not be had.
    pub(super) fn register_anew(
        &self,
        lost: &[UnreadablePath],
        sources: &SourceRequest,
        contents: bool,
        output: &mut dyn Output,
    ) -> Result<Vec<CopyFailure>, EngineError> {
        let fetcher = self.fetcher_for(sources)?;
        let runtime = self.runtime()?;
        let wanted = |lost: &UnreadablePath| (lost.hash, lost.path.clone());
        self.with_progress(output, |progress| {
            runtime.block_on(async {
                let all = lost.iter().map(wanted).collect();
                let mut failures = fetcher.register(all, false, progress).await?;
                let had = |hash: StorePathHash| failures.iter().all(|f| f.hash != hash);
                let here = lost
                    .iter()
                    .filter(|l| contents && l.was_here && had(l.hash));
                let here = here.map(wanted).collect();
                failures.extend(fetcher.prefetch(here, false, progress).await?.failures);
                Ok::<_, EngineError>(failures)
            })
        })
    }

    /// Why paths cannot be read still, after sources were asked for them with this outcome.
    pub(super) fn unreadable_failures(
        &self,
        lost: &[UnreadablePath],
        asked: &Result<Vec<CopyFailure>, EngineError>,
    ) -> Vec<Failure> {
        let failure = |lost: &UnreadablePath| {
            let there = self.store.paths().info(lost.hash);
            let why = match asked {
                Ok(failures) => {
                    let mut failures = failures.iter();
                    failures
                        .find(|f| f.hash == lost.hash)
                        .map(|f| chain(&f.error))
                }
                Err(e) => Some(chain(e)),
            };
            let error = match (there, why) {
                (Ok(_), None) => return None,
                (Ok(_), Some(why)) => why,
                (Err(e), None) => chain(&e),
                (Err(e), Some(why)) => format!("{}: {why}", chain(&e)),
            };
            Some(Failure {
                path: self.name_of(lost),
                error,
            })
        };
        lost.iter().filter_map(failure).collect()
    }

    /// The path as far as its name is known, else its hash.
    pub(super) fn name_of(&self, lost: &UnreadablePath) -> String {
        let full = lost.path.as_ref().map(|path: &StorePath| self.full(path));
        full.unwrap_or_else(|| lost.hash.to_string())
    }
}
