//! `narfs mount`

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use super::{Global, Outcome};
use crate::daemon::{self, Command};
use crate::fuse::{self, MountRequest, Subtree};

/// Mount the state as a read-only file system
///
/// Returns once the mount answers, and serves it in the background until it is unmounted. Where a
/// daemon serves the state already, the same file system is shown at one more place.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An empty directory, usually /nix
    mountpoint: PathBuf,
    /// Options, comma-separated: subtree=store (show only the store, for /nix/store), nonempty
    /// (mount over a directory that has something in it); ro and x-… change nothing
    #[arg(
        short = 'o',
        long = "options",
        value_name = "OPTS",
        value_delimiter = ','
    )]
    options: Vec<String>,
    /// Serve in the foreground, for service managers; readiness is told as sd_notify(3) says
    #[arg(long)]
    foreground: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let request = self.request()?;
        let state = global.state()?;
        if daemon::is_served(&state) {
            if self.foreground {
                bail!(
                    "another process serves the state {} already; without --foreground, it would \
                     show it at {} too",
                    state.display(),
                    request.mountpoint.display()
                );
            }
            global.run(Command::Mount(request), false)?;
            return Ok(Outcome::Good);
        }
        if self.foreground {
            daemon::serve(&state, &global.options(true)?, &request)?;
            return Ok(Outcome::Good);
        }
        // Started anew rather than forked: threads do not survive a fork.
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = std::process::Command::new(program);
        command
            .args(std::env::args_os().skip(1))
            .arg("--foreground");
        command.env("NARFS_STATE", &state);
        daemon::spawn_and_wait(command)?;
        Ok(Outcome::Good)
    }

    fn request(&self) -> anyhow::Result<MountRequest> {
        let mut request = MountRequest {
            mountpoint: fuse::mountpoint(&self.mountpoint)?,
            subtree: Subtree::Whole,
            nonempty: false,
        };
        for option in &self.options {
            match option.as_str() {
                "subtree=store" => request.subtree = Subtree::Store,
                "nonempty" => request.nonempty = true,
                "" | "ro" | "_netdev" | "nofail" | "allow_other" => {}
                o if o.starts_with("x-") => {}
                other => {
                    bail!("unknown mount option {other:?}; there are subtree=store and nonempty")
                }
            }
        }
        Ok(request)
    }
}
