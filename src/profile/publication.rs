//! A profile as a store path: its tree, its hash, and the path that both follow from.
//!
//! `nix profile` gives a profile a content address: SHA-256 of the NAR, with the packages as
//! references. Invariant: the path, the hash and the tree of a [`ProfileTree`] come from the same
//! NAR, so that they are what Nix would have made of the same packages.

use std::path::Path;

use thiserror::Error;

use super::forest::{Directory, ManifestEntry};
use super::manifest::{Manifest, ManifestError};
use crate::nix::hash::{NarHash, Sha256Writer};
use crate::nix::nar::NarError;
use crate::nix::store_path::{
    ContentAddress, ContentAddressError, IngestionMethod, StoreDir, StorePath,
};
use crate::tree::{ChunkSink, UnpackError, Unpacked, Unpacker};

/// The name of the store path of a profile.
const NAME: &str = "profile";

/// Why a profile does not become a store path.
#[derive(Debug, Error)]
pub enum ProfileTreeError<E: std::error::Error + Send + Sync + 'static> {
    /// The forest does not fit into a NAR.
    #[error("the environment of the profile cannot be written as a NAR")]
    Nar(#[from] NarError),
    /// The manifest cannot be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The tree cannot be made.
    #[error(transparent)]
    Unpack(#[from] UnpackError<E>),
    /// The path cannot be computed.
    #[error(transparent)]
    ContentAddress(#[from] ContentAddressError),
}

/// A profile that is ready to be published.
#[derive(Debug)]
pub struct ProfileTree {
    /// `HASH-profile`.
    pub path: StorePath,
    /// What the path was computed from.
    pub content_address: ContentAddress,
    pub nar_hash: NarHash,
    /// Length of the NAR, in bytes.
    pub nar_size: u64,
    /// The references, sorted as Nix sorts them.
    pub references: Vec<StorePath>,
    /// The tree, and the references in the order of its numbers.
    pub unpacked: Unpacked,
}

/// Makes the store path of a profile with this forest and manifest. The chunks (one, of the
/// manifest) go to `sink`; `spool` is for temporary files, which a profile never needs.
///
/// # Errors
/// The forest is too deep, or the sink fails.
pub fn realise_profile<S: ChunkSink>(
    root: &Directory,
    manifest: &Manifest,
    store_dir: &StoreDir,
    sink: &mut S,
    spool: &Path,
) -> Result<ProfileTree, ProfileTreeError<S::Error>> {
    let json = manifest.to_json(store_dir)?;
    let out = Sha256Writer::new(Vec::new());
    let (nar, digest) = root.write_nar(ManifestEntry::Json(&json), out)?.finish();
    let references: Vec<StorePath> = manifest.references().into_iter().collect();
    let content_address = ContentAddress::fixed(IngestionMethod::Nar, digest.hash())?;
    let path = content_address.store_path(store_dir, NAME, &references, false)?;
    let unpacked = Unpacker::new(sink, &references, spool).unpack(nar.as_slice())?;
    Ok(ProfileTree {
        path,
        content_address,
        nar_hash: digest.nar_hash(),
        nar_size: digest.length,
        references,
        unpacked,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::memory::{Chunks, Memory};
    use super::super::{Element, ManifestVersion, synthesize};
    use super::*;
    use crate::tree::dump_nar;

    fn realise(memory: &Memory, manifest: &Manifest, chunks: &mut Chunks) -> ProfileTree {
        let made = synthesize(&manifest.packages(), &memory.store_dir, memory).unwrap();
        let spool = std::env::temp_dir();
        realise_profile(&made.root, manifest, &memory.store_dir, chunks, &spool).unwrap()
    }

    #[test]
    fn hash_path_and_tree_are_of_one_nar() {
        let mut memory = Memory::new();
        let a = memory.add("a", &["bin/a", "share/a"]);
        let b = memory.add("b", &["bin/b"]);
        let mut manifest = Manifest::new(ManifestVersion::Three);
        manifest.elements = vec![Element::new([b.clone()]), Element::new([a.clone()])];
        manifest.elements[0].active = false;
        let mut chunks = Chunks::default();
        let profile = realise(&memory, &manifest, &mut chunks);
        assert_eq!(profile.path.name(), "profile");
        assert_eq!(
            profile.references,
            [a, b],
            "inactive elements are references too"
        );
        let references = profile.unpacked.references.iter();
        let table: Vec<_> = references.map(|r| r.hash().to_ascii()).collect();
        let mut nar = Vec::new();
        let fetch =
            |_, entry: &crate::tree::ChunkEntry| Ok::<_, Infallible>(&chunks.0[&entry.digest]);
        dump_nar(&profile.unpacked.tree, 0, &table, fetch, &mut nar).unwrap();
        assert_eq!(NarHash::of(&nar), profile.nar_hash);
        assert_eq!(nar.len() as u64, profile.nar_size);
        let again = profile.content_address;
        let again = again.store_path(&memory.store_dir, "profile", &profile.references, false);
        assert_eq!(again.unwrap(), profile.path);
    }

    #[test]
    fn a_rebuild_of_the_packages_gives_the_same_tree() {
        let tree = |padding: usize| {
            let mut memory = Memory::new();
            for n in 0..padding {
                memory.add(&format!("padding{n}"), &[]);
            }
            let paths = ["a", "b"].map(|name| memory.add(name, &["bin/x", "share/doc/y"]));
            let mut manifest = Manifest::new(ManifestVersion::Three);
            manifest.elements = paths.map(|path| Element::new([path])).into();
            manifest.elements[1].priority = Some(6);
            realise(&memory, &manifest, &mut Chunks::default())
        };
        let (before, after) = (tree(0), tree(3));
        assert_ne!(before.path, after.path);
        assert_eq!(before.unpacked.tree.digest(), after.unpacked.tree.digest());
    }
}
