//! New FUSE superblocks, and mounts that are not attached to a mount point yet.
//!
//! Invariant: a mount is attached in one system call, and only when its superblock is served. Until then it
//! ends with its descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
};

use crate::error::MountError;
use crate::mountinfo::mounts;
use crate::place::{Place, detach};
use crate::{OPENED_ONCE, STORE};

const FUSE: &str = "/dev/fuse";
/// The flag of nosymfollow (since Linux 5.10); libc does not have it for mount(2).
pub const NOSYMFOLLOW: MountFlags = MountFlags::from_bits_retain(256);

/// What a new superblock is to be.
#[derive(Debug)]
pub struct NewSuperblock<'a> {
    /// The state directory, which the kernel's list of mounts shows as the source.
    pub state: &'a Path,
    /// [`crate::TYPE`] or [`crate::PROFILES_TYPE`].
    pub kind: &'static str,
    /// Whether the kernel refuses every change.
    pub read_only: bool,
    /// Labels of SELinux, by the names of their options.
    pub labels: &'a [(&'static str, String)],
    /// Flags of the mount besides nosuid, nodev, and noatime where they say nothing of it.
    pub flags: MountFlags,
}

/// A superblock that waits for its daemon, and its mount.
#[derive(Debug)]
pub struct Superblock {
    /// `/dev/fuse`, connected to it.
    pub device: OwnedFd,
    /// Its device number (0:NUMBER).
    pub number: u32,
    /// Its root.
    pub mount: DetachedMount,
}

/// A mount without a mount point.
#[derive(Debug)]
pub struct DetachedMount(OwnedFd);

impl NewSuperblock<'_> {
    /// Makes it.
    ///
    /// # Errors
    /// The kernel cannot make one, or this process may not.
    pub fn make(&self) -> Result<Superblock, MountError> {
        let device = open_device()?;
        let refused = |e: Errno| MountError::call("make a FUSE mount of", self.state, e);
        let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC);
        let context = context.map_err(|e| match e {
            Errno::NOSYS => MountError::NoFuse("mounting needs Linux 5.2 or newer".to_owned()),
            Errno::NODEV => {
                MountError::NoFuse("FUSE is not in the kernel: `modprobe fuse`".to_owned())
            }
            e => refused(e),
        })?;
        rustix::mount::fsconfig_set_string(&context, "source", self.state).map_err(refused)?;
        let subtype = self.kind.strip_prefix("fuse.").unwrap_or(self.kind);
        let options = [
            ("subtype", subtype),
            ("fd", &device.as_raw_fd().to_string()),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
        ];
        for (key, value) in options {
            rustix::mount::fsconfig_set_string(&context, key, value).map_err(refused)?;
        }
        let read_only = self.read_only.then_some("ro");
        for flag in ["default_permissions", "allow_other"]
            .into_iter()
            .chain(read_only)
        {
            rustix::mount::fsconfig_set_flag(&context, flag).map_err(refused)?;
        }
        let not_labelled = |(key, label): &(&str, String), error| MountError::Labels {
            option: format!("{key}={label}"),
            error,
        };
        for label in self.labels {
            rustix::mount::fsconfig_set_string(&context, label.0, label.1.as_str())
                .map_err(|e| not_labelled(label, e))?;
        }
        // SELinux judges the labels here, and says EINVAL.
        rustix::mount::fsconfig_create(&context).map_err(|e| match self.labels {
            [label, ..] if e == Errno::INVAL => not_labelled(label, e),
            _ => refused(e),
        })?;
        let mount = self.mount(&context).map_err(refused)?;
        // Without a request to the daemon, which does not serve it yet.
        let cached = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = rustix::fs::statx(&mount, "", cached, StatxFlags::empty()).map_err(refused)?;
        Ok(Superblock {
            device,
            number: status.stx_dev_minor,
            mount: DetachedMount(mount),
        })
    }

    fn mount(&self, context: &OwnedFd) -> Result<OwnedFd, Errno> {
        let mut attributes = attributes(self.flags)
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        if !is_about_times(self.flags) {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME;
        }
        if self.read_only {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }
}

fn open_device() -> Result<OwnedFd, MountError> {
    let dev = Path::new(FUSE);
    let opened = rustix::fs::open(dev, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| match e {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoFuse(format!(
            "there is no {FUSE} ({e}): `modprobe fuse`; in a container, give it --device {FUSE}"
        )),
        e => MountError::call("open", dev, e),
    })
}

