//! The generations of a profile: how they are numbered, switched, listed and deleted.
//!
//! Pure functions over a value; the rules are those of Nix, so that its commands and ours agree
//! on a shared directory. Invariant: the current generation, if there is one, is in the list, and
//! no rule here deletes it.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use thiserror::Error;

use super::name::{GenerationNumber, ProfileName};
use crate::nix::store_path::StorePath;

const DAY: i64 = 24 * 3600;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The store path that it points to: a user environment, or any other path that it was set to.
    pub target: StorePath,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

/// The generations of one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    current: Option<GenerationNumber>,
    list: BTreeMap<GenerationNumber, Generation>,
}

/// What became of a new target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// A generation was made for it, and is current.
    Created(GenerationNumber),
    /// The highest generation has it already, and is current now.
    Reused(GenerationNumber),
}

impl Advance {
    /// The generation that is current now.
    #[must_use]
    pub const fn number(self) -> GenerationNumber {
        match self {
            Self::Created(number) | Self::Reused(number) => number,
        }
    }
}

/// A switch from one generation to another; its text is Nix's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// What was current.
    pub from: Option<GenerationNumber>,
    /// What is current now.
    pub to: GenerationNumber,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = number_or_zero(self.from);
        write!(f, "switching profile from version {from} to {}", self.to)
    }
}

/// Why generations cannot be switched or deleted; the texts are Nix's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GenerationError {
    #[error("profile version {0} does not exist")]
    Absent(GenerationNumber),
    /// A rollback from the oldest one.
    #[error("no profile version older than the current ({}) exists", number_or_zero(*.0))]
    NoneOlder(Option<GenerationNumber>),
    /// The current one is never deleted.
    #[error("cannot delete current version of profile '{0}'")]
    DeleteCurrent(ProfileName),
    /// The numbers are used up.
    #[error("the profile has version {0}, and no higher number exists")]
    NumbersUsedUp(GenerationNumber),
}

/// Which generations to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteSpec {
    /// These; numbers that do not exist are ignored.
    Numbers(Vec<GenerationNumber>),
    /// All but the current one, also newer ones.
    Old,
    /// All but the current one, those above it, and the ones before it that make up this number
    /// together with the current one; at least 1.
    Keep(u64),
    /// Those that were never current in this number of days before now; at least 1.
    Days(u32),
}

/// Why a text does not say which generations to delete; the texts are Nix's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeleteSpecError {
    /// `+` alone.
    #[error("invalid number of generations '{0}'")]
    NoCount(String),
    /// `+K` where K is not a number or 0.
    #[error("invalid number of generations to keep '{0}'")]
    Count(String),
    /// Something with a `d` that does not end in it.
    #[error("invalid number of days specifier '{0}', expected something like '14d'")]
    NoDays(String),
    /// `Nd` where N is not a number, or below 1.
    #[error("invalid number of days specifier '{0}'")]
    Days(String),
    /// Neither a number nor anything else that stands alone.
    #[error("invalid generation number '{0}'")]
    Number(String),
}

