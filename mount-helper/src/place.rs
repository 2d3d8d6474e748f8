//! Mount points.
//!
//! Invariant: a mount point is a descriptor. What was checked is what is mounted on, whatever becomes of
//! its name meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::MountError;
use crate::mountinfo::{self, Mounted};
use crate::probe;
use crate::{PROFILES_TYPE, TYPE};

/// The type of what systemd mounts at a mount point that is to be mounted on demand.
const AUTOMOUNT: &str = "autofs";

/// Entries of a directory that are looked at for store paths.
const ENTRIES: usize = 100;

/// A directory that exists.
#[derive(Debug)]
pub struct Place {
    /// Opened with `O_PATH`, without a request to its file system.
    pub directory: OwnedFd,
    /// Its name, absolute and without links.
    pub path: PathBuf,
}

/// What a mount point is good for.
#[derive(Debug)]
pub enum Checked {
    /// Something can be mounted there.
    Free(Place),
    /// A daemon that is gone has left a mount there, which must be detached first.
    Dead(Place),
}

impl Place {
    /// Opens a mount point, and finds early what would fail later. The daemon of the superblock `alive`
    /// is not asked whether it is gone.
    ///
    /// # Errors
    /// Nothing can be mounted there.
    pub fn check(at: &Path, nonempty: bool, alive: Option<u32>) -> Result<Checked, MountError> {
        let place = Self::open(at)?;
        let Some(mounted) = place.mounted()? else {
            if !nonempty && !place.is_empty()? {
                return Err(match place.nix_store() {
                    Some(evidence) => MountError::NixStore {
                        at: at.to_owned(),
                        evidence,
                        is_mounted: false,
                    },
                    None => MountError::NotEmpty(at.to_owned()),
                });
            }
            return Ok(Checked::Free(place));
        };
        // A process that looked up what is below an automount waits for us: we must not look into it.
        if mounted.kind == AUTOMOUNT {
            return Ok(Checked::Free(place));
        }
        if !mounted.is_of(alive) && mounted.is_narfs() && place.has_no_daemon() {
            return Ok(Checked::Dead(place));
        }
        if mounted.is_on_disk()
            && let Some(evidence) = place.nix_store()
        {
            return Err(MountError::NixStore {
                at: at.to_owned(),
                evidence,
                is_mounted: true,
            });
        }
        Err(MountError::Busy {
            at: at.to_owned(),
            kind: mounted.kind,
            source: mounted.source,
        })
    }

    /// Opens the root of a mount of narfs.
    ///
    /// # Errors
    /// There is none.
    pub fn of_narfs(at: &Path) -> Result<(Self, Mounted<'static>), MountError> {
        let place = Self::open(at)?;
        match place.mounted()? {
            Some(mounted) if mounted.kind == TYPE => Ok((place, mounted)),
            _ => Err(MountError::NotMounted(at.to_owned())),
        }
    }

    /// Opens the root of a mount of the list, unless another mount hides it.
    pub fn open_root(mounted: &Mounted<'_>) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&mounted.at, flags, Mode::empty()).ok()?;
        let place = Self::of(opened).ok()?;
        (place.mount_number() == Some(mounted.number)).then_some(place)
    }

    /// Opens a directory. With `O_PATH` alone this does not trigger an automount.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open(at: &Path) -> Result<Self, MountError> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let directory = rustix::fs::open(at, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => MountError::Absent(at.to_owned()),
            Errno::NOTDIR => MountError::NotADirectory(at.to_owned()),
            e => MountError::call("open the mount point", at, e),
        })?;
        let place = Self::of(directory).map_err(|e| MountError::call("name", at, e))?;
        // As the kernel has it cached: the daemon of what is mounted there may be gone, or hang.
        let cached = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        match rustix::fs::statx(&place.directory, "", cached, StatxFlags::TYPE) {
            Ok(status)
                if FileType::from_raw_mode(status.stx_mode.into()) != FileType::Directory =>
            {
                Err(MountError::NotADirectory(at.to_owned()))
            }
            _ => Ok(place),
        }
    }

    /// With the name that the kernel has for it.
    pub fn of(directory: OwnedFd) -> io::Result<Self> {
        let path = fs::read_link(by_descriptor(&directory))?;
        Ok(Self { directory, path })
    }

    /// What is mounted here, and not somewhere above.
    ///
    /// # Errors
    /// The kernel's list cannot be read.
    pub fn mounted(&self) -> Result<Option<Mounted<'static>>, MountError> {
        let number = self.mount_number();
        let mut all = mountinfo::mounts()
            .map_err(MountError::not_listed)?
            .into_iter();
        Ok(all.find(|m| Some(m.number) == number && m.at == self.path))
    }

    /// Which mount this is in.
    pub fn mount_number(&self) -> Option<u64> {
        let about = format!("/proc/self/fdinfo/{}", self.directory.as_raw_fd());
        let about = fs::read_to_string(about).ok()?;
        let number = about.lines().find_map(|l| l.strip_prefix("mnt_id:"))?;
        number.trim().parse().ok()
    }

    /// Whether the daemon of the mount is gone. Attributes may come from the kernel's cache even then; the
    /// answer to statfs never does.
    fn has_no_daemon(&self) -> bool {
        probe::fstatfs(&self.directory).is_some_and(says_no_daemon)
    }

    /// What says that a store of Nix or Guix is here: the database of this directory or, if it is the store
    /// directory itself, of the one above; or a store path.
    pub fn nix_store(&self) -> Option<PathBuf> {
        let databases = [
            "var/nix/db",
            "../var/nix/db",
            "var/guix/db",
            "../var/guix/db",
        ];
        let databases = databases.map(|database| self.path.join(database).join("db.sqlite"));
        let paths = [self.path.join("store"), self.path.clone()].into_iter();
        let mut paths = paths.filter_map(|store| {
            let entries = fs::read_dir(store).ok()?.take(ENTRIES).flatten();
            let mut paths = entries.filter(|e| is_store_path(e.file_name().as_bytes()));
            paths.next().map(|entry| entry.path())
        });
        let mut found = databases.into_iter().filter(|file| file.exists());
        found.next().or_else(|| paths.next())
    }

    fn is_empty(&self) -> Result<bool, MountError> {
        let entries = fs::read_dir(by_descriptor(&self.directory));
        let mut entries = entries.map_err(|e| MountError::call("look into", &self.path, e))?;
        Ok(entries.next().is_none())
    }
}

