//! `narfs upgrade`

use std::path::PathBuf;
use std::process::Command as Process;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use super::{Global, Outcome, println};
use crate::daemon::{self, Command, CommandError, StatusReport};

/// Have this program, or another version of it, go on as the daemon of the state
///
/// Programs in the mount wait for the moment that it takes, and go on; commands that run are
/// broken off. Where a keeper looks after the daemon, which is what `narfs mount` starts, this very
/// program takes over, or --program; if it does not come up, the one before goes on. Under a
/// service manager the program that the unit names is started again.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The program that takes over
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// A daemon that is the next one says so within this; a keeper has gone back to the program before
/// by then.
const PATIENCE: Duration = Duration::from_secs(90);

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let state = global.state()?;
        let before = daemon::status(&state)?;
        let is_kept = before.supervisor.as_deref() == Some("keeper");
        let program = match self.program {
            Some(program) => Some(
                std::fs::canonicalize(&program)
                    .with_context(|| format!("there is no program {}", program.display()))?,
            ),
            None if is_kept => Some(std::env::current_exe()?),
            None => None,
        };
        let version = program.as_deref().map(version).transpose()?;
        let began = Instant::now();
        let command = Command::Upgrade { program };
        let Err(e) = global.run(command, false) else {
            bail!("the daemon does not end");
        };
        // It ends in the middle of the command if all is well.
        if !matches!(e.downcast_ref(), Some(CommandError::BrokenOff { .. })) {
            return Err(e);
        }
        let after = next(global, &before, began)?;
        if let Some(version) = version
            && version != after.version
        {
            bail!(
                "narfs {version} did not come up, and narfs {} goes on as process {}; {} says why",
                after.version,
                after.pid,
                state.join("narfs.log").display()
            );
        }
        println(&format!(
            "process {} (narfs {}) goes on for process {} (narfs {}) after {:.1} s",
            after.pid,
            after.version,
            before.pid,
            before.version,
            began.elapsed().as_secs_f64()
        ))?;
        Ok(Outcome::Good)
    }
}

/// Waits for the daemon after `before`.
fn next(global: &Global, before: &StatusReport, began: Instant) -> anyhow::Result<StatusReport> {
    let state = global.state()?;
    while began.elapsed() < PATIENCE {
        match daemon::status(&state) {
            Ok(status) if status.pid != before.pid => return Ok(status),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    bail!(
        "no other daemon came up within {} s; {} may say why",
        PATIENCE.as_secs(),
        state.join("narfs.log").display()
    )
}

/// The version of a program that is narfs.
fn version(program: &std::path::Path) -> anyhow::Result<String> {
    let output = Process::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().strip_prefix("narfs ") {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => bail!(
            "{} is not narfs: --version says {text:?}",
            program.display()
        ),
    }
}
