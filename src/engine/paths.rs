//! Requests on paths: registration, listing, contents and statistics.

use std::path::Path;

use super::chunked::Chunked;
use crate::command::{EntryReport, KindReport, Output, PathReport, Report, StateReport};
use crate::engine::error::EngineError;
use crate::engine::location;
use crate::engine::location::{Located, LocationError};
use crate::engine::state::Engine;
use crate::fetch::{self, CopyFailure, Fetcher, Progress};
use crate::nix::store_path::StorePath;
use crate::store::{LoadedPath, PathInfo, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind};

impl Engine {
    pub(super) fn add(&self, from: &Path, name: Option<String>) -> Result<Report, EngineError> {
        let last = || from.file_name().map(|n| n.to_string_lossy().into_owned());
        let name = name
            .or_else(last)
            .ok_or(EngineError::Usage("give a name with --name"))?;
        let path = fetch::add(&self.store, from, &name).map_err(|source| EngineError::Add {
            from: from.to_owned(),
            source,
        })?;
        Ok(Report::Added(path.to_full(self.store.store_dir())))
    }

    /// Path infos of the given paths, or of all that can be read.
    pub(super) fn infos(&self, names: &[String]) -> Result<Vec<PathInfo>, EngineError> {
        if names.is_empty() {
            let all = self.store.paths().all()?;
            let infos = all
                .iter()
                .filter_map(|p| self.store.paths().readable_info(p.hash()).transpose());
            return Ok(infos.collect::<Result<_, _>>()?);
        }
        let named = names.iter().map(|n| Ok(location::info(&self.store, n)?));
        named.collect()
    }

    pub(super) fn path_info(
        &self,
        names: &[String],
        closure: bool,
        sizes: bool,
    ) -> Result<Report, EngineError> {
        let mut infos = if closure && !names.is_empty() {
            // Closures are reported as far as they are known, even if the root itself is not local.
            let named = names.iter().map(|n| location::known(&self.store, n));
            named.collect::<Result<_, _>>()?
        } else {
            self.infos(names)?
        };
        if closure {
            let roots = infos.iter().map(|i| i.registration.path.hash());
            infos = self.store.paths().closure(roots)?;
        }
        infos.sort_by(|a, b| a.registration.path.cmp(&b.registration.path));
        let reports = infos.into_iter().map(|info| {
            let mut closure_size = None;
            if sizes {
                let closure = self
                    .store
                    .paths()
                    .closure([info.registration.path.hash()])?;
                closure_size = Some(closure.iter().map(|i| i.registration.nar_size).sum());
            }
            Ok(self.path_report(&info, closure_size))
        });
        Ok(Report::Paths(reports.collect::<Result<_, EngineError>>()?))
    }

    pub(super) fn path_report(&self, info: &PathInfo, closure_size: Option<u64>) -> PathReport {
        let full = |p: &StorePath| self.full(p);
        let r = &info.registration;
        PathReport {
            path: full(&r.path),
            nar_hash: r.nar_hash.to_sri(),
            nar_size: r.nar_size,
            closure_size,
            references: info.sorted_references().into_iter().map(full).collect(),
            deriver: r.deriver.as_ref().map(full),
            signatures: r.signatures.clone(),
            // What is not here has not been compared with it.
            ca: r
                .ca
                .filter(|_| info.tree().is_some())
                .map(|ca| ca.to_string()),
            unsigned: !r.vouched,
            registration_time: info.registered,
        }
    }

    pub(super) fn ls(&self, path: &str, recursive: bool) -> Result<Report, EngineError> {
        let found = location::place(&self.store, path)?;
        let tree = found.path.tree();
        let mut out = Vec::new();
        let mut open = Vec::new();
        match tree.node(found.node).map(|n| n.kind) {
            Some(NodeKind::Directory { first, count, .. }) => {
                open.push((String::new(), first..first + count));
            }
            _ => out.extend(entry(&found.path, found.node, String::new())),
        }
        while let Some((directory, mut children)) = open.pop() {
            let Some(child) = children.next() else {
                continue;
            };
            let name = tree.node(child).map_or(&[][..], |n| n.name);
            let name = format!("{directory}{}", String::from_utf8_lossy(name));
            open.push((directory, children));
            if let Some(NodeKind::Directory { first, count, .. }) = tree.node(child).map(|n| n.kind)
                && recursive
            {
                open.push((format!("{name}/"), first..first + count));
            }
            out.extend(entry(&found.path, child, name));
        }
        Ok(Report::Entries(out))
    }

