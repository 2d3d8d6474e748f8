//! Mounting and unmounting, by the system calls themselves.
//!
//! Invariant: the superblock is read-only, nosuid, nodev and noatime. With `subtree=store` the
//! same superblock is mounted at a private place first, its `store` bound to where the user wants
//! it, and the private place taken away. Writable profiles are a superblock of their own, which
//! is mounted over the directory of profiles of the first, and goes with it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use narfs_mounting::{PROFILES, PROFILES_TYPE, TYPE};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use thiserror::Error;

use super::labels;
use super::mountinfo::{Mounted, is_dead, mounts, top_mount};
use crate::fs::Special;

/// What of the file system is to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Subtree {
    /// All of it, for `/nix`.
    #[default]
    Whole,
    /// `store` only, for `/nix/store`.
    Store,
}

/// Where and how to mount.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountRequest {
    /// An absolute path.
    pub mountpoint: PathBuf,
    /// What is to be seen there.
    pub subtree: Subtree,
    /// Mount over a directory that has something in it.
    pub nonempty: bool,
    /// Whether programs may change profiles, with [`Subtree::Whole`].
    pub writable_profiles: bool,
    /// Labels of SELinux for the kernel, see [`super::label`].
    #[serde(default)]
    pub labels: Vec<String>,
}

/// Why something could not be mounted or unmounted.
#[derive(Debug, Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("the mount point {} does not exist; make it with `mkdir -p`", .0.display())]
    Absent(PathBuf),
    /// It is a file.
    #[error("the mount point {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// There is something in it.
    #[error("the mount point {} is not empty; its files would be hidden. Choose another directory, or give \
        -o nonempty", .0.display())]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("something is mounted at {} already ({kind} from {source_name}); unmount it first, or choose \
        another directory", at.display())]
    Busy {
        /// The mount point.
        at: PathBuf,
        /// Its file system type.
        kind: String,
        /// Its source.
        source_name: String,
    },
    /// Nothing of ours is mounted there.
    #[error("no narfs is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// The daemon serves the state, but not where this process can see it.
    #[error("a daemon serves the state {}, but it is not mounted anywhere in this mount namespace; unmount \
        it there first", .0.display())]
    NowhereMounted(PathBuf),
    /// The whole was asked for, of which only a part is mounted.
    #[error("of the state {} only the store is mounted, at {}; give -o subtree=store, or unmount that \
        first", state.display(), at.display())]
    OnlyStore {
        state: PathBuf,
        /// Where its store is mounted.
        at: PathBuf,
    },
    /// Programs use it.
    #[error("{} is in use{}; end these programs, or give --lazy to unmount it when they have \
        ended", at.display(), users(.by))]
    InUse {
        /// The mount point.
        at: PathBuf,
        /// Some of the users: number and name.
        by: Vec<String>,
    },
    /// A system call failed.
    #[error("cannot {what} {}{hint}", at.display())]
    System {
        what: &'static str,
        /// With what.
        at: PathBuf,
        /// What to do.
        hint: &'static str,
        #[source]
        source: io::Error,
    },
}

fn users(by: &[String]) -> String {
    if by.is_empty() {
        String::new()
    } else {
        format!(" by {}", by.join(", "))
    }
}

fn system(what: &'static str, at: &Path) -> impl FnOnce(rustix::io::Errno) -> MountError {
    let at = at.to_owned();
    move |e| MountError::System {
        what,
        hint: match e {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => {
                " (mounting needs root; in a container, CAP_SYS_ADMIN and /dev/fuse)"
            }
            rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => {
                " (is FUSE in the kernel? try `modprobe fuse`)"
            }
            _ => "",
        },
        at,
        source: e.into(),
    }
}

impl MountRequest {
    /// Says early what would fail later. A dead mount of ours is taken away; `alive` is not asked
    /// whether it is.
    pub(super) fn check(&self, alive: Option<u32>) -> Result<(), MountError> {
        let at = &self.mountpoint;
        take_away_dead(at, alive)?;
        if let Some(mount) = top_mount(at)? {
            return Err(MountError::Busy {
                at: at.clone(),
                kind: mount.kind,
                source_name: mount.source,
            });
        }
        match fs::metadata(at) {
            Ok(m) if m.is_dir() => {}
            Ok(_) => return Err(MountError::NotADirectory(at.clone())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(MountError::Absent(at.clone()));
            }
            Err(source) => {
                return Err(MountError::System {
                    what: "look at the mount point",
                    at: at.clone(),
                    hint: "",
                    source,
                });
            }
        }
        let empty = super::is_empty(at).unwrap_or(false);
        if !empty && !self.nonempty {
            return Err(MountError::NotEmpty(at.clone()));
        }
        Ok(())
    }
}

