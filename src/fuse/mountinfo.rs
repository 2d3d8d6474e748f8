//! What is mounted, as the kernel's list of mounts tells.
//!
//! Nothing is asked of a file system but whether a narfs is dead.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::labels;
use super::mount::{MountError, PROFILES_TYPE, TYPE};

/// A line of mountinfo.
pub(super) struct Mounted {
    pub(super) at: PathBuf,
    /// The superblock, if its device number has the major number 0.
    pub(super) superblock: Option<u32>,
    /// What of the file system is to be seen there: `/`, or a directory in it.
    pub(super) root: PathBuf,
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) labels: Vec<String>,
}

impl Mounted {
    pub(super) fn is_of(&self, superblock: Option<u32>) -> bool {
        superblock.is_some() && self.superblock == superblock
    }

    /// Whether it is a narfs whose daemon is gone. Attributes may come from the kernel's cache
    /// even then; what statfs says never does.
    pub(super) fn is_dead(&self) -> bool {
        use rustix::io::Errno;
        [TYPE, PROFILES_TYPE].contains(&&*self.kind)
            && rustix::fs::statfs(&self.at)
                .is_err_and(|e| matches!(e, Errno::NOTCONN | Errno::CONNABORTED))
    }
}

/// What is to be seen at `at`: of several mounts, the last.
pub(super) fn top_mount(at: &Path) -> Result<Option<Mounted>, MountError> {
    Ok(mounts()?.into_iter().rev().find(|m| m.at == at))
}

pub(super) fn mounts() -> Result<Vec<Mounted>, MountError> {
    let path = Path::new("/proc/thread-self/mountinfo");
    let text = fs::read(path).map_err(|source| MountError::System {
        what: "read",
        at: path.to_owned(),
        hint: "",
        source,
    })?;
    let lines = text.split(|b| *b == b'\n');
    Ok(lines.filter_map(parse_mountinfo).collect())
}

/// proc(5): `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS TAGS… - TYPE SOURCE OPTIONS`, blanks
/// in octal.
fn parse_mountinfo(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let (device, root, at) = (fields.nth(2)?, fields.next()?, fields.next()?);
    fields.find(|f| *f == b"-")?;
    let text = |f: &[u8]| String::from_utf8_lossy(f).into_owned();
    let path = |f: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(f)));
    let (kind, source) = (text(fields.next()?), fields.next()?);
    let superblock = text(device).strip_prefix("0:").and_then(|n| n.parse().ok());
    Some(Mounted {
        at: path(at),
        superblock,
        root: path(root),
        kind,
        source: text(&unescape(source)),
        labels: labels::of(&text(&unescape(fields.next().unwrap_or_default()))),
    })
}

/// A field of mountinfo as it is, without the octal digits for blanks.
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.split_at_checked(3).filter(|_| *first == b'\\');
        let byte =
            octal.and_then(|(d, _)| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (byte, octal) {
            (Some(byte), Some((_, later))) => {
                out.push(byte);
                rest = later;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_blanks_and_tags() {
        let line = b"36 35 0:98 / /mnt/a\\040b ro,nosuid - fuse.narfs /var/lib/na\\134rfs ro";
        let m = parse_mountinfo(line).unwrap();
        assert_eq!(m.superblock, Some(98));
        assert_eq!((m.at, m.root), ("/mnt/a b".into(), "/".into()));
        assert_eq!(
            (m.kind.as_str(), m.source.as_str()),
            (TYPE, "/var/lib/na\\rfs")
        );
        let tagged = b"36 35 98:0 /x /y rw shared:1 master:2 - ext4 /dev/sda1 rw";
        assert_eq!(parse_mountinfo(tagged).unwrap().kind, "ext4");
        assert!(parse_mountinfo(b"").is_none());
        let labelled =
            br#"36 35 0:98 / /m ro - fuse.narfs /s ro,context="a:b:c:s0:c1,c2",user_id=0"#;
        let labels = parse_mountinfo(labelled).unwrap().labels;
        assert_eq!(labels, [r#"context="a:b:c:s0:c1,c2""#]);
    }
}
