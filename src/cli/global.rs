//! Options and context of all commands.

use std::path::PathBuf;

use clap::Args;

use super::config::{self, Decided, EVERY, Flags, Reading};
use super::log::LogFormat;
use crate::store::StoreOptions;

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub(super) struct GlobalFlags {
    /// Configuration file [env: NARFS_CONFIG] [default: /etc/narfs/config.toml, which may be absent]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Flags<EVERY>,
    /// Log more (twice for all); NARFS_LOG takes a filter such as narfs::fetch=debug
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

impl GlobalFlags {
    /// The format of the log, as far as the settings can be read.
    pub(super) fn log_format(&self) -> LogFormat {
        config::log_format(self.config.as_deref(), &self.settings.choices)
    }
}

/// Context of all commands.
#[derive(Debug)]
pub(super) struct Global {
    pub(super) decided: Decided,
    pub(super) verbose: u8,
}

impl Global {
    /// Determines the settings; `reading` says how the configuration file is treated.
    pub(super) fn decide(flags: &GlobalFlags, reading: Reading) -> anyhow::Result<Self> {
        let chosen = flags.settings.choices.clone();
        Ok(Self {
            decided: Decided::read(flags.config.as_deref(), chosen, reading)?,
            verbose: flags.verbose,
        })
    }

    /// Options for opening the state; it is created if `create`.
    pub(super) fn options(&self, create: bool) -> StoreOptions {
        let settings = &self.decided.settings;
        StoreOptions {
            memory: (settings.memory.value as usize) << 20,
            create,
            store_dir: settings.store_dir.value.clone(),
        }
    }

    /// The state directory, absolute, since a daemon and a mount must name it alike.
    pub(super) fn state(&self) -> anyhow::Result<PathBuf> {
        Ok(std::path::absolute(&self.decided.settings.state.value)?)
    }
}
