//! What every command takes and knows.

use std::path::PathBuf;

use clap::Args;

use super::config::{Decided, EVERY, Flags, Reading};
use crate::store::StoreOptions;

/// What every command takes.
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

/// What every command knows.
#[derive(Debug)]
pub(super) struct Global {
    pub(super) decided: Decided,
    pub(super) verbose: u8,
}

impl Global {
    /// Decides what is in force, with the configuration file read so.
    pub(super) fn decide(flags: &GlobalFlags, reading: Reading) -> anyhow::Result<Self> {
        let chosen = flags.settings.choices.clone();
        Ok(Self {
            decided: Decided::read(flags.config.as_deref(), chosen, reading)?,
            verbose: flags.verbose,
        })
    }

    /// How the state is opened, which is made if `create`.
    pub(super) fn options(&self, create: bool) -> StoreOptions {
        let settings = &self.decided.settings;
        StoreOptions {
            memory: (settings.memory.value as usize) << 20,
            create,
            store_dir: settings.store_dir.value.clone(),
        }
    }

    /// The state directory, absolute, so that a daemon and a mount name it alike.
    pub(super) fn state(&self) -> anyhow::Result<PathBuf> {
        Ok(std::path::absolute(&self.decided.settings.state.value)?)
    }
}
