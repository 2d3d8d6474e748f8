//! `narfs trace`

use anyhow::bail;
use clap::{Args, Subcommand};

use super::global::Global;
use super::outcome::Outcome;
use super::output::{print_json, println};
use crate::command::{Report, Request, TraceCommand};

/// Record which paths a run touches, so that `narfs prefetch --trace` can warm the next one
///
/// What is recorded is what the kernel asks the mount for; what it has in its caches already it
/// does not ask for. So record the first run after a mount, or give --drop-caches.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Traces,
}

#[derive(Debug, Subcommand)]
enum Traces {
    /// Begin to record
    Start {
        /// Letters, digits and +-._
        name: String,
        /// Have the kernel forget what it has cached first, of all file systems of this machine
        #[arg(long)]
        drop_caches: bool,
    },
    /// End the recording and keep it under its name, instead of an older one
    Stop {
        /// As it was started
        name: String,
    },
    /// Name the traces that there are
    List {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the store paths of a trace in the order in which they were touched
    Show {
        /// Which
        name: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a trace
    Delete {
        /// Which
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
            _ => bail!("the daemon gave another report than that of a trace"),
        }
        Ok(Outcome::Good)
    }
}
