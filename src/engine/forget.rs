//! Forgetting paths that no source vouches for any more.
//!
//! Invariant: what is in use, or named by a root, stays, as in a collection; what others need goes only if
//! that is asked for.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use crate::command::{Failure, ForgetReport, ForgetRequest, Report};
use crate::engine::error::EngineError;
use crate::engine::location::{self, LocationError};
use crate::engine::roots::{Root, links};
use crate::engine::state::Engine;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Collected, Origin, PathInfo};

/// A path that is to be forgotten.
struct Wanted {
    hash: StorePathHash,
    name: String,
    was_added: bool,
}

impl Engine {
    pub(super) fn forget(&self, request: &ForgetRequest) -> Result<Report, EngineError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for text in &request.paths {
            let path = self.forgettable(text)?;
            if wanted.iter().all(|other| other.hash != path.hash) {
                wanted.push(path);
            }
        }
        // What becomes a root from now on it leaves alone.
        let collection = self.store.upkeep().begin_collection();
        let mut kept = self.rooted()?;
        if !request.force {
            self.add_needed(&wanted, &mut kept)?;
        }
        let mut report = ForgetReport {
            dry_run: request.dry_run,
            ..ForgetReport::default()
        };
        let (mut hashes, mut going) = (Vec::new(), Vec::new());
        for path in wanted {
            match kept.remove(&path.hash) {
                Some(error) => report.failures.push(Failure {
                    path: path.name,
                    error,
                }),
                None => {
                    hashes.push(path.hash);
                    going.push(path);
                }
            }
        }
        if request.dry_run {
            report.paths = going.into_iter().map(|path| path.name).collect();
            return Ok(Report::Forgot(report));
        }
        let forgotten = collection.forget(&hashes, &|| self.users.known())?;
        report.freed_bytes = forgotten.bytes;
        let gone = self.forgotten(&forgotten)?;
        for path in going {
            match gone.contains(&path.hash) {
                true => report.paths.push(path.name),
                false => report.failures.push(Failure {
                    path: path.name,
                    error: "it is in use, or was fetched or became a root meanwhile".to_owned(),
                }),
            }
        }
        Ok(Report::Forgot(report))
    }

    /// Has the sources asked for what is gone, and gives its space back.
    fn forgotten(&self, forgotten: &Collected) -> Result<Vec<StorePathHash>, EngineError> {
        let gone = [&*forgotten.paths, &*forgotten.registered].concat();
        if let Some(fetcher) = self.fetcher() {
            fetcher.forget(&gone);
        }
        if forgotten.bytes > 0 {
            let upkeep = self.store.upkeep();
            upkeep.reclaim_after_collection(&AtomicBool::new(false))?;
        }
        Ok(gone.iter().map(StorePath::hash).collect())
    }

    /// The path that the user means, also if only its name is known.
    fn forgettable(&self, text: &str) -> Result<Wanted, EngineError> {
        let named = location::parse(&self.store, text)?;
        let absent = || LocationError::Absent(text.to_owned());
        let there = self.store.paths().name(named.hash)?.ok_or_else(absent)?;
        let info = self.store.paths().readable_info(named.hash)?;
        match named.path {
            Some(requested) if info.is_some() && requested != there => {
                let requested = requested.to_string();
                Err(LocationError::OtherName { requested, there }.into())
            }
            _ => Ok(Wanted {
                hash: named.hash,
                name: self.full(&there),
                was_added: info.is_some_and(|info| info.origin == Origin::Added),
            }),
        }
    }

    /// Why paths stay in any case.
    fn rooted(&self) -> Result<HashMap<StorePathHash, String>, EngineError> {
        let mut roots = self.recorded_roots(|_, _| false)?;
        roots.extend(links(&self.store)?.roots);
        roots.extend(self.roots_in_use()?.0);
        let reason = |root: Root| (root.path.hash(), format!("it is kept by {}", root.from));
        Ok(roots.into_iter().map(reason).collect())
    }

    /// Adds why paths stay that others need, or that may be nowhere else.
    fn add_needed(
        &self,
        wanted: &[Wanted],
        kept: &mut HashMap<StorePathHash, String>,
    ) -> Result<(), EngineError> {
        for path in wanted.iter().filter(|path| path.was_added) {
            kept.entry(path.hash).or_insert_with(|| {
                "it was added on this machine, and no source may have it; --force forgets it".into()
            });
        }
        let is_wanted = |hash: StorePathHash| wanted.iter().any(|path| path.hash == hash);
        self.store.paths().each_readable(&mut |info: &PathInfo| {
            let by = &info.registration.path;
            let references = info.registration.references.iter().map(StorePath::hash);
            for hash in references.filter(|hash| is_wanted(*hash) && !is_wanted(by.hash())) {
                kept.entry(hash)
                    .or_insert_with(|| format!("{by} refers to it; --force forgets it even so"));
            }
        })?;
        Ok(())
    }
}