/// Whether a name is that of a store path: 32 characters of a hash, and a name.
fn is_store_path(name: &[u8]) -> bool {
    let is_hash = |c: &u8| c.is_ascii_digit() || c.is_ascii_lowercase();
    name.len() > 33 && name[32] == b'-' && name[..32].iter().all(is_hash)
}

/// Whether the outcome of statfs says that the daemon is gone.
fn says_no_daemon(outcome: Result<(), Errno>) -> bool {
    matches!(outcome, Err(Errno::NOTCONN | Errno::CONNABORTED))
}

impl Mounted<'_> {
    /// Whether it is a mount of narfs, or one of writable profiles.
    pub fn is_narfs(&self) -> bool {
        [TYPE, PROFILES_TYPE].contains(&&*self.kind)
    }

    /// Whether looking into it waits for no other process or machine.
    fn is_on_disk(&self) -> bool {
        let remote = ["fuse", "nfs", "cifs", "smb", "9p", "ceph", "afs", AUTOMOUNT];
        !remote.iter().any(|kind| self.kind.starts_with(kind))
    }

    /// Whether it is one whose daemon is gone.
    pub fn is_dead(&self) -> bool {
        self.is_narfs() && probe::statfs(&self.at).is_some_and(says_no_daemon)
    }
}

/// The name by which the kernel opens a descriptor of this process again.
pub fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

/// Detaches a mount, even while it is used.
///
/// # Errors
/// There is none.
pub fn detach(at: &Path) -> Result<(), MountError> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(at, flags).map_err(|e| MountError::call("unmount", at, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_found_by_the_descriptor() {
        let of = |at: &str| Place::open(Path::new(at)).unwrap().mounted().unwrap();
        assert_eq!(of("/proc").unwrap().kind, "proc");
        assert_eq!(of("/proc/self/task"), None);
    }

    #[test]
    fn bad_mount_points_are_named() {
        let said = |at: &str| Place::check(Path::new(at), false, None).unwrap_err();
        for (at, why) in [
            ("/absent/directory", "does not exist"),
            ("/proc/version", "is not a directory"),
            ("/proc/version/below", "is not a directory"),
            ("/proc", "something is mounted at /proc already (proc from"),
            ("/etc", "is not empty"),
        ] {
            let said = said(at).to_string();
            assert!(said.contains(why), "{said}");
        }
        let nonempty = Place::check(Path::new("/etc"), true, None).unwrap();
        assert!(matches!(nonempty, Checked::Free(_)));
    }
    #[test]
    fn a_store_of_nix_is_told_from_other_directories() {
        let root = std::env::temp_dir().join(format!("narfs-place-{}", std::process::id()));
        let found = |at: &Path| Place::open(at).unwrap().nix_store();
        let hash = "0c6kzph7l0dcbfmjap64f0czdafn3b7x";
        fs::create_dir_all(root.join("plain/store/.links")).unwrap();
        fs::create_dir_all(root.join("paths/store").join(format!("{hash}-hello"))).unwrap();
        fs::create_dir_all(root.join("nix/var/nix/db")).unwrap();
        fs::create_dir_all(root.join("nix/store")).unwrap();
        fs::write(root.join("nix/var/nix/db/db.sqlite"), "").unwrap();
        assert_eq!(found(&root.join("plain")), None);
        let path = root.join("paths/store").join(format!("{hash}-hello"));
        assert_eq!(found(&root.join("paths")), Some(path.clone()));
        assert_eq!(found(&root.join("paths/store")), Some(path));
        assert!(found(&root.join("nix")).is_some() && found(&root.join("nix/store")).is_some());
        let said = Place::check(&root.join("nix"), false, None)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("has a store of its own") && said.contains("-o nonempty"),
            "{said}"
        );
        let nonempty = Place::check(&root.join("nix"), true, None).unwrap();
        assert!(matches!(nonempty, Checked::Free(_)));
        fs::remove_dir_all(&root).unwrap();
    }
}