impl DetachedMount {
    /// A copy of the mount at `path`, relative to `of`; of what is below `path` there, if `path` leads into a
    /// mount.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn copy(of: impl AsFd, path: &Path) -> Result<Self, MountError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(of, path, flags)
            .map(Self)
            .map_err(|e| MountError::call("mount at one more place", path, e))
    }

    /// Waits until the daemon answers requests about it.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn answers(&self) -> Result<(), Errno> {
        rustix::fs::fstatfs(&self.0).map(drop)
    }

    /// Opens a file of it once, by which the kernel learns that this daemon needs no OPEN and no FLUSH:
    /// a program that closes a file while no daemon is there would wait otherwise. An older daemon has
    /// no such file.
    pub fn open_once(&self) {
        let read = OFlags::RDONLY | OFlags::CLOEXEC;
        drop(rustix::fs::openat(
            &self.0,
            OPENED_ONCE,
            read,
            Mode::empty(),
        ));
    }

    /// Attaches it to a mount point.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn attach(&self, at: &Place) -> Result<(), MountError> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&self.0, "", &at.directory, "", flags)
            .map_err(|e| MountError::call("mount at", &at.path, e))
    }

    /// Attaches only the store of the new mount to a mount point. The kernel copies a part of a mount only
    /// while that is attached; it is attached to `private` meanwhile.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn attach_store(
        &self,
        private: &Place,
        at: &Place,
        flags: MountFlags,
    ) -> Result<(), MountError> {
        let _blocked = BlockedSignals::block();
        self.attach(private)?;
        let store = Self::copy(&self.0, Path::new(STORE));
        detach(&private.path)?;
        let store = store?;
        store.set_flags(flags)?;
        store.attach(at)
    }

    /// Sets flags of a mount, besides those that it has.
    fn set_flags(&self, flags: MountFlags) -> Result<(), MountError> {
        if flags.is_empty() {
            return Ok(());
        }
        let cleared = if is_about_times(flags) {
            libc::MOUNT_ATTR__ATIME
        } else {
            0
        };
        let attributes = libc::mount_attr {
            attr_set: attributes(flags).bits().into(),
            attr_clr: cleared,
            propagation: 0,
            userns_fd: 0,
        };
        // SAFETY: the pointers are to a string that ends and to a structure of the given length.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        if done == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        Err(MountError::NoFuse(format!(
            "flags such as noexec cannot be set for a state that is mounted already ({error}; it needs \
             Linux 5.12)"
        )))
    }
}

/// A copy of a mount of `superblock`, or of its store only, with more flags; `None` if it is not mounted
/// in this mount namespace. The kernel's caches are shared.
///
/// # Errors
/// Only the store of `state` is mounted, but the whole is wanted.
pub fn mounted_copy(
    superblock: u32,
    store_only: bool,
    flags: MountFlags,
    state: &Path,
) -> Result<Option<DetachedMount>, MountError> {
    let mut part = None;
    let all = mounts().map_err(MountError::not_listed)?;
    for mounted in all.into_iter().filter(|m| m.is_of(Some(superblock))) {
        let below = match (store_only, mounted.root.to_str()) {
            (false, Some("/")) | (true, Some("/store")) => "",
            (true, Some("/")) => STORE,
            _ => {
                part = Some(mounted.at);
                continue;
            }
        };
        // Something else may be mounted over it.
        let Some(visible) = Place::open_root(&mounted) else {
            continue;
        };
        let copy = DetachedMount::copy(&visible.directory, Path::new(below))?;
        copy.set_flags(flags)?;
        return Ok(Some(copy));
    }
    match part {
        Some(at) if !store_only => Err(MountError::OnlyStore {
            state: state.to_owned(),
            at,
        }),
        _ => Ok(None),
    }
}

/// Whether flags say when reading changes times.
fn is_about_times(flags: MountFlags) -> bool {
    flags.intersects(MountFlags::NOATIME | MountFlags::RELATIME | MountFlags::STRICTATIME)
}

/// Flags of mount(2) as attributes of a mount. Relatime is the absence of an attribute.
fn attributes(flags: MountFlags) -> MountAttrFlags {
    let of = [
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (NOSYMFOLLOW, MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (
            MountFlags::STRICTATIME,
            MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        ),
        (
            MountFlags::NODIRATIME,
            MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        ),
    ];
    let given = of.iter().filter(|(flag, _)| flags.contains(*flag));
    given.map(|(_, attribute)| *attribute).collect()
}

/// Signals wait for as long as this lives: a process that ends between two steps would leave a mount at a
/// private place.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn block() -> Self {
        // SAFETY: both sets are initialised before they are used.
        unsafe {
            let mut blocked = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut blocked);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one from before.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}
