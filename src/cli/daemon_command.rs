//! `narfs daemon`

use anyhow::bail;
use clap::Args;

use super::copy::{self, Sources};
use super::progress::show_fetches;
use super::{Global, Outcome, Usage, config, keeper, mount};
use crate::daemon::{self, Mounting};

/// Serve the state without a mount of its own, and wait for mounts
///
/// `mount -t narfs`, and so fstab and systemd, hand their mounts over to it; `narfs mount` mounts
/// through it. It goes on after an unmount, with the same sources, waits and budget for the next mount, until
/// it is told to end (SIGTERM). Readiness is told as sd_notify(3) says.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Options of `narfs mount` that concern what is fetched, comma-separated: lookup-timeout=10,
    /// contents-timeout=30, absent-ttl=10, prefetch=closure, budget=20G
    #[arg(
        short = 'o',
        long = "options",
        value_name = "OPTS",
        value_delimiter = ','
    )]
    options: Vec<String>,
    /// Ask no source: show what the state has
    #[arg(long, conflicts_with = "from")]
    offline: bool,
    #[command(flatten)]
    sources: Sources,
    /// Return once it waits for a mount, and serve that in the background until it is unmounted
    #[arg(long)]
    background: bool,
    /// End when the first mount is unmounted
    #[arg(long, hide = true)]
    until_unmounted: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        if let Some(unknown) = self.options.iter().find(|o| !concerns_fetching(o)) {
            return Err(Usage::error(format!(
                "unknown option {unknown:?}; there are lookup-timeout=SECONDS, \
                 contents-timeout=SECONDS, absent-ttl=SECONDS, prefetch=none|closure and budget=SIZE"
            )));
        }
        let choices = mount::choices(&self.sources, self.offline, &self.options)?;
        let settings = global.decided.with(&choices);
        let state = global.state()?;
        if !daemon::may_take_over()
            && let Some(status) = daemon::status(&state)
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
            if !self.options.is_empty() {
                command.args(["-o", &self.options.join(",")]);
            }
            if self.offline {
                command.arg("--offline");
            }
            command.args(self.sources.arguments()?);
            daemon::start_keeper(command)?;
            return Ok(Outcome::Good);
        }
        copy::warn_unsigned(&settings);
        let until_unmounted = self.until_unmounted;
        let request = mount::serve_request(&settings, Mounting::Others { until_unmounted });
        daemon::serve(&state, &global.options(true)?, &request, show_fetches())?;
        Ok(Outcome::Good)
    }
}

/// Whether an option of mounts is one of the daemon, and not of each mount.
fn concerns_fetching(option: &str) -> bool {
    config::is_mount_option(option) && !option.starts_with("writable-profiles")
}