/// A mount point as the kernel's list of mounts names it: absolute, without links and dots.
///
/// # Errors
/// There is no working directory that it could be relative to.
pub fn mountpoint(path: &Path) -> io::Result<PathBuf> {
    if let Ok(found) = fs::canonicalize(path) {
        return Ok(found);
    }
    // What is not there is named as it was given.
    Ok(std::path::absolute(path)?.components().collect())
}

/// Takes away what daemons that are gone have left at a place, with what is mounted below it.
/// `alive` is not asked whether it is dead.
fn take_away_dead(at: &Path, alive: Option<u32>) -> Result<(), MountError> {
    while top_mount(at)?.is_some_and(|mount| !mount.is_of(alive) && is_dead(&mount)) {
        tracing::warn!("taking away the dead mount at {}", at.display());
        detach(at)?;
    }
    Ok(())
}

/// A superblock that is mounted and waits for its daemon.
pub(super) struct Attached {
    device: OwnedFd,
    at: PathBuf,
    finished: bool,
}

/// Mounts, at the mount point or at a private place (see the module).
pub(super) fn attach(request: &MountRequest, state: &Path) -> Result<Attached, MountError> {
    let at = match request.subtree {
        Subtree::Whole => request.mountpoint.clone(),
        Subtree::Store => {
            let private = state.join("mnt");
            if find_mount(&private)?.is_some() {
                detach(&private)?;
            }
            fs::create_dir_all(&private).map_err(|source| MountError::System {
                what: "make the directory",
                at: private.clone(),
                hint: "",
                source,
            })?;
            private
        }
    };
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    connect(at, state, TYPE, flags, &request.labels)
}

/// Mounts a new connection over the directory of profiles of what is mounted at `mountpoint`.
/// `superblock` is that of this one.
pub(super) fn attach_profiles(
    state: &Path,
    superblock: u32,
    mountpoint: &Path,
) -> Result<Attached, MountError> {
    let at = mountpoint.join(PROFILES);
    take_away_dead(&at, Some(superblock))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    let labels = top_mount(mountpoint)?.map(|m| labels::of(&m.options));
    connect(at, state, PROFILES_TYPE, flags, &labels.unwrap_or_default())
}

/// Mounts a new connection.
fn connect(
    at: PathBuf,
    state: &Path,
    kind: &str,
    flags: MountFlags,
    labels: &[String],
) -> Result<Attached, MountError> {
    let dev = Path::new("/dev/fuse");
    let device = rustix::fs::open(dev, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("open", dev))?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = labels.iter().fold(data, |data, label| data + "," + label);
    let data = CString::new(data).unwrap_or_default();
    let source = CString::new(state.as_os_str().as_bytes()).unwrap_or_default();
    rustix::mount::mount(source.as_c_str(), &at, kind, flags, data.as_c_str())
        .map_err(system("mount at", &at))
        .map_err(|e| labels::explain(e, labels))?;
    Ok(Attached {
        device,
        at,
        finished: false,
    })
}

impl Attached {
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// The superblock, by its device number.
    pub(super) fn superblock(&self) -> io::Result<u32> {
        let mount = top_mount(&self.at).map_err(io::Error::other)?;
        let superblock = mount.and_then(|m| m.superblock);
        superblock.ok_or_else(|| io::Error::other("what was mounted is not in mountinfo"))
    }

    pub(super) fn device(&self) -> io::Result<OwnedFd> {
        self.device.as_fd().try_clone_to_owned()
    }

    /// Brings the served file system to where the user wants it, when it has answered first.
    pub(super) fn finish(mut self, request: &MountRequest) -> Result<(), MountError> {
        self.answers()?;
        // Once for all files: see `Special::File`.
        let file = self.at.join(Special::File.name());
        drop(fs::File::open(&file).map_err(answers_not(&file))?);
        if request.subtree == Subtree::Store {
            let store = self.at.join("store");
            rustix::mount::mount_bind(&store, &request.mountpoint)
                .map_err(system("mount at", &request.mountpoint))?;
            detach(&self.at).inspect_err(|_| drop(detach(&request.mountpoint)))?;
        }
        self.finished = true;
        Ok(())
    }

