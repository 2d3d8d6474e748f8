//! Names of profiles, numbers of generations, and the links that a directory of profiles shows for them.
//!
//! Owns the grammar. Invariant: no name is also the name of another profile's generation link,
//! lock or temporary link, so a directory of profiles is unambiguous to Nix, which also takes
//! other texts for such names (`q-007-linkfoo` for generation 7 of `q`).

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest part of a name, in bytes: a file name has 255, and `-NUMBER-link.tmp-PID-RANDOM`,
/// which Nix appends, takes up to 48.
const MAX_PART: usize = 200;

/// Longest name, in bytes: far below the longest path that a system call takes (4096).
const MAX_NAME: usize = 1024;

/// The directory of profiles, as paths of profiles have it.
const PROFILES: &str = "/var/nix/profiles/";

/// End of the name of a generation link.
const LINK: &str = "-link";

/// The number of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationNumber(pub u64);

impl fmt::Display for GenerationNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not the name of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "'{name}' is not a name for a profile: {reason}; names look like default, or per-user/ann/profile"
)]
pub struct NameError {
    pub name: String,
    /// The rule that it breaks.
    pub reason: NameDefect,
}

/// The rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameDefect {
    /// Nothing, or nothing between two slashes.
    #[error("it has an empty part")]
    EmptyPart,
    /// It begins or ends with a slash.
    #[error("it begins or ends with '/'")]
    OuterSlash,
    /// A part begins with a dot: `..`, and the temporary links of Nix.
    #[error("a part begins with '.'")]
    LeadingDot,
    /// A byte that cannot be printed on a line.
    #[error("it has a control character")]
    ControlCharacter,
    /// A part, or all of it, does not fit into a file name or path.
    #[error("it is too long")]
    TooLong,
    /// `NAME-3-link` is a generation of `NAME`.
    #[error("it looks like a link to a generation (…-NUMBER-link)")]
    GenerationLink,
    /// `NAME.lock` is the lock of `NAME`.
    #[error("it looks like a lock (….lock)")]
    Lock,
}

/// The name of a profile: its path below the directory of profiles, such as `default`, `system`
/// or `per-user/ann/profile`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName(String);

