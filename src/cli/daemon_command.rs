//! `narfs daemon`

use anyhow::bail;
use clap::Args;

use super::config;
use super::global::Global;
use super::keeper;
use super::outcome::{Outcome, Usage};
use super::serving::{self, Serving};
use crate::control;
use crate::daemon::{Mounting, ServeRequest};
use crate::supervision;

/// Serve the state without a mount of its own, and wait for mounts
///
/// `mount -t narfs`, and so fstab and systemd, hand their mounts over to it; `narfs mount` mounts
/// through it. After an unmount it waits for the next mount, with the same sources, timeouts and
/// budget, until it gets SIGTERM. It reports readiness by sd_notify(3).
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    serving: Serving,
    /// Return once it waits for a mount, and serve that mount in the background until it is
    /// unmounted
    #[arg(long)]
    background: bool,
    /// Exit when the first mount is unmounted
    #[arg(long, hide = true)]
    until_unmounted: bool,
}

impl Arguments {
    /// Whether this process is to become the daemon.
    pub(super) fn serves_here(&self) -> bool {
        !self.background
    }

    /// The serve request; fails if another daemon serves the state.
    pub(super) fn serve_request(&self, global: &Global) -> anyhow::Result<ServeRequest> {
        let mut options = self.serving.options.iter();
        if let Some(unknown) = options.find(|o| !config::is_daemon_option(o)) {
            return Err(Usage::error(format!(
                "unknown option {unknown:?}; there are {}",
                config::named_options(false)
            )));
        }
        let settings = self.serving.settings(global)?;
        if !supervision::may_take_over()
            && let Ok(status) = control::status(&global.state()?, None)
        {
            bail!(
                "process {} serves the state {} already; unmount it, or end that process, first",
                status.pid,
                status.state.display()
            );
        }
        let until_unmounted = self.until_unmounted || self.background;
        serving::request(global, &settings, Mounting::Others { until_unmounted })
    }

    /// Starts a daemon in the background.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let mut command = vec!["daemon".into(), "--until-unmounted".into()];
        command.extend(self.serving.arguments());
        keeper::start(global, command, &self.serve_request(global)?)?;
        Ok(Outcome::Good)
    }
}
