//! A user environment as a value: directories, and links to absolute store paths.
//!
//! Invariant: a [`Directory`] has one NAR for each kind of manifest ([`ManifestEntry`]),
//! whatever order it was made in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use crate::nix::nar::{NarError, Writer};
use crate::nix::store_path::{HASH_PART_LEN, StoreDir, StorePath};

/// What a name in an environment stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory of the environment's own.
    Directory(Directory),
    /// A link to this path, which is absolute.
    Link(Vec<u8>),
}

/// A directory of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
}

/// The manifest of an environment: the packages that it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestEntry<'a> {
    Absent,
    /// `manifest.json`, a file with these contents, as `nix profile` writes it.
    Json(&'a [u8]),
    /// `manifest.nix`, a link to this path, as `nix-env` makes it.
    Nix(&'a [u8]),
}

impl ManifestEntry<'_> {
    const fn name(self) -> Option<&'static [u8]> {
        match self {
            Self::Absent => None,
            Self::Json(_) => Some(b"manifest.json"),
            Self::Nix(_) => Some(b"manifest.nix"),
        }
    }

    fn write<W: Write>(self, out: &mut Writer<W>) -> Result<(), NarError> {
        let Some(name) = self.name() else {
            return Ok(());
        };
        out.entry(name)?;
        match self {
            Self::Absent => Ok(()),
            Self::Nix(target) => out.symlink(target),
            Self::Json(contents) => {
                out.regular(false, contents.len() as u64)?;
                out.contents(contents)
            }
        }
    }
}

impl Directory {
    /// Its entries, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_slice(), entry))
    }

    /// Calls `each` with the path and the target of every link, in the order of the NAR.
    pub fn each_link<'d>(&'d self, each: &mut dyn FnMut(&[u8], &'d [u8])) {
        fn walk<'d>(
            directory: &'d Directory,
            path: &mut Vec<u8>,
            each: &mut dyn FnMut(&[u8], &'d [u8]),
        ) {
            let length = path.len();
            for (name, entry) in directory.iter() {
                path.extend_from_slice(name);
                match entry {
                    Entry::Link(target) => each(path, target),
                    Entry::Directory(below) => {
                        path.push(b'/');
                        walk(below, path, each);
                    }
                }
                path.truncate(length);
            }
        }
        walk(self, &mut Vec::new(), each);
    }

    /// The store paths that links lead to: what a search for references finds. A package of which
    /// no file is linked is not among them.
    #[must_use]
    pub fn linked(&self, store_dir: &StoreDir) -> BTreeSet<StorePath> {
        let mut bases = BTreeSet::new();
        self.each_link(&mut |_, target| {
            let inside = target.strip_prefix(store_dir.as_str().as_bytes());
            let base = inside.and_then(|rest| rest.strip_prefix(b"/"));
            let base = base.and_then(|rest| rest.split(|b| *b == b'/').next());
            bases.extend(base.filter(|base| base.len() > HASH_PART_LEN));
        });
        let paths = bases.into_iter().map(StorePath::parse_base_name);
        paths.filter_map(Result::ok).collect()
    }

    /// Writes the NAR of an environment with this directory as its root.
    ///
    /// # Errors
    /// `out` fails, or the environment is deeper than a NAR may be.
    pub fn write_nar<W: Write>(&self, manifest: ManifestEntry<'_>, out: W) -> Result<W, NarError> {
        let mut writer = Writer::new(out);
        self.write_directory(manifest, &mut writer)?;
        writer.finish()
    }

    fn write_directory<W: Write>(
        &self,
        mut manifest: ManifestEntry<'_>,
        out: &mut Writer<W>,
    ) -> Result<(), NarError> {
        out.directory()?;
        for (name, entry) in self.iter() {
            if manifest.name().is_some_and(|own| own < name) {
                manifest.write(out)?;
                manifest = ManifestEntry::Absent;
            }
            out.entry(name)?;
            match entry {
                Entry::Link(target) => out.symlink(target)?,
                Entry::Directory(below) => below.write_directory(ManifestEntry::Absent, out)?,
            }
        }
        manifest.write(out)?;
        out.end_directory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(target: &str) -> Entry {
        Entry::Link(target.into())
    }

    fn directory(entries: &[(&str, Entry)]) -> Directory {
        let entries = entries
            .iter()
            .map(|(name, entry)| ((*name).into(), entry.clone()));
        Directory {
            entries: entries.collect(),
        }
    }

    fn forest() -> Directory {
        let below = directory(&[(
            "x",
            link("/nix/store/11111111111111111111111111111111-a/bin/x"),
        )]);
        directory(&[
            ("bin", Entry::Directory(below)),
            (
                "share",
                link("/nix/store/00000000000000000000000000000000-b/share"),
            ),
            ("null", link("/dev/null")),
            ("short", link("/nix/store/x/share")),
        ])
    }

    #[test]
    fn links_name_the_store_paths_that_they_lead_to() {
        let linked = forest().linked(&StoreDir::parse("/nix/store").unwrap());
        let names: Vec<&str> = linked.iter().map(StorePath::name).collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn the_manifest_stands_in_its_place_among_the_names() {
        for (name, expected) in [("a", ["a", "manifest.nix"]), ("z", ["manifest.nix", "z"])] {
            let one = directory(&[(name, link("/x"))]);
            let nar = one
                .write_nar(ManifestEntry::Nix(b"/m"), Vec::new())
                .unwrap();
            let text = String::from_utf8_lossy(&nar).into_owned();
            let at = expected.map(|name| text.find(&format!("{name}\0")).unwrap());
            assert!(at[0] < at[1], "{expected:?}");
        }
        let empty = Directory::default();
        let nar = empty
            .write_nar(ManifestEntry::Json(b"{}"), Vec::new())
            .unwrap();
        assert!(nar.windows(13).any(|w| w == b"manifest.json"));
    }

    #[test]
    fn an_environment_deeper_than_a_nar_is_an_error() {
        let deep = (0..64).fold(Directory::default(), |below, _| {
            directory(&[("d", Entry::Directory(below))])
        });
        assert!(deep.write_nar(ManifestEntry::Absent, Vec::new()).is_err());
    }
}
