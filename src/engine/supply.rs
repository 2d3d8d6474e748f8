//! Paths that a profile change needs and that are not local: they are resolved, registered and
//! fetched.
//!
//! Invariants: if everything is local, no source is queried, so that profiles can be changed
//! offline; paths are protected from collection until the command is done, when a profile refers to
//! them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::command::{Output, SourceRequest, chain};
use crate::engine::error::{EngineError, ProfileError, SupplyError};
use crate::engine::location::LocationError;
use crate::engine::state::Engine;
use crate::fetch::{CopyFailure, FetchError, Fetched, Fetcher, Progress};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{StoreError, TemporaryRoots};

/// Supplies missing paths for one command.
pub struct Supply<'e> {
    pub(super) engine: &'e Engine,
    /// `None` without sources.
    pub(super) fetcher: Option<Fetcher>,
    /// Whether this is the daemon's fetcher, which counts its own bytes.
    uses_own_fetcher: bool,
    /// Protection from collection.
    pub(super) protected: TemporaryRoots,
}

/// Paths by their hashes, with their names where these are known.
pub type Wanted = Vec<(StorePathHash, Option<StorePath>)>;

fn wanted<'p>(paths: impl IntoIterator<Item = &'p StorePath>) -> Wanted {
    let wanted = paths.into_iter().map(|p| (p.hash(), Some(p.clone())));
    wanted.collect()
}

/// The error of the first of these failures, if any.
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
    /// Supplies missing paths from the sources of a request.
    pub fn supply(&self, sources: &SourceRequest) -> Result<Supply<'_>, EngineError> {
        let fetcher = match self.fetcher_for(sources) {
            Err(EngineError::NoSource(_)) => None,
            fetcher => Some(fetcher?),
        };
        Ok(Supply {
            engine: self,
            fetcher,
            uses_own_fetcher: self.uses_own_fetcher(sources),
            protected: self.store.roots().temporary(),
        })
    }
}

