//! Options of a volume: `-o closure=A:B -o profile=P`.
//!
//! Invariant: an unknown option is an error, since a volume with fewer paths than intended would be
//! noticed late.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// Options by name.
pub(super) type Options = BTreeMap<String, String>;

/// Separator of the values of an option; neither store paths nor package names contain it.
const SEPARATOR: char = ':';

#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum OptionError {
    #[error(
        "a volume has no option {0:?}; the options are closure=PATH:PATH…, whose closures it shows, and \
         profile=PROFILE:PROFILE…, which it follows"
    )]
    Unknown(String),
    /// The value is empty, or has an empty part.
    #[error("the option {name}={value} has an empty value; give {example}, separated by colons")]
    Empty {
        name: String,
        value: String,
        example: &'static str,
    },
}

/// The definition of a volume.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    /// Store paths or hashes, or packages of channels.
    pub(super) closure: Vec<String>,
    /// Names of profiles.
    pub(super) profiles: Vec<String>,
}

impl Definition {
    pub(super) fn read(options: &Options) -> Result<Self, OptionError> {
        let mut definition = Self::default();
        for (name, value) in options {
            let (list, example) = match name.as_str() {
                "closure" => (&mut definition.closure, "store paths or packages"),
                "profile" => (&mut definition.profiles, "names of profiles"),
                _ => return Err(OptionError::Unknown(name.clone())),
            };
            list.extend(value.split(SEPARATOR).map(|part| part.trim().to_owned()));
            if list.iter().any(String::is_empty) {
                return Err(OptionError::Empty {
                    name: name.clone(),
                    value: value.clone(),
                    example,
                });
            }
        }
        Ok(definition)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.closure.is_empty() && self.profiles.is_empty()
    }
}

/// Formatted as the options that define it.
impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("closure", &self.closure), ("profile", &self.profiles)];
        let parts = parts.iter().filter(|(_, list)| !list.is_empty());
        let parts = parts.map(|(name, list)| format!("-o {name}={}", list.join(":")));
        f.write_str(&parts.collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Definition, OptionError> {
        let options = options.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        Definition::read(&options.collect())
    }

    #[test]
    fn options_are_written_as_they_are_read() {
        let both = [("closure", "/nix/store/a:b"), ("profile", "web")];
        let definition = read(&both).unwrap();
        assert_eq!(definition.closure, ["/nix/store/a", "b"]);
        assert_eq!(definition.profiles, ["web"]);
        let text = definition.to_string();
        assert_eq!(text, "-o closure=/nix/store/a:b -o profile=web");
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for name in ["", "Closure", "device", "o"] {
            let said = read(&[(name, "x")]).unwrap_err();
            assert_eq!(said, OptionError::Unknown(name.into()));
        }
        for (name, value) in [
            ("closure", ""),
            ("closure", "a::b"),
            ("profile", " "),
            ("profile", "a:"),
        ] {
            let said = read(&[(name, value)]).unwrap_err().to_string();
            assert!(said.contains(&format!("{name}={value}")), "{said}");
        }
    }
}
