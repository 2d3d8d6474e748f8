//! Carries out commands on an open state.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::adopt::Adoptions;
use super::chunked::Chunked;
use super::closures::{ClosureError, Completion};
use super::command::{
    Command, CommandError, EntryReport, Failure, KindReport, Output, PathReport, Report,
    ServeRequest, StateReport, StatusReport,
};
use super::location::{self, Located, LocationError};
use super::source_request::SourceRequest;
use super::supervisor::Supervisor;
use super::users::Users;
use super::volumes::PluginSocket;
use crate::fetch::{self, CopyFailure, Fetcher, Keep, Progress, Room, Sources};
use crate::fs::{FileSystem, Recorder, WritableProfiles};
use crate::fuse::{self, Counters, FileHandles, MountError, ProfilesSession, Session};
use crate::http;
use crate::nix::store_path::StorePath;
use crate::store::{LoadedPath, PathInfo, Store};
use crate::tree::{NodeIndex, NodeKind};

/// How often a copy says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A connection that is served.
struct Served {
    counters: Arc<Counters>,
    superblock: u32,
    handles: FileHandles,
}

/// An open state and what commands on it need.
pub struct Engine {
    pub(super) store: Arc<Store>,
    /// Sources of commands that name none.
    pub(super) defaults: SourceRequest,
    pub(super) room: Arc<Room>,
    /// Who knows what running programs use.
    pub(super) users: Arc<Users>,
    pub(super) recorder: Arc<Recorder>,
    runtime: OnceLock<Runtime>,
    /// Whether what is mounted from now on has file handles.
    file_handles: OnceLock<FileHandles>,
    /// What is mounted.
    served: Mutex<Option<Served>>,
    /// Where connections go that others have made.
    pub(super) adoptions: OnceLock<Adoptions>,
    pub(super) fetched: AtomicU64,
    /// What fetches on demand, where the state is mounted with sources.
    pub(super) fetcher: OnceLock<Fetcher>,
    /// Who looks after the daemon that this is part of.
    pub(super) supervisor: OnceLock<Arc<Supervisor>>,
    /// Held while profiles are changed, from the last look at them on.
    pub(super) changing_profiles: Mutex<()>,
    /// What programs change by links, where the state is mounted.
    pub(super) writable_profiles: OnceLock<Arc<WritableProfiles>>,
    /// Where they do.
    pub(super) profiles_session: Mutex<Option<ProfilesSession>>,
    /// Completes closure views.
    pub(super) completion: Arc<Completion>,
    /// Where HTTP is served.
    pub(super) listens: OnceLock<http::Address>,
    /// Where container engines ask.
    pub(super) plugin: Mutex<Option<PluginSocket>>,
    running: Mutex<Vec<Arc<Progress>>>,
    started: Instant,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.store)
    }
}

