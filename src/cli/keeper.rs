//! `narfs keeper`: what `narfs mount` starts in the background.

use std::ffi::OsString;

use clap::Args;

use super::{Global, Outcome};
use crate::daemon;

/// Start the daemon that the arguments say, and again whenever it ends before it is unmounted
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Arguments of narfs
    #[arg(required = true, last = true)]
    arguments: Vec<OsString>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        Ok(match daemon::keep(&global.state()?, self.arguments)? {
            0 => Outcome::Good,
            _ => Outcome::Failed,
        })
    }
}
