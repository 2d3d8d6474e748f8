//! What a profile needs and is not here: found, registered and fetched.
//!
//! Invariants: where everything is here, nobody is asked, so that profiles can be changed without
//! any source; what was found stays until the command is done, when a profile leads to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::command::{Output, SourceRequest, chain};
use crate::engine::error::{EngineError, ProfileError, SupplyError};
use crate::engine::location::LocationError;
use crate::engine::state::Engine;
use crate::fetch::{CopyFailure, FetchError, Fetcher, Prefetched, Progress};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{StoreError, TemporaryRoots};

/// Gets what is not here.
pub struct Supply<'e> {
    engine: &'e Engine,
    /// `None` if nobody is to be asked.
    fetcher: Option<Fetcher>,
    /// Whether that is the daemon's, which counts what it fetches.
    is_own: bool,
    /// What no collection takes meanwhile.
    kept: TemporaryRoots,
}

type Wanted = Vec<(StorePathHash, Option<StorePath>)>;

fn wanted<'p>(paths: impl IntoIterator<Item = &'p StorePath>) -> Wanted {
    let wanted = paths.into_iter().map(|p| (p.hash(), Some(p.clone())));
    wanted.collect()
}

/// An error for the first of these paths, if there is one.
fn failed(mut failures: Vec<CopyFailure>) -> Result<(), SupplyError> {
    if failures.is_empty() {
        return Ok(());
    }
    let others = failures.len() - 1;
    let first = failures.swap_remove(0);
    Err(SupplyError::Failed {
        path: first
            .path
            .map_or_else(|| first.hash.to_string(), |p| p.to_string()),
        more: match others {
            0 => String::new(),
            n => format!(", nor could {n} more"),
        },
        source: first.error,
    })
}

impl Engine {
    /// What gets from the sources of a request what is not here.
    pub fn supply(&self, sources: &SourceRequest) -> Result<Supply<'_>, EngineError> {
        let fetcher = match self.fetcher_for(sources) {
            Err(EngineError::NoSource(_)) => None,
            fetcher => Some(fetcher?),
        };
        Ok(Supply {
            engine: self,
            fetcher,
            is_own: self.is_own(sources),
            kept: self.store.roots().temporary(),
        })
    }
}

