//! What two closures have of each package, as `nix profile diff-closures` shows it.
//!
//! Invariant: names and versions are split as Nix splits them, and what Nix would not show is not
//! in the list.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::channel::is_output;
use super::manifest::package_name;
use crate::nix::store_path::StorePath;

/// Smallest change of size, in bytes, that is shown.
const SHOWN: u64 = 8 * 1024;

/// A path of a closure, and the length of its NAR in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosurePart {
    pub path: StorePath,
    pub nar_size: u64,
}

/// A package that two closures have in different versions, or in very different sizes. Its text is
/// that of Nix: `hello: 2.10 → 2.12, +12.3 KiB`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageChange {
    /// The name without the version and the output.
    pub name: String,
    /// Versions that only the first closure has; an empty one for a name without a version.
    pub removed: Vec<String>,
    /// Versions that only the second closure has.
    pub added: Vec<String>,
    /// Bytes of the package's NARs in the first closure.
    pub size_before: u64,
    /// Bytes of the package's NARs in the second closure.
    pub size_after: u64,
}

impl PackageChange {
    fn is_shown(&self) -> bool {
        let versions_differ = !self.removed.is_empty() || !self.added.is_empty();
        versions_differ || self.shows_size()
    }

    fn shows_size(&self) -> bool {
        self.size_before.abs_diff(self.size_after) >= SHOWN
    }
}

impl fmt::Display for PackageChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.removed.is_empty() || !self.added.is_empty() {
            let (removed, added) = (versions(&self.removed), versions(&self.added));
            parts.push(format!("{removed} → {added}"));
        }
        if self.shows_size() {
            let grown = self.size_after as f64 - self.size_before as f64;
            parts.push(format!("{:+.1} KiB", grown / 1024.0));
        }
        write!(f, "{}: {}", self.name, parts.join(", "))
    }
}

fn versions(versions: &[String]) -> String {
    if versions.is_empty() {
        return "∅".to_owned();
    }
    let shown = versions.iter().map(|version| match version.as_str() {
        "" => "ε",
        version => version,
    });
    let shown: BTreeSet<&str> = shown.collect();
    shown.into_iter().collect::<Vec<_>>().join(", ")
}

/// The packages that differ, in the order of their names.
#[must_use]
pub fn compare_closures(before: &[ClosurePart], after: &[ClosurePart]) -> Vec<PackageChange> {
    let (before, after) = (group(before), group(after));
    let names: BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
    let none = Versions::new();
    let changes = names.into_iter().map(|name| {
        let before = before.get(name).unwrap_or(&none);
        let after = after.get(name).unwrap_or(&none);
        let only = |one: &Versions, other: &Versions| {
            let versions = one.keys().filter(|v| !other.contains_key(*v));
            versions.map(|v| (*v).to_owned()).collect()
        };
        PackageChange {
            name: name.to_owned(),
            removed: only(before, after),
            added: only(after, before),
            size_before: before.values().sum(),
            size_after: after.values().sum(),
        }
    });
    changes.filter(PackageChange::is_shown).collect()
}

/// The versions of a package, and the bytes of each.
type Versions<'p> = BTreeMap<&'p str, u64>;

fn group(closure: &[ClosurePart]) -> BTreeMap<&str, Versions<'_>> {
    let mut grouped: BTreeMap<&str, Versions<'_>> = BTreeMap::new();
    for part in closure {
        let (name, version) = split(part.path.name());
        *grouped.entry(name).or_default().entry(version).or_default() += part.nar_size;
    }
    grouped
}

/// The name and the version of a package: first the output is taken off (`-dev`, or whatever looks
/// like one), then the version.
fn split(name: &str) -> (&str, &str) {
    let name = match name.rsplit_once('-') {
        Some((before, output)) if is_output(output) => before,
        _ => name,
    };
    let package = package_name(name);
    (package, name.get(package.len() + 1..).unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StorePathHash;

    fn closure(parts: &[(&str, u64)]) -> Vec<ClosurePart> {
        let parts = (0..)
            .zip(parts)
            .map(|(seed, (name, nar_size))| ClosurePart {
                path: StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap(),
                nar_size: *nar_size,
            });
        parts.collect()
    }

    fn lines(before: &[(&str, u64)], after: &[(&str, u64)]) -> Vec<String> {
        let changes = compare_closures(&closure(before), &closure(after));
        changes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_end_before_the_version_and_outputs_are_no_part_of_them() {
        for (name, expected) in [
            ("hello-2.10", ("hello", "2.10")),
            ("glibc-2.35-163-dev", ("glibc", "2.35-163")),
            ("gcc-12.2.0-lib64", ("gcc", "12.2.0")),
            ("profile", ("profile", "")),
            ("user-environment", ("user", "")),
            ("x-", ("x-", "")),
            ("x-1-", ("x", "1-")),
            ("-dev", ("", "")),
        ] {
            assert_eq!(split(name), expected, "{name}");
        }
    }

    #[test]
    fn versions_and_large_differences_are_shown_as_nix_shows_them() {
        let before = [
            ("hello-2.10", 100_000),
            ("gone-1", 10),
            ("same-1", 5),
            ("grown-1", 0),
            ("plain", 1),
        ];
        let after = [
            ("hello-2.12", 112_595),
            ("hello-2.12-man", 1),
            ("new-3", 8192),
            ("same-1", 8196),
            ("grown-1", 8192),
            ("plain-2", 1),
        ];
        let expected = [
            "gone: 1 → ∅",
            "grown: +8.0 KiB",
            "hello: 2.10 → 2.12, +12.3 KiB",
            "new: ∅ → 3, +8.0 KiB",
            "plain: ε → 2",
        ];
        assert_eq!(lines(&before, &after), expected);
        assert_eq!(lines(&after, &before)[1], "grown: -8.0 KiB");
        assert!(lines(&after, &after).is_empty());
    }

    #[test]
    fn several_versions_of_a_package_are_one_line() {
        let before = [("x-1", 1), ("x-2", 1)];
        let after = [("x-2", 1), ("x-3", 1), ("x-4", 1)];
        assert_eq!(lines(&before, &after), ["x: 1 → 3, 4"]);
    }
}
