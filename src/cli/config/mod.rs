//! The settings: what command line, environment and configuration file choose, and what is in
//! force.
//!
//! Invariant: who prevails is decided in [`Settings::decide`] only: the command line, then the
//! environment, then the file, then what is built in. A setting knows where it is from.

mod command;
mod file;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

pub(super) use command::Arguments;
pub(super) use file::{ConfigFile, Mistake, Value, found, table, whole};

use super::Usage;
use super::size::Size;
use crate::fetch::{CACHE_NIXOS_ORG, Deadlines, PrefetchPolicy};
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// The configuration file, where none is named.
const CONFIG: &str = "/etc/narfs/config.toml";
/// The state directory, where none is named.
const STATE: &str = "/var/lib/narfs";
/// Bound of the daemon's memory, in MiB.
const MEMORY: u32 = 256;
/// With less than this RocksDB's own buffers would not fit.
const LEAST_MEMORY: u32 = 32;
/// The options of `mount -o` that a configuration file has too and that need no value.
const WRITABLE: &str = "writable-profiles";
const HANDLES: &str = "file-handles";

/// Where a setting is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The command line.
    Flag,
    /// The environment variable of this name.
    Environment(&'static str),
    /// The configuration file.
    File {
        /// As it was named, absolute.
        path: Arc<Path>,
        /// From 1 on.
        line: usize,
    },
    /// It is built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "command line"),
            Self::Environment(name) => write!(f, "environment, {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => write!(f, "default"),
        }
    }
}

/// A value and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting<T> {
    /// What is in force.
    pub(super) value: T,
    /// Who said so.
    pub(super) origin: Origin,
}

impl<T> Setting<T> {
    /// What the command line says.
    pub(super) fn flag(value: T) -> Self {
        let origin = Origin::Flag;
        Self { value, origin }
    }
}

/// How a mount fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountSettings {
    /// How long programs wait.
    pub(super) deadlines: Deadlines,
    /// What is fetched ahead.
    pub(super) prefetch: PrefetchPolicy,
    /// Bytes that fetched contents may take; `None` for no bound.
    pub(super) budget: Option<u64>,
    /// Whether programs may change profiles.
    pub(super) writable_profiles: bool,
    /// Whether files can be opened by their handles.
    pub(super) file_handles: bool,
}

/// What one origin chooses; `None` is left to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choices {
    pub(super) state: Option<Setting<PathBuf>>,
    pub(super) store_dir: Option<Setting<StoreDir>>,
    pub(super) memory: Option<Setting<u32>>,
    /// An empty list: nobody is asked.
    pub(super) from: Option<Setting<Vec<String>>>,
    pub(super) trusted_public_keys: Option<Setting<Vec<String>>>,
    pub(super) require_sigs: Option<Setting<bool>>,
    pub(super) netrc_file: Option<Setting<Option<PathBuf>>>,
    pub(super) jobs: Option<Setting<usize>>,
    pub(super) listen: Option<Setting<Option<Address>>>,
    pub(super) volume_plugin: Option<Setting<Option<PathBuf>>>,
    pub(super) lookup_timeout: Option<Setting<Duration>>,
    pub(super) contents_timeout: Option<Setting<Duration>>,
    pub(super) absent_ttl: Option<Setting<Duration>>,
    pub(super) prefetch: Option<Setting<PrefetchPolicy>>,
    pub(super) budget: Option<Setting<Option<Size>>>,
    pub(super) writable_profiles: Option<Setting<bool>>,
    pub(super) file_handles: Option<Setting<bool>>,
}

impl Choices {
    /// What the environment says, which `get` reads.
    fn of_environment(get: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        let from = |name: &'static str| Origin::Environment(name);
        let mut choices = Self::default();
        if let Some(state) = get("NARFS_STATE") {
            choices.state = Some(Setting {
                value: directory(&state, "NARFS_STATE")?,
                origin: from("NARFS_STATE"),
            });
        }
        if let Some(memory) = get("NARFS_MEMORY") {
            let text = memory.to_string_lossy();
            choices.memory = Some(Setting {
                value: memory_of(&text).map_err(|e| Usage::error(format!("NARFS_MEMORY: {e}")))?,
                origin: from("NARFS_MEMORY"),
            });
        }
        Ok(choices)
    }