impl Supply<'_> {
    fn fetcher(&self, what: impl ToString) -> Result<&Fetcher, SupplyError> {
        let nobody = || SupplyError::Nobody(what.to_string());
        self.fetcher.as_ref().ok_or_else(nobody)
    }

    /// Has no collection take paths, nor what they refer to, before the command is done. Said
    /// before they are looked for, or published.
    pub(super) fn keep<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        let hashes = paths.into_iter().map(StorePath::hash);
        hashes.for_each(|hash| self.kept.add(hash));
    }

    /// The store path that a user named, from the state or the sources.
    pub(super) fn resolve(&self, text: &str) -> Result<StorePath, EngineError> {
        let store = &self.engine.store;
        let named = self.engine.named(text)?;
        if !named.place.is_empty() {
            return Err(ProfileError::Place(text.to_owned()).into());
        }
        self.kept.add(named.hash);
        if let Some(there) = store.paths().info(named.hash)? {
            let there = there.registration.path;
            return match named.path {
                Some(asked) if asked != there => Err(LocationError::OtherName {
                    asked: asked.to_string(),
                    there,
                }
                .into()),
                _ => Ok(there),
            };
        }
        let fetcher = self.fetcher(text).map_err(ProfileError::from)?;
        let resolving = fetcher.resolve(named.hash, named.path.as_ref());
        Ok(self.engine.runtime()?.block_on(resolving)?)
    }

    /// The paths that users named, each once.
    pub fn resolve_all(&self, texts: &[String]) -> Result<Vec<StorePath>, EngineError> {
        let mut paths = Vec::new();
        for text in texts {
            let path = self.resolve(text)?;
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    /// Makes the contents of a path local; `false` if no source has it.
    pub(super) fn bring(&self, path: &StorePath) -> Result<bool, SupplyError> {
        self.keep([path]);
        let fetcher = self.fetcher(path)?;
        let progress = Arc::new(Progress::default());
        let runtime = self.engine.runtime();
        // A fetcher has one, so that none has to be started.
        let runtime = runtime.map_err(|_| FetchError::Stopped)?;
        let done = runtime.block_on(fetcher.prefetch(wanted([path]), false, &progress))?;
        self.count(&done);
        match failed(done.failures) {
            Err(SupplyError::Failed { source, .. }) if source.is_absent() => Ok(false),
            failed => failed.map(|()| true),
        }
    }

    fn count(&self, done: &Prefetched) {
        if !self.is_own {
            let fetched = &self.engine.network.fetched;
            fetched.fetch_add(done.fetched_bytes, Ordering::Relaxed);
        }
    }

    /// Makes the trees of paths local.
    pub(super) fn bring_all(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        self.keep(paths);
        let mut missing = Vec::new();
        for path in paths {
            let info = self.engine.store.paths().info(path.hash())?;
            if info.is_none_or(|info| info.tree().is_none()) {
                missing.push(path);
            }
        }
        match missing.first() {
            Some(first) => self.prefetch(first, wanted(missing.iter().copied()), false, output),
            None => Ok(()),
        }
    }

    /// Makes the closures of paths wholly local.
    pub(super) fn complete<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p StorePath>,
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        let wanted = wanted(paths);
        wanted.iter().for_each(|(hash, _)| self.kept.add(*hash));
        match wanted.first() {
            Some((hash, _)) => self.prefetch(&hash.to_string(), wanted.clone(), true, output),
            None => Ok(()),
        }
    }

    fn prefetch(
        &self,
        first: &impl ToString,
        wanted: Wanted,
        recursive: bool,
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        let Some(fetcher) = &self.fetcher else {
            return self.find_missing(first, &wanted, recursive);
        };
        let runtime = self.engine.runtime()?;
        let done = self.engine.showing(output, |progress| {
            runtime.block_on(fetcher.prefetch(wanted, recursive, progress))
        })?;
        self.count(&done);
        Ok(failed(done.failures).map_err(ProfileError::from)?)
    }

    /// Without anybody to ask, all must be here.
    fn find_missing(
        &self,
        first: &impl ToString,
        wanted: &Wanted,
        recursive: bool,
    ) -> Result<(), EngineError> {
        let store = &self.engine.store;
        let missing = |what: String| Err(ProfileError::from(SupplyError::Nobody(what)).into());
        if !recursive {
            return missing(first.to_string());
        }
        let closure = store
            .paths()
            .closure(wanted.iter().map(|(hash, _)| *hash))?;
        for info in &closure {
            if !store.paths().has_contents(info)? {
                return missing(info.registration.path.to_string());
            }
            for reference in &info.registration.references {
                if store.paths().info(reference.hash())?.is_none() {
                    return missing(reference.to_string());
                }
            }
        }
        Ok(())
    }

    /// Has the state know paths, without their contents.
    pub(super) fn register(&self, path: &StorePath) -> Result<(), EngineError> {
        self.keep([path]);
        if self.engine.store.paths().info(path.hash())?.is_some() {
            return Ok(());
        }
        let fetcher = self.fetcher(path).map_err(ProfileError::from)?;
        let progress = Progress::default();
        let registering = fetcher.register(wanted([path]), false, &progress);
        let failures = self.engine.runtime()?.block_on(registering)?;
        Ok(failed(failures).map_err(ProfileError::from)?)
    }

    /// Has the state know the closures of paths, as far as the sources do. Where there is nobody
    /// to ask, it stays as it is. Says what could not be known, if something could not.
    pub(super) fn register_closures(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<Option<String>, EngineError> {
        self.keep(paths);
        let Some(fetcher) = &self.fetcher else {
            return Ok(None);
        };
        if self.knows_closures(paths)? {
            return Ok(None);
        }
        let runtime = self.engine.runtime()?;
        let failures = self.engine.showing(output, |progress| {
            runtime.block_on(fetcher.register(wanted(paths), true, progress))
        })?;
        let Some(first) = failures.first() else {
            return Ok(None);
        };
        let path = first.path.as_ref();
        let path = path.map_or_else(|| first.hash.to_string(), |p| self.engine.full(p));
        Ok(Some(match failures.len() {
            1 => format!(
                "{path} is needed and could not be looked up: {}",
                chain(&first.error)
            ),
            n => format!(
                "{path} and {} more paths are needed and could not be looked up: {}",
                n - 1,
                chain(&first.error)
            ),
        }))
    }

    /// Has the state know the closures of paths, all of them, without their contents.
    pub(in crate::engine) fn need_closures(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        self.keep(paths);
        if self.knows_closures(paths)? {
            return Ok(());
        }
        let Some(fetcher) = &self.fetcher else {
            let unknown = self.engine.store.paths().unknown_of(paths)?;
            return match unknown.first() {
                Some(path) => Err(ProfileError::from(SupplyError::Nobody(path.to_string())).into()),
                None => Ok(()),
            };
        };
        let runtime = self.engine.runtime()?;
        let failures = self.engine.showing(output, |progress| {
            runtime.block_on(fetcher.register(wanted(paths), true, progress))
        })?;
        Ok(failed(failures).map_err(ProfileError::from)?)
    }

    /// Whether the state knows all that paths refer to.
    fn knows_closures(&self, paths: &[StorePath]) -> Result<bool, StoreError> {
        let closure = self
            .engine
            .store
            .paths()
            .closure(paths.iter().map(StorePath::hash))?;
        let known: HashSet<_> = closure.iter().map(|i| &i.registration.path).collect();
        let references = closure.iter().flat_map(|i| &i.registration.references);
        Ok(paths.iter().chain(references).all(|p| known.contains(p)))
    }
}