    /// Leaves it where it is, once it answers.
    pub(super) fn keep(mut self) -> Result<(), MountError> {
        self.answers()?;
        self.finished = true;
        Ok(())
    }

    fn answers(&self) -> Result<(), MountError> {
        fs::metadata(&self.at)
            .map(drop)
            .map_err(answers_not(&self.at))
    }
}

fn answers_not(at: &Path) -> impl FnOnce(io::Error) -> MountError {
    let at = at.to_owned();
    move |source| MountError::System {
        what: "get an answer from",
        at,
        hint: "",
        source,
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // A mount whose daemon did not come to be would be dead.
        if !self.finished {
            let _ = detach(&self.at);
        }
    }
}

pub(super) fn detach(at: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(at, UnmountFlags::DETACH).map_err(system("unmount", at))
}

/// The state directory of the narfs that is mounted at `at`, if one is.
///
/// # Errors
/// The list of mounts cannot be read.
fn find_mount(at: &Path) -> Result<Option<PathBuf>, MountError> {
    let ours = top_mount(at)?.filter(|m| m.kind == TYPE);
    Ok(ours.map(|m| PathBuf::from(m.source)))
}

/// Where in this mount namespace narfs is mounted from the state `state`; dead mounts, which an
/// earlier daemon left, do not count.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mounted_states(state: &Path) -> Result<Vec<PathBuf>, MountError> {
    Ok(mounts_of(state)?.into_iter().map(|m| m.at).collect())
}

fn mounts_of(state: &Path) -> Result<Vec<Mounted>, MountError> {
    let ours = |m: &Mounted| m.kind == TYPE && Path::new(&m.source) == state && !is_dead(m);
    Ok(mounts()?.into_iter().filter(ours).collect())
}

/// Where a superblock is mounted in this mount namespace. Nothing is asked of it: its own daemon may
/// want to know.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mounts_of_superblock(superblock: u32) -> Result<Vec<PathBuf>, MountError> {
    let ours = mounts()?.into_iter().filter(|m| m.is_of(Some(superblock)));
    Ok(ours.map(|m| m.at).collect())
}

/// The same of those places that show all of it, not the store alone.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn mounts_of_whole(superblock: u32) -> Result<Vec<PathBuf>, MountError> {
    let ours = mounts()?.into_iter().filter(|m| m.is_of(Some(superblock)));
    let whole = ours.filter(|m| m.root == Path::new("/"));
    Ok(whole.map(|m| m.at).collect())
}

