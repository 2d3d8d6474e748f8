//! The names of packages that a user may have meant.

use std::collections::BTreeSet;

use super::version::PackageName;
use crate::nix::store_path::StorePath;

/// Most names that are suggested.
const SHOWN: usize = 5;

/// Gathers the names that are nearest to one that nothing has.
#[derive(Debug)]
pub struct Nearest<'q> {
    wanted: PackageName<'q>,
    /// Each with its distance and its length; the nearest first.
    found: BTreeSet<(usize, usize, String)>,
}

impl<'q> Nearest<'q> {
    /// Gathers names near to `query`, which was not found.
    #[must_use]
    pub fn new(query: &'q str) -> Self {
        Self {
            wanted: PackageName::split(query),
            found: BTreeSet::new(),
        }
    }

    /// Considers a path. Every path must be passed once.
    pub fn see(&mut self, path: &StorePath) {
        let name = PackageName::split(path.name());
        let Some(distance) = self.distance(&name) else {
            return;
        };
        let shown = if self.wanted.version.is_empty() {
            name.package
        } else {
            name.without_output()
        };
        let entry = (distance, shown.len(), shown.to_owned());
        let is_near = |last: &(usize, usize, String)| entry < *last;
        if self.found.len() < SHOWN || self.found.last().is_some_and(is_near) {
            self.found.insert(entry);
            if self.found.len() > SHOWN {
                self.found.pop_last();
            }
        }
    }

    /// How far a name is from the one that is wanted; `None` if it has nothing to do with it.
    fn distance(&self, name: &PackageName<'_>) -> Option<usize> {
        let (wanted, package) = (self.wanted.package, name.package);
        if wanted == package {
            return Some(0);
        }
        if wanted.is_empty() || package.is_empty() {
            return None;
        }
        // One letter of three may be wrong.
        let most = (wanted.len() / 3).max(1);
        let may_be_near = wanted.len().abs_diff(package.len()) <= most;
        let edits = may_be_near.then(|| {
            strsim::levenshtein(&wanted.to_ascii_lowercase(), &package.to_ascii_lowercase())
        });
        let by_letters = edits.filter(|edits| *edits <= most);
        let is_longer = package.starts_with(wanted);
        by_letters.into_iter().chain(is_longer.then_some(1)).min()
    }

    /// The names, the nearest first.
    #[must_use]
    pub fn finish(self) -> Vec<String> {
        self.found.into_iter().map(|(_, _, name)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StorePathHash;

    fn nearest(query: &str, names: &[&str]) -> Vec<String> {
        let mut nearest = Nearest::new(query);
        for (seed, name) in (0..).zip(names) {
            let hash = StorePathHash::from_bytes([seed; 20]);
            nearest.see(&StorePath::new(hash, name).unwrap());
        }
        nearest.finish()
    }

    #[test]
    fn one_letter_of_three_may_be_wrong() {
        for (query, name, is_near) in [
            ("kitten", "mitten", true),
            ("kitten", "sitten", true),
            ("kitten", "sitting", false),
            ("abcdefghi", "xbcxefxhi", true),
            ("abcdefghi", "xbcxefxxi", false),
            ("ab", "abc", true),
            ("xbc", "abcd", false),
            ("same", "same", true),
        ] {
            assert_eq!(
                !nearest(query, &[name]).is_empty(),
                is_near,
                "{query} {name}"
            );
        }
    }

    #[test]
    fn near_and_longer_names_are_suggested_once_each_and_at_most_five() {
        let names = [
            "hello-2.12",
            "hello-2.12-doc",
            "help-1",
            "hello-wayland-1",
            "zlib-1.3",
            "shell-1",
        ];
        assert_eq!(nearest("helo", &names), ["help", "hello"]);
        assert_eq!(nearest("Hello", &names), ["hello"]);
        assert_eq!(nearest("hello-w", &names), ["hello-wayland", "hello"]);
        assert!(nearest("firefox", &names).is_empty());
        let many = ["abc1", "abc2", "abc3", "abc4", "abc5", "abc6"];
        assert_eq!(nearest("abc", &many), many[..5]);
    }

    #[test]
    fn other_versions_of_a_package_are_suggested() {
        let names = ["hello-2.12", "hello-2.12-doc", "hello-2.10", "hallo-1"];
        let expected = ["hello-2.10", "hello-2.12", "hallo-1"];
        assert_eq!(nearest("hello-3", &names), expected);
    }
}
