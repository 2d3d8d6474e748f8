//! The table of settings: each stands here once, with what users read of it, where it can be chosen, its
//! type, its default, and how it is read and shown. From it come what an origin chooses, what is in force,
//! what a configuration file, `mount -o`, the flags and the environment may say, what `narfs config` prints,
//! and what help texts and manual pages say of settings.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "help shows an IPv6 address in its brackets"
)]

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::parser::ValueSource;

use super::description::{
    COPYING, Description, EVERY, Entry, FETCHING, LISTING, Place, SERVING, switch, valued,
};
use super::origin::{Origin, Setting};
use super::shown::Shown;
use super::toml_value::{Value, Wrong, bare, bare_or_text, list, text};
use super::value::{self, FromNixConf, utf8};
use crate::cli::log::LogFormat;
use crate::cli::size::Size;
use crate::fetch::{CACHE_NIXOS_ORG, Deadlines, PrefetchPolicy};
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// The state directory, where none is named.
const STATE: &str = "/var/lib/narfs";
/// The bound of the daemon's memory, in MiB.
const MEMORY: u32 = 256;

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

/// What a flag chooses each time that it was given.
fn given<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, flag: &str) -> Vec<T> {
    match matches.value_source(flag) {
        Some(ValueSource::CommandLine) => {
            let values = matches.get_many(flag).into_iter();
            values.flatten().cloned().collect()
        }
        _ => Vec::new(),
    }
}

/// What a flag chooses that was given twice; clap lets only those of lists.
macro_rules! both {
    () => {
        |_, last| last
    };
    ($both:expr) => {
        $both
    };
}

