//! The table of settings: each stands here once, with its name, its place, its type, its default, and how it
//! is read and shown. From it come what an origin chooses, what is in force, what a configuration file and
//! `mount -o` may say, and what `narfs config show` prints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::origin::{Origin, Setting};
use super::toml_value::{self, Value, Wrong};
use super::value;
use crate::cli::size::Size;
use crate::fetch::{CACHE_NIXOS_ORG, Deadlines, PrefetchPolicy};
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// The state directory, where none is named.
const STATE: &str = "/var/lib/narfs";
/// The bound of the daemon's memory, in MiB.
const MEMORY: u32 = 256;

/// Where an option stands in a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// Outside of tables.
    Top,
    /// In `[mount]`; `mount -o` has it, too.
    Mount,
}

/// An option that is in force.
pub(super) struct Entry<'s> {
    pub(super) place: Place,
    pub(super) name: &'static str,
    /// `null` where there is none.
    pub(super) value: Json,
    pub(super) origin: &'s Origin,
}

/// The first of `choices` that says something.
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

/// For each setting: its place, the field, its type and default; its name, how it is read in TOML, how it is
/// read as text of `mount -o`, and how it is shown.
macro_rules! settings {
    ($(
        $(#[$doc:meta])*
        $place:ident $field:ident: $type:ty = $default:expr;
        $name:literal, $toml:path, $text:expr, $show:expr;
    )*) => {
        /// What one origin chooses; `None` is left to the next.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(in crate::cli) struct Choices {
            $($(#[$doc])* pub(in crate::cli) $field: Option<Setting<$type>>,)*
        }

        /// What is in force.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(in crate::cli) struct Settings {
            $($(#[$doc])* pub(in crate::cli) $field: Setting<$type>,)*
        }

        /// All options, in the order in which they are shown.
        const OPTIONS: &[(Place, &str)] = &[$((Place::$place, $name)),*];

        impl Choices {
            /// Takes what a configuration file says of an option; `None` if there is none of this name in
            /// this place.
            pub(super) fn take(
                &mut self,
                place: Place,
                name: &str,
                value: &Value<'_>,
                origin: Origin,
            ) -> Option<Result<(), Wrong>> {
                match (place, name) {
                    $((Place::$place, $name) => Some($toml(value).map(|value| {
                        self.$field = Some(Setting { value, origin });
                    })),)*
                    _ => None,
                }
            }

            /// Takes what `mount -o` says of an option; `None` if there is none of this name.
            fn take_text(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
                match name {
                    $($name => {
                        let read: Option<fn(&str) -> Result<$type, String>> = $text;
                        Some(read?(text).map(|value| {
                            self.$field = Some(Setting::flag(value));
                        }))
                    })*
                    _ => None,
                }
            }
        }

        impl Settings {
            /// Lets the first of `choices` that says something prevail.
            pub(super) fn first(choices: &[&Choices]) -> Self {
                Self {
                    $($field: first(choices, |c| &c.$field, $default),)*
                }
            }

            /// Each option, those of `[mount]` after the others.
            pub(super) fn entries(&self) -> Vec<Entry<'_>> {
                vec![$(Entry {
                    place: Place::$place,
                    name: $name,
                    value: {
                        let show: fn(&$type) -> Json = $show;
                        show(&self.$field.value)
                    },
                    origin: &self.$field.origin,
                }),*]
            }
        }
    };
}

settings! {
    /// The state directory.
    Top state: PathBuf = STATE.into();
    "state", toml_value::path, None, |path| shown(path);
    /// Store directory of a new state; `None` for what the state has, or Nix's own.
    Top store_dir: Option<StoreDir> = None;
    "store-dir", toml_value::store_dir, None, |dir| json!(dir.as_ref().map(StoreDir::as_str));
    /// Bound of the daemon's memory, in MiB.
    Top memory: u32 = MEMORY;
    "memory", toml_value::memory, None, |memory| json!(memory);
    /// Sources; an empty list for asking nobody.
    Top from: Vec<String> = vec![CACHE_NIXOS_ORG.to_owned()];
    "from", toml_value::sources, None, |from| json!(from);
    /// Keys besides that of cache.nixos.org.
    Top trusted_public_keys: Vec<String> = Vec::new();
    "trusted-public-keys", toml_value::keys, None, |keys| json!(keys);
    /// Whether paths need a signature or a content address.
    Top require_sigs: bool = true;
    "require-sigs", toml_value::yes_or_no, None, |wanted| json!(wanted);
    /// Names and passwords for sources.
    Top netrc_file: Option<PathBuf> = None;
    "netrc-file", toml_value::path_or_none, None, |path| shown_or_none(path.as_deref());
    /// NARs that are unpacked at once; 0 for one for each core.
    Top jobs: usize = 0;
    "jobs", toml_value::jobs, None, |jobs| json!(jobs);
    /// Where a daemon serves HTTP.
    Top listen: Option<Address> = None;
    "listen", toml_value::listen, None, |at| or_none(at.as_ref().map(|at| json!(at)));
    /// Where a daemon listens for container engines.
    Top volume_plugin: Option<PathBuf> = None;
    "volume-plugin", toml_value::path_or_none, None, |path| shown_or_none(path.as_deref());
    /// See [`Deadlines::lookup`].
    Mount lookup_timeout: Duration = Deadlines::default().lookup;
    "lookup-timeout", toml_value::seconds, Some(value::seconds), |time| json!(time.as_secs());
    /// See [`Deadlines::contents`].
    Mount contents_timeout: Duration = Deadlines::default().contents;
    "contents-timeout", toml_value::seconds, Some(value::seconds), |time| json!(time.as_secs());
    /// See [`Deadlines::absent`].
    Mount absent_ttl: Duration = Deadlines::default().absent;
    "absent-ttl", toml_value::seconds, Some(value::seconds), |time| json!(time.as_secs());
    /// What is fetched ahead.
    Mount prefetch: PrefetchPolicy = PrefetchPolicy::None;
    "prefetch", toml_value::prefetch, Some(value::prefetch), |policy| json!(policy.name());
    /// Bytes that fetched contents may take; `None` for no bound.
    Mount budget: Option<Size> = None;
    "budget", toml_value::budget, Some(value::budget), |size| or_none(size.map(|s| json!(s.to_string())));
    /// Whether programs may change profiles.
    Mount writable_profiles: bool = false;
    "writable-profiles", toml_value::yes_or_no, Some(value::yes_or_no), |wanted| json!(wanted);
    /// Whether files can be opened by their handles.
    Mount file_handles: bool = false;
    "file-handles", toml_value::yes_or_no, Some(value::yes_or_no), |wanted| json!(wanted);
}

/// Options of each mount, and not of the daemon.
const OF_A_MOUNT: [&str; 1] = ["writable-profiles"];
/// Options of `mount -o` that say yes where they stand alone, as those of mount(8) do.
const ALONE: [&str; 2] = ["writable-profiles", "file-handles"];

/// The names of the options in a place.
pub(in crate::cli) fn names(place: Place) -> Vec<&'static str> {
    let all = OPTIONS.iter().filter(|(there, _)| *there == place);
    all.map(|(_, name)| *name).collect()
}

/// Whether an option of `mount -o` is one that a configuration file has too.
pub(in crate::cli) fn is_mount_option(option: &str) -> bool {
    match option.split_once('=') {
        Some((name, _)) => names(Place::Mount).contains(&name),
        None => ALONE.contains(&option),
    }
}

/// Whether it is one of the daemon and not of each mount.
pub(in crate::cli) fn is_daemon_option(option: &str) -> bool {
    is_mount_option(option) && !OF_A_MOUNT.iter().any(|name| option.starts_with(name))
}

impl Choices {
    /// Takes an option of `mount -o`, if it is one that a configuration file has too.
    ///
    /// # Errors
    /// A value that the option cannot have, as a text.
    pub(in crate::cli) fn take_mount_option(&mut self, option: &str) -> Result<(), String> {
        if !is_mount_option(option) {
            return Ok(());
        }
        let (name, text) = option.split_once('=').unwrap_or((option, "true"));
        let taken = self.take_text(name, text).unwrap_or(Ok(()));
        taken.map_err(|e| format!("{name}: {e}"))
    }
}

fn shown(path: &Path) -> Json {
    json!(path.to_string_lossy())
}

fn or_none(value: Option<Json>) -> Json {
    value.unwrap_or_else(|| json!("none"))
}

fn shown_or_none(path: Option<&Path>) -> Json {
    or_none(path.map(shown))
}
