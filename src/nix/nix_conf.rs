//! The syntax of `nix.conf`: lines `NAME = WORD …`, `include FILE` and `!include FILE`, and comments after
//! `#`.
//!
//! Invariant: a line that Nix refuses is refused, with its number. What settings mean is decided elsewhere.

use thiserror::Error;

/// Why a `nix.conf` is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no line of a nix.conf; write NAME = VALUE, include FILE or !include FILE")]
pub struct NixConfError {
    /// From 1 on.
    pub line: usize,
    text: String,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement<'t> {
    Setting {
        name: &'t str,
        words: Vec<&'t str>,
    },
    Include {
        /// As it is written; it is relative to the directory of the file.
        file: &'t str,
        /// Whether the file may be absent.
        optional: bool,
    },
}

/// The statements of a file, each with the number of its line, from 1 on.
///
/// # Errors
/// A line is none of these.
pub fn parse(text: &str) -> Result<Vec<(usize, Statement<'_>)>, NixConfError> {
    let mut statements = Vec::new();
    for (at, whole) in text.split('\n').enumerate() {
        let line = at + 1;
        let said = whole.split('#').next().unwrap_or_default();
        let words = said.split([' ', '\t', '\r']).filter(|w| !w.is_empty());
        let words: Vec<_> = words.collect();
        let statement = match words.as_slice() {
            [] => continue,
            [include @ ("include" | "!include"), file] => Statement::Include {
                file,
                optional: include.starts_with('!'),
            },
            [name, "=", words @ ..] if !matches!(*name, "include" | "!include") => {
                let words = words.to_vec();
                Statement::Setting { name, words }
            }
            _ => {
                let text = said.trim().to_owned();
                return Err(NixConfError { line, text });
            }
        };
        statements.push((line, statement));
    }
    Ok(statements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_includes_and_comments_are_told_apart() {
        let text = "# all\n\nsubstituters = https://a\thttps://b # two\r\nsandbox =\n\
                    include a.conf\n!include /b.conf";
        let setting = |name, words: &[&'static str]| Statement::Setting {
            name,
            words: words.to_vec(),
        };
        let include = |file, optional| Statement::Include { file, optional };
        assert_eq!(
            parse(text).unwrap(),
            [
                (3, setting("substituters", &["https://a", "https://b"])),
                (4, setting("sandbox", &[])),
                (5, include("a.conf", false)),
                (6, include("/b.conf", true)),
            ]
        );
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn lines_that_nix_refuses_are_refused_with_their_number() {
        for bad in [
            "a",
            "a b = c",
            "a =b",
            "a=b",
            "include",
            "include a b",
            "include = a",
        ] {
            let error = parse(&format!("x = 1\n{bad} # c\n")).unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (2, bad));
        }
    }
}
