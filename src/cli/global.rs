//! Options and context of all commands.

use std::path::PathBuf;

use clap::Args;

use super::config::{self, Choices, Decided, Reading, Setting};
use crate::nix::store_path::StoreDir;
use crate::store::StoreOptions;

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub(super) struct GlobalFlags {
    /// Configuration file [env: NARFS_CONFIG] [default: /etc/narfs/config.toml, which may be absent]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Directory with the database; one process owns it at a time [env: NARFS_STATE] [default:
    /// /var/lib/narfs]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// Store directory of the paths, for a new state [default: /nix/store]
    #[arg(long, global = true, value_name = "DIR")]
    store_dir: Option<String>,
    /// Bound of the daemon's memory, in MiB, from 32 to what the machine has [env: NARFS_MEMORY]
    /// [default: 256]
    #[arg(long, global = true, value_name = "MIB", value_parser = config::memory_of)]
    memory: Option<u32>,
    /// Log more (twice for all); NARFS_LOG takes a filter such as narfs::fetch=debug
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// Context of all commands.
#[derive(Debug)]
pub(super) struct Global {
    pub(super) decided: Decided,
    pub(super) verbose: u8,
}

impl GlobalFlags {
    /// The choices made by these flags.
    fn choices(&self) -> anyhow::Result<Choices> {
        let store_dir = self.store_dir.as_deref().map(StoreDir::parse);
        let state = self.state.as_deref().map(std::path::absolute);
        Ok(Choices {
            state: state.transpose()?.map(Setting::flag),
            store_dir: store_dir.transpose()?.map(Some).map(Setting::flag),
            memory: self.memory.map(Setting::flag),
            ..Choices::default()
        })
    }
}

impl Global {
    /// Determines the settings; `reading` says how the configuration file is treated.
    pub(super) fn decide(flags: &GlobalFlags, reading: Reading) -> anyhow::Result<Self> {
        Ok(Self {
            decided: Decided::read(flags.config.as_deref(), flags.choices()?, reading)?,
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
