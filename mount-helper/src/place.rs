//! Mount points, and what the kernel says is mounted.
//!
//! Invariant: a place is a descriptor. What was checked is what is mounted on, whatever becomes of
//! its name meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use narfs_mounting::{TYPE, mountinfo};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::failure::Failure;

/// A mount of the list, with its line.
pub type Mounted = mountinfo::Mounted<'static>;

/// What systemd mounts where something is to be mounted on demand.
const AUTOMOUNT: &str = "autofs";

/// A directory that exists.
#[derive(Debug)]
pub struct Place {
    /// Opened without touching what is there.
    pub directory: OwnedFd,
    /// Its name, absolute and without links.
    pub path: PathBuf,
}

impl Place {
    /// Opens a mount point, and says early what would fail later. A dead mount of ours is taken away, unless
    /// `fake`.
    ///
    /// # Errors
    /// Nothing can be mounted there.
    pub fn check(at: &Path, nonempty: bool, fake: bool) -> Result<Self, Failure> {
        loop {
            let place = Self::open(at)?;
            let Some(mounted) = place.mounted()? else {
                if !nonempty && !place.is_empty()? {
                    return Err(Failure::mount(format!(
                        "the mount point {} is not empty; its files would be hidden. Choose another \
                         directory, or give -o nonempty",
                        at.display()
                    )));
                }
                return Ok(place);
            };
            // Whoever asked for what is below it waits for us: it must not be looked into.
            if mounted.kind == AUTOMOUNT {
                return Ok(place);
            }
            if !place.is_dead(&mounted) {
                return Err(Failure::mount(format!(
                    "something is mounted at {} already ({} from {}); unmount it first, or choose \
                     another directory",
                    at.display(),
                    mounted.kind,
                    mounted.source
                )));
            }
            if fake {
                return Ok(place);
            }
            eprintln!(
                "mount.narfs: taking away the dead mount at {}, whose daemon is gone",
                at.display()
            );
            let path = place.path.clone();
            drop(place);
            detach(&path)?;
        }
    }

    /// Opens the root of a mount of narfs.
    ///
    /// # Errors
    /// There is none.
    pub fn of_narfs(at: &Path) -> Result<(Self, Mounted), Failure> {
        let place = Self::open(at)?;
        match place.mounted()? {
            Some(mounted) if mounted.kind == TYPE => Ok((place, mounted)),
            _ => Err(Failure::mount(format!(
                "no narfs is mounted at {}",
                at.display()
            ))),
        }
    }

    /// Opens a directory. With `O_PATH` alone an automount is not set off by it.
    fn open(at: &Path) -> Result<Self, Failure> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let directory = rustix::fs::open(at, flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT => Failure::mount(format!(
                "the mount point {} does not exist; make it with `mkdir -p`",
                at.display()
            )),
            Errno::NOTDIR => not_a_directory(at),
            e => Failure::call("open the mount point", at, e),
        })?;
        let place = Self::of(directory).map_err(|e| Failure::call("name", at, e))?;
        // Of what is dead only the kernel knows what it was.
        match rustix::fs::fstat(&place.directory) {
            Ok(status) if FileType::from_raw_mode(status.st_mode) != FileType::Directory => {
                Err(not_a_directory(at))
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
    pub fn mounted(&self) -> Result<Option<Mounted>, Failure> {
        let number = self.mount_number();
        let mut all = mounts()?.into_iter();
        Ok(all.find(|m| Some(m.number) == number && m.at == self.path))
    }

    /// Which mount this is in.
    pub fn mount_number(&self) -> Option<u64> {
        let about = format!("/proc/self/fdinfo/{}", self.directory.as_raw_fd());
        let about = fs::read_to_string(about).ok()?;
        let number = about.lines().find_map(|l| l.strip_prefix("mnt_id:"))?;
        number.trim().parse().ok()
    }

    /// Whether it is a narfs whose daemon is gone. Attributes may come from the kernel's cache
    /// even then; what statfs says never does.
    fn is_dead(&self, mounted: &Mounted) -> bool {
        mounted.kind == TYPE
            && rustix::fs::fstatfs(&self.directory)
                .is_err_and(|e| matches!(e, Errno::NOTCONN | Errno::CONNABORTED))
    }

    fn is_empty(&self) -> Result<bool, Failure> {
        let entries = fs::read_dir(by_descriptor(&self.directory));
        let mut entries = entries.map_err(|e| Failure::call("look into", &self.path, e))?;
        Ok(entries.next().is_none())
    }
}

fn not_a_directory(at: &Path) -> Failure {
    Failure::mount(format!(
        "the mount point {} is not a directory",
        at.display()
    ))
}

/// The name of what a descriptor of this process means.
pub fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

/// Takes a mount away, even while it is used.
///
/// # Errors
/// None is there.
pub fn detach(at: &Path) -> Result<(), Failure> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(at, flags).map_err(|e| Failure::call("unmount", at, e))
}

/// What is mounted in this mount namespace.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn mounts() -> Result<Vec<Mounted>, Failure> {
    mountinfo::mounts().map_err(|e| Failure::call("read", Path::new(mountinfo::OURS), e))
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
        let said = |at: &str| Place::check(Path::new(at), false, false).unwrap_err();
        for (at, why) in [
            ("/absent/directory", "does not exist"),
            ("/proc/version", "is not a directory"),
            ("/proc/version/below", "is not a directory"),
            ("/proc", "something is mounted at /proc already (proc from"),
            ("/etc", "is not empty"),
        ] {
            let said = said(at);
            assert!(said.text.contains(why) && said.status == 32, "{said:?}");
        }
        Place::check(Path::new("/etc"), true, true).unwrap();
    }
}