/// Shows writable profiles, the superblock `profiles`, over the directory of profiles of what is
/// mounted at `mountpoint`; `false` if they are mounted nowhere.
pub(super) fn show_profiles_again(profiles: u32, mountpoint: &Path) -> Result<bool, MountError> {
    let at = mountpoint.join(PROFILES);
    for there in mounts_of_superblock(profiles)? {
        // What is hidden below another mount cannot be reached.
        if top_mount(&there)?.is_some_and(|m| m.is_of(Some(profiles))) {
            if there != at {
                rustix::mount::mount_bind(&there, &at).map_err(system("mount at", &at))?;
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a superblock away, wherever it is mounted.
pub(super) fn detach_everywhere(superblock: u32) -> Result<(), MountError> {
    let all = mounts_of_superblock(superblock)?;
    all.iter().rev().try_for_each(|at| detach(at))
}

/// The writable profiles below a mount point, unmounted, until it is known whether they stay so.
struct PutAside {
    at: PathBuf,
    /// A mount of the same superblock that is nowhere to be seen.
    copy: OwnedFd,
}

impl PutAside {
    /// Unmounts what is mounted over the directory of profiles; `None` if it is nothing of ours.
    fn unmount(mountpoint: &Path) -> Result<Option<Self>, MountError> {
        let at = mountpoint.join(PROFILES);
        if top_mount(&at)?.is_none_or(|m| m.kind != PROFILES_TYPE) {
            return Ok(None);
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let copy = rustix::mount::open_tree(CWD, &at, flags).map_err(system("unmount", &at))?;
        unmount_unused(&at, UnmountFlags::empty())?;
        Ok(Some(Self { at, copy }))
    }

    fn put_back(self) {
        let Self { at, copy } = self;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        if let Err(e) = rustix::mount::move_mount(&copy, "", CWD, &at, flags) {
            tracing::warn!("cannot mount at {} again: {e}", at.display());
        }
    }
}

/// Shows the superblock of `state`, which is mounted somewhere already, at one more place. The
/// kernel's caches are the same there.
///
/// # Errors
/// The mount point cannot be used, or only a part of the file system is mounted so far.
pub fn mount_again(
    state: &Path,
    superblock: u32,
    request: &MountRequest,
) -> Result<(), MountError> {
    request.check(Some(superblock))?;
    let mut mounts = mounts()?;
    mounts.retain(|m| m.is_of(Some(superblock)));
    let shows = |root: &str| mounts.iter().find(|m| m.root == Path::new(root));
    let from = match (request.subtree, shows("/"), shows("/store")) {
        (Subtree::Whole, Some(whole), _) => whole.at.clone(),
        (Subtree::Store, Some(whole), _) => whole.at.join("store"),
        (Subtree::Store, None, Some(store)) => store.at.clone(),
        (Subtree::Whole, None, Some(store)) => {
            return Err(MountError::OnlyStore {
                state: state.to_owned(),
                at: store.at.clone(),
            });
        }
        (_, None, None) => return Err(MountError::NowhereMounted(state.to_owned())),
    };
    rustix::mount::mount_bind(&from, &request.mountpoint)
        .map_err(system("mount at", &request.mountpoint))
}

/// Unmounts the narfs at `at`; `lazy` does so even while it is in use.
///
/// # Errors
/// None is mounted there, or it is in use.
pub fn unmount(at: &Path, lazy: bool) -> Result<PathBuf, MountError> {
    let state = find_mount(at)?.ok_or_else(|| MountError::NotMounted(at.to_owned()))?;
    if lazy {
        // What is mounted below goes along.
        unmount_unused(at, UnmountFlags::DETACH)?;
        return Ok(state);
    }
    let profiles = PutAside::unmount(at)?;
    if let Err(e) = unmount_unused(at, UnmountFlags::empty()) {
        profiles.into_iter().for_each(PutAside::put_back);
        return Err(e);
    }
    Ok(state)
}

fn unmount_unused(at: &Path, flags: UnmountFlags) -> Result<(), MountError> {
    match rustix::mount::unmount(at, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(MountError::InUse {
            at: at.to_owned(),
            by: processes_using(at),
        }),
        Err(e) => Err(system("unmount", at)(e)),
    }
}

/// A few processes that have something below `at` open or mapped, as their root or working
/// directory, or as their program.
fn processes_using(at: &Path) -> Vec<String> {
    /// More do not help the user.
    const SHOWN: usize = 5;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let proc = entry.path();
        let links = ["cwd", "root", "exe"].map(|l| proc.join(l)).into_iter();
        let open = ["fd", "map_files"].map(|d| fs::read_dir(proc.join(d)));
        let open = open.into_iter().flatten().flatten().flatten();
        let mut links = links.chain(open.map(|e| e.path()));
        if links.any(|l| fs::read_link(l).is_ok_and(|t| t.starts_with(at))) {
            let name = fs::read_to_string(proc.join("comm")).unwrap_or_default();
            let number = entry.file_name();
            found.push(format!("{} ({})", number.to_string_lossy(), name.trim()));
        }
        if found.len() == SHOWN {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_mount_points_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let request = |at: &Path| MountRequest {
            mountpoint: at.to_owned(),
            subtree: Subtree::Whole,
            nonempty: false,
            writable_profiles: false,
            labels: Vec::new(),
        };
        let absent = request(&dir.path().join("none"));
        assert!(matches!(absent.check(None), Err(MountError::Absent(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            request(&file).check(None),
            Err(MountError::NotADirectory(_))
        ));
        assert!(matches!(
            request(dir.path()).check(None),
            Err(MountError::NotEmpty(_))
        ));
        let proc = request(Path::new("/proc"));
        assert!(matches!(proc.check(None), Err(MountError::Busy { .. })));
        let over = MountRequest {
            nonempty: true,
            ..request(dir.path())
        };
        over.check(None).unwrap();
    }
}
