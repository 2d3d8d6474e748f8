//! What is served, as data that outlives a daemon: a sealed file in memory, which nobody can change and
//! which only who has its descriptor can read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

/// How a daemon is started again, and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Arguments of narfs that start a daemon, without secrets.
    pub arguments: Vec<OsString>,
    /// The same with secrets, for a daemon that reads the configuration again.
    pub flags: Vec<OsString>,
    /// What is served; only daemons know what is in it.
    pub request: serde_json::Value,
}

impl Held {
    /// Writes it to a file in memory that nobody can change.
    ///
    /// # Errors
    /// The kernel has no memory for it.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("narfs-request", flags)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(file.into())
    }

    /// Reads what was sealed.
    ///
    /// # Errors
    /// It is something else, or of a version that this one does not know.
    pub fn read(descriptor: impl AsFd) -> io::Result<Self> {
        let file = File::from(descriptor.as_fd().try_clone_to_owned()?);
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut text = vec![0; length];
        file.read_exact_at(&mut text, 0)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_read_often_and_changed_by_nobody() {
        let held = Held {
            arguments: vec!["mount".into(), "/nix".into()],
            flags: vec!["mount".into(), "/nix".into(), "--from=https://u:p@h".into()],
            request: serde_json::json!({"a": [1, 2]}),
        };
        let descriptor = held.seal().unwrap();
        for _ in 0..2 {
            assert_eq!(Held::read(&descriptor).unwrap(), held);
        }
        let file = File::from(descriptor);
        assert!((&file).write_all(b"x").is_err() && file.set_len(0).is_err());
        assert!(Held::read(io::pipe().unwrap().0).is_err());
    }
}
