//! Options that `narfs mount` and `narfs daemon` have in common.

use std::ffi::OsString;

use clap::Args;

use super::config::{self, Choices, FETCHING, Flags, SERVING, Setting, Settings};
use super::global::Global;
use super::outcome::Usage;
use super::sources;
use crate::daemon::{Mounting, ServeRequest};
use crate::fuse::{self, FileHandles};
use crate::substituter::redacted;

/// Options of the served state.
#[derive(Debug, Args)]
pub(super) struct Serving {
    #[arg(
        short = 'o',
        long = "options",
        value_name = "OPTS",
        value_delimiter = ',',
        help = "Options, comma-separated; --help lists them",
        long_help = options_help()
    )]
    pub(super) options: Vec<String>,
    /// Ask no source: show what the state has
    #[arg(long, conflicts_with = "from")]
    offline: bool,
    #[command(flatten)]
    flags: Flags<{ FETCHING | SERVING }>,
}

impl Serving {
    /// The options; a comma within double quotes does not separate them.
    pub(super) fn options(&self) -> Vec<String> {
        let mut whole: Vec<String> = Vec::new();
        for part in &self.options {
            match whole.last_mut().filter(|o| o.matches('"').count() % 2 == 1) {
                Some(open) => *open = format!("{open},{part}"),
                None => whole.push(part.clone()),
            }
        }
        whole
    }

    /// The settings with these flags.
    pub(super) fn settings(&self, global: &Global) -> anyhow::Result<Settings> {
        let own = self.choices()?;
        global.decided.warn_left_out(&own)?;
        global.decided.with(&own)
    }

    fn choices(&self) -> anyhow::Result<Choices> {
        let mut choices = self.flags.choices.clone();
        if self.offline {
            choices.from = Some(Setting::flag(Vec::new()));
        }
        for option in &self.options {
            choices.take_mount_option(option).map_err(Usage::error)?;
        }
        Ok(choices)
    }

    /// The flags that were given, without the options, each with its argument.
    fn flags(&self) -> Vec<(String, Option<OsString>)> {
        let offline = self.offline.then(|| ("--offline".to_owned(), None));
        let chosen = self.flags.choices.flags();
        offline.into_iter().chain(chosen).collect()
    }

    /// The same flags for a daemon in the background, from any directory.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if !self.options.is_empty() {
            arguments.extend(["-o".into(), self.options.join(",").into()]);
        }
        for (flag, argument) in self.flags() {
            arguments.push(flag.into());
            arguments.extend(argument);
        }
        arguments
    }

    /// What was given that only the start of a daemon heeds, as it may be shown.
    pub(super) fn given(&self) -> Vec<String> {
        let shown = |(flag, argument): (String, Option<OsString>)| match argument {
            Some(argument) => format!("{flag} {}", redacted(&argument.to_string_lossy())),
            None => flag,
        };
        let flags = self.flags().into_iter().map(shown);
        let options = self.options().into_iter();
        let options = options.filter(|o| config::is_daemon_option(o) || fuse::label(o).is_some());
        flags.chain(options.map(|o| format!("-o {o}"))).collect()
    }
}

/// What `--help` says of the options.
fn options_help() -> String {
    let lines = |of_each_mount| {
        let options = config::mount_options(of_each_mount).into_iter();
        options
            .map(|(option, help)| format!("\n  {option}: {help}"))
            .collect::<String>()
    };
    format!(
        "Options, comma-separated; ro and x-… change nothing:{}\nOf a mount alone:{}\n  \
         subtree=store: Show only the store, for /nix/store\n  \
         nonempty: Mount over a directory that has something in it\n  \
         context=LABEL, fscontext=LABEL, defcontext=LABEL, rootcontext=LABEL: Labels of SELinux",
        lines(false),
        lines(true)
    )
}

/// What a daemon is to serve with what is in force.
pub(super) fn request(
    global: &Global,
    settings: &Settings,
    mounting: Mounting,
) -> anyhow::Result<ServeRequest> {
    sources::warn_unsigned(settings);
    let mounted = settings.mount();
    let options = global.options(true);
    let store_dir = options.store_dir.map(|dir| dir.as_str().to_owned());
    Ok(ServeRequest {
        state: global.state()?,
        store_dir,
        memory: options.memory,
        mounting,
        sources: sources::in_force(settings),
        deadlines: mounted.deadlines,
        prefetch: mounted.prefetch,
        budget: mounted.budget,
        file_handles: if mounted.file_handles {
            FileHandles::Given
        } else {
            FileHandles::Refused
        },
        listen: settings.listen.value.clone(),
        volume_plugin: settings.volume_plugin.value.clone(),
        nix_socket: settings.nix_socket.value.clone(),
    })
}