    /// Takes an option of `mount -o`, if it is one that a configuration file has too.
    ///
    /// # Errors
    /// A value that the option cannot have, as a text.
    pub(super) fn take_mount_option(&mut self, option: &str) -> Result<(), String> {
        let (name, text) = option.split_once('=').unwrap_or((option, ""));
        if [WRITABLE, HANDLES].contains(&name) {
            // Alone it says yes, as options of mount(8) do.
            let text = if option == name { "true" } else { text };
            let chosen = value::yes_or_no(text).map_err(|e| format!("{name}: {e}"))?;
            let setting = if name == WRITABLE {
                &mut self.writable_profiles
            } else {
                &mut self.file_handles
            };
            *setting = Some(Setting::flag(chosen));
        }
        if option == name {
            return Ok(());
        }
        let of_this = |e: String| format!("{name}: {e}");
        let seconds = || value::seconds(text).map(Setting::flag).map_err(of_this);
        match name {
            "lookup-timeout" => self.lookup_timeout = Some(seconds()?),
            "contents-timeout" => self.contents_timeout = Some(seconds()?),
            "absent-ttl" => self.absent_ttl = Some(seconds()?),
            "prefetch" => {
                let policy = value::prefetch(text).map_err(of_this)?;
                self.prefetch = Some(Setting::flag(policy));
            }
            "budget" => {
                let budget = value::budget(text).map_err(of_this)?;
                self.budget = Some(Setting::flag(budget));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether an option of `mount -o` is one that a configuration file has too.
pub(super) fn is_mount_option(option: &str) -> bool {
    let name = option.split_once('=').map(|(name, _)| name);
    [WRITABLE, HANDLES].contains(&option) || name.is_some_and(|name| file::MOUNT.contains(&name))
}

/// The same, and whether it is one of the daemon and not of each mount.
pub(super) fn is_daemon_option(option: &str) -> bool {
    is_mount_option(option) && !option.starts_with(WRITABLE)
}

/// What the machine has, in MiB.
fn most_memory() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram * u64::from(system.mem_unit)) >> 20
}

/// Whether the machine has so many MiB, and they are enough.
fn is_memory(mebibytes: u32) -> bool {
    mebibytes >= LEAST_MEMORY && u64::from(mebibytes) <= most_memory()
}

/// The number of MiB that a text says.
pub(super) fn memory_of(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|n| is_memory(*n));
    number.ok_or_else(|| value::no_memory(&format!("{text:?}")))
}

fn directory(value: &OsString, name: &str) -> anyhow::Result<PathBuf> {
    if value.is_empty() {
        return Err(Usage::error(format!(
            "{name} is empty; give a path, or unset it"
        )));
    }
    Ok(std::path::absolute(value)?)
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The state directory.
    pub(super) state: Setting<PathBuf>,
    /// Store directory of a new state; `None` for what the state has, or Nix's own.
    pub(super) store_dir: Setting<Option<StoreDir>>,
    /// Bound of the daemon's memory, in MiB.
    pub(super) memory: Setting<u32>,
    /// Sources; an empty list for asking nobody.
    pub(super) from: Setting<Vec<String>>,
    /// Keys besides that of cache.nixos.org.
    pub(super) trusted_public_keys: Setting<Vec<String>>,
    /// Whether paths need a signature or a content address.
    pub(super) require_sigs: Setting<bool>,
    /// Names and passwords for sources.
    pub(super) netrc_file: Setting<Option<PathBuf>>,
    /// NARs that are unpacked at once; 0 for one for each core.
    pub(super) jobs: Setting<usize>,
    /// Where a daemon serves HTTP.
    pub(super) listen: Setting<Option<Address>>,
    /// Where a daemon listens for container engines.
    pub(super) volume_plugin: Setting<Option<PathBuf>>,
    /// See [`Deadlines::lookup`].
    pub(super) lookup_timeout: Setting<Duration>,
    /// See [`Deadlines::contents`].
    pub(super) contents_timeout: Setting<Duration>,
    /// See [`Deadlines::absent`].
    pub(super) absent_ttl: Setting<Duration>,
    /// See [`MountSettings::prefetch`].
    pub(super) prefetch: Setting<PrefetchPolicy>,
    /// See [`MountSettings::budget`].
    pub(super) budget: Setting<Option<Size>>,
    /// See [`MountSettings::writable_profiles`].
    pub(super) writable_profiles: Setting<bool>,
    /// See [`MountSettings::file_handles`].
    pub(super) file_handles: Setting<bool>,
}

impl Settings {
    /// Lets the first of `choices` that says something prevail; keys are added up.
    pub(super) fn decide(choices: &[&Choices]) -> Self {
        fn first<T: Clone>(
            choices: &[&Choices],
            of: impl Fn(&Choices) -> &Option<Setting<T>>,
            default: T,
        ) -> Setting<T> {
            let said = choices.iter().find_map(|c| of(c).clone());
            said.unwrap_or(Setting {
                value: default,
                origin: Origin::Default,
            })
        }
        let mut keys = first(choices, |c| &c.trusted_public_keys, Vec::new());
        let said = choices.iter().rev();
        let said = said.filter_map(|c| c.trusted_public_keys.as_ref());
        keys.value = said.flat_map(|k| k.value.clone()).collect();
        let some = |c: &Choices| {
            c.store_dir.clone().map(|s| Setting {
                value: Some(s.value),
                origin: s.origin,
            })
        };
        let store_dir = choices.iter().find_map(|c| some(c));
        let deadlines = Deadlines::default();
        Self {
            state: first(choices, |c| &c.state, STATE.into()),
            store_dir: store_dir.unwrap_or(Setting {
                value: None,
                origin: Origin::Default,
            }),
            memory: first(choices, |c| &c.memory, MEMORY),
            from: first(choices, |c| &c.from, vec![CACHE_NIXOS_ORG.to_owned()]),
            trusted_public_keys: keys,
            require_sigs: first(choices, |c| &c.require_sigs, true),
            netrc_file: first(choices, |c| &c.netrc_file, None),
            jobs: first(choices, |c| &c.jobs, 0),
            listen: first(choices, |c| &c.listen, None),
            volume_plugin: first(choices, |c| &c.volume_plugin, None),
            lookup_timeout: first(choices, |c| &c.lookup_timeout, deadlines.lookup),
            contents_timeout: first(choices, |c| &c.contents_timeout, deadlines.contents),
            absent_ttl: first(choices, |c| &c.absent_ttl, deadlines.absent),
            prefetch: first(choices, |c| &c.prefetch, PrefetchPolicy::None),
            budget: first(choices, |c| &c.budget, None),
            writable_profiles: first(choices, |c| &c.writable_profiles, false),
            file_handles: first(choices, |c| &c.file_handles, false),
        }
    }