impl DeleteSpec {
    /// Reads the arguments of `delete-generations`: `old`, `Nd` or `+K` alone, or numbers.
    ///
    /// # Errors
    /// Which argument is wrong.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, DeleteSpecError> {
        match arguments {
            [one] if one.as_ref() == "old" => Ok(Self::Old),
            [one] if one.as_ref().contains('d') => Self::parse_days(one.as_ref()),
            [one] if one.as_ref().contains('+') => {
                let text = one.as_ref();
                let mut count = text.chars();
                count.next();
                match count.as_str() {
                    "" => Err(DeleteSpecError::NoCount(text.to_owned())),
                    count => match count.parse() {
                        Ok(count) if count > 0 => Ok(Self::Keep(count)),
                        _ => Err(DeleteSpecError::Count(text.to_owned())),
                    },
                }
            }
            numbers => {
                let number = |text: &S| match text.as_ref().parse() {
                    Ok(number) => Ok(GenerationNumber(number)),
                    Err(_) => Err(DeleteSpecError::Number(text.as_ref().to_owned())),
                };
                numbers
                    .iter()
                    .map(number)
                    .collect::<Result<_, _>>()
                    .map(Self::Numbers)
            }
        }
    }

    /// Reads `Nd`, as `--delete-older-than` takes it too.
    ///
    /// # Errors
    /// It has another form, or N is below 1.
    pub fn parse_days(text: &str) -> Result<Self, DeleteSpecError> {
        let Some(days) = text.strip_suffix('d') else {
            return Err(DeleteSpecError::NoDays(text.to_owned()));
        };
        // A signed number of 32 bits, as in Nix.
        match days.parse::<i32>().map(u32::try_from) {
            Ok(Ok(days)) if days > 0 => Ok(Self::Days(days)),
            _ => Err(DeleteSpecError::Days(text.to_owned())),
        }
    }
}

impl Generations {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Generations as they are recorded. A `current` that is not in the list counts as none,
    /// like a profile link that points elsewhere.
    #[must_use]
    pub fn from_parts(
        current: Option<GenerationNumber>,
        list: BTreeMap<GenerationNumber, Generation>,
    ) -> Self {
        let current = current.filter(|number| list.contains_key(number));
        Self { current, list }
    }

    #[must_use]
    pub const fn current(&self) -> Option<GenerationNumber> {
        self.current
    }

    #[must_use]
    pub fn current_generation(&self) -> Option<&Generation> {
        self.list.get(&self.current?)
    }

    /// All generations, in the order of their numbers.
    #[must_use]
    pub const fn list(&self) -> &BTreeMap<GenerationNumber, Generation> {
        &self.list
    }

    /// The number that a new generation gets: one above the highest, which may lie above the
    /// current one. Gaps are never filled.
    ///
    /// # Errors
    /// The highest number is the highest possible.
    fn next_number(&self) -> Result<GenerationNumber, GenerationError> {
        let Some((highest, _)) = self.list.last_key_value() else {
            return Ok(GenerationNumber(1));
        };
        let next = highest.0.checked_add(1).map(GenerationNumber);
        next.ok_or(GenerationError::NumbersUsedUp(*highest))
    }

    /// Makes `target` current: by a new generation, unless the highest one has this target.
    /// Whether others have it does not matter.
    ///
    /// # Errors
    /// No number is left.
    pub fn advance(&mut self, target: StorePath, now: i64) -> Result<Advance, GenerationError> {
        if let Some((highest, generation)) = self.list.last_key_value()
            && generation.target == target
        {
            self.current = Some(*highest);
            return Ok(Advance::Reused(*highest));
        }
        let number = self.next_number()?;
        let created = now;
        self.list.insert(number, Generation { target, created });
        self.current = Some(number);
        Ok(Advance::Created(number))
    }

    /// Makes generation `to` current.
    ///
    /// # Errors
    /// It does not exist.
    pub fn switch(&mut self, to: GenerationNumber) -> Result<Switch, GenerationError> {
        if !self.list.contains_key(&to) {
            return Err(GenerationError::Absent(to));
        }
        let from = self.current.replace(to);
        Ok(Switch { from, to })
    }

    /// Makes the highest generation below the current one current.
    ///
    /// # Errors
    /// There is none.
    pub fn roll_back(&mut self) -> Result<Switch, GenerationError> {
        let below = self
            .current
            .and_then(|current| self.list.range(..current).next_back());
        match below {
            Some((to, _)) => self.switch(*to),
            None => Err(GenerationError::NoneOlder(self.current)),
        }
    }

