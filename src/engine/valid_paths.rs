//! What is valid of the paths that a client of Nix's asks for, and their contents.
//!
//! Invariants: a path is valid if the state has it, or a source that is believed; whether a source that does
//! not answer has it is an error, and never no. What is found stays as long as the [`Supply`].

use std::io::Write;
use std::path::Path;

use super::roots;
use crate::command::{Output, chain};
use crate::engine::error::EngineError;
use crate::engine::location::LocationError;
use crate::engine::state::Engine;
use crate::engine::supply::{Supply, Wanted};
use crate::fetch::Progress;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{LoadedPath, PathInfo};
use crate::tree::NodeKind;

/// What is valid of some paths.
#[derive(Debug, Default)]
pub struct ValidPaths {
    /// In the order of the question.
    pub valid: Vec<PathInfo>,
    /// Why sources are not believed that have others of them.
    pub distrusted: Vec<String>,
}

impl Supply<'_> {
    /// Which of these paths are valid; the sources are asked for many at the same time. A hash without a name
    /// is that of any path.
    ///
    /// # Errors
    /// A source does not answer, or the database failed.
    pub fn valid(&self, wanted: &Wanted) -> Result<ValidPaths, EngineError> {
        for (hash, _) in wanted {
            self.protected.add(*hash);
        }
        let mut found = ValidPaths::default();
        if let Some(fetcher) = &self.fetcher {
            let mut unknown = Vec::new();
            for (hash, path) in wanted {
                let known = self.info(*hash)?;
                if known.is_none_or(|known| fetcher.doubts(&known)) {
                    unknown.push((*hash, path.clone()));
                }
            }
            if !unknown.is_empty() {
                let progress = Progress::default();
                let registering = fetcher.register(unknown, false, &progress);
                for failure in self.engine.runtime()?.block_on(registering)? {
                    match failure.error {
                        e if e.is_distrusted() => found.distrusted.push(chain(&e)),
                        e if e.is_absent() || e.is_other_name() => {}
                        e => return Err(e.into()),
                    }
                }
            }
        }
        for (hash, path) in wanted {
            let there = self.info(*hash)?;
            let is_wanted = |there: &PathInfo| {
                let path = path.as_ref();
                path.is_none_or(|path| *path == there.registration.path)
            };
            found.valid.extend(there.filter(is_wanted));
        }
        Ok(found)
    }

    fn info(&self, hash: StorePathHash) -> Result<Option<PathInfo>, EngineError> {
        let paths = self.engine.store.paths();
        // Without sources nothing else says whether it is there.
        match &self.fetcher {
            Some(_) => Ok(paths.readable_info(hash)?),
            None => Ok(paths.info(hash)?),
        }
    }

    /// Makes the contents of valid paths local.
    ///
    /// # Errors
    /// One cannot be fetched, or `output` fails.
    pub fn make_local(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        self.keep(paths);
        let mut missing = Vec::new();
        for path in paths {
            let known = self.info(path.hash())?;
            match known {
                Some(known) if self.engine.store.paths().has_contents(&known)? => {}
                _ => missing.push(path.clone()),
            }
        }
        self.fetch_missing(&missing, output)
    }

    fn loaded(&self, path: &StorePath) -> Result<LoadedPath, EngineError> {
        let paths = self.engine.store.paths();
        let known = paths.info(path.hash())?;
        let loaded = known.map(|known| paths.load_info(known)).transpose()?;
        let absent = || LocationError::Absent(self.engine.full(path));
        Ok(loaded.flatten().ok_or_else(absent)?)
    }

    /// Writes the NAR of a path whose contents are local.
    ///
    /// # Errors
    /// They cannot be read, or `out` fails.
    pub fn dump(&self, path: &StorePath, out: impl Write) -> Result<(), EngineError> {
        let loaded = self.loaded(path)?;
        let contents = self.engine.store.contents();
        Ok(contents.dump(loaded.contents(), 0, out)?)
    }

    /// The contents of a path that is a file of at most `limit` bytes, and local.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn file(&self, path: &StorePath, limit: u64) -> Result<Vec<u8>, EngineError> {
        let loaded = self.loaded(path)?;
        let Some(NodeKind::File { offset, size, .. }) = loaded.tree().node(0).map(|n| n.kind)
        else {
            return Err(LocationError::NotAFile(self.engine.full(path)).into());
        };
        if size > limit {
            let path = path.clone();
            return Err(EngineError::TooLarge { path, size, limit });
        }
        let mut contents = Vec::new();
        let store = self.engine.store.contents();
        store.read(loaded.contents(), offset, size, &mut contents)?;
        Ok(contents)
    }
}

impl Engine {
    /// What is known to refer to a path.
    ///
    /// # Errors
    /// The database failed.
    pub fn referrers(&self, path: &StorePath) -> Result<Vec<StorePath>, EngineError> {
        let mut referrers = Vec::new();
        self.store.paths().each_registered(|info| {
            if info.registration.references.contains(path) {
                referrers.push(info.registration.path);
            }
        })?;
        referrers.sort();
        Ok(referrers)
    }

    /// All paths that are known, also those of which nothing is here.
    ///
    /// # Errors
    /// The database failed.
    pub fn registered(&self) -> Result<Vec<StorePath>, EngineError> {
        let mut all = Vec::new();
        let paths = self.store.paths();
        paths.each_registered(|info| all.push(info.registration.path))?;
        all.sort();
        Ok(all)
    }

    /// Makes what the link at an absolute path points to a root, as long as the link does.
    ///
    /// # Errors
    /// The state directory cannot be written.
    pub fn add_indirect_root(&self, link: &Path) -> Result<(), EngineError> {
        roots::register(&self.store, link)?;
        Ok(roots::links(&self.store)?.keep(&self.store)?)
    }
}
