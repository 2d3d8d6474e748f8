//! The flags of the settings, for clap.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

use super::description::{EVERY, Entry};
use super::shown::Shown;
use super::table::{Choices, Settings, parsers};

/// The flags that commands of the kinds `TAKERS` take, and what they choose.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Flags<const TAKERS: u8> {
    pub(in crate::cli) choices: Choices,
}

impl<const TAKERS: u8> Args for Flags<TAKERS> {
    fn augment_args(command: Command) -> Command {
        let defaults = Settings::first(&[]);
        let all = defaults.entries().into_iter().zip(parsers());
        let taken = all.filter(|(entry, _)| entry.description.takers & TAKERS != 0);
        command.args(taken.map(|(entry, parser)| flag(&entry, parser)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const TAKERS: u8> FromArgMatches for Flags<TAKERS> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let choices = Choices::of_flags(matches, TAKERS);
        Ok(Self { choices })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting, which has its default in `entry`.
fn flag(entry: &Entry<'_>, parser: ValueParser) -> Arg {
    let described = entry.description;
    let flag = Arg::new(described.name)
        .long(described.flag)
        .global(described.takers == EVERY);
    if described.is_optional {
        return flag
            .value_name(described.value)
            .value_hint(ValueHint::FilePath)
            .value_parser(parser)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .help(entry.help());
    }
    if let Shown::YesNo(_) = entry.value {
        let (first, rest) = described.about.split_at(1);
        let help = format!("Do not {}{rest}", first.to_lowercase());
        let help = help.trim_end_matches('.').to_owned();
        return flag.action(ArgAction::SetFalse).help(help);
    }
    let hint = match described.value {
        "DIR" => ValueHint::DirPath,
        "FILE" | "SOCKET" => ValueHint::FilePath,
        _ => ValueHint::Unknown,
    };
    let flag = flag
        .value_name(described.value)
        .value_hint(hint)
        .value_parser(parser)
        .help(entry.help());
    match entry.value {
        Shown::Texts(_) => flag.action(ArgAction::Append),
        _ => flag,
    }
}
