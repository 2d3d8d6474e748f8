//! Verification: reads stored contents, checks digests and NAR hashes, and repairs damage from
//! sources.

use std::collections::HashSet;

use crate::command::{Failure, Output, Report, SourceRequest, VerifyReport, chain};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::fetch::{self, Snapshot};
use crate::nix::hash::{NarHash, Sha256Writer};
use crate::nix::store_path::StorePathHash;
use crate::store::{LoadedPath, Origin, PathInfo, StoreError};
use crate::tree::DumpError;

impl Engine {
    pub(super) fn verify(
        &self,
        names: &[String],
        repair: Option<SourceRequest>,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let mut report = VerifyReport::default();
        if names.is_empty() {
            self.verify_second_copy(repair.is_some(), &mut report);
            if repair.is_some() {
                self.restore_small(&mut report)?;
            }
        }
        let (infos, mended) = self.verify_infos(names, repair.as_ref(), output, &mut report)?;
        let total = Snapshot {
            paths: infos.len() as u64,
            nar_bytes: infos.iter().map(|i| i.registration.nar_size).sum(),
            ..Snapshot::default()
        };
        let mut done = total;
        for info in &infos {
            done.paths_done += 1;
            done.nar_bytes_done += info.registration.nar_size;
            output.progress(&done)?;
            let path = self.full(&info.registration.path);
            let mut found = self.check(info);
            if found.is_err() && self.was_collected(info) {
                continue;
            }
            report.unsigned += u64::from(!info.registration.vouched);
            if let (Err(error), Some(request)) = (&found, &repair) {
                tracing::warn!(path, "damaged, fetching again: {error}");
                found = self.repair(info, request).and_then(|()| self.check(info));
                if found.is_ok() {
                    report.repaired.push(path);
                    continue;
                }
            }
            match found {
                Ok(false) => report.dropped += 1,
                Ok(true) if mended.contains(&info.registration.path.hash()) => {
                    report.repaired.push(path);
                }
                Ok(true) => {
                    report.good += 1;
                    report.nar_bytes += info.registration.nar_size;
                }
                Err(error) => report.failures.push(Failure { path, error }),
            }
        }
        if let Some(request) = &repair {
            if let Some((rebuilt, failures)) = self.fetch_again(request, output)? {
                report.rebuilt = Some(rebuilt);
                report.failures.extend(failures);
            }
            // An earlier repair may have replaced chunks, and failed to make them durable.
            self.store.contents().flush()?;
            if names.is_empty() && report.failures.is_empty() {
                self.store.upkeep().set_mended();
            }
        }
        Ok(Report::Verify(report))
    }

    /// The path infos that can be read, once those that cannot were fetched again, if that is wanted. Returns
    /// the hashes of these as well.
    fn verify_infos(
        &self,
        names: &[String],
        repair: Option<&SourceRequest>,
        output: &mut dyn Output,
        report: &mut VerifyReport,
    ) -> Result<(Vec<PathInfo>, HashSet<StorePathHash>), EngineError> {
        let (infos, lost) = self.readable(names)?;
        if lost.is_empty() {
            return Ok((infos, HashSet::new()));
        }
        let asked = match repair {
            Some(request) => self.register_anew(&lost.paths, request, true, output),
            None => Ok(Vec::new()),
        };
        let failures = self.unreadable_failures(&lost.paths, &asked);
        report.failures.extend(failures);
        let unnamed = lost.unnamed.iter().map(|ordinal| Failure {
            path: format!("path number {}", ordinal.0),
            error:
                "neither its path info nor its name can be read any more; `narfs verify --repair` \
                    gives it up, and what looks it up by its name asks the sources"
                    .to_owned(),
        });
        report.failures.extend(unnamed);
        if repair.is_some() {
            self.store.paths().give_up_unnamed(&lost.unnamed)?;
        }
        let mut mended = HashSet::new();
        for path in &lost.paths {
            match self.store.paths().readable_info(path.hash)? {
                // With its contents it is read below.
                Some(info) if info.tree().is_some() => drop(mended.insert(path.hash)),
                Some(_) if !path.was_here => report.repaired.push(self.name_of(path)),
                Some(_) | None => {}
            }
        }
        match names {
            [] => Ok((self.infos(&[])?, mended)),
            _ => {
                let mut infos = infos;
                for hash in &mended {
                    infos.extend(self.store.paths().info(*hash)?);
                }
                Ok((infos, mended))
            }
        }
    }

    /// Checks what is kept a second time, and makes it anew if it is damaged and to be repaired.
    fn verify_second_copy(&self, repair: bool, report: &mut VerifyReport) {
        let upkeep = self.store.upkeep();
        let Some(error) = upkeep.check_second_copy() else {
            return;
        };
        let path = self.store.dir().join("second-copy").display().to_string();
        let renewed = match repair {
            true => upkeep.renew_second_copy(),
            false => Err(error),
        };
        match renewed {
            Ok(()) => report.repaired.push(path),
            Err(e) => report.failures.push(Failure {
                path,
                error: chain(&e),
            }),
        }
    }

