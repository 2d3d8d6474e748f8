//! Mount points, and what the kernel says is mounted.
//!
//! Invariant: a place is a descriptor. What was checked is what is mounted on, whatever becomes of
//! its name meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::failure::Failure;

/// What the kernel calls the file system.
pub const TYPE: &str = "fuse.narfs";
/// The same of writable profiles.
pub const PROFILES_TYPE: &str = "fuse.narfs-profiles";
/// Where these are mounted, below a mount point.
pub const PROFILES: &str = "var/nix/profiles";
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

/// A line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number for it.
    pub number: u64,
    /// The superblock, if its device number has the major number 0.
    pub superblock: Option<u32>,
    /// What of the file system is to be seen there: `/`, or a directory in it.
    pub root: PathBuf,
    /// Where.
    pub at: PathBuf,
    /// Its type.
    pub kind: String,
    /// Its source.
    pub source: String,
    /// Options of the superblock, labels of SELinux among them.
    pub options: String,
}

/// What is mounted in this mount namespace.
///
/// # Errors
/// The kernel's list cannot be read.
pub fn mounts() -> Result<Vec<Mounted>, Failure> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).map_err(|e| Failure::call("read", path, e))?;
    let lines = text.split(|b| *b == b'\n');
    Ok(lines.filter_map(parse).collect())
}

/// proc(5): `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS TAGS… - TYPE SOURCE OPTIONS`, blanks
/// in octal.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let text = |f: &[u8]| String::from_utf8_lossy(f).into_owned();
    let path = |f: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(unescaped(f)));
    let number = text(fields.next()?).parse().ok()?;
    let (device, root, at) = (fields.nth(1)?, fields.next()?, fields.next()?);
    fields.find(|f| *f == b"-")?;
    let (kind, source) = (text(fields.next()?), fields.next()?);
    let options = path(fields.next().unwrap_or_default());
    Some(Mounted {
        number,
        superblock: text(device).strip_prefix("0:").and_then(|n| n.parse().ok()),
        root: path(root),
        at: path(at),
        kind,
        source: path(source).to_string_lossy().into_owned(),
        options: options.to_string_lossy().into_owned(),
    })
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_blanks_and_tags() {
        let line = b"36 35 0:98 / /mnt/a\\040b ro,nosuid shared:1 - fuse.narfs /s/na\\134rfs ro";
        let expected = Mounted {
            number: 36,
            superblock: Some(98),
            root: "/".into(),
            at: "/mnt/a b".into(),
            kind: TYPE.into(),
            source: "/s/na\\rfs".into(),
            options: "ro".into(),
        };
        assert_eq!(parse(line), Some(expected));
        let disk = parse(b"36 35 98:0 /x /y rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!(disk.superblock, None);
        assert_eq!(parse(b""), None);
        assert_eq!(unescaped(b"a\\"), b"a\\");
        assert_eq!(unescaped(b"\\999\\0400"), b"\\999 0");
    }

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