impl ProfileName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`] says which rule it breaks.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        match find_defect(name) {
            None => Ok(Self(name.to_owned())),
            Some(reason) => Err(NameError {
                name: name.escape_debug().to_string(),
                reason,
            }),
        }
    }

    /// Reads a name, or the path of a profile in a directory of profiles:
    /// `/nix/var/nix/profiles/system` is `system`.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn parse_argument(text: &str) -> Result<Self, NameError> {
        match text.rsplit_once(PROFILES) {
            Some((above, name)) if above.is_empty() || above.starts_with('/') => Self::parse(name),
            _ => Self::parse(text),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the link to the current generation, in its directory.
    #[must_use]
    pub fn link(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, link)| link)
    }

    /// The name of the link to generation `number`, in the same directory. The link to the
    /// current generation has this very text as its target.
    #[must_use]
    pub fn generation_link(&self, number: GenerationNumber) -> String {
        format!("{}-{number}{LINK}", self.link())
    }

    /// Whether both cannot exist in one directory of profiles: one is below the other, so that
    /// its directory has the name of the other's link.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        below(&self.0, &other.0) || below(&other.0, &self.0)
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProfileName({})", self.0)
    }
}

impl FromStr for ProfileName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::parse(name)
    }
}

/// What a name in a directory of profiles can be, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileEntry<'a> {
    /// A link to a current generation, or a directory.
    Link(&'a str),
    /// The link to a generation of a profile in this directory.
    Generation {
        /// The name of the profile's link.
        profile: &'a str,
        number: GenerationNumber,
    },
}

impl<'a> ProfileEntry<'a> {
    /// Takes the name of an entry apart; `None` if a directory of profiles never shows it.
    /// A generation has one name here, while Nix takes several.
    #[must_use]
    pub fn parse(entry: &'a str) -> Option<Self> {
        let generation = entry.strip_suffix(LINK).and_then(|e| e.rsplit_once('-'));
        if let Some((profile, digits)) = generation
            && let Some(number) = parse_number(digits)
        {
            let plain = find_defect(profile).is_none() && number.to_string() == digits;
            return plain.then_some(Self::Generation { profile, number });
        }
        let plain = find_defect(entry).is_none() && !entry.contains('/');
        plain.then_some(Self::Link(entry))
    }
}

fn find_defect(name: &str) -> Option<NameDefect> {
    if name.is_empty() {
        return Some(NameDefect::EmptyPart);
    }
    if name.starts_with('/') || name.ends_with('/') {
        return Some(NameDefect::OuterSlash);
    }
    if name.len() > MAX_NAME {
        return Some(NameDefect::TooLong);
    }
    name.split('/').find_map(find_defect_of_part)
}

fn find_defect_of_part(part: &str) -> Option<NameDefect> {
    let looks_like_link = || {
        let dashes = part.match_indices('-').filter(|(at, _)| *at > 0);
        dashes
            .map(|(at, _)| &part[at + 1..])
            .any(|rest| number_before_link(rest).is_some())
    };
    if part.is_empty() {
        Some(NameDefect::EmptyPart)
    } else if part.starts_with('.') {
        Some(NameDefect::LeadingDot)
    } else if part.contains(char::is_control) {
        Some(NameDefect::ControlCharacter)
    } else if part.len() > MAX_PART {
        Some(NameDefect::TooLong)
    } else if part.ends_with(".lock") {
        Some(NameDefect::Lock)
    } else if looks_like_link() {
        Some(NameDefect::GenerationLink)
    } else {
        None
    }
}

/// The number in `NUMBER-link…`.
fn number_before_link(text: &str) -> Option<GenerationNumber> {
    text.split_once(LINK)
        .and_then(|(digits, _)| parse_number(digits))
}

fn parse_number(digits: &str) -> Option<GenerationNumber> {
    digits.parse().ok().map(GenerationNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ProfileName {
        ProfileName::parse(text).unwrap()
    }

    #[test]
    fn names_of_one_and_of_several_parts_are_taken() {
        for text in [
            "default",
            "system",
            "per-user/ann/profile",
            "a/b",
            "x-3",
            "x-link",
            "3-link",
            "-link",
            "ü ber",
        ] {
            assert_eq!(name(text).as_str(), text);
        }
    }

    #[test]
    fn what_would_confuse_a_directory_of_profiles_is_refused() {
        let defect = |text: &str| ProfileName::parse(text).unwrap_err().reason;
        for text in ["/", "/a", "a/", "/nix/var/nix/profiles/a"] {
            assert_eq!(defect(text), NameDefect::OuterSlash, "{text}");
        }
        for text in ["", "a//b"] {
            assert_eq!(defect(text), NameDefect::EmptyPart, "{text}");
        }
        for text in [".", "..", "a/../b", "a/..", ".0_default", ".hidden"] {
            assert_eq!(defect(text), NameDefect::LeadingDot, "{text}");
        }
        for text in [
            "x-3-link",
            "x-007-link",
            "x-99-linkfoo",
            "x-3-link.tmp-12-7",
            "a-b-3-link",
            "x-3-link/y",
        ] {
            assert_eq!(defect(text), NameDefect::GenerationLink, "{text}");
        }
        assert_eq!(defect("x.lock"), NameDefect::Lock);
        assert_eq!(defect("a\nb"), NameDefect::ControlCharacter);
        assert_eq!(defect("a\0b"), NameDefect::ControlCharacter);
        assert_eq!(name(&"x".repeat(200)).as_str().len(), 200);
        assert_eq!(defect(&"x".repeat(201)), NameDefect::TooLong);
        let longest = format!("{}xy", "x/".repeat(511));
        assert_eq!(name(&longest).as_str().len(), 1024);
        assert_eq!(defect(&(longest + "z")), NameDefect::TooLong);
        let text = ProfileName::parse("a/../b").unwrap_err().to_string();
        assert!(
            text.contains("'a/../b'") && text.contains("begins with '.'"),
            "{text}"
        );
    }

    #[test]
    fn a_path_into_a_directory_of_profiles_names_the_profile() {
        let argument = |text: &str| ProfileName::parse_argument(text);
        for text in [
            "/nix/var/nix/profiles/per-user/ann/profile",
            "/mnt/var/nix/profiles/per-user/ann/profile",
            "/var/nix/profiles/per-user/ann/profile",
            "per-user/ann/profile",
        ] {
            assert_eq!(argument(text).unwrap(), name("per-user/ann/profile"));
        }
        for (text, reason) in [
            ("/nix/var/nix/profiles/", NameDefect::EmptyPart),
            ("/nix/var/nix/profiles/x/", NameDefect::OuterSlash),
            ("/nix/var/nix/profiles/../x", NameDefect::LeadingDot),
            ("/nix/var/nix/profiles/x-3-link", NameDefect::GenerationLink),
            ("/root/.nix-profile", NameDefect::OuterSlash),
        ] {
            assert_eq!(argument(text).unwrap_err().reason, reason, "{text}");
        }
    }

    #[test]
    fn links_carry_the_last_part_of_the_name() {
        let profile = name("per-user/ann/profile");
        assert_eq!(profile.link(), "profile");
        assert_eq!(
            profile.generation_link(GenerationNumber(12)),
            "profile-12-link"
        );
    }

    #[test]
    fn what_nix_takes_for_a_generation_is_no_name() {
        let defect = |name| ProfileName::parse(name).err().map(|error| error.reason);
        for link in ["q-7-link", "q-007-link", "q-99-linkfoo"] {
            assert_eq!(defect(link), Some(NameDefect::GenerationLink), "{link}");
        }
        for name in ["q", "q-link", "q--link", "q-x-link", "q-7", "q-7x-link"] {
            assert_eq!(defect(name), None, "{name}");
        }
    }

    #[test]
    fn an_entry_is_a_profile_or_one_of_its_generations() {
        let generation = |profile, number| {
            let number = GenerationNumber(number);
            Some(ProfileEntry::Generation { profile, number })
        };
        assert_eq!(
            ProfileEntry::parse("default"),
            Some(ProfileEntry::Link("default"))
        );
        assert_eq!(
            ProfileEntry::parse("default-3-link"),
            generation("default", 3)
        );
        assert_eq!(ProfileEntry::parse("a-b-10-link"), generation("a-b", 10));
        for entry in [
            "default-03-link",
            "default-3-linkfoo",
            "a/b",
            "x.lock",
            ".0_x",
            "",
            "x-1-link-2-link",
        ] {
            assert_eq!(ProfileEntry::parse(entry), None, "{entry}");
        }
    }

    #[test]
    fn a_profile_cannot_lie_below_another() {
        assert!(name("a").conflicts_with(&name("a/b")));
        assert!(name("a/b/c").conflicts_with(&name("a")));
        assert!(!name("a").conflicts_with(&name("a")));
        assert!(!name("a").conflicts_with(&name("ab/c")));
    }
}
