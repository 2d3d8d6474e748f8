//! Mounts that are at no place yet.
//!
//! Invariant: a mount goes to its place whole, in one system call, and only when it is served. Until
//! then it is gone with this process. The superblock is read-only, and the mount nosuid, nodev and noatime.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use narfs_mounting::TYPE;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
};

use crate::daemon::State;
use crate::failure::Failure;
use crate::options::{NOSYMFOLLOW, Request, Subtree};
use crate::place::{Place, by_descriptor, detach, mounts};

/// Where the whole is mounted for a moment when only its store is to be seen; in the state directory.
const PRIVATE: &str = "mnt";
/// The store, in the whole.
const STORE: &str = "store";
/// The one regular file that every mount has, in the whole.
const OPENED_ONCE: &str = ".file";

/// A new superblock.
#[derive(Debug)]
pub struct Mount {
    /// `/dev/fuse`
    pub device: OwnedFd,
    /// Its device number (0:NUMBER).
    pub superblock: u32,
    tree: Tree,
    flags: MountFlags,
}

/// A mount that is at no place.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Mount {
    /// Makes a superblock for the state in `state`, which waits for its daemon.
    ///
    /// # Errors
    /// The kernel cannot, or does not let us.
    pub fn make(state: &Path, request: &Request) -> Result<Self, Failure> {
        let flags = request.flags.0;
        let dev = Path::new("/dev/fuse");
        let device_flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open(dev, device_flags, Mode::empty()).map_err(|e| match e {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Failure::system(format!(
                "there is no /dev/fuse ({e}): `modprobe fuse`; in a container, give it --device \
                 /dev/fuse"
            )),
            e => refused("open /dev/fuse", e),
        })?;
        let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC);
        let context = context.map_err(|e| match e {
            Errno::NOSYS => Failure::system("mount.narfs needs Linux 5.2 or newer".to_owned()),
            Errno::NODEV => {
                Failure::system("FUSE is not in the kernel: `modprobe fuse`".to_owned())
            }
            e => refused("mount", e),
        })?;
        let number = device.as_raw_fd().to_string();
        let set = |key: &str, value: &str| {
            rustix::mount::fsconfig_set_string(&context, key, value)
                .map_err(|e| refused(&format!("mount with {key}={value}"), e))
        };
        rustix::mount::fsconfig_set_string(&context, "source", state)
            .map_err(|e| refused("mount", e))?;
        for (key, value) in [
            ("subtype", "narfs"),
            ("fd", &number),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
        ] {
            set(key, value)?;
        }
        for flag in ["ro", "default_permissions", "allow_other"] {
            rustix::mount::fsconfig_set_flag(&context, flag)
                .map_err(|e| refused(&format!("mount with {flag}"), e))?;
        }
        for (key, label) in &request.labels {
            rustix::mount::fsconfig_set_string(&context, *key, label.as_str())
                .map_err(|e| not_labelled(key, label, e))?;
        }
        rustix::mount::fsconfig_create(&context).map_err(|e| refused("mount", e))?;
        let mut attributes = attributes(flags);
        if !says_when(flags) {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME;
        }
        let attributes = attributes
            | MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        let tree = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|e| refused("mount", e))?;
        // Without a question to the daemon, which is not there yet.
        let unasked = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let status = rustix::fs::statx(&tree, "", unasked, StatxFlags::empty())
            .map_err(|e| refused("look at what was mounted", e))?;
        Ok(Self {
            device,
            superblock: status.stx_dev_minor,
            tree: Tree(tree),
            flags,
        })
    }

    /// Brings it, which is served now, to its place.
    ///
    /// # Errors
    /// It cannot be mounted there, or does not answer; nothing is.
    pub fn attach(self, place: &Place, subtree: Subtree, state: &State) -> Result<(), Failure> {
        rustix::fs::fstatfs(&self.tree.0)
            .map_err(|e| Failure::call("get an answer from the daemon of", state.path(), e))?;
        // Once for all files, by which the kernel learns that it need not ask for OPEN and FLUSH: a
        // program that closes a file while no daemon is there would wait. An older daemon has none.
        let read = OFlags::RDONLY | OFlags::CLOEXEC;
        drop(rustix::fs::openat(
            &self.tree.0,
            OPENED_ONCE,
            read,
            Mode::empty(),
        ));
        match subtree {
            Subtree::Whole => self.tree.place(place),
            Subtree::Store => {
                // A part of a mount can be had only once that is at a place.
                let private = state.make_directory(PRIVATE)?;
                let _uninterrupted = Uninterrupted::begin();
                self.tree.place(&private)?;
                let store = Tree::copy(&self.tree.0, STORE, self.flags);
                detach(&private.path)?;
                store?.place(place)
            }
        }
    }

    /// The mount of a superblock that is mounted somewhere already, once more; `None` if it is
    /// mounted nowhere in this mount namespace. The kernel's caches are the same there.
    ///
    /// # Errors
    /// Only a part of what is wanted is mounted.
    pub fn again(
        superblock: u32,
        subtree: Subtree,
        flags: MountFlags,
        state: &State,
    ) -> Result<Option<Tree>, Failure> {
        let mut part = None;
        for mounted in mounts()? {
            if mounted.superblock != Some(superblock) || mounted.kind != TYPE {
                continue;
            }
            let below = match (subtree, mounted.root.to_str()) {
                (Subtree::Whole, Some("/")) | (Subtree::Store, Some("/store")) => "",
                (Subtree::Store, Some("/")) => STORE,
                _ => {
                    part = Some(mounted.at);
                    continue;
                }
            };
            let path = OFlags::PATH | OFlags::CLOEXEC;
            let found = rustix::fs::open(&mounted.at, path, Mode::empty());
            let Some(found) = found.ok().and_then(|d| Place::of(d).ok()) else {
                continue;
            };
            // Something else may be mounted over it.
            if found.mount_number() == Some(mounted.number) {
                return Tree::copy(&found.directory, below, flags).map(Some);
            }
        }
        match part {
            Some(at) if subtree == Subtree::Whole => Err(Failure::mount(format!(
                "of the state {} only the store is mounted, at {}; give -o subtree=store, or \
                 unmount that first",
                state.path().display(),
                at.display()
            ))),
            _ => Ok(None),
        }
    }
}

