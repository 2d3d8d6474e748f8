//! The restart record: how to start the next daemon and what it serves, in a sealed memfd. The
//! memfd outlives the daemon, cannot be modified, and is readable only through its descriptor.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

/// How to start the next daemon, and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartRecord {
    /// Command line of narfs that starts a daemon, without secrets.
    pub arguments: Vec<OsString>,
    /// The same command line with secrets, for a daemon that reads the configuration again.
    pub flags: Vec<OsString>,
    /// The serve request; opaque outside the daemon.
    pub request: serde_json::Value,
}

impl RestartRecord {
    /// Writes the record to a sealed memfd.
    ///
    /// # Errors
    /// The kernel is out of memory.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("narfs-request", flags)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(file.into())
    }

    /// Reads a sealed record.
    ///
    /// # Errors
    /// The descriptor holds something else, or a record of an unknown version.
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
    fn a_sealed_record_can_be_read_again_and_not_modified() {
        let record = RestartRecord {
            arguments: vec!["mount".into(), "/nix".into()],
            flags: vec!["mount".into(), "/nix".into(), "--from=https://u:p@h".into()],
            request: serde_json::json!({"a": [1, 2]}),
        };
        let descriptor = record.seal().unwrap();
        for _ in 0..2 {
            assert_eq!(RestartRecord::read(&descriptor).unwrap(), record);
        }
        let file = File::from(descriptor);
        assert!((&file).write_all(b"x").is_err() && file.set_len(0).is_err());
        assert!(RestartRecord::read(io::pipe().unwrap().0).is_err());
    }
}
