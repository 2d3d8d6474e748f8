//! Checks of the kernel, its FUSE device, and the privileges of this process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use super::finding::Finding;

/// `/dev/fuse` is the character device 10:229 (Documentation/admin-guide/devices.txt).
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// Oldest Linux version that works: mounts need `open_tree` and `move_mount`.
const OLDEST_LINUX: (u32, u32) = (5, 2);
/// First Linux version with `FUSE_NOTIFY_RESEND`.
const RESEND_LINUX: (u32, u32) = (6, 9);
/// Number of CAP_SYS_ADMIN.
const SYS_ADMIN: u32 = 21;
/// Descriptors that a daemon needs for its database, its sources and its clients.
const DESCRIPTORS: u64 = 1024;

pub(super) fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    judge_kernel(release.trim())
}

fn judge_kernel(release: &str) -> Finding {
    const NAME: &str = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (number(), number()) else {
        let seen = format!("cannot parse its version {release:?}");
        return Finding::warning(NAME, seen).advise("mount /proc");
    };
    let version = (major, minor);
    if version < OLDEST_LINUX {
        let seen = format!("Linux {release} lacks open_tree(2), which mounts need");
        return Finding::error(NAME, seen)
            .advise("use Linux 5.2 or later, preferably 6.9 or later");
    }
    if version < RESEND_LINUX {
        let seen = format!(
            "Linux {release} does not resend requests (FUSE_NOTIFY_RESEND): a program that \
             waits for a reply while the daemon is killed may hang"
        );
        return Finding::warning(NAME, seen).advise("use Linux 6.9 or later");
    }
    Finding::ok(NAME, format!("Linux {release}, which resends requests"))
}

pub(super) fn fuse_device(fix: bool) -> Finding {
    const NAME: &str = "/dev/fuse";
    let advice = "load the module with `modprobe fuse`; in a container, pass the device in \
                  (--device /dev/fuse)";
    let path = Path::new("/dev/fuse");
    let error = match open_fuse(path) {
        Ok(()) => return Finding::ok(NAME, "it can be opened"),
        Err(e) => e,
    };
    if error.kind() == io::ErrorKind::PermissionDenied {
        let seen = format!("it cannot be opened: {error}");
        return Finding::error(NAME, seen).advise("run as root, and let containers use the device");
    }
    let finding = Finding::error(
        NAME,
        format!("it is missing, or not the FUSE device: {error}"),
    );
    if !fix {
        return finding.advise(advice);
    }
    let loaded = Command::new("modprobe").arg("fuse").output();
    match open_fuse(path) {
        Ok(()) => finding.fixed("the module was loaded"),
        Err(_) => {
            let why = match loaded {
                Ok(ran) if ran.status.success() => "it had no effect".to_owned(),
                Ok(ran) => String::from_utf8_lossy(&ran.stderr).trim().to_owned(),
                Err(e) => e.to_string(),
            };
            finding.advise(format!("{advice}; tried `modprobe fuse`: {why}"))
        }
    }
}

fn open_fuse(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let metadata = file.metadata()?;
    let device = metadata.rdev();
    let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
    if !metadata.file_type().is_char_device() || numbers != FUSE_DEVICE {
        let what = "it is not the character device 10:229";
        return Err(io::Error::other(what));
    }
    Ok(())
}

pub(super) fn privileges() -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|c| u64::from_str_radix(c.trim(), 16).ok());
    let is_root = rustix::process::geteuid().is_root();
    judge_privileges(is_root, effective.unwrap_or(0))
}

fn judge_privileges(is_root: bool, capabilities: u64) -> Finding {
    const NAME: &str = "privileges";
    let may_mount = capabilities >> SYS_ADMIN & 1 == 1;
    match (may_mount, is_root) {
        (true, true) => Finding::ok(NAME, "root with CAP_SYS_ADMIN"),
        (true, false) => Finding::note(NAME, "CAP_SYS_ADMIN, but not root").advise(
            "files of root, such as the default state directory, are not \
             accessible; run as root if you need them",
        ),
        (false, true) => Finding::error(NAME, "root without CAP_SYS_ADMIN: nothing can be mounted")
            .advise("start the container with --cap-add SYS_ADMIN, or mount on its host"),
        (false, false) => Finding::error(NAME, "not root: nothing can be mounted")
            .advise("run as root, with sudo for example"),
    }
}

/// The setuid helper for FUSE mounts by users, and its configuration.
pub(super) fn fusermount() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("fusermount3"))
        .find(|file| file.is_file());
    let seen = match found {
        Some(file) => format!("{} exists", file.display()),
        None => "it is not installed".to_owned(),
    };
    let unused = "narfs mounts by itself and uses neither it nor /etc/fuse.conf";
    Finding::note("fusermount3", format!("{seen}; {unused}"))
}

pub(super) fn limits() -> Finding {
    const NAME: &str = "limits";
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let current = limits.current.unwrap_or(u64::MAX);
    if current < DESCRIPTORS {
        let seen = format!("a process may have {current} descriptors open (RLIMIT_NOFILE)");
        return Finding::warning(NAME, seen).advise(format!(
            "allow {DESCRIPTORS} or more: `ulimit -n {DESCRIPTORS}` before the mount, or \
             LimitNOFILE= in its unit"
        ));
    }
    let many = limits
        .current
        .map_or("any number of".to_owned(), |n| n.to_string());
    Finding::ok(NAME, format!("a process may have {many} descriptors open"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn kernels_are_judged_by_what_they_can() {
        let verdict = |release| judge_kernel(release).verdict;
        assert_eq!(verdict("6.18.0-rc1"), Verdict::Ok);
        assert_eq!(verdict("6.9.0"), Verdict::Ok);
        assert_eq!(verdict("10.0"), Verdict::Ok);
        assert_eq!(verdict("6.8.12-generic"), Verdict::Warning);
        assert_eq!(verdict("5.2"), Verdict::Warning);
        assert_eq!(verdict("4.19.1"), Verdict::Error);
        assert_eq!(verdict(""), Verdict::Warning);
    }

    #[test]
    fn who_may_not_mount_is_told_so() {
        let admin = 1 << SYS_ADMIN;
        assert_eq!(judge_privileges(true, admin).verdict, Verdict::Ok);
        assert_eq!(judge_privileges(false, u64::MAX).verdict, Verdict::Note);
        assert_eq!(judge_privileges(true, !admin).verdict, Verdict::Error);
        assert_eq!(judge_privileges(false, 0).verdict, Verdict::Error);
    }

    #[test]
    fn what_is_no_fuse_device_is_none() {
        let e = open_fuse(Path::new("/dev/null")).unwrap_err();
        assert!(e.to_string().contains("10:229"));
    }
}