impl Engine {
    /// An engine for a state that this process owns, with the sources of commands that name none
    /// and the budget of the state, in bytes.
    pub fn new(store: Arc<Store>, defaults: SourceRequest, budget: Option<u64>) -> Self {
        let users = Arc::new(Users::of(store.clone()));
        let (rooted, looked) = (store.clone(), users.clone());
        let rooted = move || {
            let pins = rooted.pins()?;
            let mut roots: Vec<_> = pins.iter().map(|p| p.path.hash()).collect();
            let generations = rooted.generation_roots()?;
            roots.extend(generations.iter().map(StorePath::hash));
            let closure = rooted.closure(roots)?;
            let hashes = closure.iter().map(|i| i.registration.path.hash());
            Ok(hashes.collect())
        };
        let keep = Keep {
            rooted: Box::new(rooted),
            in_use: Box::new(move || looked.open()),
        };
        Self {
            room: Arc::new(Room::new(store.clone(), budget, keep)),
            users,
            store,
            defaults,
            recorder: Arc::default(),
            runtime: OnceLock::new(),
            file_handles: OnceLock::new(),
            served: Mutex::default(),
            adoptions: OnceLock::new(),
            fetched: AtomicU64::new(0),
            fetcher: OnceLock::new(),
            supervisor: OnceLock::new(),
            changing_profiles: Mutex::default(),
            writable_profiles: OnceLock::new(),
            profiles_session: Mutex::default(),
            completion: Arc::default(),
            listens: OnceLock::new(),
            plugin: Mutex::default(),
            running: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Has commands know what is mounted, and `stats` report its requests.
    pub fn serves(&self, session: &Session) {
        let superblock = session.connection().1.superblock;
        self.users
            .set_mounted(Some((superblock, session.numbers())));
        *self.served() = Some(Served {
            counters: session.counters(),
            superblock,
            handles: session.connection().1.file_handles(),
        });
    }

    /// Has commands know that nothing is mounted any more.
    pub(super) fn serves_nothing(&self) {
        *self.served() = None;
        self.users.set_mounted(None);
    }

    fn served(&self) -> std::sync::MutexGuard<'_, Option<Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is mounted, by its device number.
    pub(super) fn superblock(&self) -> Option<u32> {
        self.served().as_ref().map(|s| s.superblock)
    }

    /// Has what is mounted from now on have file handles, or not; once.
    ///
    /// # Errors
    /// There are closure views, past which they would lead.
    pub(super) fn decide_on_handles(&self, handles: FileHandles) -> Result<(), ClosureError> {
        if handles == FileHandles::Given
            && let Some(view) = self.store.view_table().views().next()
        {
            return Err(ClosureError::Handles {
                view: view.name.to_string(),
            });
        }
        let _ = self.file_handles.set(handles);
        Ok(())
    }

    /// Whether what is mounted, or will be, has file handles.
    pub(super) fn file_handles(&self) -> FileHandles {
        let served = self.served().as_ref().map(|s| s.handles);
        served.unwrap_or(self.file_handles.get().copied().unwrap_or_default())
    }

    pub(super) fn counters(&self) -> Option<Arc<Counters>> {
        self.served().as_ref().map(|s| s.counters.clone())
    }

    /// The file system, for one connection.
    pub(super) fn file_system(&self) -> FileSystem {
        let (store, fetcher) = (self.store.clone(), self.fetcher.get().cloned());
        FileSystem::new(store, fetcher, self.recorder.clone())
    }

    /// Has `upgrade` turn to who looks after this daemon; once.
    pub(super) fn supervise(&self, supervisor: Arc<Supervisor>) {
        let _ = self.supervisor.set(supervisor);
    }

    /// Whether the kernel's requests come here.
    pub(super) fn is_mounted(&self) -> bool {
        self.superblock().is_some()
    }

    /// What records the traces of this state.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// What fetches on demand for what is served; `None` if it names no sources.
    ///
    /// # Errors
    /// A key that is none, or no threads for the network.
    pub fn fetcher(&self, request: &ServeRequest) -> Result<Option<Fetcher>, CommandError> {
        if request.sources.from.is_empty() {
            return Ok(None);
        }
        let (deadlines, prefetch) = (request.deadlines, request.prefetch);
        let options = request.sources.fetch_options(deadlines, prefetch)?;
        let runtime = self.runtime()?.handle().clone();
        let fetcher = Fetcher::new(self.store.clone(), runtime, &options, self.room.clone());
        Ok(Some(self.fetcher.get_or_init(|| fetcher).clone()))
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
                let found = self.complete(|store| location::place(store, &path))?;
                let mut out = Chunked::new(output);
                self.store.dump(&found.path, found.node, &mut out)?;
                out.finish()?;
                Ok(Report::Done)
            }
            Command::Stats { paths } => self.stats(&paths),
            Command::Verify { paths, repair } => self.verify(&paths, repair, output),
            Command::Prefetch(request) => self.prefetch(&request, output),
            Command::Unpin { paths } => self.unpin(&paths),
            Command::Pins => self.pins(),
            Command::Evict { to } => self.evict(to),
            Command::Gc(request) => self.gc(&request, output),
            Command::Roots => self.roots(),
            Command::AddRoot { link, path } => self.add_root(&link, &path),
            Command::Trace(command) => self.trace(command),
            Command::Profile(request) => self.profile(&request, output),
            Command::Apply(request) => self.apply(&request, output),
            Command::Channel(command) => self.channel(command),
            Command::Closure(request) => self.closures(&request, output),
            Command::Mount(request) => self.mount(&request),
            Command::Upgrade { program } => Err(self.upgrade(program.as_deref()).into()),
            Command::Status => Ok(Report::Status(self.status_report()?)),
            Command::Figures => Ok(Report::Figures(Box::new(self.figures()))),
        }
    }

    /// Where it is mounted, in this process's mount namespace.
    pub(super) fn mountpoints(&self) -> Result<Vec<PathBuf>, MountError> {
        let superblock = self.superblock();
        superblock.map_or(Ok(Vec::new()), fuse::mounts_of_superblock)
    }

    /// Where all of it is mounted, not the store alone.
    pub(super) fn whole_mounts(&self) -> Result<Vec<PathBuf>, MountError> {
        let superblock = self.superblock();
        superblock.map_or(Ok(Vec::new()), fuse::mounts_of_whole)
    }

