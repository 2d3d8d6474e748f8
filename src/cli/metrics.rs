//! `narfs metrics`

use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::print_json;
use crate::command::FiguresReport;
use crate::control;

/// Print the metrics of the daemon, in the text format of Prometheus
///
/// Nothing is scanned for this, so it can be run every few seconds.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        use std::io::Write;
        let figures = figures(global)?;
        if self.json {
            print_json(&figures)?;
        } else {
            std::io::stdout().write_all(figures.exposition().as_bytes())?;
        }
        Ok(Outcome::Good)
    }
}

/// Requests the metrics of the daemon.
pub(super) fn figures(global: &Global) -> anyhow::Result<FiguresReport> {
    Ok(control::figures(&global.state()?, None)?)
}