/// For each setting: what users are told of it, its place, the field, its type and default; its name, and
/// where else it can be chosen; how it is read in TOML, how it is read as text, how it is shown, and for a
/// list how two are joined.
macro_rules! settings {
    ($(
        $(#[doc = $about:literal])*
        $place:ident $field:ident: $type:ty = $default:expr;
        $name:literal, $described:expr;
        $toml:expr, $text:expr, $show:expr $(, $both:expr)?;
    )*) => {
        /// What one origin chooses; `None` is left to the next.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(in crate::cli) struct Choices {
            $($(#[doc = $about])* pub(in crate::cli) $field: Option<Setting<$type>>,)*
        }

        /// What is in force.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub(in crate::cli) struct Settings {
            $($(#[doc = $about])* pub(in crate::cli) $field: Setting<$type>,)*
        }

        struct Descriptions {
            $($field: Description,)*
        }

        static DESCRIPTIONS: Descriptions = Descriptions {
            $($field: Description {
                place: Place::$place,
                name: $name,
                about: concat!($($about),*).trim_ascii_start(),
                ..$described
            },)*
        };

        /// All settings, in the order in which they are shown.
        pub(super) static ALL: &[&Description] = &[$(&DESCRIPTIONS.$field),*];

        /// How clap reads the flag of each.
        pub(super) fn parsers() -> Vec<ValueParser> {
            vec![$({
                let read = |text: OsString| -> Result<$type, String> { $text(&text) };
                OsStringValueParser::new().try_map(read).into()
            }),*]
        }

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

            /// Takes what a text says of a setting.
            ///
            /// # Errors
            /// A value that it cannot have, as a text.
            pub(super) fn take_text(
                &mut self,
                name: &str,
                text: &OsStr,
                origin: Origin,
            ) -> Result<(), String> {
                match name {
                    $($name => self.$field = Some(Setting { value: $text(text)?, origin }),)*
                    _ => {}
                }
                Ok(())
            }

            /// Takes what the flags say that commands of the kinds `takers` take.
            pub(super) fn of_flags(matches: &ArgMatches, takers: u8) -> Self {
                let mut choices = Self::default();
                $(if DESCRIPTIONS.$field.takers & takers != 0 {
                    let both: fn($type, $type) -> $type = both!($($both)?);
                    let chosen = given(matches, $name).into_iter().reduce(both);
                    choices.$field = chosen.map(Setting::flag);
                })*
                choices
            }

            /// The flags that choose the same, each with its argument.
            pub(in crate::cli) fn flags(&self) -> Vec<(String, Option<OsString>)> {
                let mut flags = Vec::new();
                $(if let Some(chosen) = &self.$field {
                    let show: fn(&$type) -> Shown = $show;
                    flags.extend(DESCRIPTIONS.$field.flags(&show(&chosen.value)));
                })*
                flags
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
            pub(in crate::cli) fn entries(&self) -> Vec<Entry<'_>> {
                vec![$(Entry {
                    description: &DESCRIPTIONS.$field,
                    value: {
                        let show: fn(&$type) -> Shown = $show;
                        show(&self.$field.value)
                    },
                    origin: &self.$field.origin,
                }),*]
            }
        }
    };
}

settings! {
    /// Directory of the database; one process owns it at a time.
    Top state: PathBuf = STATE.into();
    "state", valued("DIR").flag(EVERY, "state").environment("NARFS_STATE");
    text(value::path, "write /DIRECTORY/… in quotes"), value::absolute, |path| Shown::text(path);

    /// Store directory of a new state; an existing state keeps its own.
    Top store_dir: Option<StoreDir> = None;
    "store-dir", valued("DIR").flag(EVERY, "store-dir");
    text(value::store_dir, "write one such as \"/nix/store\""), utf8(value::store_dir),
    |dir| dir.as_ref().map_or(Shown::Unset, |dir| Shown::text(dir.as_str()));

    /// Limit of the daemon's memory, in MiB; from 32 to the memory of the machine.
    Top memory: u32 = MEMORY;
    "memory", valued("MIB").flag(EVERY, "memory").environment("NARFS_MEMORY");
    bare(value::memory), utf8(value::memory), |memory| Shown::Number((*memory).into());

    /// Format of the log, warnings and errors on stderr: text, or json, one object a line.
    Top log_format: LogFormat = LogFormat::Text;
    "log-format", valued("text|json").flag(EVERY, "log-format").environment("NARFS_LOG_FORMAT");
    text(value::log_format, "write \"text\" or \"json\""), utf8(value::log_format),
    |format| Shown::text(format.name());

    /// Binary caches, as file:///DIRECTORY, http://… or https://…, used by their priority. One whose URL
    /// ends with ?optional=1 may be out of reach: what only it has is absent then, and no error. An empty
    /// list uses none: a mount shows only what the state has.
    Top from: Vec<String> = vec![CACHE_NIXOS_ORG.to_owned()];
    "from", valued("URL").flag(FETCHING, "from");
    list(value::source, "write [\"https://cache.nixos.org\"], or [] for no source"), utf8(value::one),
    |from| Shown::Texts(from.clone()), value::joined;

    /// Trusted keys besides that of cache.nixos.org, as NAME:BASE64; those of the command line are added
    /// to those of the configuration file.
    Top trusted_public_keys: Vec<String> = Vec::new();
    "trusted-public-keys", valued("KEY").flag(FETCHING, "trusted-public-key");
    list(value::public_key, "write [\"NAME:BASE64\"]"), utf8(value::one),
    |keys| Shown::Texts(keys.clone()), value::joined;

    /// Require a signature by a trusted key, or a content address, for each path. Without, whoever
    /// controls a source, or the connection to it, decides which programs you run.
    Top require_sigs: bool = true;
    "require-sigs", switch().flag(FETCHING, "no-require-sigs");
    bare(value::yes_or_no), utf8(value::yes_or_no), |wanted| Shown::YesNo(*wanted);

    /// File with names and passwords for sources, in the format of netrc(5).
    Top netrc_file: Option<PathBuf> = None;
    "netrc-file", valued("FILE").flag(FETCHING | LISTING, "netrc-file");
    text(value::path_or_none, "write /DIRECTORY/FILE or none, in quotes"),
    |text: &OsStr| value::absolute(text).map(Some),
    |path| Shown::or_none(path.as_ref());

    /// Take sources, trusted keys, require-sigs and netrc-file from nix.conf: true for the files that Nix
    /// reads (/etc/nix/nix.conf, those of the user, NIX_CONFIG), a FILE for that one alone. Sources that
    /// are chosen otherwise replace those of nix.conf; keys add up.
    Top from_nix_conf: FromNixConf = FromNixConf::No;
    "from-nix-conf", valued("FILE").flag(FETCHING, "from-nix-conf").environment("NARFS_FROM_NIX_CONF")
        .optional().option_of_mount();
    bare_or_text(value::nix_conf), utf8(value::nix_conf_anywhere), |from| match from {
        FromNixConf::No => Shown::YesNo(false),
        FromNixConf::Usual => Shown::YesNo(true),
        FromNixConf::File(file) => Shown::text(file),
    };

    /// NARs of each source that `narfs copy` unpacks in parallel; 0 for one per core.
    Top jobs: usize = 0;
    "jobs", valued("N").flag(COPYING, "jobs");
    bare(value::jobs), utf8(value::jobs), |jobs| Shown::Number(*jobs as u64);

    /// Address at which a daemon serves metrics for Prometheus (/metrics), its status and its health over
    /// HTTP, to everybody who can connect: 127.0.0.1:9464, [::1]:9464, unix:/PATH or none.
    Top listen: Option<Address> = None;
    "listen", valued("ADDRESS").flag(SERVING, "listen");
    text(value::listen, "write ADDRESS:PORT or none, in quotes"), utf8(value::listen),
    |at| Shown::or_none(at.as_ref().map(Address::to_string));

    /// Unix socket of the volume plugin, through which podman and docker use closure views as volumes:
    /// `volume create --driver narfs -o closure=PATH:PATH… NAME`, or `-o profile=PROFILE`. docker looks
    /// for /run/docker/plugins/narfs.sock; none for no socket. Not needed with the unit
    /// narfs-plugin.socket.
    Top volume_plugin: Option<PathBuf> = None;
    "volume-plugin", valued("SOCKET").flag(SERVING, "volume-plugin");
    text(value::path_or_none, "write /DIRECTORY/FILE or none, in quotes"), value::absolute_or_none,
    |path| Shown::or_none(path.as_ref());

    /// Unix socket at which Nix uses the state as a store: unix://SOCKET, and the lower store of a
    /// local-overlay store. Everybody who can connect sees what every user sees in the mount. none for no
    /// socket; not needed with the unit narfs-nix.socket.
    Top nix_socket: Option<PathBuf> = None;
    "nix-socket", valued("SOCKET").flag(SERVING, "nix-socket");
    text(value::path_or_none, "write /DIRECTORY/FILE or none, in quotes"), value::absolute_or_none,
    |path| Shown::or_none(path.as_ref());

    /// Seconds that a lookup of a store path waits for the sources.
    Mount lookup_timeout: Duration = Deadlines::default().lookup;
    "lookup-timeout", valued("SECONDS");
    bare(value::seconds), utf8(value::seconds), |time| Shown::Number(time.as_secs());

    /// Seconds that a program waits inside a path while none of it arrives.
    Mount contents_timeout: Duration = Deadlines::default().contents;
    "contents-timeout", valued("SECONDS");
    bare(value::seconds), utf8(value::seconds), |time| Shown::Number(time.as_secs());

    /// Seconds for which the absence of a path from all sources is cached.
    Mount absent_ttl: Duration = Deadlines::default().absent;
    "absent-ttl", valued("SECONDS");
    bare(value::seconds), utf8(value::seconds), |time| Shown::Number(time.as_secs());

    /// Milliseconds that a source has to answer a lookup alone, before the next one is asked as well.
    Mount head_start: Duration = Deadlines::default().head_start;
    "head-start", valued("MILLISECONDS");
    bare(value::milliseconds), utf8(value::milliseconds),
    |time| Shown::Number(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));

    /// Paths that are fetched ahead: none, or closure, the closure of a path once something looks inside
    /// the path.
    Mount prefetch: PrefetchPolicy = PrefetchPolicy::None;
    "prefetch", valued("none|closure");
    bare_or_text(value::prefetch), utf8(value::prefetch), |policy| Shown::text(policy.name());

    /// Limit of stored contents that were fetched: 500M, 20G, 1T (powers of 1024), a number of bytes, or
    /// none.
    Mount budget: Option<Size> = None;
    "budget", valued("SIZE");
    bare_or_text(value::budget), utf8(value::budget),
    |size| Shown::or_none(size.map(|s| s.to_string()));

    /// Allow programs such as nix-env to change profiles through their links, in a separate mount over
    /// var/nix/profiles.
    Mount writable_profiles: bool = false;
    "writable-profiles", switch().of_each_mount();
    bare(value::yes_or_no), utf8(value::yes_or_no), |wanted| Shown::YesNo(*wanted);

    /// Allow files to be opened by handle, as NFS and virtiofs servers do. Closure views are not
    /// available then, since a program with CAP_DAC_READ_SEARCH could escape from them.
    Mount file_handles: bool = false;
    "file-handles", switch();
    bare(value::yes_or_no), utf8(value::yes_or_no), |wanted| Shown::YesNo(*wanted);
}

/// The settings in a place.
pub(super) fn names(place: Place) -> Vec<&'static str> {
    let there = ALL.iter().filter(|described| described.place == place);
    there.map(|described| described.name).collect()
}
