//! Carries out commands on an open state.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::command::{
    Command, CommandError, CopyReport, CopyRequest, EntryReport, Failure, KindReport, Output,
    PathReport, Report, StateReport, StatusReport, VerifyReport,
};
use super::location;
use crate::fetch::{
    self, CopyOptions, FetchError, Fetcher, Progress, Snapshot, Sources, Trust, Wanted,
};
use crate::fuse::{self, Counters};
use crate::nix::hash::{NarHash, Sha256Writer};
use crate::nix::signature::PublicKey;
use crate::nix::store_path::StorePath;
use crate::store::{LoadedPath, PathInfo, Store, StoreError};
use crate::tree::{NodeIndex, NodeKind};

/// How often a copy says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// An open state and what commands on it need.
pub struct Engine {
    store: Arc<Store>,
    runtime: OnceLock<Runtime>,
    /// Counts of the kernel's requests, where the state is mounted.
    counters: OnceLock<Arc<Counters>>,
    fetched: AtomicU64,
    /// What fetches on demand, where the state is mounted with sources.
    fetcher: OnceLock<Fetcher>,
    running: Mutex<Vec<Arc<Progress>>>,
    started: Instant,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.store)
    }
}

impl Engine {
    /// An engine for a state that this process owns.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            runtime: OnceLock::new(),
            counters: OnceLock::new(),
            fetched: AtomicU64::new(0),
            fetcher: OnceLock::new(),
            running: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Has `stats` report these counts of the kernel's requests; once.
    pub fn count(&self, counters: Arc<Counters>) {
        let _ = self.counters.set(counters);
    }