    /// The generations that `spec` deletes, in the order in which Nix removes and names them;
    /// `profile` is for the error's text.
    ///
    /// # Errors
    /// The current one is among the numbers; then none is deleted.
    pub fn select(
        &self,
        profile: &ProfileName,
        spec: &DeleteSpec,
        now: i64,
    ) -> Result<Vec<GenerationNumber>, GenerationError> {
        let numbers = self.list.keys().copied();
        let is_current = |number: &GenerationNumber| Some(*number) == self.current;
        Ok(match spec {
            DeleteSpec::Numbers(wanted) => {
                if wanted.iter().any(is_current) {
                    return Err(GenerationError::DeleteCurrent(profile.clone()));
                }
                numbers.filter(|n| wanted.contains(n)).collect()
            }
            DeleteSpec::Old => numbers.filter(|n| !is_current(n)).collect(),
            DeleteSpec::Keep(count) => {
                let from_current = numbers.rev().skip_while(|n| !is_current(n));
                let count = usize::try_from((*count).max(1)).unwrap_or(usize::MAX);
                from_current.skip(count).collect()
            }
            DeleteSpec::Days(days) => {
                let limit = now.saturating_sub(i64::from(*days) * DAY);
                let is_older = |n: &GenerationNumber| self.list[n].created < limit;
                // The newest one that is older was current at the limit. Below it Nix relies on
                // numbers and times being in the same order; where they are not, we keep the generation.
                let before = numbers.rev().skip_while(|n| !is_older(n)).skip(1);
                before.filter(|n| is_older(n) && !is_current(n)).collect()
            }
        })
    }

    /// Removes these generations, but never the current one.
    pub fn remove(&mut self, numbers: &[GenerationNumber]) {
        let current = self.current;
        self.list
            .retain(|number, _| Some(*number) == current || !numbers.contains(number));
    }

    /// What `--list-generations` prints, a line for each generation, with the times of `zone`.
    pub fn lines(&self, zone: &TimeZone) -> impl Iterator<Item = String> {
        self.list.iter().map(move |(number, generation)| {
            let time = zone.to_datetime(timestamp(generation.created));
            let time = time.strftime("%Y-%m-%d %H:%M:%S");
            let mark = if Some(*number) == self.current {
                "(current)"
            } else {
                ""
            };
            format!("{number:4}   {time}   {mark}")
        })
    }
}

/// A time in seconds since 1970, or the first or last one that has a date.
fn timestamp(seconds: i64) -> Timestamp {
    let beyond = if seconds < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Timestamp::from_second(seconds).unwrap_or(beyond)
}

