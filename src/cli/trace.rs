//! `narfs trace`

use anyhow::bail;
use clap::{Args, Subcommand};

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{Report, Request, TraceCommand};

/// Record which paths a run accesses, so that `narfs prefetch --trace` can fetch them for the next
/// run
///
/// Accesses are recorded as the kernel sends requests to the mount; it sends none for what it has
/// cached. Record the first run after a mount, or use --drop-caches.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Traces,
}

#[derive(Debug, Subcommand)]
enum Traces {
    /// Start recording
    Start {
        /// Letters, digits and +-._
        name: String,
        /// Drop the caches of the kernel first, for all file systems of this machine
        #[arg(long)]
        drop_caches: bool,
    },
    /// Stop recording, and save the trace under its name, replacing an older one
    Stop {
        /// Name given at the start
        name: String,
    },
    /// List the traces
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the store paths of a trace, in the order of access
    Show {
        /// Name of the trace
        name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a trace
    Delete {
        /// Name of the trace
        name: String,
    },
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let mut as_json = false;
        let mut quiet = false;
        let command = match self.command {
            Traces::Start { name, drop_caches } => TraceCommand::Start { name, drop_caches },
            Traces::Stop { name } => {
                quiet = true;
                TraceCommand::Stop(name)
            }
            Traces::List { json } => {
                as_json = json;
                TraceCommand::List
            }
            Traces::Show { name, json } => {
                as_json = json;
                TraceCommand::Show(name)
            }
            Traces::Delete { name } => TraceCommand::Delete(name),
        };
        match global.run(Request::Trace(command), false)? {
            Report::Done => {}
            Report::Trace(paths) if quiet => println(&format!("{} paths", paths.len()))?,
            Report::Trace(paths) if as_json => print_json(&paths)?,
            Report::Trace(paths) => {
                for path in paths {
                    println(&path)?;
                }
            }
            Report::Traces(traces) if as_json => print_json(&traces)?,
            Report::Traces(traces) => {
                for t in traces {
                    let recording = if t.recording { ", recording" } else { "" };
                    println(&format!("{}   {} paths{recording}", t.name, t.paths))?;
                }
            }
            _ => bail!("the daemon sent an unexpected report instead of a trace"),
        }
        Ok(Outcome::Good)
    }
}