    /// Those of a mount.
    pub(super) fn mount(&self) -> MountSettings {
        MountSettings {
            deadlines: Deadlines {
                lookup: self.lookup_timeout.value,
                contents: self.contents_timeout.value,
                absent: self.absent_ttl.value,
            },
            prefetch: self.prefetch.value,
            budget: self.budget.value.map(|size| size.0),
            writable_profiles: self.writable_profiles.value,
            file_handles: self.file_handles.value,
        }
    }
}

/// Which configuration file is meant: the one that the command line or the environment name, else
/// the default.
fn config_path(
    flag: Option<&Path>,
    get: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Setting<PathBuf>> {
    if let Some(path) = flag {
        return Ok(Setting::flag(std::path::absolute(path)?));
    }
    if let Some(path) = get("NARFS_CONFIG") {
        return Ok(Setting {
            value: directory(&path, "NARFS_CONFIG")?,
            origin: Origin::Environment("NARFS_CONFIG"),
        });
    }
    Ok(Setting {
        value: CONFIG.into(),
        origin: Origin::Default,
    })
}

/// All that is said outside of the commands' own flags, and what is in force with it.
#[derive(Debug)]
pub(super) struct Decided {
    flags: Choices,
    environment: Choices,
    /// The configuration file.
    pub(super) file: ConfigFile,
    /// What is in force for a command that has no flags of its own.
    pub(super) settings: Settings,
}

impl Decided {
    /// Reads environment and configuration file. Of a file that the command is to judge itself
    /// (`judged`), only the place is noted.
    pub(super) fn read(
        config: Option<&Path>,
        flags: Choices,
        judged: bool,
    ) -> anyhow::Result<Self> {
        let get = |name: &str| std::env::var_os(name);
        let environment = Choices::of_environment(get)?;
        let path = config_path(config, get)?;
        let file = if judged {
            ConfigFile::unread(path)
        } else {
            ConfigFile::read(path)?
        };
        if let Some(mistake) = file.mistakes.first() {
            bail!("{mistake}");
        }
        let settings = Settings::decide(&[&flags, &environment, &file.choices]);
        Ok(Self {
            flags,
            environment,
            file,
            settings,
        })
    }

    /// What is in force with a command's own flags.
    pub(super) fn with(&self, own: &Choices) -> Settings {
        Settings::decide(&[own, &self.flags, &self.environment, &self.file.choices])
    }
}

#[cfg(test)]
mod tests;