fn number_or_zero(number: Option<GenerationNumber>) -> GenerationNumber {
    number.unwrap_or(GenerationNumber(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StorePathHash;

    fn path(seed: u8) -> StorePath {
        StorePath::new(StorePathHash::from_bytes([seed; 20]), "user-environment").unwrap()
    }

    fn number(n: u64) -> GenerationNumber {
        GenerationNumber(n)
    }

    /// Generations with these numbers, made a day apart, the first on day 1.
    fn daily(current: u64, numbers: &[u64]) -> Generations {
        let made = numbers.iter().zip(1u8..).map(|(n, seed)| {
            let created = i64::from(seed) * DAY;
            (
                number(*n),
                Generation {
                    target: path(seed),
                    created,
                },
            )
        });
        Generations::from_parts(Some(number(current)), made.collect())
    }

    fn deletes(
        generations: &Generations,
        arguments: &[&str],
        now: i64,
    ) -> Result<Vec<u64>, String> {
        let spec = DeleteSpec::parse(arguments).map_err(|e| e.to_string())?;
        let profile = ProfileName::parse("default").unwrap();
        let selected = generations
            .select(&profile, &spec, now)
            .map_err(|e| e.to_string())?;
        Ok(selected.into_iter().map(|n| n.0).collect())
    }

    #[test]
    fn a_new_generation_is_one_above_the_highest() {
        let mut generations = Generations::new();
        assert_eq!(
            generations.advance(path(1), 5).unwrap(),
            Advance::Created(number(1))
        );
        assert_eq!(generations.current_generation().unwrap().created, 5);
        let mut generations = daily(2, &[1, 2, 7]);
        assert_eq!(generations.next_number().unwrap(), number(8));
        assert_eq!(
            generations.advance(path(9), 5).unwrap(),
            Advance::Created(number(8))
        );
        assert_eq!(generations.current(), Some(number(8)));
        assert_eq!(
            generations.list().len(),
            4,
            "newer ones stay after a rollback"
        );
    }

    #[test]
    fn the_number_of_a_deleted_highest_generation_is_used_again() {
        let mut generations = daily(8, &[7, 8, 9]);
        generations.remove(&[number(9)]);
        assert_eq!(generations.next_number().unwrap(), number(9));
    }

    #[test]
    fn only_the_highest_generation_stands_for_an_equal_target() {
        let mut generations = daily(1, &[1, 2]);
        assert_eq!(
            generations.advance(path(2), 5).unwrap(),
            Advance::Reused(number(2))
        );
        assert_eq!(generations.current(), Some(number(2)));
        assert_eq!(generations.list().len(), 2);
        let mut generations = daily(1, &[1, 2]);
        assert_eq!(
            generations.advance(path(1), 5).unwrap(),
            Advance::Created(number(3))
        );
    }

    #[test]
    fn numbers_end_with_an_error() {
        let generations = daily(u64::MAX, &[u64::MAX]);
        assert!(matches!(
            generations.next_number(),
            Err(GenerationError::NumbersUsedUp(_))
        ));
    }

    #[test]
    fn a_rollback_goes_to_the_next_lower_generation() {
        let mut generations = daily(4, &[1, 2, 4, 5]);
        let switch = generations.roll_back().unwrap();
        assert_eq!(switch.to_string(), "switching profile from version 4 to 2");
        generations.roll_back().unwrap();
        let text = generations.roll_back().unwrap_err().to_string();
        assert_eq!(text, "no profile version older than the current (1) exists");
        assert_eq!(generations.current(), Some(number(1)));
        let text = Generations::new().roll_back().unwrap_err().to_string();
        assert_eq!(text, "no profile version older than the current (0) exists");
    }

    #[test]
    fn a_switch_goes_to_any_generation_that_exists() {
        let mut generations = daily(1, &[1, 5]);
        let switch = generations.switch(number(5)).unwrap();
        assert_eq!(switch.to_string(), "switching profile from version 1 to 5");
        let text = generations.switch(number(99)).unwrap_err().to_string();
        assert_eq!(text, "profile version 99 does not exist");
        let mut lost = Generations::from_parts(Some(number(9)), daily(1, &[1]).list().clone());
        assert_eq!(lost.current(), None);
        let switch = lost.switch(number(1)).unwrap();
        assert_eq!(switch.to_string(), "switching profile from version 0 to 1");
    }

    #[test]
    fn numbers_are_deleted_unless_one_is_current() {
        let generations = daily(2, &[1, 2, 3]);
        assert_eq!(deletes(&generations, &["3", "1", "77"], 0), Ok(vec![1, 3]));
        let text = "cannot delete current version of profile 'default'";
        assert_eq!(deletes(&generations, &["1", "2"], 0), Err(text.to_owned()));
        assert_eq!(deletes(&generations, &[], 0), Ok(vec![]));
    }

    #[test]
    fn old_are_all_but_the_current_one() {
        assert_eq!(deletes(&daily(2, &[1, 2, 3]), &["old"], 0), Ok(vec![1, 3]));
    }

    #[test]
    fn a_count_keeps_the_current_one_those_above_and_those_just_below() {
        let generations = daily(5, &[1, 2, 4, 5, 6, 7, 8]);
        assert_eq!(deletes(&generations, &["+2"], 0), Ok(vec![2, 1]));
        assert_eq!(deletes(&generations, &["+1"], 0), Ok(vec![4, 2, 1]));
        assert_eq!(deletes(&generations, &["+9"], 0), Ok(vec![]));
        let lost = Generations::from_parts(None, generations.list().clone());
        assert_eq!(deletes(&lost, &["+1"], 0), Ok(vec![]));
    }

    #[test]
    fn days_keep_what_was_current_then_and_what_is_current_now() {
        let generations = daily(2, &[1, 2, 3, 4, 5]);
        // Of day 7: on day 4 generation 3 was current, since 4 was made on that very second.
        assert_eq!(deletes(&generations, &["3d"], 7 * DAY), Ok(vec![1]));
        assert_eq!(deletes(&generations, &["1d"], 7 * DAY), Ok(vec![4, 3, 1]));
        assert_eq!(deletes(&generations, &["90d"], 7 * DAY), Ok(vec![]));
        let mut later = generations.list().clone();
        later.get_mut(&number(1)).unwrap().created = 7 * DAY;
        let later = Generations::from_parts(Some(number(5)), later);
        assert_eq!(
            deletes(&later, &["1d"], 7 * DAY),
            Ok(vec![4, 3, 2]),
            "a newer one is kept"
        );
    }

    #[test]
    fn wrong_arguments_are_refused_in_the_words_of_nix() {
        let generations = daily(1, &[1]);
        let complaint = |arguments: &[&str]| deletes(&generations, arguments, 0).unwrap_err();
        for (argument, text) in [
            ("0d", "invalid number of days specifier '0d'"),
            ("d", "invalid number of days specifier 'd'"),
            ("-3d", "invalid number of days specifier '-3d'"),
            (
                "5d6",
                "invalid number of days specifier '5d6', expected something like '14d'",
            ),
            ("+", "invalid number of generations '+'"),
            ("+0", "invalid number of generations to keep '+0'"),
            ("3+", "invalid number of generations to keep '3+'"),
            ("x", "invalid generation number 'x'"),
            ("-1", "invalid generation number '-1'"),
        ] {
            assert_eq!(complaint(&[argument]), text);
        }
        assert_eq!(complaint(&["1", "old"]), "invalid generation number 'old'");
    }

    #[test]
    fn the_current_generation_survives_a_removal() {
        let mut generations = daily(2, &[1, 2, 3]);
        generations.remove(&[number(1), number(2)]);
        let left: Vec<u64> = generations.list().keys().map(|n| n.0).collect();
        assert_eq!(left, [2, 3]);
    }

    #[test]
    fn the_list_has_a_line_a_generation() {
        let mut list = daily(7, &[7, 12345]).list().clone();
        list.get_mut(&number(7)).unwrap().created = 1_795_347_385;
        list.get_mut(&number(12345)).unwrap().created = 951_827_696;
        let generations = Generations::from_parts(Some(number(7)), list);
        let lines: Vec<String> = generations.lines(&TimeZone::UTC).collect();
        assert_eq!(
            lines,
            [
                "   7   2026-11-22 11:36:25   (current)",
                "12345   2000-02-29 12:34:56   "
            ]
        );
    }

    #[test]
    fn days_are_counted_like_a_calendar_in_any_time_zone() {
        let line = |created, zone: &TimeZone| {
            let target = path(1);
            let list = [(number(1), Generation { target, created })].into();
            let generations = Generations::from_parts(None, list);
            let line = generations.lines(zone).next().unwrap();
            line.trim_start_matches("   1   ").trim_end().to_owned()
        };
        for (created, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (4_107_542_399, "2100-02-28 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(line(created, &TimeZone::UTC), expected);
        }
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(line(1_795_347_385, &berlin), "2026-11-22 12:36:25");
        assert_eq!(line(1_785_000_000, &berlin), "2026-07-25 19:20:00");
        assert!(line(i64::MAX, &berlin).starts_with("9999-12-"));
        assert!(line(i64::MIN, &berlin).starts_with("-9999-01-"));
    }
}
