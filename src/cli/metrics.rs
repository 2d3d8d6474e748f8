//! `narfs metrics`

use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::print_json;
use crate::command::FiguresReport;
use crate::control;

/// Print what the daemon counts, in the text format of Prometheus
///
/// Nothing is scanned for it, so that it may be asked for every few seconds.
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

/// What the daemon counts.
pub(super) fn figures(global: &Global) -> anyhow::Result<FiguresReport> {
    Ok(control::figures(&global.state()?, None)?)
}
