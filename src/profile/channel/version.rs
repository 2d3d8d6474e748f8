//! Names and versions of packages, split and compared as Nix does.

use std::cmp::Ordering;

use crate::profile::manifest::package_name;

/// The name of a store path in its parts: `glibc-2.40-66-dev` is `glibc`, `2.40-66`, `dev`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackageName<'n> {
    /// All of it.
    pub full: &'n str,
    /// The name, up to the first dash that no letter follows.
    pub package: &'n str,
    /// The version without the output; empty for a name without one.
    pub version: &'n str,
    /// The output, such as `dev`, `doc` or `lib`; empty where the name has none.
    pub output: &'n str,
}

impl<'n> PackageName<'n> {
    /// Splits the name of a store path. A word is an output only after a version: `-dev`, or what looks like
    /// it.
    #[must_use]
    pub fn split(full: &'n str) -> Self {
        let package = package_name(full);
        let rest = full.get(package.len() + 1..).unwrap_or("");
        let (version, output) = match rest.rsplit_once('-') {
            Some((version, output)) if is_output(output) => (version, output),
            _ => (rest, ""),
        };
        Self {
            full,
            package,
            version,
            output,
        }
    }

    /// The name with the version, without the output.
    #[must_use]
    pub fn without_output(&self) -> &'n str {
        match self.output {
            "" => self.full,
            output => &self.full[..self.full.len() - output.len() - 1],
        }
    }
}

/// Whether a word at the end of a name is an output.
pub fn is_output(word: &str) -> bool {
    let letters = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    letters || matches!(word, "lib32" | "lib64")
}

/// Compares versions as `builtins.compareVersions` does.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (one, other) = (next_component(&mut a), next_component(&mut b));
        if is_less(one, other) {
            return Ordering::Less;
        }
        if is_less(other, one) {
            return Ordering::Greater;
        }
    }
    Ordering::Equal
}

/// Takes the next run of digits, or of other bytes, off a version; dots and dashes separate
/// them.
fn next_component<'v>(version: &mut &'v [u8]) -> &'v [u8] {
    let is_separator = |b: &u8| matches!(b, b'.' | b'-');
    let start = version.iter().position(|b| !is_separator(b));
    let rest = &version[start.unwrap_or(version.len())..];
    let in_digits = rest.first().is_some_and(u8::is_ascii_digit);
    let end = rest
        .iter()
        .position(|b| is_separator(b) || b.is_ascii_digit() != in_digits);
    let (component, after) = rest.split_at(end.unwrap_or(rest.len()));
    *version = after;
    component
}

fn is_less(a: &[u8], b: &[u8]) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a < b,
        (None, Some(_)) if a.is_empty() => true,
        _ if a == b"pre" && b != b"pre" => true,
        _ if b == b"pre" => false,
        // 2.3a comes before 2.3.1.
        (None, Some(_)) => true,
        (Some(_), None) => false,
        (None, None) => a < b,
    }
}

/// A component as Nix's `int`; what is too large for that is text to it.
fn number(component: &[u8]) -> Option<i32> {
    std::str::from_utf8(component).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_the_manual_of_nix_says() {
        use Ordering::{Equal, Greater, Less};
        for (a, expected, b) in [
            ("1.0", Less, "2.3"),
            ("2.1", Less, "2.3"),
            ("2.3", Equal, "2.3"),
            ("2.5", Greater, "2.3"),
            ("3.1", Greater, "2.3"),
            ("2.3.1", Greater, "2.3"),
            ("2.3.1", Greater, "2.3a"),
            ("2.3pre1", Less, "2.3"),
            ("2.3pre3", Less, "2.3pre12"),
            ("2.3a", Less, "2.3c"),
            ("2.3pre1", Less, "2.3c"),
            ("2.3pre1", Less, "2.3q"),
            ("2.3-1", Equal, "2.3.1"),
            ("2.03", Equal, "2.3"),
            ("2.3.", Equal, "2.3"),
            ("", Equal, "-"),
            ("", Less, "0"),
            ("1.10", Greater, "1.9"),
            ("99999999999", Less, "9"),
        ] {
            assert_eq!(compare_versions(a, b), expected, "{a} and {b}");
            assert_eq!(compare_versions(b, a), expected.reverse(), "{b} and {a}");
        }
    }

    #[test]
    fn versions_begin_at_the_first_dash_that_no_letter_follows_and_outputs_end_them() {
        for (name, package, version, output) in [
            ("hello", "hello", "", ""),
            ("hello-2.12.1", "hello", "2.12.1", ""),
            ("hello-2.12.1-doc", "hello", "2.12.1", "doc"),
            ("glibc-2.40-66-dev", "glibc", "2.40-66", "dev"),
            ("gcc-13.3.0-lib", "gcc", "13.3.0", "lib"),
            ("gcc-13.3.0-lib64", "gcc", "13.3.0", "lib64"),
            ("python3-3.12.8", "python3", "3.12.8", ""),
            ("apache-httpd-2.4", "apache-httpd", "2.4", ""),
            ("nixos-manual-html", "nixos-manual-html", "", ""),
            (
                "nano-0-unstable-2024-01-02",
                "nano",
                "0-unstable-2024-01-02",
                "",
            ),
            ("x-", "x-", "", ""),
            ("x--1", "x", "-1", ""),
            ("-1", "", "1", ""),
        ] {
            let split = PackageName::split(name);
            assert_eq!(
                (split.package, split.version, split.output),
                (package, version, output),
                "{name}"
            );
        }
        let name = |n| PackageName::split(n).without_output();
        assert_eq!(name("glibc-2.40-66-dev"), "glibc-2.40-66");
        assert_eq!(name("glibc-2.40-66"), "glibc-2.40-66");
    }
}
