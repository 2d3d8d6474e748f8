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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::{
        CopyRequest, GcReport, GcRequest, NoOutput, PrefetchRequest, Report, Request, VerifyReport,
    };
    use crate::engine::binary_cache::{Cache, Offer, file};
    use crate::engine::users::NOBODY;
    use crate::store::{MemoryBackend, Store, StoreOptions};

    struct Scene {
        cache: Cache,
        /// Pinned; it refers to the second.
        pinned: Offer,
        needed: Offer,
        garbage: Offer,
        disk: MemoryBackend,
        engine: Engine,
        _dir: tempfile::TempDir,
    }

    fn scene() -> Scene {
        let cache = Cache::new();
        let needed = Offer::named("needed", file(b"needed"));
        let pinned = Offer::named("pinned", file(b"pinned")).referring(&[needed.path()]);
        let garbage = Offer::named("garbage", file(b"garbage"));
        for offer in [&needed, &pinned, &garbage] {
            cache.put(offer);
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = MemoryBackend::default();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let store = Store::open_in_memory(dir.path(), &options, disk.clone()).unwrap();
        let sources = SourceRequest {
            from: vec![cache.url()],
            trusted_public_keys: vec![cache.key.to_public().to_string()],
            ..SourceRequest::default()
        };
        let scene = Scene {
            engine: Engine::among(NOBODY, Arc::new(store), sources, None),
            cache,
            pinned,
            needed,
            garbage,
            disk,
            _dir: dir,
        };
        scene.execute(Request::Copy(CopyRequest {
            all: true,
            jobs: 1,
            ..CopyRequest::default()
        }));
        scene
            .engine
            .store
            .roots()
            .pin(&[scene.pinned.path().clone()])
            .unwrap();
        scene
    }

    impl Scene {
        fn execute(&self, request: Request) -> Report {
            self.engine.execute(request, &mut NoOutput).unwrap()
        }

        fn collect(&self) -> GcReport {
            match self.execute(Request::Gc(GcRequest::default())) {
                Report::Gc(report) => report,
                other => panic!("{other:?}"),
            }
        }

        fn verify(&self, repair: bool) -> VerifyReport {
            let repair = repair.then(SourceRequest::default);
            match self.execute(Request::Verify {
                paths: Vec::new(),
                repair,
            }) {
                Report::Verify(report) => report,
                other => panic!("{other:?}"),
            }
        }

        /// Has no source the path any more.
        fn withdraw(&self, offer: &Offer) {
            std::fs::remove_file(self.cache.narinfo_file(offer.path())).unwrap();
        }
    }

    #[test]
    fn a_collection_asks_the_sources_for_what_it_cannot_read() {
        let scene = scene();
        scene.disk.damage_path_info(scene.pinned.path());
        let report = scene.collect();
        assert!(report.unreadable.is_empty(), "{report:?}");
        assert_eq!(report.paths, [scene.engine.full(scene.garbage.path())]);
        assert!(scene.verify(false).failures.is_empty());
    }

    #[test]
    fn what_no_source_has_any_more_is_named_and_keeps_what_it_may_refer_to() {
        let scene = scene();
        let lost = scene.needed.path();
        scene.withdraw(&scene.needed);
        scene.disk.damage_path_info(lost);
        for report in [scene.verify(false), scene.verify(true)] {
            let named: Vec<_> = report.failures.iter().map(|f| &f.path).collect();
            assert_eq!(named, [&scene.engine.full(lost)]);
            assert_eq!(report.good, 2);
        }
        let report = scene.collect();
        assert_eq!(report.unreadable, [lost.to_string()]);
        assert!(report.paths.is_empty());
        // It is not absent for whoever wants it, and nothing is said to be complete.
        let report = scene.execute(Request::Prefetch(PrefetchRequest {
            paths: vec![scene.engine.full(scene.pinned.path())],
            recursive: true,
            ..PrefetchRequest::default()
        }));
        let Report::Prefetch(report) = report else {
            panic!("{report:?}");
        };
        assert!(!report.complete);
        assert_eq!(report.failures.len(), 1);
        assert!(
            report.failures[0]
                .error
                .contains("its path info is damaged"),
            "{report:?}"
        );
        scene.cache.put(&scene.needed);
        let report = scene.verify(true);
        assert_eq!(report.repaired, [scene.engine.full(lost)]);
        assert!(report.failures.is_empty() && report.good == 2, "{report:?}");
        assert_eq!(scene.collect().paths.len(), 1);
    }
}
