//! What one origin of settings chooses: the command line, the environment or the file.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::value;
use crate::cli::outcome::Usage;
use crate::cli::size::Size;
use crate::fetch::PrefetchPolicy;
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// The options outside of tables.
pub(in crate::cli) const TOP: [&str; 10] = [
    "state",
    "store-dir",
    "memory",
    "from",
    "trusted-public-keys",
    "require-sigs",
    "netrc-file",
    "jobs",
    "listen",
    "volume-plugin",
];

/// The options of `[mount]`.
pub(in crate::cli) const MOUNT: [&str; 7] = [
    "lookup-timeout",
    "contents-timeout",
    "absent-ttl",
    "prefetch",
    "budget",
    "writable-profiles",
    "file-handles",
];

/// The options of `mount -o` that a configuration file has too and that need no value.
const WRITABLE: &str = "writable-profiles";

const HANDLES: &str = "file-handles";

/// Where a setting is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Origin {
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
pub(in crate::cli) struct Setting<T> {
    /// What is in force.
    pub(in crate::cli) value: T,
    /// Who said so.
    pub(in crate::cli) origin: Origin,
}

impl<T> Setting<T> {
    /// What the command line says.
    pub(in crate::cli) fn flag(value: T) -> Self {
        let origin = Origin::Flag;
        Self { value, origin }
    }
}

/// What one origin chooses; `None` is left to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Choices {
    pub(in crate::cli) state: Option<Setting<PathBuf>>,
    pub(in crate::cli) store_dir: Option<Setting<StoreDir>>,
    pub(in crate::cli) memory: Option<Setting<u32>>,
    /// An empty list: nobody is asked.
    pub(in crate::cli) from: Option<Setting<Vec<String>>>,
    pub(in crate::cli) trusted_public_keys: Option<Setting<Vec<String>>>,
    pub(in crate::cli) require_sigs: Option<Setting<bool>>,
    pub(in crate::cli) netrc_file: Option<Setting<Option<PathBuf>>>,
    pub(in crate::cli) jobs: Option<Setting<usize>>,
    pub(in crate::cli) listen: Option<Setting<Option<Address>>>,
    pub(in crate::cli) volume_plugin: Option<Setting<Option<PathBuf>>>,
    pub(in crate::cli) lookup_timeout: Option<Setting<Duration>>,
    pub(in crate::cli) contents_timeout: Option<Setting<Duration>>,
    pub(in crate::cli) absent_ttl: Option<Setting<Duration>>,
    pub(in crate::cli) prefetch: Option<Setting<PrefetchPolicy>>,
    pub(in crate::cli) budget: Option<Setting<Option<Size>>>,
    pub(in crate::cli) writable_profiles: Option<Setting<bool>>,
    pub(in crate::cli) file_handles: Option<Setting<bool>>,
}

impl Choices {
    /// What the environment says, which `get` reads.
    pub(in crate::cli) fn of_environment(
        get: impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Self> {
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
                value: value::memory_of(&text)
                    .map_err(|e| Usage::error(format!("NARFS_MEMORY: {e}")))?,
                origin: from("NARFS_MEMORY"),
            });
        }
        Ok(choices)
    }

    /// Takes an option of `mount -o`, if it is one that a configuration file has too.
    ///
    /// # Errors
    /// A value that the option cannot have, as a text.
    pub(in crate::cli) fn take_mount_option(&mut self, option: &str) -> Result<(), String> {
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
pub(in crate::cli) fn is_mount_option(option: &str) -> bool {
    let name = option.split_once('=').map(|(name, _)| name);
    [WRITABLE, HANDLES].contains(&option) || name.is_some_and(|name| MOUNT.contains(&name))
}

/// The same, and whether it is one of the daemon and not of each mount.
pub(in crate::cli) fn is_daemon_option(option: &str) -> bool {
    is_mount_option(option) && !option.starts_with(WRITABLE)
}

pub(in crate::cli) fn directory(value: &OsString, name: &str) -> anyhow::Result<PathBuf> {
    if value.is_empty() {
        return Err(Usage::error(format!(
            "{name} is empty; give a path, or unset it"
        )));
    }
    Ok(std::path::absolute(value)?)
}
