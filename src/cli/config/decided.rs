//! What is said outside of the commands' own flags: read, and decided.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::file::ConfigFile;
use super::nix_conf::NixConf;
use super::origin::{Origin, Setting};
use super::table::{Choices, Settings};
use super::value::absolute;
use crate::cli::log::{self, LogFormat};
use crate::cli::outcome::Usage;
use crate::command::chain;

/// The configuration file, where none is named.
const CONFIG: &str = "/etc/narfs/config.toml";

/// Which configuration file is meant: the one that the command line or the environment name, else
/// the default.
pub(super) fn config_path(
    flag: Option<&Path>,
    get: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Setting<PathBuf>> {
    if let Some(path) = flag {
        return Ok(Setting::flag(std::path::absolute(path)?));
    }
    if let Some(path) = get("NARFS_CONFIG") {
        return Ok(Setting {
            value: absolute(&path).map_err(|e| Usage::error(format!("NARFS_CONFIG: {e}")))?,
            origin: Origin::Environment("NARFS_CONFIG"),
        });
    }
    Ok(Setting {
        value: CONFIG.into(),
        origin: Origin::Default,
    })
}

/// How the configuration file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Reading {
    /// All of it must be right.
    Whole,
    /// What is wrong is said, and the rest is in force: for commands that need to know the state only, and
    /// must work when something is wrong.
    AsFarAsItGoes,
    /// Not at all: the command judges it, or needs none.
    Unread,
}

fn read_as_far_as_it_goes(path: Setting<PathBuf>) -> ConfigFile {
    let warn = |what: &str| {
        log::warn(&format!(
            "{what}; what is wrong in the configuration does not count here"
        ));
    };
    match ConfigFile::read(path.clone()) {
        Ok(file) => {
            file.mistakes
                .first()
                .into_iter()
                .for_each(|m| warn(&m.to_string()));
            file
        }
        Err(e) => {
            warn(&chain(e.as_ref()));
            ConfigFile::unread(path)
        }
    }
}

/// The format of the log, before anything can be logged. What is wrong with the settings is said later.
pub(in crate::cli) fn log_format(config: Option<&Path>, flags: &Choices) -> LogFormat {
    let get = |name: &str| std::env::var_os(name);
    let environment = Choices::of_environment(get).unwrap_or_default();
    let file = config_path(config, get).ok();
    // What comes through a pipe can be read once only.
    let file = file.filter(|path| path.value.is_file());
    let file = file.and_then(|path| ConfigFile::read(path).ok());
    let file = file.map(|file| file.choices).unwrap_or_default();
    Settings::first(&[flags, &environment, &file])
        .log_format
        .value
}

/// All that is said outside of the commands' own flags, and what is in force with it.
#[derive(Debug)]
pub(in crate::cli) struct Decided {
    flags: Choices,
    environment: Choices,
    /// The configuration file.
    pub(in crate::cli) file: ConfigFile,
    /// What is in force for a command that has no flags of its own.
    pub(in crate::cli) settings: Settings,
}

impl Decided {
    /// Reads environment and configuration file.
    pub(in crate::cli) fn read(
        config: Option<&Path>,
        flags: Choices,
        reading: Reading,
    ) -> anyhow::Result<Self> {
        let get = |name: &str| std::env::var_os(name);
        let environment = Choices::of_environment(get)?;
        let path = config_path(config, get)?;
        let file = match reading {
            Reading::Unread => ConfigFile::unread(path),
            Reading::Whole => {
                let file = ConfigFile::read(path)?;
                if let Some(mistake) = file.mistakes.first() {
                    bail!("{mistake}");
                }
                file
            }
            Reading::AsFarAsItGoes => read_as_far_as_it_goes(path),
        };
        let settings = Settings::decide(&[&flags, &environment, &file.choices]);
        let mut decided = Self {
            flags,
            environment,
            file,
            settings,
        };
        // Other commands have no use for sources.
        if reading == Reading::Whole {
            decided.settings = decided.with(&Choices::default())?;
        }
        Ok(decided)
    }

    /// What is in force with a command's own flags.
    ///
    /// # Errors
    /// A `nix.conf` that counts is not there, or wrong.
    pub(in crate::cli) fn with(&self, own: &Choices) -> anyhow::Result<Settings> {
        let nix_conf = self.nix_conf(own)?.choices;
        Ok(Settings::decide(&[
            own,
            &self.flags,
            &self.environment,
            &self.file.choices,
            &nix_conf,
        ]))
    }

    /// The `nix.conf` that counts with a command's own flags.
    fn nix_conf(&self, own: &Choices) -> anyhow::Result<NixConf> {
        let said = [own, &self.flags, &self.environment, &self.file.choices];
        let named = Settings::first(&said).from_nix_conf;
        let read = named.value.read(|name| std::env::var_os(name));
        read.with_context(|| format!("from-nix-conf ({})", named.origin))
    }

    /// Says what of the `nix.conf` that counts is left out.
    pub(in crate::cli) fn warn_left_out(&self, own: &Choices) -> anyhow::Result<()> {
        for what in self.nix_conf(own)?.left_out {
            log::warn(&what);
        }
        Ok(())
    }

    /// A command's own flags and, where they name a `nix.conf`, what that adds.
    pub(in crate::cli) fn with_own_nix_conf(&self, own: &Choices) -> anyhow::Result<Choices> {
        let mut chosen = own.clone();
        if own.from_nix_conf.is_some() {
            let added = self.nix_conf(own)?.choices;
            let keys = [&added.trusted_public_keys, &own.trusted_public_keys];
            let keys = keys.into_iter().flatten().cloned();
            chosen.trusted_public_keys = keys.reduce(|first, second| Setting {
                value: [first.value, second.value].concat(),
                origin: second.origin,
            });
            chosen.from = chosen.from.or(added.from);
            chosen.require_sigs = chosen.require_sigs.or(added.require_sigs);
            chosen.netrc_file = chosen.netrc_file.or(added.netrc_file);
        }
        Ok(chosen)
    }
}
