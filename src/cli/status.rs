//! `narfs status`

use anyhow::bail;
use clap::Args;

use super::{Global, Outcome, bytes, print_json, println};
use crate::daemon;

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
        let Some(s) = daemon::status(&state) else {
            bail!(
                "no daemon serves the state {}; `narfs mount` starts one",
                state.display()
            );
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
