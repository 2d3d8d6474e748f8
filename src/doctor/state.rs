//! Checks of the state directory and its disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::finding::{Examination, Finding};
use crate::command::chain;
use crate::store::{self, RESERVE, StoreError};

/// Free bytes above the reserve below which a warning is due.
const SOON_FULL: u64 = 1 << 30;
/// Write permission of group and others.
const WRITABLE: u32 = 0o022;

pub(super) fn directory(examination: &Examination) -> Vec<Finding> {
    const NAME: &str = "state";
    let dir = &examination.state;
    let shown = dir.display();
    let found = match store::inspect(dir, examination.store_dir.as_ref()) {
        Err(StoreError::Absent(_)) => {
            let seen =
                format!("there is none in {shown} yet; `narfs mount` and `narfs copy` create one");
            return vec![Finding::note(NAME, seen)];
        }
        Err(e @ (StoreError::Newer { .. } | StoreError::UnknownFeatures { .. })) => {
            let advice = "use a newer narfs, or another state";
            return vec![Finding::error(NAME, chain(&e)).advise(advice)];
        }
        Err(e @ StoreError::Foreign(_)) => {
            let advice = "give another directory with --state; this one is not touched";
            return vec![Finding::error(NAME, chain(&e)).advise(advice)];
        }
        Err(e) => {
            let advice = "make it readable and writable for root, or give another with --state";
            return vec![Finding::error(NAME, chain(&e)).advise(advice)];
        }
        Ok(found) => found,
    };
    let format = if found.is_older {
        " in an older format, which older versions can open as well until something newer is used"
    } else {
        ""
    };
    let seen = format!("{shown}, for paths in {}{format}", found.store_dir);
    let mut findings = vec![Finding::ok(NAME, seen)];
    findings.extend(permissions(dir, examination.fix));
    findings.extend(damage(store::damaged_chunks(dir), 0));
    findings
}

/// What is known of the state to be damaged.
pub(super) fn damage(chunks: u64, path_infos: u64) -> Option<Finding> {
    let seen = match (chunks, path_infos) {
        (0, 0) => return None,
        (chunks, 0) => format!("{chunks} chunks of the database are damaged"),
        (_, infos) => format!("{infos} path infos of the database are damaged"),
    };
    let advice = "`narfs verify --repair` names the paths, and fetches what is damaged again; check the disk";
    Some(Finding::error("damage", seen).advise(advice))
}

fn permissions(dir: &Path, fix: bool) -> Option<Finding> {
    const NAME: &str = "permissions";
    let metadata = fs::metadata(dir).ok()?;
    let (mode, owner) = (metadata.mode(), metadata.uid());
    let us = rustix::process::geteuid().as_raw();
    if owner != us && owner != 0 {
        let seen = format!(
            "{} belongs to user {owner}, who can change everything in it",
            dir.display()
        );
        return Some(
            Finding::warning(NAME, seen).advise(format!("chown -R root {}", dir.display())),
        );
    }
    if mode & WRITABLE == 0 {
        let seen = format!("mode {:04o}, owner {owner}", mode & 0o7777);
        return Some(Finding::ok(NAME, seen));
    }
    let seen = format!(
        "{} can be written by others (mode {:04o})",
        dir.display(),
        mode & 0o7777
    );
    let finding = Finding::warning(NAME, seen);
    let command = format!("chmod go-w {}", dir.display());
    if !fix {
        return Some(finding.advise(command));
    }
    let stricter = fs::Permissions::from_mode(mode & 0o7777 & !WRITABLE);
    Some(match fs::set_permissions(dir, stricter) {
        Ok(()) => finding.fixed("fixed"),
        Err(e) => finding.advise(format!("{command} (tried: {e})")),
    })
}

pub(super) fn disk(state: &Path) -> Finding {
    const NAME: &str = "disk";
    // The state may not exist yet.
    let there = state.ancestors().find(|dir| dir.exists()).unwrap_or(state);
    let shown = there.display();
    let (space, kind) = match (rustix::fs::statvfs(there), rustix::fs::statfs(there)) {
        (Ok(space), Ok(kind)) => (space, kind),
        (Err(e), _) | (_, Err(e)) => {
            return Finding::error(
                NAME,
                format!("cannot determine the free space at {shown}: {e}"),
            );
        }
    };
    let kind = file_system(kind.f_type as u32);
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    let seen = format!("{} free at {shown} ({kind})", mebibytes(free));
    if space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Finding::error(NAME, format!("{seen}, which is read-only"))
            .advise("mount it read-write, or give another state with --state");
    }
    if free < RESERVE {
        let seen = format!("{seen}, less than the reserve of {}", mebibytes(RESERVE));
        return Finding::error(NAME, seen).advise(
            "free space; `narfs evict --to SIZE` drops what can be fetched again, and `narfs gc` \
             what nothing needs",
        );
    }
    if free < RESERVE + SOON_FULL {
        return Finding::warning(NAME, format!("{seen}, which will not last long"))
            .advise("free space, or set a budget: `narfs mount -o budget=SIZE`");
    }
    match kind {
        "tmpfs" => Finding::note(
            NAME,
            format!("{seen}: in memory, and lost at the next boot"),
        ),
        "NFS" | "CIFS" | "FUSE" => {
            Finding::warning(NAME, format!("{seen}, which is not a local disk")).advise(
                "put the state on a local file system: the database relies on its locks and syncs",
            )
        }
        _ => Finding::ok(NAME, seen),
    }
}

/// statfs(2)
fn file_system(magic: u32) -> &'static str {
    match magic {
        0xef53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683e => "Btrfs",
        0x2fc1_2fc1 => "ZFS",
        0xca45_1a4e => "bcachefs",
        0xf2f5_2010 => "F2FS",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 => "CIFS",
        0x6573_5546 => "FUSE",
        _ => "another file system",
    }
}