impl Tree {
    /// A copy of a mount, of the whole or of what is at a place in it.
    fn copy(of: &OwnedFd, below: &str, flags: MountFlags) -> Result<Self, Failure> {
        let copied = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = rustix::mount::open_tree(of, below, copied);
        let tree = tree.map_err(|e| refused("show the mount at one more place", e))?;
        set_flags(&tree, flags)?;
        Ok(Self(tree))
    }

    /// Brings it to its place.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn place(&self, place: &Place) -> Result<(), Failure> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&self.0, "", &place.directory, "", flags)
            .map_err(|e| refused(&format!("mount at {}", place.path.display()), e))
    }
}

/// Whether it is said when reading changes times.
fn says_when(flags: MountFlags) -> bool {
    flags.intersects(MountFlags::NOATIME | MountFlags::RELATIME | MountFlags::STRICTATIME)
}

/// The same as attributes of a mount. That of relatime is that there is none.
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

/// Sets flags of a mount, besides those that it has.
fn set_flags(tree: &OwnedFd, flags: MountFlags) -> Result<(), Failure> {
    if flags.is_empty() {
        return Ok(());
    }
    let attributes = libc::mount_attr {
        attr_set: attributes(flags).bits().into(),
        attr_clr: if says_when(flags) {
            libc::MOUNT_ATTR__ATIME
        } else {
            0
        },
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the pointers are to a string that ends and to a structure of the given length.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
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
    Err(Failure::mount(format!(
        "flags such as noexec cannot be had for a state that is mounted already ({error}; it needs \
         Linux 5.12)"
    )))
}

/// Gives a mount the flags that it always has and these; when reading changes times is as it was where
/// nothing is said of it.
///
/// # Errors
/// The kernel does not let us.
pub fn remount(place: &Place, flags: MountFlags) -> Result<(), Failure> {
    let flags = flags | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    // Of this mount, and not of the superblock, which FUSE lets nobody change.
    rustix::mount::mount_remount(
        by_descriptor(&place.directory),
        MountFlags::BIND | flags,
        c"",
    )
    .map_err(|e| refused(&format!("remount {}", place.path.display()), e))
}

fn not_labelled(key: &str, label: &str, error: Errno) -> Failure {
    let text = format!("cannot mount with {key}={label}: {error}");
    match error {
        Errno::INVAL | Errno::OPNOTSUPP => Failure::mount(format!(
            "{text}; labels need a kernel with SELinux that is enabled, and that knows them: see \
             getenforce(8)"
        )),
        _ => Failure::mount(text),
    }
}

fn refused(what: &str, error: Errno) -> Failure {
    let text = format!("cannot {what}: {error}");
    match error {
        Errno::PERM | Errno::ACCESS => Failure::usage(format!(
            "{text}; mounting needs root, and in a container CAP_SYS_ADMIN and /dev/fuse"
        )),
        _ => Failure::mount(text),
    }
}

/// As long as this lives, an interruption waits: what is at a place would stay there.
struct Uninterrupted(libc::sigset_t);

impl Uninterrupted {
    fn begin() -> Self {
        // SAFETY: both sets are initialised before they are used, and this is the only thread.
        unsafe {
            let mut blocked = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut blocked);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        // SAFETY: the set is the one from before.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Opens a directory of the state, which may be a mount point of a daemon that is gone.
///
/// # Errors
/// It is none.
pub fn private_place(directory: &OwnedFd, name: &str, state: &Path) -> Result<Place, Failure> {
    let at = state.join(name);
    let failed = |e: Errno| Failure::call("make the directory", &at, e);
    loop {
        match rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(failed(e)),
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(failed)?;
        let place = Place::of(opened).map_err(|e| Failure::call("name", &at, e))?;
        match place.mounted()? {
            None => return Ok(place),
            Some(mounted) if mounted.kind == TYPE => detach(&place.path)?,
            Some(mounted) => {
                let text = format!(
                    "{} is mounted at {}; unmount it",
                    mounted.kind,
                    at.display()
                );
                return Err(Failure::mount(text));
            }
        }
    }
}

/// Opens the state directory; `None` if there is none.
///
/// # Errors
/// It is not one.
pub fn open_state(at: &Path) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, at, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(Failure::call("open the state directory", at, e)),
    }
}