    /// What fetches from the sources of `request` into this state on demand.
    ///
    /// # Errors
    /// A key that is none, or no threads for the network.
    pub fn fetcher(&self, request: &CopyRequest) -> Result<Fetcher, CommandError> {
        let runtime = self.runtime()?.handle().clone();
        let (store, trust) = (self.store.clone(), trust(request)?);
        let fetcher = Fetcher::new(store, runtime, &request.from, trust, request.deadlines);
        Ok(self.fetcher.get_or_init(|| fetcher).clone())
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// What makes the whole command fail; single paths that fail are in the report.
    pub fn execute(
        &self,
        command: Command,
        output: &mut dyn Output,
    ) -> Result<Report, CommandError> {
        match command {
            Command::Copy(request) => Ok(Report::Copy(self.copy(&request, output)?)),
            Command::Add { from, name } => self.add(&from, name),
            Command::PathInfo {
                paths,
                closure,
                sizes,
            } => self.path_info(&paths, closure, sizes),
            Command::Ls { path, recursive } => self.ls(&path, recursive),
            Command::Cat { path } => self.cat(&path, output),
            Command::Dump { path } => {
                let found = location::place(&self.store, &path)?;
                let mut out = Chunked::new(output);
                self.store.dump(&found.path, found.node, &mut out)?;
                out.finish()?;
                Ok(Report::Done)
            }
            Command::Stats { paths } => self.stats(&paths),
            Command::Verify { paths, repair } => self.verify(&paths, repair, output),
            Command::Mount(request) => {
                fuse::mount_again(self.store.dir(), &request)?;
                Ok(Report::Done)
            }
            Command::Status => self.status(),
        }
    }

    fn runtime(&self) -> Result<&Runtime, CommandError> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("narfs-net")
            .build()
            .map_err(CommandError::Runtime)?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    fn copy(
        &self,
        request: &CopyRequest,
        output: &mut dyn Output,
    ) -> Result<CopyReport, CommandError> {
        let trust = trust(request)?;
        let wanted = self.wanted(request)?;
        let jobs = match request.jobs {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            n => n,
        };
        let options = CopyOptions {
            recursive: request.recursive,
            jobs,
        };
        let runtime = self.runtime()?;
        let progress = Arc::new(Progress::default());
        self.running().push(progress.clone());
        let outcome = std::thread::scope(|scope| {
            let copying = scope.spawn(|| {
                let opened = Sources::open(&request.from, self.store.store_dir());
                let sources = runtime.block_on(opened)?;
                let store = &*self.store;
                let handle = runtime.handle();
                fetch::copy(store, handle, &sources, &trust, &wanted, options, &progress)
            });
            while !copying.is_finished() {
                std::thread::sleep(PROGRESS_EVERY);
                if output.progress(&progress.snapshot()).is_err() {
                    progress.stop.store(true, Ordering::Relaxed);
                }
            }
            copying
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.running().retain(|p| !Arc::ptr_eq(p, &progress));
        let sent = progress.fetched_bytes.load(Ordering::Relaxed);
        self.fetched.fetch_add(sent, Ordering::Relaxed);
        let summary = outcome?;
        let failures = summary.failures.iter().map(|f| Failure {
            path: self.display(f.path.as_ref(), &f.hash.to_string()),
            error: chain(&f.error),
        });
        Ok(CopyReport {
            copied: summary.copied,
            already: summary.already,
            nar_bytes: summary.nar_bytes,
            fetched_bytes: summary.fetched_bytes,
            failures: failures.collect(),
        })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn display(&self, path: Option<&StorePath>, hash: &str) -> String {
        path.map_or_else(|| hash.to_owned(), |p| p.to_full(self.store.store_dir()))
    }

    fn wanted(&self, request: &CopyRequest) -> Result<Wanted, CommandError> {
        if request.all {
            return Ok(Wanted::All);
        }
        if request.paths.is_empty() {
            return Err(CommandError::Usage("name store paths, or give --all"));
        }
        let named = request.paths.iter().map(|text| {
            let named = location::parse(&self.store, text)?;
            Ok((named.hash, named.path))
        });
        Ok(Wanted::Paths(named.collect::<Result<_, CommandError>>()?))
    }

    fn add(&self, from: &Path, name: Option<String>) -> Result<Report, CommandError> {
        let last = || from.file_name().map(|n| n.to_string_lossy().into_owned());
        let name = name
            .or_else(last)
            .ok_or(CommandError::Usage("give a name with --name"))?;
        let path = fetch::add(&self.store, from, &name).map_err(|source| CommandError::Add {
            from: from.to_owned(),
            source,
        })?;
        Ok(Report::Added(path.to_full(self.store.store_dir())))
    }

    /// `roots` and what they refer to, as far as it is here; roots first.
    fn closure(&self, roots: Vec<PathInfo>) -> Result<Vec<PathInfo>, StoreError> {
        let mut seen: HashSet<_> = roots.iter().map(|i| i.registration.path.hash()).collect();
        let mut queue: VecDeque<_> = roots.into();
        let mut out = Vec::new();
        while let Some(info) = queue.pop_front() {
            for reference in info.sorted_references() {
                if seen.insert(reference.hash()) {
                    queue.extend(self.store.path_info(reference.hash())?);
                }
            }
            out.push(info);
        }
        Ok(out)
    }

    /// What is registered of the paths that a user named; of all if none.
    fn infos(&self, names: &[String]) -> Result<Vec<PathInfo>, CommandError> {
        if names.is_empty() {
            let all = self.store.all_paths()?;
            let infos = all
                .iter()
                .filter_map(|p| self.store.path_info(p.hash()).transpose());
            return Ok(infos.collect::<Result<_, _>>()?);
        }
        let named = names.iter().map(|n| Ok(location::info(&self.store, n)?));
        named.collect()
    }

    fn path_info(
        &self,
        names: &[String],
        closure: bool,
        sizes: bool,
    ) -> Result<Report, CommandError> {
        let mut infos = self.infos(names)?;
        if closure {
            infos = self.closure(infos)?;
        }
        infos.sort_by(|a, b| a.registration.path.cmp(&b.registration.path));
        let reports = infos.into_iter().map(|info| {
            let mut closure_size = None;
            if sizes {
                let closure = self.closure(vec![info.clone()])?;
                closure_size = Some(closure.iter().map(|i| i.registration.nar_size).sum());
            }
            Ok(self.path_report(&info, closure_size))
        });
        Ok(Report::Paths(reports.collect::<Result<_, CommandError>>()?))
    }

    fn path_report(&self, info: &PathInfo, closure_size: Option<u64>) -> PathReport {
        let full = |p: &StorePath| p.to_full(self.store.store_dir());
        let r = &info.registration;
        PathReport {
            path: full(&r.path),
            nar_hash: r.nar_hash.to_sri(),
            nar_size: r.nar_size,
            closure_size,
            references: info.sorted_references().into_iter().map(full).collect(),
            deriver: r.deriver.as_ref().map(full),
            signatures: r.signatures.clone(),
            ca: r.ca.as_ref().map(ToString::to_string),
            registration_time: info.registered,
        }
    }

    fn ls(&self, path: &str, recursive: bool) -> Result<Report, CommandError> {
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

    fn cat(&self, path: &str, output: &mut dyn Output) -> Result<Report, CommandError> {
        /// Bytes in one go.
        const PIECE: u64 = 1 << 20;
        let found = location::file(&self.store, path)?;
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
                .read_stream(&found.path, offset + at, length, &mut piece)?;
            output.data(&piece)?;
        }
        Ok(Report::Done)
    }

    fn stats(&self, paths: &[String]) -> Result<Report, CommandError> {
        let each = if paths.is_empty() {
            Vec::new()
        } else {
            let named = paths.iter().map(|p| location::path(&self.store, p));
            let named: Vec<_> = named.collect::<Result<_, _>>()?;
            self.store.path_statistics(&named)?
        };
        let fuse = self.counters.get().map(|c| c.snapshot());
        Ok(Report::Stats(StateReport {
            state: self.store.statistics()?,
            each,
            requests: fuse.as_ref().map(|f| f.requests.clone()),
            fetched_bytes: fuse.as_ref().map(|_| self.fetched_bytes()),
            fuse,
        }))
    }

    fn fetched_bytes(&self) -> u64 {
        let on_demand = self.fetcher.get().map_or(0, Fetcher::fetched_bytes);
        self.fetched.load(Ordering::Relaxed) + on_demand
    }

    fn verify(
        &self,
        names: &[String],
        repair: Option<CopyRequest>,
        output: &mut dyn Output,
    ) -> Result<Report, CommandError> {
        let mut report = VerifyReport::default();
        let mut infos = Vec::new();
        if names.is_empty() {
            // A record that cannot be read is a failure of its path, not of all.
            for path in self.store.all_paths()? {
                match self.store.path_info(path.hash()) {
                    Ok(info) => infos.extend(info),
                    Err(e) => report.failures.push(Failure {
                        path: path.to_full(self.store.store_dir()),
                        error: chain(&e),
                    }),
                }
            }
        } else {
            infos = self.infos(names)?;
        }
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
            let path = info.registration.path.to_full(self.store.store_dir());
            let mut found = self.check(info);
            if let (Err(error), Some(request)) = (&found, &repair) {
                tracing::warn!(path, "damaged, fetching it again: {error}");
                found = self.mend(info, request).and_then(|()| self.check(info));
                if found.is_ok() {
                    report.repaired.push(path);
                    continue;
                }
            }
            match found {
                Ok(()) => {
                    report.good += 1;
                    report.nar_bytes += info.registration.nar_size;
                }
                Err(error) => report.failures.push(Failure { path, error }),
            }
        }
        Ok(Report::Verify(report))
    }

    fn load(&self, info: &PathInfo) -> Result<Option<LoadedPath>, String> {
        self.store.load_info(info.clone()).map_err(|e| chain(&e))
    }

    /// Reads a path whole, past every digest, and compares its NAR.
    fn check(&self, info: &PathInfo) -> Result<(), String> {
        let Some(path) = self.load(info)? else {
            return Ok(());
        };
        let mut hasher = Sha256Writer::new(std::io::sink());
        self.store
            .dump(&path, 0, &mut hasher)
            .map_err(|e| chain(&e))?;
        let actual = NarHash::from_bytes(hasher.finish().1.sha256);
        if actual != info.registration.nar_hash {
            let expected = info.registration.nar_hash;
            return Err(format!(
                "its NAR has the hash {actual} instead of {expected}"
            ));
        }
        Ok(())
    }

    /// Fetches a damaged path again; the chunks that were found damaged are replaced.
    fn mend(&self, info: &PathInfo, request: &CopyRequest) -> Result<(), String> {
        let trust = trust(request).map_err(|e| chain(&e))?;
        let runtime = self.runtime().map_err(|e| chain(&e))?;
        // Where even the tree cannot be read, it is written anew.
        if let Ok(Some(path)) = self.load(info) {
            self.store.find_damage(&path);
        }
        let mended = runtime
            .block_on(Sources::open(&request.from, self.store.store_dir()))
            .and_then(|sources| {
                fetch::repair(&self.store, runtime.handle(), &sources, &trust, info)
            });
        mended.map_err(|e: FetchError| {
            format!(
                "it is damaged and could not be fetched again: {}",
                chain(&e)
            )
        })
    }

    fn status(&self) -> Result<Report, CommandError> {
        let copies = self.running();
        let mut fetches: Vec<Snapshot> = copies.iter().map(|p| p.snapshot()).collect();
        fetches.extend(self.fetcher.get().iter().flat_map(|f| f.running()));
        let mountpoints: Vec<PathBuf> = fuse::mounted_states(self.store.dir())?;
        Ok(Report::Status(StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: self.store.dir().to_owned(),
            mountpoint: mountpoints.first().cloned(),
            mountpoints,
            uptime: self.started.elapsed().as_secs(),
            paths: self.store.all_paths()?.len() as u64,
            fetches,
        }))
    }
}

fn trust(request: &CopyRequest) -> Result<Trust, CommandError> {
    let mut trust = Trust {
        require_signatures: request.require_signatures,
        ..Trust::default()
    };
    for text in &request.trusted_public_keys {
        let key = PublicKey::parse(text.trim()).map_err(|source| CommandError::Key {
            text: text.clone(),
            source,
        })?;
        trust.keys.insert(key);
    }
    Ok(trust)
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

/// An error with all its reasons, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        // Some errors repeat their source in their own sentence.
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text
}

/// Gathers the small writes of a NAR into larger pieces.
struct Chunked<'o> {
    output: &'o mut dyn Output,
    buffer: Vec<u8>,
}

impl<'o> Chunked<'o> {
    const FULL: usize = 256 << 10;

    fn new(output: &'o mut dyn Output) -> Self {
        let buffer = Vec::with_capacity(Self::FULL);
        Self { output, buffer }
    }

    fn finish(mut self) -> std::io::Result<()> {
        std::io::Write::flush(&mut self)
    }
}

impl std::io::Write for Chunked<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::FULL {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.data(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
