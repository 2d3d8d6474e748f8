//! Why something cannot be mounted or unmounted, in words for users.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::mountinfo;

/// Why something cannot be mounted or unmounted.
#[derive(Debug)]
pub enum MountError {
    /// There is no such directory.
    Absent(PathBuf),
    /// It is a file.
    NotADirectory(PathBuf),
    /// There is something in it.
    NotEmpty(PathBuf),
    /// A store of Nix or Guix is there.
    NixStore {
        /// The mount point.
        at: PathBuf,
        /// What says so.
        evidence: PathBuf,
        /// Whether it is a mount of its own.
        is_mounted: bool,
    },
    /// Something is mounted there.
    Busy {
        /// The mount point.
        at: PathBuf,
        /// Its file system type.
        kind: String,
        /// Its source.
        source: String,
    },
    /// No narfs is mounted there.
    NotMounted(PathBuf),
    /// The whole file system was requested, but only its store is mounted.
    OnlyStore {
        /// The state directory.
        state: PathBuf,
        /// Where its store is mounted.
        at: PathBuf,
    },
    /// Processes use it.
    InUse {
        /// The mount point.
        at: PathBuf,
        /// Some of these processes: name and number.
        by: Vec<String>,
    },
    /// The kernel refuses labels of SELinux.
    Labels {
        /// The option.
        option: String,
        /// Why.
        error: Errno,
    },
    /// This kernel or container cannot mount FUSE.
    NoFuse(String),
    /// A system call for a path failed.
    Call {
        /// What it was to do.
        what: &'static str,
        /// With which path.
        at: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl MountError {
    /// Whether something is at the mount point that only the user can take away.
    pub fn is_occupied(&self) -> bool {
        matches!(self, Self::NixStore { .. } | Self::NotEmpty(_))
    }

    /// A system call for a path that failed.
    pub fn call(what: &'static str, at: &Path, error: impl Into<io::Error>) -> Self {
        let (at, error) = (at.to_owned(), error.into());
        Self::Call { what, at, error }
    }

    /// The kernel's list of mounts that cannot be read.
    pub fn not_listed(error: io::Error) -> Self {
        Self::call("read", Path::new(mountinfo::OURS), error)
    }

    /// Whether it needs the privileges of root.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Call { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What is said of a real store at a mount point.
fn nix_store(
    f: &mut fmt::Formatter<'_>,
    at: &Path,
    evidence: &Path,
    is_mounted: bool,
) -> fmt::Result {
    write!(
        f,
        "{} has a store of its own ({}), which would be hidden, with all programs in it. Mount at another \
         directory, such as /mnt/narfs, and show that as {0} to the programs that need it: in a \
         container, or with `unshare --mount` and `mount --bind /mnt/narfs {0}`. ",
        at.display(),
        evidence.display()
    )?;
    f.write_str(match is_mounted {
        true => "To use narfs instead of that store, unmount it first",
        false => "To hide that store all the same, give -o nonempty",
    })
}

/// What is said of a mount point that is one already.
fn busy(f: &mut fmt::Formatter<'_>, at: &Path, kind: &str, source: &str) -> fmt::Result {
    let at = at.display();
    let program = match kind == crate::TYPE {
        true => format!(" with `narfs umount {at}`"),
        false => String::new(),
    };
    write!(
        f,
        "something is mounted at {at} already ({kind} from {source}); unmount it{program} first, or choose \
         another directory"
    )
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(at) => write!(
                f,
                "the mount point {} does not exist; make it with `mkdir -p`",
                at.display()
            ),
            Self::NotADirectory(at) => {
                write!(f, "the mount point {} is not a directory", at.display())
            }
            Self::NotEmpty(at) => write!(
                f,
                "the mount point {} is not empty; its files would be hidden. Choose another \
                 directory, or give -o nonempty",
                at.display()
            ),
            Self::NixStore {
                at,
                evidence,
                is_mounted,
            } => nix_store(f, at, evidence, *is_mounted),
            Self::Busy { at, kind, source } => busy(f, at, kind, source),
            Self::NotMounted(at) => write!(f, "no narfs is mounted at {}", at.display()),
            Self::OnlyStore { state, at } => write!(
                f,
                "of the state {} only the store is mounted, at {}; give -o subtree=store, or \
                 unmount that first",
                state.display(),
                at.display()
            ),
            Self::InUse { at, by } => {
                write!(f, "{} is in use", at.display())?;
                if !by.is_empty() {
                    write!(f, " by {}", by.join(", "))?;
                }
                f.write_str(
                    "; end these programs, or give --lazy to unmount it when they have ended",
                )
            }
            Self::Labels { option, error } => {
                write!(f, "cannot mount with {option}: {error}")?;
                if matches!(*error, Errno::INVAL | Errno::OPNOTSUPP) {
                    f.write_str(
                        "; labels need a kernel with SELinux that is enabled, and that knows them: \
                         see getenforce(8)",
                    )?;
                }
                Ok(())
            }
            Self::NoFuse(text) => f.write_str(text),
            Self::Call { what, at, error } => {
                write!(f, "cannot {what} {}: {error}", at.display())?;
                if self.is_permission() {
                    f.write_str(
                        "; mounting needs root, and in a container CAP_SYS_ADMIN and /dev/fuse",
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for MountError {}