    pub(super) fn runtime(&self) -> Result<&Runtime, CommandError> {
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

    /// Opens the sources of a request.
    pub(super) async fn sources(&self, request: &SourceRequest) -> Result<Sources, CommandError> {
        let (from, netrc) = (&request.from, request.netrc.as_deref());
        if from.is_empty() {
            return Err(CommandError::Nobody);
        }
        Ok(Sources::open(from, netrc, self.store.store_dir()).await?)
    }

    /// Does something that takes long on a thread of its own, and shows how far it is; nobody who
    /// listens any more stops it.
    pub(super) fn showing<T: Send>(
        &self,
        output: &mut dyn Output,
        work: impl FnOnce(&Arc<Progress>) -> T + Send,
    ) -> T {
        let progress = Arc::new(Progress::default());
        self.running().push(progress.clone());
        let outcome = std::thread::scope(|scope| {
            let working = scope.spawn(|| work(&progress));
            while !working.is_finished() {
                std::thread::sleep(PROGRESS_EVERY);
                if output.progress(&progress.snapshot()).is_err() {
                    progress.stop.store(true, Ordering::Relaxed);
                }
            }
            working
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        self.running().retain(|p| !Arc::ptr_eq(p, &progress));
        outcome
    }

    pub(super) fn failures(&self, failures: &[CopyFailure]) -> Vec<Failure> {
        let each = failures.iter().map(|f| Failure {
            path: match &f.path {
                Some(path) => self.full(path),
                None => f.hash.to_string(),
            },
            error: chain(&f.error),
        });
        each.collect()
    }

    /// A path with its store directory.
    pub(super) fn full(&self, path: &StorePath) -> String {
        path.to_full(self.store.store_dir())
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Progress>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What is registered of the paths that a user named; of all if none.
    pub(super) fn infos(&self, names: &[String]) -> Result<Vec<PathInfo>, CommandError> {
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
        let mut infos = if closure && !names.is_empty() {
            // What is known of a closure is shown whatever of it is here, its root included.
            let named = names.iter().map(|n| location::known(&self.store, n));
            named.collect::<Result<_, _>>()?
        } else {
            self.infos(names)?
        };
        if closure {
            let roots = infos.iter().map(|i| i.registration.path.hash());
            infos = self.store.closure(roots)?;
        }
        infos.sort_by(|a, b| a.registration.path.cmp(&b.registration.path));
        let reports = infos.into_iter().map(|info| {
            let mut closure_size = None;
            if sizes {
                let closure = self.store.closure([info.registration.path.hash()])?;
                closure_size = Some(closure.iter().map(|i| i.registration.nar_size).sum());
            }
            Ok(self.path_report(&info, closure_size))
        });
        Ok(Report::Paths(reports.collect::<Result<_, CommandError>>()?))
    }

    fn path_report(&self, info: &PathInfo, closure_size: Option<u64>) -> PathReport {
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
                .read_stream(&found.path, offset + at, length, &mut piece)?;
            output.data(&piece)?;
        }
        Ok(Report::Done)
    }

    /// Finds something whose contents are wanted. Those that were dropped are fetched again, where
    /// a fetcher is at hand.
    fn complete(
        &self,
        find: impl Fn(&Store) -> Result<Located, LocationError>,
    ) -> Result<Located, CommandError> {
        let found = find(&self.store)?;
        match self.fetcher.get() {
            Some(fetcher) if !found.path.is_complete() => {
                let path = found.path.info().registration.path.clone();
                let wanted = vec![(path.hash(), Some(path.clone()))];
                let progress = Progress::default();
                let fetching = fetcher.prefetch(wanted, false, &progress);
                match self.runtime()?.block_on(fetching)?.failures.pop() {
                    Some(CopyFailure { error: source, .. }) => {
                        Err(CommandError::Contents { path, source })
                    }
                    None => Ok(find(&self.store)?),
                }
            }
            _ => Ok(found),
        }
    }

    fn stats(&self, paths: &[String]) -> Result<Report, CommandError> {
        let each = if paths.is_empty() {
            Vec::new()
        } else {
            let named = paths.iter().map(|p| location::path(&self.store, p));
            let named: Vec<_> = named.collect::<Result<_, _>>()?;
            self.store.path_statistics(&named)?
        };
        let fuse = self.counters().map(|c| c.snapshot());
        Ok(Report::Stats(StateReport {
            state: self.store.statistics()?,
            each,
            requests: fuse.as_ref().map(|f| f.requests.clone()),
            fetched_bytes: fuse.as_ref().map(|_| self.fetched_bytes()),
            fetcher: self.fetcher.get().map(Fetcher::activity),
            fuse,
        }))
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn running_commands(&self) -> u64 {
        self.running().len() as u64
    }

    pub(super) fn fetched_bytes(&self) -> u64 {
        let on_demand = self.fetcher.get().map_or(0, Fetcher::fetched_bytes);
        self.fetched.load(Ordering::Relaxed) + on_demand
    }

    pub(super) fn status_report(&self) -> Result<StatusReport, CommandError> {
        let commands = self.running().iter().map(|p| p.snapshot()).collect();
        let activity = self.fetcher.get().map(Fetcher::activity);
        let mountpoints = self.mountpoints()?;
        Ok(StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: self.store.dir().to_owned(),
            mountpoint: mountpoints.first().cloned(),
            mountpoints,
            supervisor: self.supervisor.get().and_then(|s| s.name()),
            writable_profiles: self.writable_mountpoints()?,
            listen: self.listens.get().cloned(),
            volume_plugin: self.plugin_socket(),
            uptime: self.started.elapsed().as_secs(),
            paths: self.store.count_paths()?,
            stored_bytes: self.store.stored_bytes()?,
            budget: self.room.budget(),
            evicted: self.room.evicted(),
            activity: activity.unwrap_or_default(),
            commands,
            traces: self.recording(),
        })
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