    /// Restores what was added here, is lost, and is kept a second time.
    fn restore_small(&self, report: &mut VerifyReport) -> Result<(), EngineError> {
        let paths = self.store.paths();
        for hash in paths.with_small_contents()? {
            let Some(info) = paths.info(hash)? else {
                continue;
            };
            if info.origin == Origin::Fetched || info.tree().is_some() {
                continue;
            }
            let path = self.full(&info.registration.path);
            match fetch::restore(&self.store, &info) {
                Ok(true) => report.repaired.push(path),
                Ok(false) => {}
                Err(e) => report.failures.push(Failure {
                    path,
                    error: chain(&e),
                }),
            }
        }
        Ok(())
    }

    /// Whether a path was collected meanwhile.
    fn was_collected(&self, info: &PathInfo) -> bool {
        let there = self.store.paths().info(info.registration.path.hash());
        there.is_ok_and(|there| there.is_none_or(|t| t.ordinal != info.ordinal))
    }

    fn load(&self, info: &PathInfo) -> Result<Option<LoadedPath>, String> {
        self.store
            .paths()
            .load_info(info.clone())
            .map_err(|e| chain(&e))
    }

    /// Reads a path completely, checking every digest, and compares its NAR hash; `false` if its
    /// contents are not local.
    pub(super) fn check(&self, info: &PathInfo) -> Result<bool, String> {
        let Some(path) = self.load(info)?.filter(LoadedPath::is_complete) else {
            return Ok(false);
        };
        let mut hasher = Sha256Writer::new(std::io::sink());
        match self.store.contents().dump(path.contents(), 0, &mut hasher) {
            Ok(()) => {}
            // Dropped during the read, to stay within the budget.
            Err(DumpError::Chunk(StoreError::Dropped { .. })) => return Ok(false),
            Err(e) => return Err(chain(&e)),
        }
        let actual = NarHash::from_bytes(hasher.finish().1.sha256);
        if actual != info.registration.nar_hash {
            let expected = info.registration.nar_hash;
            return Err(format!(
                "its NAR has the hash {actual} instead of {expected}"
            ));
        }
        Ok(true)
    }

    /// Fetches a damaged path again; chunks found damaged are replaced.
    fn repair(&self, info: &PathInfo, request: &SourceRequest) -> Result<(), String> {
        // If even the tree cannot be read, it is written again.
        if let Ok(Some(path)) = self.load(info) {
            self.store.contents().find_damage(path.contents());
        }
        if info.origin == Origin::Added
            && fetch::restore(&self.store, info).map_err(|e| chain(&e))?
        {
            return Ok(());
        }
        let trust = request.or(&self.network.defaults).trust();
        let trust = trust.map_err(|e| chain(&e))?;
        let runtime = self.runtime().map_err(|e| chain(&e))?;
        let mended = runtime.block_on(self.sources(request)).and_then(|sources| {
            let handle = runtime.handle();
            Ok(fetch::repair(&self.store, handle, &sources, &trust, info)?)
        });
        mended.map_err(|e: EngineError| {
            format!(
                "it is damaged and could not be fetched again: {}",
                chain(&e)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::command::NoOutput;
    use crate::nix::store_path::StorePath;
    use crate::store::{Publication, Registration, Store, StoreOptions};

    #[test]
    fn good_chunks_that_are_not_the_registered_nar_are_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let store = Store::open(&dir.path().join("state"), &options).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let good = fetch::add(&store, &file, "good").unwrap();
        let info = store.paths().info(good.hash()).unwrap().unwrap();
        let bad = StorePath::parse_base_name(format!("{}-bad", "1".repeat(32)).as_bytes()).unwrap();
        let loaded = store.paths().load_info(info.clone()).unwrap().unwrap();
        let publication = Publication {
            registration: Registration {
                path: bad.clone(),
                nar_hash: NarHash::of(b"another NAR"),
                ..info.registration
            },
            origin: info.origin,
            tree: crate::tree::Tree::parse(loaded.tree().bytes().to_vec()).unwrap(),
            hold: store.contents().chunk_writer().unwrap().finish().unwrap(),
        };
        store.paths().publish(&[publication]).unwrap();
        let engine = Engine::new(Arc::new(store), SourceRequest::default(), None);
        let report = engine.verify(&[], None, &mut NoOutput).unwrap();
        let Report::Verify(report) = report else {
            panic!("{report:?}");
        };
        assert_eq!((report.good, report.failures.len()), (1, 1));
        let failure = &report.failures[0];
        assert!(failure.path.ends_with(&bad.base_name()), "{failure:?}");
        assert!(failure.error.contains("instead of"), "{failure:?}");
    }
}
