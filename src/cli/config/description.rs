//! What users read of a setting: its name, what it is for, and where it can be chosen.

use std::ffi::{OsStr, OsString};

use super::origin::Origin;
use super::shown::Shown;
use crate::nix::store_path::StoreDir;

/// Where an option stands in a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Place {
    /// Outside of tables.
    Top,
    /// In `[mount]`; `mount -o` has it, too.
    Mount,
}

/// The flags of every command. This and the other kinds of commands are bits: some flags are of several.
pub(in crate::cli) const EVERY: u8 = 1;
/// The flags of commands that fetch paths.
pub(in crate::cli) const FETCHING: u8 = 2;
/// The flags of commands that fetch the list of a channel.
pub(in crate::cli) const LISTING: u8 = 4;
/// The flags of `narfs copy` alone.
pub(in crate::cli) const COPYING: u8 = 8;
/// The flags of commands that serve a state.
pub(in crate::cli) const SERVING: u8 = 16;

/// A setting, for users.
#[derive(Debug)]
pub(in crate::cli) struct Description {
    pub(in crate::cli) place: Place,
    pub(super) name: &'static str,
    /// In sentences. Those of a setting that is true or false say what it does when it is true.
    pub(super) about: &'static str,
    /// What stands for a value; empty if that is true or false.
    pub(super) value: &'static str,
    /// The flag; it says `false` if the value is true or false.
    pub(super) flag: &'static str,
    /// The commands that take the flag.
    pub(super) takers: u8,
    pub(super) environment: Option<&'static str>,
    /// Whether the flag may stand without a value, which is `true` then.
    pub(super) is_optional: bool,
    /// Whether `mount -o` has it, too.
    pub(super) is_option: bool,
    /// Whether each mount has its own, and not the daemon.
    pub(super) of_each_mount: bool,
}

/// A setting with values that look like `value`.
pub(super) const fn valued(value: &'static str) -> Description {
    Description {
        place: Place::Top,
        name: "",
        about: "",
        value,
        flag: "",
        takers: 0,
        environment: None,
        is_optional: false,
        is_option: false,
        of_each_mount: false,
    }
}

/// A setting that is true or false.
pub(super) const fn switch() -> Description {
    valued("")
}

impl Description {
    pub(super) const fn flag(self, takers: u8, flag: &'static str) -> Self {
        Self {
            takers,
            flag,
            ..self
        }
    }

    pub(super) const fn environment(self, variable: &'static str) -> Self {
        Self {
            environment: Some(variable),
            ..self
        }
    }

    pub(super) const fn optional(self) -> Self {
        Self {
            is_optional: true,
            ..self
        }
    }

    pub(super) const fn option_of_mount(self) -> Self {
        Self {
            is_option: true,
            ..self
        }
    }

    /// Whether `mount -o` has it.
    pub(super) fn is_mount_option(&self) -> bool {
        self.place == Place::Mount || self.is_option
    }

    pub(super) const fn of_each_mount(self) -> Self {
        Self {
            of_each_mount: true,
            ..self
        }
    }

    /// As an option of `mount -o`.
    pub(in crate::cli) fn option(&self) -> String {
        match self.value {
            "" => self.name.to_owned(),
            value if self.is_optional => format!("{}[={value}]", self.name),
            value => format!("{}={value}", self.name),
        }
    }

    /// The flags that choose a value, each with its argument.
    pub(super) fn flags(&self, chosen: &Shown) -> Vec<(String, Option<OsString>)> {
        let flag = format!("--{}", self.flag);
        match chosen {
            _ if self.takers == 0 => Vec::new(),
            chosen if self.is_optional => {
                let words = chosen.words().into_iter();
                words
                    .map(|word| (format!("{flag}={}", word.display()), None))
                    .collect()
            }
            Shown::YesNo(true) => Vec::new(),
            Shown::YesNo(false) => vec![(flag, None)],
            other => {
                let words = other.words().into_iter();
                words.map(|word| (flag.clone(), Some(word))).collect()
            }
        }
    }
}

/// An option that is in force.
pub(in crate::cli) struct Entry<'s> {
    pub(in crate::cli) description: &'static Description,
    pub(super) value: Shown,
    pub(super) origin: &'s Origin,
}

impl Entry<'_> {
    /// The value; where none is chosen, that of a new state.
    fn value(&self) -> Shown {
        match &self.value {
            Shown::Unset => Shown::text(StoreDir::default().as_str()),
            value => value.clone(),
        }
    }

    /// The option as a configuration file has it.
    pub(in crate::cli) fn line(&self) -> String {
        format!("{} = {}", self.description.name, self.value().toml())
    }

    /// What the option is for, and where else it can be chosen.
    pub(in crate::cli) fn explained(&self) -> String {
        let described = self.description;
        let flag = (described.takers != 0).then(|| format!("--{}", described.flag));
        let environment = described.environment.map(str::to_owned);
        let elsewhere: Vec<_> = flag.into_iter().chain(environment).collect();
        if elsewhere.is_empty() {
            return described.about.to_owned();
        }
        format!("{} Also: {}.", described.about, elsewhere.join(", "))
    }

    /// What `--help` says of the option, with the value that it has.
    pub(super) fn help(&self) -> String {
        let described = self.description;
        let mut help = described.about.trim_end_matches('.').to_owned();
        let value = self.value();
        if let Shown::Texts(_) = value {
            help += " [repeatable]";
        }
        if let Some(variable) = described.environment {
            help += &format!(" [env: {variable}]");
        }
        let words = value.words().join(OsStr::new(" "));
        // Where a flag is not given, `none` says nothing.
        if !words.is_empty() && (described.takers == 0 || words != "none") {
            help += &format!(" [default: {}]", words.display());
        }
        help
    }
}
