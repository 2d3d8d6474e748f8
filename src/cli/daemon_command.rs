//! `narfs daemon`

use anyhow::bail;
use clap::Args;

use super::serving::{Serving, serve};
use super::{Global, Outcome, Usage, config, keeper};
use crate::daemon::{self, Mounting};

/// Serve the state without a mount of its own, and wait for mounts
///
/// `mount -t narfs`, and so fstab and systemd, hand their mounts over to it; `narfs mount` mounts
/// through it. It goes on after an unmount, with the same sources, waits and budget for the next mount, until
/// it is told to end (SIGTERM). Readiness is told as sd_notify(3) says.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    serving: Serving,
    /// Return once it waits for a mount, and serve that in the background until it is unmounted
    #[arg(long)]
    background: bool,
    /// End when the first mount is unmounted
    #[arg(long, hide = true)]
    until_unmounted: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let mut options = self.serving.options.iter();
        if let Some(unknown) = options.find(|o| !config::is_daemon_option(o)) {
            return Err(Usage::error(format!(
                "unknown option {unknown:?}; there are lookup-timeout=SECONDS, \
                 contents-timeout=SECONDS, absent-ttl=SECONDS, prefetch=none|closure, \
                 budget=SIZE and file-handles"
            )));
        }
        let settings = self.serving.settings(global)?;
        let state = global.state()?;
        if !daemon::may_take_over()
            && let Ok(status) = daemon::status(&state)
        {
            bail!(
                "process {} serves the state {} already; unmount it, or end that process, first",
                status.pid,
                state.display()
            );
        }
        if self.background {
            let mut command = keeper::command(global, &state)?;
            command.args(["daemon", "--until-unmounted"]);
            self.serving.pass_on(&mut command)?;
            daemon::start_keeper(command)?;
            return Ok(Outcome::Good);
        }
        let until_unmounted = self.until_unmounted;
        serve(global, &settings, Mounting::Others { until_unmounted })?;
        Ok(Outcome::Good)
    }
}
