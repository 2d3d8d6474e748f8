//! The settings in force.
//!
//! Invariant: who prevails is decided in [`Settings::decide`] only: the command line, then the
//! environment, then the file, then what is built in. A setting knows where it is from.

use std::path::PathBuf;
use std::time::Duration;

use super::choices::{Choices, Origin, Setting};
use crate::cli::size::Size;
use crate::fetch::{CACHE_NIXOS_ORG, Deadlines, PrefetchPolicy};
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// The state directory, where none is named.
const STATE: &str = "/var/lib/narfs";

/// Bound of the daemon's memory, in MiB.
const MEMORY: u32 = 256;

/// How a mount fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct MountSettings {
    /// How long programs wait.
    pub(in crate::cli) deadlines: Deadlines,
    /// What is fetched ahead.
    pub(in crate::cli) prefetch: PrefetchPolicy,
    /// Bytes that fetched contents may take; `None` for no bound.
    pub(in crate::cli) budget: Option<u64>,
    /// Whether programs may change profiles.
    pub(in crate::cli) writable_profiles: bool,
    /// Whether files can be opened by their handles.
    pub(in crate::cli) file_handles: bool,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Settings {
    /// The state directory.
    pub(in crate::cli) state: Setting<PathBuf>,
    /// Store directory of a new state; `None` for what the state has, or Nix's own.
    pub(in crate::cli) store_dir: Setting<Option<StoreDir>>,
    /// Bound of the daemon's memory, in MiB.
    pub(in crate::cli) memory: Setting<u32>,
    /// Sources; an empty list for asking nobody.
    pub(in crate::cli) from: Setting<Vec<String>>,
    /// Keys besides that of cache.nixos.org.
    pub(in crate::cli) trusted_public_keys: Setting<Vec<String>>,
    /// Whether paths need a signature or a content address.
    pub(in crate::cli) require_sigs: Setting<bool>,
    /// Names and passwords for sources.
    pub(in crate::cli) netrc_file: Setting<Option<PathBuf>>,
    /// NARs that are unpacked at once; 0 for one for each core.
    pub(in crate::cli) jobs: Setting<usize>,
    /// Where a daemon serves HTTP.
    pub(in crate::cli) listen: Setting<Option<Address>>,
    /// Where a daemon listens for container engines.
    pub(in crate::cli) volume_plugin: Setting<Option<PathBuf>>,
    /// See [`Deadlines::lookup`].
    pub(in crate::cli) lookup_timeout: Setting<Duration>,
    /// See [`Deadlines::contents`].
    pub(in crate::cli) contents_timeout: Setting<Duration>,
    /// See [`Deadlines::absent`].
    pub(in crate::cli) absent_ttl: Setting<Duration>,
    /// See [`MountSettings::prefetch`].
    pub(in crate::cli) prefetch: Setting<PrefetchPolicy>,
    /// See [`MountSettings::budget`].
    pub(in crate::cli) budget: Setting<Option<Size>>,
    /// See [`MountSettings::writable_profiles`].
    pub(in crate::cli) writable_profiles: Setting<bool>,
    /// See [`MountSettings::file_handles`].
    pub(in crate::cli) file_handles: Setting<bool>,
}

impl Settings {
    /// Lets the first of `choices` that says something prevail; keys are added up.
    pub(in crate::cli) fn decide(choices: &[&Choices]) -> Self {
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
    pub(in crate::cli) fn mount(&self) -> MountSettings {
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
