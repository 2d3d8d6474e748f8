//! Sizes such as `500M`, `20G` or a plain number of bytes; units are powers of 1024.
//!
//! Invariant: a displayed size parses as the same size.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Units and their factors, largest first.
const UNITS: [(char, u64); 5] = [
    ('P', 1 << 50),
    ('T', 1 << 40),
    ('G', 1 << 30),
    ('M', 1 << 20),
    ('K', 1 << 10),
];

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a size; write 500M, 20G or a number of bytes")]
pub(super) struct SizeError(pub(super) String);

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let unit = UNITS.iter().find(|(letter, _)| text.ends_with(*letter));
        let (number, unit) = match unit {
            Some((_, unit)) => (&text[..text.len() - 1], *unit),
            None => (text, 1),
        };
        // A sign is accepted by numbers, but not here.
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse::<u64>().ok().filter(|_| digits);
        let bytes = number.and_then(|n| n.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| SizeError(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: u64| self.0 != 0 && self.0.is_multiple_of(unit);
        match UNITS.iter().find(|(_, unit)| fits(*unit)) {
            Some((letter, unit)) => write!(f, "{}{letter}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_powers_of_1024() {
        let sizes = [
            ("0", 0),
            ("1000", 1000),
            ("1K", 1024),
            ("500M", 500 << 20),
            ("20G", 20 << 30),
            ("1T", 1 << 40),
            ("16383P", 16383 << 50),
        ];
        for (text, bytes) in sizes {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_as_the_same_size() {
        for bytes in [0, 1, 1000, 1023, 1024, 1025, 3 << 20, 20 << 30, u64::MAX] {
            let shown = Size(bytes).to_string();
            assert_eq!(shown.parse(), Ok(Size(bytes)), "{shown}");
        }
        assert_eq!(Size(20 << 30).to_string(), "20G");
        assert_eq!(Size(1536 << 20).to_string(), "1536M");
    }

    #[test]
    fn what_is_no_size_is_named() {
        let bad = [
            "",
            "G",
            "20Q",
            "20g",
            "-1",
            "+1",
            "+1G",
            "1.5G",
            "20 G",
            "20GB",
            "none",
            "\u{664}",
            "16384P",
            "18446744073709551616",
        ];
        for text in bad {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
