//! Channels: lists of store paths by which packages are found by their names.
//!
//! All of this is pure. Invariant: a name leads to a path only if it means no other path equally well;
//! among several the user chooses, where Nix would choose silently.
//!
//! - [`read_list`]: the list of a channel
//! - [`PackageName`], [`compare_versions`]: names and versions, as Nix splits and compares them
//! - [`Lookup`]: a name → a store path
//! - [`Nearest`]: names that the user may have meant

mod list;
mod nearest;
mod version;

use std::collections::BTreeMap;

pub use list::{ListError, read_list};
pub use nearest::Nearest;
pub(super) use version::is_output;
pub use version::{PackageName, compare_versions};

use crate::nix::store_path::StorePath;

/// A path that a name may mean, and the channel that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub path: StorePath,
    /// The first channel that has it.
    pub channel: String,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The one path that it means.
    One(Candidate),
    /// Several, the newest version first.
    Several(Vec<Candidate>),
    Nothing,
}

type Candidates = BTreeMap<StorePath, String>;

/// Looks a package up: `NAME`, `NAME-VERSION`, or the whole name of a path.
#[derive(Debug)]
pub struct Lookup<'q> {
    wanted: PackageName<'q>,
    /// Paths with exactly this name.
    whole: Candidates,
    /// Paths of the package without an output in their names, which users install.
    plain: Candidates,
    /// Other outputs of the package.
    outputs: Candidates,
}

impl<'q> Lookup<'q> {
    /// A lookup of what a user wrote.
    #[must_use]
    pub fn new(query: &'q str) -> Self {
        Self {
            wanted: PackageName::split(query),
            whole: Candidates::new(),
            plain: Candidates::new(),
            outputs: Candidates::new(),
        }
    }

    /// Considers a path of a channel. Every path must be passed once.
    pub fn see(&mut self, path: StorePath, channel: &str) {
        let name = PackageName::split(path.name());
        let is_meant = match self.wanted.version {
            "" => name.package == self.wanted.package,
            _ => name.without_output() == self.wanted.full,
        };
        let candidates = if name.full == self.wanted.full {
            &mut self.whole
        } else if !is_meant || path.is_derivation() {
            return;
        } else if name.output.is_empty() {
            &mut self.plain
        } else {
            &mut self.outputs
        };
        let entry = candidates.entry(path);
        entry.or_insert_with(|| channel.to_owned());
    }

    /// What was found. An exact name is preferred to the package, and that to its other outputs.
    #[must_use]
    pub fn finish(self) -> Found {
        let ranks = [self.whole, self.plain, self.outputs];
        let Some(best) = ranks.into_iter().find(|rank| !rank.is_empty()) else {
            return Found::Nothing;
        };
        let best = best.into_iter();
        let mut best: Vec<_> = best
            .map(|(path, channel)| Candidate { path, channel })
            .collect();
        if best.len() == 1 {
            return Found::One(best.remove(0));
        }
        best.sort_by(|a, b| {
            let (a, b) = [a, b].map(|c| PackageName::split(c.path.name())).into();
            compare_versions(b.version, a.version).then_with(|| a.full.cmp(b.full))
        });
        Found::Several(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StorePathHash;

    fn path(seed: u8, name: &str) -> StorePath {
        StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap()
    }

    /// The names that a lookup among `names` leads to.
    fn look_up<'n>(query: &str, names: &[&'n str]) -> Vec<&'n str> {
        let mut lookup = Lookup::new(query);
        for (seed, name) in (0..).zip(names) {
            lookup.see(path(seed, name), "channel");
        }
        let name = |c: &Candidate| *names.iter().find(|n| **n == c.path.name()).unwrap();
        match lookup.finish() {
            Found::One(one) => vec![name(&one)],
            Found::Several(several) => {
                assert!(several.len() > 1);
                several.iter().map(name).collect()
            }
            Found::Nothing => Vec::new(),
        }
    }

    const NAMES: [&str; 11] = [
        "hello-2.9",
        "hello-2.12-dev",
        "hello-2.12",
        "hello-2.12-doc",
        "hello-wayland-1",
        "openssl-3.0-bin",
        "openssl-3.0-dev",
        "openssl-3.0",
        "readme",
        "glibc-2.40-66-dev",
        "hello-2.13.drv",
    ];

    #[test]
    fn a_name_means_the_package_without_an_output() {
        assert_eq!(look_up("openssl", &NAMES), ["openssl-3.0"]);
        assert_eq!(look_up("openssl-3.0", &NAMES), ["openssl-3.0"]);
        assert_eq!(look_up("openssl-3.0-dev", &NAMES), ["openssl-3.0-dev"]);
        assert_eq!(look_up("readme", &NAMES), ["readme"]);
    }

    #[test]
    fn an_output_is_taken_where_there_is_nothing_else() {
        assert_eq!(look_up("glibc", &NAMES), ["glibc-2.40-66-dev"]);
        assert_eq!(look_up("glibc-2.40-66", &NAMES), ["glibc-2.40-66-dev"]);
        let outputs = ["x-1-dev", "x-1-bin"];
        assert_eq!(look_up("x", &outputs), ["x-1-bin", "x-1-dev"]);
    }

    #[test]
    fn of_several_versions_none_is_chosen_and_the_newest_is_first() {
        assert_eq!(look_up("hello", &NAMES), ["hello-2.12", "hello-2.9"]);
        assert_eq!(look_up("hello-2.12", &NAMES), ["hello-2.12"]);
        assert_eq!(look_up("hello-2.9", &NAMES), ["hello-2.9"]);
        // A path with just this name is what was named.
        assert_eq!(look_up("x", &["x-1", "x", "x-2"]), ["x"]);
    }

    #[test]
    fn two_builds_of_a_version_are_ambiguous_and_one_in_two_channels_is_not() {
        assert_eq!(look_up("x-1", &["x-1", "x-1"]).len(), 2);
        let mut lookup = Lookup::new("x");
        lookup.see(path(1, "x-1"), "first");
        lookup.see(path(1, "x-1"), "second");
        let Found::One(one) = lookup.finish() else {
            panic!("not one");
        };
        assert_eq!(one.channel, "first");
    }

    #[test]
    fn parts_of_names_and_derivations_are_not_found() {
        for nothing in ["hell", "hello-2", "wayland", "hello-2.13", "openssl-dev"] {
            assert!(look_up(nothing, &NAMES).is_empty(), "{nothing}");
        }
        assert_eq!(look_up("hello-2.13.drv", &NAMES), ["hello-2.13.drv"]);
    }
}