impl Supply<'_> {
    fn fetcher(&self, what: impl ToString) -> Result<&Fetcher, SupplyError> {
        let no_sources = || SupplyError::NoSources(what.to_string());
        self.fetcher.as_ref().ok_or_else(no_sources)
    }

    /// Protects paths and their closures from collection until the command is done. To be called
    /// before they are looked up or published.
    pub(super) fn keep<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        let hashes = paths.into_iter().map(StorePath::hash);
        hashes.for_each(|hash| self.protected.add(hash));
    }

    /// The store path that the user means, from the state or the sources.
    pub(super) fn resolve(&self, text: &str) -> Result<StorePath, EngineError> {
        let store = &self.engine.store;
        let named = self.engine.named(text)?;
        if !named.place.is_empty() {
            return Err(ProfileError::Place(text.to_owned()).into());
        }
        self.protected.add(named.hash);
        if let Some(there) = store.paths().readable_info(named.hash)? {
            let there = there.registration.path;
            return match named.path {
                Some(requested) if requested != there => Err(LocationError::OtherName {
                    requested: requested.to_string(),
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

    /// The store paths that the user means, without duplicates.
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

    /// Makes the contents of a path local; `false` if no source has the path.
    pub(super) fn fetch(&self, path: &StorePath) -> Result<bool, SupplyError> {
        self.keep([path]);
        let fetcher = self.fetcher(path)?;
        let progress = Arc::new(Progress::default());
        let runtime = self.engine.runtime();
        // A fetcher implies a runtime, so none is started here.
        let runtime = runtime.map_err(|_| FetchError::Stopped)?;
        let done = runtime.block_on(fetcher.prefetch(wanted([path]), false, &progress))?;
        self.count(&done);
        match failed(done.failures) {
            Err(SupplyError::Failed { source, .. }) if source.is_absent() => Ok(false),
            failed => failed.map(|()| true),
        }
    }

    fn count(&self, done: &Fetched) {
        if !self.uses_own_fetcher {
            let fetched = &self.engine.network.fetched;
            fetched.fetch_add(done.fetched_bytes, Ordering::Relaxed);
        }
    }

    /// Makes the contents of paths local.
    pub(super) fn fetch_all(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        self.keep(paths);
        let mut missing = Vec::new();
        for path in paths {
            let info = self.engine.store.paths().readable_info(path.hash())?;
            if info.is_none_or(|info| info.tree().is_none()) {
                missing.push(path);
            }
        }
        self.fetch_missing(missing, output)
    }

    /// Fetches the contents of paths that are not local.
    pub(super) fn fetch_missing<'p>(
        &self,
        missing: impl IntoIterator<Item = &'p StorePath>,
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        let wanted = wanted(missing);
        match wanted.first().and_then(|(_, path)| path.clone()) {
            Some(first) => self.prefetch(&first, wanted, false, output),
            None => Ok(()),
        }
    }

    /// Makes the closures of paths completely local.
    pub(super) fn complete<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p StorePath>,
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        let wanted = wanted(paths);
        wanted
            .iter()
            .for_each(|(hash, _)| self.protected.add(*hash));
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
        let done = self.engine.with_progress(output, |progress| {
            runtime.block_on(fetcher.prefetch(wanted, recursive, progress))
        })?;
        self.count(&done);
        Ok(failed(done.failures).map_err(ProfileError::from)?)
    }

    /// Without sources, everything must be local.
    fn find_missing(
        &self,
        first: &impl ToString,
        wanted: &Wanted,
        recursive: bool,
    ) -> Result<(), EngineError> {
        let store = &self.engine.store;
        let missing = |what: String| Err(ProfileError::from(SupplyError::NoSources(what)).into());
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

    /// Registers a path without its contents.
    pub(super) fn register(&self, path: &StorePath) -> Result<(), EngineError> {
        self.keep([path]);
        let known = self.engine.store.paths().readable_info(path.hash())?;
        if known.is_some() {
            return Ok(());
        }
        let fetcher = self.fetcher(path).map_err(ProfileError::from)?;
        let progress = Progress::default();
        let registering = fetcher.register(wanted([path]), false, &progress);
        let failures = self.engine.runtime()?.block_on(registering)?;
        Ok(failed(failures).map_err(ProfileError::from)?)
    }

    /// Registers the closures of paths, as far as the sources know them; without sources nothing
    /// changes. Returns a warning if something remains unknown.
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
        let failures = self.engine.with_progress(output, |progress| {
            runtime.block_on(fetcher.register(wanted(paths), true, progress))
        })?;
        let Some(first) = failures.first() else {
            return Ok(None);
        };
        let path = first.path.as_ref();
        let path = path.map_or_else(|| first.hash.to_string(), |p| self.engine.full(p));
        Ok(Some(match failures.len() {
            1 => format!(
                "{path} is needed but could not be looked up: {}",
                chain(&first.error)
            ),
            n => format!(
                "{path} and {} more paths are needed but could not be looked up: {}",
                n - 1,
                chain(&first.error)
            ),
        }))
    }

    /// Registers the closures of paths completely, without their contents.
    pub(in crate::engine) fn require_closures(
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
                Some(path) => {
                    Err(ProfileError::from(SupplyError::NoSources(path.to_string())).into())
                }
                None => Ok(()),
            };
        };
        let runtime = self.engine.runtime()?;
        let failures = self.engine.with_progress(output, |progress| {
            runtime.block_on(fetcher.register(wanted(paths), true, progress))
        })?;
        Ok(failed(failures).map_err(ProfileError::from)?)
    }

    /// Whether the closures of paths are registered completely, and nothing of them is to be asked for
    /// anew.
    fn knows_closures(&self, paths: &[StorePath]) -> Result<bool, StoreError> {
        let closure = self
            .engine
            .store
            .paths()
            .readable_closure(paths.iter().map(StorePath::hash))?;
        let doubted = |info| self.fetcher.as_ref().is_some_and(|f| f.doubts(info));
        if closure.iter().any(doubted) {
            return Ok(false);
        }
        let known: HashSet<_> = closure.iter().map(|i| &i.registration.path).collect();
        let references = closure.iter().flat_map(|i| &i.registration.references);
        Ok(paths.iter().chain(references).all(|p| known.contains(p)))
    }
}
