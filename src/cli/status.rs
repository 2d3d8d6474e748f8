//! `narfs status`

use anyhow::bail;
use clap::Args;

use super::{Global, Outcome, bytes, print_json, println};
use crate::daemon::{self, Command, Report};

/// Show the daemon that serves the state
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let state = global.state()?;
        if !daemon::is_served(&state) {
            bail!(
                "no daemon serves the state {}; `narfs mount` starts one",
                state.display()
            );
        }
        let Report::Status(s) = global.run(Command::Status, false)? else {
            bail!("the daemon gave another report than its status");
        };
        if self.json {
            print_json(&s)?;
            return Ok(Outcome::Good);
        }
        println(&format!(
            "narfs {}, process {}, up {} s",
            s.version, s.pid, s.uptime
        ))?;
        println(&format!(
            "state       {} ({} paths)",
            s.state.display(),
            s.paths
        ))?;
        for at in &s.mountpoints {
            println(&format!("mounted at  {}", at.display()))?;
        }
        for f in &s.fetches {
            let (done, all) = (bytes(f.nar_bytes_done), bytes(f.nar_bytes));
            println(&format!(
                "copying     {}/{} paths, {done} of {all}",
                f.paths_done, f.paths
            ))?;
        }
        Ok(Outcome::Good)
    }
}