    pub(super) fn cat(&self, path: &str, output: &mut dyn Output) -> Result<Report, EngineError> {
        /// Bytes read at once.
        const PIECE: u64 = 1 << 20;
        let found = self.complete(|store| location::file(store, path))?;
        let Some(NodeKind::File { offset, size, .. }) =
            found.path.tree().node(found.node).map(|n| n.kind)
        else {
            return Ok(Report::Done);
        };
        let mut piece = Vec::new();
        for at in (0..size).step_by(PIECE as usize) {
            piece.clear();
            let length = PIECE.min(size - at);
            self.store
                .contents()
                .read(found.path.contents(), offset + at, length, &mut piece)?;
            output.data(&piece)?;
        }
        Ok(Report::Done)
    }

    pub(super) fn dump(&self, path: &str, output: &mut dyn Output) -> Result<Report, EngineError> {
        let found = self.complete(|store| location::place(store, path))?;
        let mut out = Chunked::new(output);
        self.store
            .contents()
            .dump(found.path.contents(), found.node, &mut out)?;
        out.finish()?;
        Ok(Report::Done)
    }

    /// Locates something whose contents are needed. Dropped contents are fetched again, if there is
    /// a fetcher.
    fn complete(
        &self,
        find: impl Fn(&Store) -> Result<Located, LocationError>,
    ) -> Result<Located, EngineError> {
        let found = find(&self.store);
        let wanting = match &found {
            Ok(found) if !found.path.is_complete() => {
                Some(found.path.info().registration.path.hash())
            }
            // Registered anew, and fetched.
            Err(LocationError::Store(StoreError::PathInfo { hash, .. })) => Some(*hash),
            _ => None,
        };
        match (
            self.fetcher(),
            wanting.and_then(|hash| self.store.paths().name(hash).ok()?),
        ) {
            (Some(fetcher), Some(path)) => {
                let wanted = vec![(path.hash(), None)];
                let progress = Progress::default();
                let fetching = fetcher.prefetch(wanted, false, &progress);
                match self.runtime()?.block_on(fetching)?.failures.pop() {
                    Some(CopyFailure { error: source, .. }) => {
                        Err(EngineError::Contents { path, source })
                    }
                    None => Ok(find(&self.store)?),
                }
            }
            _ => Ok(found?),
        }
    }

    pub(super) fn stats(&self, paths: &[String]) -> Result<Report, EngineError> {
        let each = if paths.is_empty() {
            Vec::new()
        } else {
            let named = paths.iter().map(|p| location::path(&self.store, p));
            let named: Vec<_> = named.collect::<Result<_, _>>()?;
            self.store.upkeep().path_statistics(&named)?
        };
        let fuse = self.serving.counters().map(|c| c.snapshot());
        Ok(Report::Stats(StateReport {
            state: self.store.upkeep().statistics()?,
            each,
            requests: fuse.as_ref().map(|f| f.requests.clone()),
            fetched_bytes: fuse.as_ref().map(|_| self.fetched_bytes()),
            fetcher: self.fetcher().map(Fetcher::activity),
            fuse,
        }))
    }
}

fn entry(path: &LoadedPath, node: NodeIndex, name: String) -> Option<EntryReport> {
    let (kind, size) = match path.tree().node(node)?.kind {
        NodeKind::Directory { .. } => (KindReport::Directory, 0),
        NodeKind::File {
            executable: true,
            size,
            ..
        } => (KindReport::Executable, size),
        NodeKind::File { size, .. } => (KindReport::Regular, size),
        NodeKind::Link { length, .. } => (KindReport::Symlink, u64::from(length)),
    };
    let target = path.target(node);
    Some(EntryReport {
        name,
        kind,
        size,
        target: target.map(|t| String::from_utf8_lossy(&t).into_owned()),
    })
}
