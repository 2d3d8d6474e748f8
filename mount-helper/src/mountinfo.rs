//! The kernel's lists of mounts, proc_pid_mountinfo(5). Nothing is asked of a file system.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The list of the calling thread's mount namespace.
pub const OURS: &str = "/proc/thread-self/mountinfo";

/// A line of the list, `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS TAGS… - TYPE SOURCE OPTIONS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted<'l> {
    /// The number of the mount.
    pub number: u64,
    /// The number of the mount that it lies on.
    pub parent: u64,
    /// The superblock, if its device number has the major number 0.
    pub superblock: Option<u32>,
    /// What of the file system is seen there: `/`, or a directory in it.
    pub root: PathBuf,
    /// The mount point.
    pub at: PathBuf,
    /// Whether what is mounted below it is seen in other mount namespaces too
    /// (mount_namespaces(7)).
    pub is_shared: bool,
    /// The type of the file system.
    pub kind: String,
    /// The source.
    pub source: String,
    /// Options of the superblock, labels of SELinux among them.
    pub options: String,
    /// The whole line as it is.
    pub line: Cow<'l, [u8]>,
}

impl Mounted<'_> {
    /// Whether it shows this superblock.
    pub fn is_of(&self, superblock: Option<u32>) -> bool {
        superblock.is_some() && self.superblock == superblock
    }
}

/// What is mounted in the mount namespace of this thread.
///
/// # Errors
/// The list cannot be read.
pub fn mounts() -> io::Result<Vec<Mounted<'static>>> {
    let text = fs::read(OURS)?;
    let mounts = parse(&text).map(|m| Mounted {
        line: Cow::Owned(m.line.into_owned()),
        ..m
    });
    Ok(mounts.collect())
}

/// What is seen at a place in the mount namespace of this thread: of several mounts, the last.
///
/// # Errors
/// The list cannot be read.
pub fn top_mount(at: &Path) -> io::Result<Option<Mounted<'static>>> {
    Ok(mounts()?.into_iter().rev().find(|m| m.at == at))
}

/// The lines of a list. What is no line of one is left out.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Mounted<'_>> {
    text.split(|b| *b == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<Mounted<'_>> {
    let mut fields = line.split(|b| *b == b' ');
    let text = |f: &[u8]| String::from_utf8_lossy(&unescape(f)).into_owned();
    let path = |f: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(unescape(f)));
    let number = text(fields.next()?).parse().ok()?;
    let parent = text(fields.next()?).parse().ok()?;
    let (device, root, at) = (fields.next()?, fields.next()?, fields.next()?);
    let options = fields.by_ref().take_while(|f| *f != b"-");
    let is_shared = options.filter(|f| f.starts_with(b"shared:")).count() > 0;
    let (kind, source) = (text(fields.next()?), text(fields.next()?));
    Some(Mounted {
        number,
        parent,
        superblock: text(device).strip_prefix("0:").and_then(|n| n.parse().ok()),
        root: path(root),
        at: path(at),
        is_shared,
        kind,
        source,
        options: text(fields.next().unwrap_or_default()),
        line: Cow::Borrowed(line),
    })
}

/// A field as it is, with the bytes that the kernel writes as `\` and three octal digits.
pub fn unescape(field: &[u8]) -> Vec<u8> {
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

    fn one(line: &[u8]) -> Option<Mounted<'_>> {
        parse(line).next()
    }

    #[test]
    fn a_line_is_read_with_blanks_and_tags() {
        let line =
            b"36 35 0:98 / /mnt/a\\040b ro,nosuid shared:1 master:2 - fuse.narfs /s/na\\134rfs ro";
        let expected = Mounted {
            number: 36,
            parent: 35,
            superblock: Some(98),
            root: "/".into(),
            at: "/mnt/a b".into(),
            is_shared: true,
            kind: crate::TYPE.into(),
            source: "/s/na\\rfs".into(),
            options: "ro".into(),
            line: Cow::Borrowed(line),
        };
        assert_eq!(one(line), Some(expected));
        let disk = one(b"36 35 98:0 /x /y rw - ext4 /dev/sda1 rw").unwrap();
        assert!(disk.superblock.is_none() && !disk.is_of(None) && !disk.is_shared);
        assert_eq!(one(b""), None);
        assert_eq!(unescape(b"a\\"), b"a\\");
        assert_eq!(unescape(b"\\999\\0400"), b"\\999 0");
    }

    #[test]
    fn what_is_mounted_is_listed() {
        let proc = top_mount(Path::new("/proc")).unwrap().unwrap();
        assert_eq!(proc.kind, "proc");
        assert!(top_mount(Path::new("/proc/self/task")).unwrap().is_none());
    }
}
