//! `narfs keeper`: what `narfs mount` starts in the background.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
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

/// The keeper of a command for the background, which is still to be named: started anew rather than
/// forked, since threads do not survive a fork; with absolute paths and at `/`, so that it keeps no
/// directory busy.
pub(super) fn command(global: &Global, state: &Path) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find the program itself")?;
    let mut command = Command::new(program);
    let config = global.decided.file.to_name_again();
    command.current_dir("/").arg("--config").arg(config);
    command.arg("--state").arg(state).args(["keeper", "--"]);
    command.arg("--config").arg(config);
    command.arg("--state").arg(state);
    let settings = &global.decided.settings;
    command.args(["--memory", &settings.memory.value.to_string()]);
    if let Some(store_dir) = &settings.store_dir.value {
        command.args(["--store-dir", store_dir.as_str()]);
    }
    if global.verbose > 0 {
        command.arg(format!("-{}", "v".repeat(usize::from(global.verbose))));
    }
    Ok(command)
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        Ok(match daemon::keep(&global.state()?, self.arguments)? {
            0 => Outcome::Good,
            _ => Outcome::Failed,
        })
    }
}
