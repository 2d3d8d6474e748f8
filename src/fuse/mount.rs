//! Mounting and unmounting.
//!
//! Invariant: writable profiles are a superblock of their own, which is mounted over the directory of
//! profiles of the first, and is unmounted with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use narfs_mounting::place::{Checked, Place, detach};
use narfs_mounting::{
    DetachedMount, MountError, NewSuperblock, PRIVATE, PROFILES, PROFILES_TYPE, Superblock, TYPE,
    labels,
};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, UnmountFlags};

use super::mountinfo::{Mounted, mounts, top_mount};

/// Labels of SELinux, by the names of their options.
type Labels = Vec<(&'static str, String)>;

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

impl MountRequest {
    /// Opens the mount point, and finds early what would fail later. Dead mounts of ours are detached;
    /// the daemon of the superblock `alive` is not asked whether it is gone.
    pub(super) fn check(&self, alive: Option<u32>) -> Result<Place, MountError> {
        loop {
            match Place::check(&self.mountpoint, self.nonempty, alive)? {
                Checked::Free(place) => return Ok(place),
                Checked::Dead(place) => {
                    let at = place.path.clone();
                    drop(place);
                    detach_dead(&at)?;
                }
            }
        }
    }

    /// Names and labels of SELinux.
    fn labels(&self) -> Labels {
        let labels = self.labels.iter();
        labels.filter_map(|label| labels::parse(label)).collect()
    }
}

/// An option of mount(8) as [`MountRequest::labels`] has it, `NAME="LABEL"`, if it is a label of SELinux.
pub fn label(option: &str) -> Option<String> {
    labels::parse(option).map(|(name, label)| format!("{name}=\"{label}\""))
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

fn detach_dead(at: &Path) -> Result<(), MountError> {
    tracing::warn!("taking away the dead mount at {}", at.display());
    detach(at)
}

/// Makes the superblock of a state, which is mounted nowhere yet and waits for its daemon.
pub(super) fn make(request: &MountRequest, state: &Path) -> Result<Superblock, MountError> {
    let new = NewSuperblock {
        state,
        kind: TYPE,
        read_only: true,
        labels: &request.labels(),
        flags: MountFlags::empty(),
    };
    new.make()
}

/// Attaches a new mount to the mount point of the request, when it has answered.
pub(super) fn attach(
    mount: &DetachedMount,
    at: &Place,
    request: &MountRequest,
    state: &Path,
) -> Result<(), MountError> {
    let answered = mount.answers();
    answered.map_err(|e| MountError::call("get an answer from the mount at", &at.path, e))?;
    mount.open_once();
    match request.subtree {
        Subtree::Whole => mount.attach(at),
        Subtree::Store => mount.attach_store(&private(state)?, at, MountFlags::empty()),
    }
}

/// The place in a state to which a mount is attached while its store is copied from it.
fn private(state: &Path) -> Result<Place, MountError> {
    let at = state.join(PRIVATE);
    // A daemon that was killed at this moment has left it.
    if find_mount(&at)?.is_some() {
        detach(&at)?;
    }
    fs::create_dir_all(&at).map_err(|e| MountError::call("make the directory", &at, e))?;
    Place::open(&at)
}

/// The place of writable profiles below a mount point, and labels for their superblock, which are those
/// of the superblock there. Dead mounts of ours are detached; `superblock` is alive.
pub(super) fn place_of_profiles(
    superblock: u32,
    mountpoint: &Path,
) -> Result<(Place, Labels), MountError> {
    let at = mountpoint.join(PROFILES);
    while top_mount(&at)?.is_some_and(|m| !m.is_of(Some(superblock)) && m.is_dead()) {
        detach_dead(&at)?;
    }
    let options = top_mount(mountpoint)?.map_or(String::new(), |m| m.options);
    let labels = labels::split_options(&options).filter_map(labels::parse);
    Ok((Place::open(&at)?, labels.collect()))
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
    let ours = |m: &Mounted| m.kind == TYPE && Path::new(&m.source) == state && !m.is_dead();
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

/// Shows writable profiles, the superblock `profiles`, over the directory of profiles of what is mounted at
/// `mountpoint`; `false` if they are mounted nowhere in this mount namespace.
pub(super) fn show_profiles_again(profiles: u32, mountpoint: &Path) -> Result<bool, MountError> {
    let at = mountpoint.join(PROFILES);
    if top_mount(&at)?.is_some_and(|m| m.is_of(Some(profiles))) {
        return Ok(true);
    }
    let copy = narfs_mounting::mounted_copy(profiles, false, MountFlags::empty(), &at)?;
    copy.map(|copy| copy.attach(&Place::open(&at)?))
        .transpose()
        .map(|attached| attached.is_some())
}

/// Takes a superblock away, wherever it is mounted.
pub(super) fn detach_everywhere(superblock: u32) -> Result<(), MountError> {
    let all = mounts_of_superblock(superblock)?;
    all.iter().rev().try_for_each(|at| detach(at))
}

/// The writable profiles below a mount point, unmounted until it is known whether they stay so.
struct Unmounted {
    at: PathBuf,
    copy: DetachedMount,
}

impl Unmounted {
    /// Unmounts what is mounted over the directory of profiles; `None` if it is nothing of ours.
    fn unmount(mountpoint: &Path) -> Result<Option<Self>, MountError> {
        let at = mountpoint.join(PROFILES);
        if top_mount(&at)?.is_none_or(|m| m.kind != PROFILES_TYPE) {
            return Ok(None);
        }
        let copy = DetachedMount::copy(CWD, &at)?;
        unmount_unused(&at, UnmountFlags::empty())?;
        Ok(Some(Self { at, copy }))
    }

    fn mount_again(self) {
        let attached = Place::open(&self.at).and_then(|at| self.copy.attach(&at));
        if let Err(e) = attached {
            tracing::warn!("writable profiles are not mounted again: {e}");
        }
    }
}

/// Shows the superblock of `state`, which is mounted somewhere already, at one more mount point; `false`
/// if it is mounted nowhere in this mount namespace. The kernel's caches are shared.
///
/// # Errors
/// The mount point cannot be used, or only a part of the file system is mounted so far.
pub fn mount_again(
    state: &Path,
    superblock: u32,
    request: &MountRequest,
) -> Result<bool, MountError> {
    let at = request.check(Some(superblock))?;
    let store_only = request.subtree == Subtree::Store;
    let copy = narfs_mounting::mounted_copy(superblock, store_only, MountFlags::empty(), state)?;
    copy.map(|copy| copy.attach(&at))
        .transpose()
        .map(|attached| attached.is_some())
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
    let profiles = Unmounted::unmount(at)?;
    if let Err(e) = unmount_unused(at, UnmountFlags::empty()) {
        profiles.into_iter().for_each(Unmounted::mount_again);
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
        Err(e) => Err(MountError::call("unmount", at, e)),
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
