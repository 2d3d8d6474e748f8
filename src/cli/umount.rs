//! `narfs umount`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::outcome::Outcome;
use crate::{control, fuse};

/// Unmount; returns when the daemon has ended, or is waiting for the next mount
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Unmount even while programs use it; the daemon ends with the last of them
    #[arg(short = 'l', long)]
    lazy: bool,
    /// The mount point
    mountpoint: PathBuf,
}

/// Timeout for the end of a daemon that has nothing left to serve.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
        let at = fuse::mountpoint(&self.mountpoint)?;
        let state = fuse::unmount(&at, self.lazy)?;
        let elsewhere = !fuse::mounted_states(&state)?.is_empty();
        if self.lazy || elsewhere {
            return Ok(Outcome::Good);
        }
        if !control::wait_until_unmounted(&state, TIMEOUT) {
            bail!(
                "{} is unmounted, but the daemon still owns the state {}; it may be mounted in \
                 another mount namespace, or a command may still run",
                at.display(),
                state.display()
            );
        }
        Ok(Outcome::Good)
    }
}
