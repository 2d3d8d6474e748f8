//! Prefetching, pinning and evicting contents.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::command::{
    EvictReport, Failure, Output, PinReport, PrefetchReport, PrefetchRequest, Report,
};
use crate::engine::error::EngineError;
use crate::engine::location;
use crate::engine::location::LocationError;
use crate::engine::state::Engine;
use crate::fetch::{FetchError, Fetched};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::profile::package_name;
use crate::store::Pin;

impl Engine {
    pub(super) fn prefetch(
        &self,
        request: &PrefetchRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let traced = match &request.trace {
            Some(name) => self.traced(name)?,
            None => Vec::new(),
        };
        if request.paths.is_empty() && request.trace.is_none() {
            return Err(EngineError::Usage("name store paths, or a trace"));
        }
        let named = request.paths.iter().map(|text| {
            let named = self.named(text)?;
            Ok((named.hash, named.path))
        });
        let named: Vec<_> = named.collect::<Result<_, EngineError>>()?;
        let fetcher = self.fetcher_for(&request.sources)?;
        let runtime = self.runtime()?;
        let mut report = PrefetchReport::default();
        if request.pin {
            let pinned = named.iter().map(|(hash, path)| {
                let resolved = runtime.block_on(fetcher.resolve(*hash, path.as_ref()));
                Ok(resolved?)
            });
            let pinned: Vec<_> = pinned.collect::<Result<_, EngineError>>()?;
            // Pinned first, so that nothing is dropped in between.
            self.store.roots().pin(&pinned)?;
        }
        let alone: Vec<_> = traced.iter().map(StorePath::hash).collect();
        let recursive = request.recursive;
        let prefetched: Result<Vec<Fetched>, FetchError> = self.with_progress(output, |progress| {
            let traced = traced.into_iter().map(|p| (p.hash(), Some(p))).collect();
            runtime.block_on(async {
                let traced = fetcher.prefetch(traced, false, progress).await?;
                let named = fetcher.prefetch(named.clone(), recursive, progress).await?;
                Ok(vec![traced, named])
            })
        });
        for part in prefetched? {
            report.paths += part.already + part.fetched;
            report.nar_bytes += part.already_bytes + part.nar_bytes;
            report.fetched += part.fetched;
            report.fetched_bytes += part.fetched_bytes;
            report.failures.extend(self.failures(&part.failures));
        }
        if !self.uses_own_fetcher(&request.sources) {
            // The daemon's fetcher counts its own bytes.
            self.network
                .fetched
                .fetch_add(report.fetched_bytes, Ordering::Relaxed);
        }
        let named = named.iter().map(|(hash, _)| *hash);
        self.budget.settle();
        self.check_fetched(alone, named, request, &mut report)?;
        report.complete = report.failures.is_empty();
        Ok(Report::Prefetch(report))
    }

    /// Checks that the fetched paths are still present, and reads them if requested.
    fn check_fetched(
        &self,
        mut alone: Vec<StorePathHash>,
        named: impl Iterator<Item = StorePathHash>,
        request: &PrefetchRequest,
        report: &mut PrefetchReport,
    ) -> Result<(), EngineError> {
        let mut infos = Vec::new();
        if request.recursive {
            // What cannot be read has failed.
            infos = self.store.paths().readable_closure(named)?;
        } else {
            alone.extend(named);
        }
        for hash in alone {
            infos.extend(self.store.paths().readable_info(hash)?);
        }
        let mut failed: HashSet<_> = report.failures.iter().map(|f| f.path.clone()).collect();
        for info in infos {
            report.unsigned += u64::from(!info.registration.vouched);
            let error = match request.check {
                _ if !self.store.paths().has_contents(&info)? => Ok(false),
                true => self.check(&info),
                false => Ok(true),
            };
            let (error, is_gone) = match error {
                Ok(true) => continue,
                Ok(false) => (self.eviction_error(), true),
                Err(error) => (error, false),
            };
            let path = self.full(&info.registration.path);
            if !failed.insert(path.clone()) {
                continue;
            }
            if is_gone {
                report.paths = report.paths.saturating_sub(1);
                let nar_size = info.registration.nar_size;
                report.nar_bytes = report.nar_bytes.saturating_sub(nar_size);
            }
            report.failures.push(Failure { path, error });
        }
        Ok(())
    }

    /// Why a path that was just fetched is absent.
    fn eviction_error(&self) -> String {
        match self.budget.budget() {
            Some(budget) => format!(
                "it was dropped again to stay within the budget of {budget} bytes; mount with a \
                 larger one (-o budget=SIZE), or pin what should stay"
            ),
            None => "an eviction dropped it again; repeat the prefetch, or pin the path".into(),
        }
    }

    pub(super) fn unpin(&self, paths: &[String]) -> Result<Report, EngineError> {
        let pins = self.store.roots().pins()?;
        let mut unpinned = Vec::new();
        for text in paths {
            let pin = self.pinned(&pins, text)?;
            unpinned.extend(pin.map(|p| p.path.clone()));
        }
        let gone = self.store.roots().unpin(&unpinned)?;
        Ok(Report::Unpinned(
            gone.iter().map(|p| self.full(p)).collect(),
        ))
    }

    /// The pin that the user means: by store path or hash, or else by package name if that is
    /// unique. Channels are not consulted, since they may list another version by now.
    fn pinned<'p>(&self, pins: &'p [Pin], text: &str) -> Result<Option<&'p Pin>, LocationError> {
        match location::parse(&self.store, text) {
            Ok(named) => Ok(pins.iter().find(|p| p.path.hash() == named.hash)),
            Err(LocationError::NotAPath { .. }) if location::may_be_package(text) => {
                let find = |is_called: &dyn Fn(&str) -> bool| {
                    let called = pins.iter().filter(|p| is_called(p.path.name()));
                    called.collect::<Vec<_>>()
                };
                let mut called = find(&|name| name == text);
                if called.is_empty() {
                    called = find(&|name| package_name(name) == text);
                }
                match called[..] {
                    [] => Ok(None),
                    [pin] => Ok(Some(pin)),
                    _ => Err(LocationError::SeveralPins {
                        text: text.to_owned(),
                        paths: called.iter().map(|p| self.full(&p.path)).collect(),
                    }),
                }
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn pins(&self) -> Result<Report, EngineError> {
        let pins = self.store.roots().pins()?;
        let reports = pins.into_iter().map(|pin| {
            let paths = self.store.paths();
            let closure = paths.readable_closure([pin.path.hash()])?;
            let unknown = paths.unknown_of(std::slice::from_ref(&pin.path))?;
            let is_lost = |path: &&StorePath| paths.info(path.hash()).is_err();
            let mut missing = unknown.iter().filter(is_lost).count() as u64;
            for info in &closure {
                missing += u64::from(!self.store.paths().has_contents(info)?);
            }
            Ok(PinReport {
                path: self.full(&pin.path),
                since: pin.since,
                closure: closure.len() as u64,
                missing,
            })
        });
        Ok(Report::Pins(reports.collect::<Result<_, EngineError>>()?))
    }

    pub(super) fn evict(&self, to: u64) -> Result<Report, EngineError> {
        let eviction = self.budget.evict(to)?;
        let stop = AtomicBool::new(false);
        let reclaimed_bytes = self.store.upkeep().reclaim_all(&stop)?;
        Ok(Report::Evict(EvictReport {
            paths: eviction.paths.iter().map(|p| self.full(p)).collect(),
            freed_bytes: eviction.bytes,
            reclaimed_bytes,
            stored_bytes: self.store.upkeep().stored_bytes()?,
        }))
    }
}
