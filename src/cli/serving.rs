//! Options that `narfs mount` and `narfs daemon` have in common.

use std::ffi::OsString;

use clap::Args;

use super::config::{self, Choices, Setting, Settings};
use super::global::Global;
use super::outcome::Usage;
use super::sources::{self, Sources};
use super::volume_plugin::VolumePlugin;
use crate::daemon::{Mounting, ServeRequest};
use crate::fuse::{self, FileHandles};
use crate::http::Address;

/// Options of the served state.
#[derive(Debug, Args)]
pub(super) struct Serving {
    /// Options, comma-separated. How many seconds programs wait for what is fetched:
    /// lookup-timeout=10 (for a store path), contents-timeout=30 (inside a path, without any of it
    /// arriving), absent-ttl=10 (how long it is remembered that no source has a path);
    /// prefetch=closure (fetch what a path refers to once something looks inside; none), budget=20G
    /// (how much fetched contents may take; none). Of a mount: subtree=store (show only the store,
    /// for /nix/store), nonempty (mount over a directory that has something in it),
    /// writable-profiles (programs such as nix-env may change profiles by their links; false),
    /// file-handles (files can be opened by their handles, for NFS and virtiofs, and there are no
    /// closure views; false), context=LABEL, fscontext=LABEL, defcontext=LABEL and
    /// rootcontext=LABEL (of SELinux); ro and x-… change nothing
    #[arg(
        short = 'o',
        long = "options",
        value_name = "OPTS",
        value_delimiter = ','
    )]
    pub(super) options: Vec<String>,
    /// Ask no source: show what the state has
    #[arg(long, conflicts_with = "from")]
    offline: bool,
    #[command(flatten)]
    sources: Sources,
    /// Serve metrics for Prometheus, status and health over HTTP there: 127.0.0.1:9464, [::1]:9464 or
    /// unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
    #[command(flatten)]
    volume_plugin: VolumePlugin,
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
        Ok(global.decided.with(&self.choices()?))
    }

    fn choices(&self) -> anyhow::Result<Choices> {
        let mut choices = self.sources.choices()?;
        if self.offline {
            choices.from = Some(Setting::flag(Vec::new()));
        }
        for option in &self.options {
            choices.take_mount_option(option).map_err(Usage::error)?;
        }
        choices.listen = self.listen.clone().map(Some).map(Setting::flag);
        choices.volume_plugin = self.volume_plugin.choice();
        Ok(choices)
    }

    /// The same flags for a daemon in the background, valid in any working directory.
    pub(super) fn arguments(&self) -> anyhow::Result<Vec<OsString>> {
        let mut arguments = Vec::new();
        if !self.options.is_empty() {
            arguments.extend(["-o".into(), self.options.join(",").into()]);
        }
        if self.offline {
            arguments.push("--offline".into());
        }
        arguments.extend(self.sources.arguments()?);
        if let Some(address) = &self.listen {
            arguments.extend(["--listen".into(), address.to_string().into()]);
        }
        arguments.extend(self.volume_plugin.arguments());
        Ok(arguments)
    }

    /// Flags that take effect only when a daemon starts.
    pub(super) fn given(&self) -> Vec<String> {
        let mut given = self.sources.given();
        if self.offline {
            given.push("--offline".into());
        }
        let options = self.options().into_iter();
        let options = options.filter(|o| config::is_daemon_option(o) || fuse::label(o).is_some());
        given.extend(options.map(|o| format!("-o {o}")));
        if let Some(address) = &self.listen {
            given.push(format!("--listen {address}"));
        }
        given.extend(self.volume_plugin.given());
        given
    }
}

/// The serve request for these settings.
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
    })
}
