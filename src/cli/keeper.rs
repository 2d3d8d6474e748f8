//! `narfs keeper`: started by `narfs mount` in the background.

use std::ffi::OsString;

use anyhow::Context;
use clap::Args;

use super::config::Choices;
use super::global::{Global, GlobalFlags};
use super::log::LogFormat;
use super::outcome::Outcome;
use crate::daemon::ServeRequest;
use crate::substituter::redacted;
use crate::supervision::{self, RestartRecord};

/// Start the daemon of a state, and restart it whenever it ends before the unmount
#[derive(Debug, Args)]
pub(super) struct Arguments {}

/// Starts a keeper, and waits until its daemon serves `request`. `command` is the command line with
/// which a daemon gets the same request when it reads the configuration again.
pub(super) fn start(
    global: &Global,
    command: Vec<OsString>,
    request: &ServeRequest,
) -> anyhow::Result<()> {
    let mut flags = global_flags(global);
    flags.extend(command);
    let record = RestartRecord {
        arguments: without_secrets(&flags),
        flags,
        request: serde_json::to_value(request)?,
    };
    Ok(supervision::start_keeper(&request.state, &record)?)
}

/// Global flags that produce the same settings in any working directory.
fn global_flags(global: &Global) -> Vec<OsString> {
    let settings = &global.decided.settings;
    let mut flags: Vec<OsString> = vec!["--config".into()];
    flags.push(global.decided.file.to_name_again().into());
    let choices = Choices {
        state: Some(settings.state.clone()),
        store_dir: Some(settings.store_dir.clone()),
        memory: Some(settings.memory.clone()),
        // A default that is given would keep an older narfs from taking over.
        log_format: Some(settings.log_format.clone()).filter(|f| f.value != LogFormat::Text),
        ..Choices::default()
    };
    for (flag, argument) in choices.flags() {
        flags.push(flag.into());
        flags.extend(argument);
    }
    if global.verbose > 0 {
        flags.push(format!("-{}", "v".repeat(usize::from(global.verbose))).into());
    }
    flags
}

/// Arguments without passwords, since any user can read a command line.
pub(super) fn without_secrets(arguments: &[OsString]) -> Vec<OsString> {
    let shown = arguments.iter().map(|argument| match argument.to_str() {
        Some(text) => redacted(text).into(),
        None => argument.clone(),
    });
    shown.collect()
}

impl Arguments {
    /// Runs the keeper, which needs only the state directory.
    pub(super) fn run(self, flags: &GlobalFlags) -> anyhow::Result<Outcome> {
        let state = flags.settings.choices.state.as_ref();
        let state = state.context("a keeper needs --state")?;
        Ok(match supervision::keep(&state.value)? {
            0 => Outcome::Good,
            _ => Outcome::Failed,
        })
    }
}
