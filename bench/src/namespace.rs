//! A mount namespace of its own for a measurement: what is mounted there nobody else sees, and what
//! others have mounted at /nix is neither seen nor touched there.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where a Nix store lies for the programs in it.
pub const NIX: &str = "/nix";

/// Runs something, and all processes that it starts, in a new mount namespace with nothing
/// mounted at /nix.
pub fn private<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    fs::create_dir_all(NIX).with_context(|| format!("cannot make {NIX}"))?;
    // The namespace is that of a thread: it goes with it and with the last process in it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter().context("cannot make a mount namespace: this needs CAP_SYS_ADMIN")?;
            uncover();
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("a measurement ended in a panic")))
    })
}

fn enter() -> rustix::io::Result<()> {
    // SAFETY: a mount namespace takes no descriptor away from other threads; that this thread no
    // longer shares its working directory with them does not matter to anybody.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
}

/// Takes away what is mounted at /nix, in this namespace.
pub fn uncover() {
    while unmount(NIX, UnmountFlags::DETACH).is_ok() {}
}

/// Shows a directory at /nix, in this namespace.
pub fn cover(dir: &Path) -> Result<()> {
    mount_bind(dir, NIX).with_context(|| format!("cannot bind {} to {NIX}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_a_private_namespace_is_seen_by_its_processes_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("narfs-bench-was-here"), "").unwrap();
        let ls = || {
            let output = std::process::Command::new("ls").arg(NIX).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        private(|| {
            cover(dir.path())?;
            assert_eq!(ls(), "narfs-bench-was-here\n");
            Ok(())
        })
        .unwrap();
        assert!(!ls().contains("was-here"));
    }
}
