//! What becomes of a path that is known when it is registered or published once more.
//!
//! Invariant: one rule for each field, stated here and nowhere else.
//!
//! - **path**: never changes: what has the same hash and another name is left alone.
//! - **NarHash, NarSize, references**: what the last registration says, until contents come; from
//!   then on what these are. Another NAR is left alone for good. References are numbered as the tree
//!   has them, so that another tree of the same NAR brings its own. What is vouched for is not
//!   replaced by the word of a source without contents; that word, however, is replaced by references
//!   that are vouched for, with the tree that has them where contents are here.
//! - **deriver**: the first that is said stays.
//! - **signatures**: those for the same path, NarHash, NarSize and references are gathered: none
//!   goes, none comes twice, new ones come last.
//! - **vouched**: says it of what is registered then; of one statement it is enough to be vouched for
//!   once.
//! - **CA**: what `add` has computed, else the first with which the contents were compared.
//! - **origin**: fetched becomes added when the same contents are added here, and added stays added,
//!   whatever brings them once more.
//! - **time of registration**: when contents came for the first time.
//! - **ordinal**: stays, unless the kernel was told another kind of root.
//! - **contents**: absent, then here; a tree that is complete stays, one whose contents were dropped
//!   gives way to the one that brings them.

use std::collections::{BTreeSet, HashSet};

use super::path_info::{Contents, Origin, PathInfo, Registration, RootKind};

/// Whether a signature of one would be right for the other.
fn is_same_statement(a: &Registration, b: &Registration) -> bool {
    let references = |r: &Registration| r.references.iter().cloned().collect::<BTreeSet<_>>();
    (&a.path, a.nar_hash, a.nar_size) == (&b.path, b.nar_hash, b.nar_size)
        && references(a) == references(b)
}

/// What is registered of a path when `said` is said as well; `is_taken` if its hash, size and
/// references are those from now on.
fn joined(
    there: &Registration,
    said: &Registration,
    is_taken: bool,
    is_added: bool,
    was_here: bool,
) -> Registration {
    let mut joined = if is_taken { said } else { there }.clone();
    if !is_same_statement(there, said) {
        return joined;
    }
    joined.deriver = there.deriver.clone().or_else(|| said.deriver.clone());
    let computed = said.ca.filter(|_| is_added);
    // Without contents it was a claim.
    let compared = there.ca.filter(|_| was_here);
    joined.ca = computed.or(compared).or(said.ca);
    joined.vouched = there.vouched || said.vouched;
    joined.signatures.clone_from(&there.signatures);
    let there: HashSet<_> = there.signatures.iter().collect();
    let new = said.signatures.iter().filter(|new| !there.contains(new));
    joined.signatures.extend(new.cloned());
    joined
}

impl PathInfo {
    /// What this path becomes when a narinfo is read once more, and the kind of its root is known
    /// from then on, or it is vouched for; `None` if that changes nothing.
    pub(super) fn registered_again(
        &self,
        said: &Registration,
        root: Option<RootKind>,
        now: u64,
    ) -> Option<Self> {
        let there = &self.registration;
        let is_root_new = self.contents == Contents::Absent(None) && root.is_some();
        let is_now_vouched = said.vouched && !there.vouched;
        if !(is_root_new || is_now_vouched) || said.path != there.path {
            return None;
        }
        if let Contents::Local(_) = self.contents {
            // Other references need a tree that has them.
            return is_same_statement(there, said).then(|| Self {
                registration: joined(there, said, false, false, true),
                ..self.clone()
            });
        }
        let is_taken = said.vouched || !there.vouched;
        Some(Self {
            registration: joined(there, said, is_taken, false, false),
            registered: now,
            contents: match is_root_new {
                true => Contents::Absent(root),
                false => self.contents,
            },
            ..self.clone()
        })
    }

    /// What this path becomes when `new` is published, whose contents are here and verified; with
    /// its own ordinal. `is_complete` says whether its own contents are here. `None` if `new` is
    /// something else under the same hash.
    pub(super) fn published_again(&self, new: &Self, is_complete: bool) -> Option<Self> {
        let (there, said) = (&self.registration, &new.registration);
        let was_here = matches!(self.contents, Contents::Local(_));
        if there.path != said.path || was_here && there.nar_hash != said.nar_hash {
            return None;
        }
        let is_added = new.origin == Origin::Added;
        let is_corrected = said.vouched && !there.vouched && !is_same_statement(there, said);
        let is_taken = is_corrected || !is_complete && self.contents != new.contents;
        let of = if is_taken { new } else { self };
        Some(Self {
            registration: joined(there, said, is_taken, is_added, was_here),
            ordinal: self.ordinal,
            registered: if was_here { self } else { new }.registered,
            origin: match is_added {
                true => Origin::Added,
                false => self.origin,
            },
            contents: of.contents,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::ChunkDigest;
    use crate::nix::hash::NarHash;
    use crate::nix::store_path::{ContentAddress, IngestionMethod, StorePath, StorePathHash};
    use crate::store::PathOrdinal;

    fn path(seed: u8) -> StorePath {
        StorePath::new(StorePathHash::from_bytes([seed; 20]), "name").unwrap()
    }

    fn registration(signatures: &[&str]) -> Registration {
        Registration {
            path: path(1),
            nar_hash: NarHash::of(b"nar"),
            nar_size: 200,
            references: vec![path(2), path(1)],
            deriver: None,
            signatures: signatures.iter().map(|s| (*s).to_owned()).collect(),
            ca: None,
            vouched: true,
        }
    }

    fn tree(name: &[u8]) -> Contents {
        Contents::Local(ChunkDigest::of(name))
    }

    fn info(signatures: &[&str], origin: Origin, contents: Contents) -> PathInfo {
        PathInfo {
            registration: registration(signatures),
            ordinal: PathOrdinal(7),
            registered: 100,
            origin,
            contents,
        }
    }

    fn address(nar: &[u8]) -> ContentAddress {
        ContentAddress::fixed(IngestionMethod::Nar, NarHash::of(nar).into()).unwrap()
    }

    #[test]
    fn what_is_added_stays_added_whoever_brings_it_once_more() {
        let fetched = info(&["a:1"], Origin::Fetched, tree(b"t"));
        let added = PathInfo {
            registered: 200,
            ordinal: PathOrdinal(0),
            ..info(&[], Origin::Added, tree(b"t"))
        };
        for is_complete in [true, false] {
            let both = fetched.published_again(&added, is_complete).unwrap();
            let expected = PathInfo {
                origin: Origin::Added,
                ..fetched.clone()
            };
            assert_eq!(both, expected);
            let after = both.published_again(&fetched, is_complete).unwrap();
            assert_eq!(after, both);
        }
        let absent = info(&["a:1"], Origin::Fetched, Contents::Absent(None));
        let both = absent.published_again(&added, false).unwrap();
        assert_eq!((both.origin, both.registered), (Origin::Added, 200));
        assert_eq!((both.contents, both.ordinal), (tree(b"t"), PathOrdinal(7)));
        assert_eq!(both.registration.signatures, ["a:1"]);
    }

    #[test]
    fn signatures_are_gathered_for_one_statement_and_the_first_deriver_stays() {
        let mut there = info(&["a:1", "b:2"], Origin::Fetched, tree(b"t"));
        let mut new = info(&["c:3", "a:1"], Origin::Fetched, tree(b"t"));
        new.registration.references.reverse();
        new.registration.deriver = Some(path(8));
        let both = there.published_again(&new, true).unwrap();
        assert_eq!(both.registration.signatures, ["a:1", "b:2", "c:3"]);
        assert_eq!(both.registration.deriver, Some(path(8)));
        assert_eq!(both.registration.references, [path(2), path(1)]);
        there.registration.deriver = Some(path(9));
        let both = there.published_again(&new, true).unwrap();
        assert_eq!(both.registration.deriver, Some(path(9)));
        // Signatures for other references would be wrong.
        new.registration.references.pop();
        let both = there.published_again(&new, true).unwrap();
        assert_eq!(both.registration, there.registration);
    }

    fn unsigned(of: &Registration, references: Vec<StorePath>) -> Registration {
        Registration {
            references,
            signatures: Vec::new(),
            vouched: false,
            ..of.clone()
        }
    }

    #[test]
    fn references_that_nobody_vouches_for_get_no_signatures_and_give_way_to_those_that_are() {
        let signed = info(&["a:1"], Origin::Fetched, tree(b"signed"));
        let said = &signed.registration;
        let believed = PathInfo {
            registration: unsigned(said, vec![path(3)]),
            contents: tree(b"believed"),
            ..signed.clone()
        };
        for is_complete in [true, false] {
            let both = believed.published_again(&signed, is_complete).unwrap();
            assert_eq!((&both.registration, both.contents), (said, signed.contents));
        }
        // What is vouched for stays.
        let both = signed.published_again(&believed, true).unwrap();
        assert_eq!(both, signed);
        // A narinfo alone brings no tree with its references.
        assert_eq!(believed.registered_again(said, None, 300), None);
        let registered = PathInfo {
            contents: Contents::Absent(Some(RootKind::File)),
            ..believed.clone()
        };
        let corrected = registered.registered_again(said, None, 300).unwrap();
        assert_eq!(
            (&corrected.registration, corrected.contents),
            (said, registered.contents)
        );
        let known = PathInfo {
            contents: Contents::Absent(None),
            ..signed.clone()
        };
        let word = &believed.registration;
        assert_eq!(known.registered_again(word, None, 300), None);
        let rooted = known
            .registered_again(word, Some(RootKind::File), 300)
            .unwrap();
        assert_eq!(&rooted.registration, said);
    }

    #[test]
    fn the_same_statement_is_vouched_for_once_it_was() {
        let signed = info(&["a:1"], Origin::Fetched, tree(b"t"));
        let said = &signed.registration;
        let believed = PathInfo {
            registration: unsigned(said, said.references.clone()),
            ..signed.clone()
        };
        assert_eq!(believed.registered_again(said, None, 300).unwrap(), signed);
        assert_eq!(believed.published_again(&signed, true).unwrap(), signed);
        assert_eq!(signed.published_again(&believed, true).unwrap(), signed);
        assert_eq!(
            signed.registered_again(&believed.registration, None, 300),
            None
        );
    }

    #[test]
    fn the_address_that_add_has_computed_counts_most() {
        let mut there = info(&[], Origin::Fetched, tree(b"t"));
        let mut new = info(&[], Origin::Fetched, tree(b"t"));
        new.registration.ca = Some(address(b"1"));
        let both = there.published_again(&new, true).unwrap();
        assert_eq!(both.registration.ca, Some(address(b"1")));
        there.registration.ca = Some(address(b"2"));
        let both = there.published_again(&new, true).unwrap();
        assert_eq!(both.registration.ca, Some(address(b"2")));
        let claimed = PathInfo {
            contents: Contents::Absent(None),
            ..there.clone()
        };
        let compared = claimed.published_again(&new, false).unwrap();
        assert_eq!(compared.registration.ca, Some(address(b"1")));
        new.origin = Origin::Added;
        let both = there.published_again(&new, true).unwrap();
        assert_eq!(both.registration.ca, Some(address(b"1")));
    }

    #[test]
    fn contents_change_only_where_they_were_dropped_and_never_their_nar() {
        let there = info(&[], Origin::Fetched, tree(b"t"));
        let mut new = info(&[], Origin::Fetched, tree(b"other"));
        new.registration.references.reverse();
        let kept = there.published_again(&new, true).unwrap();
        assert_eq!(kept, there);
        let taken = there.published_again(&new, false).unwrap();
        assert_eq!(taken.contents, new.contents);
        assert_eq!(taken.registration.references, [path(1), path(2)]);
        assert_eq!(taken.registered, there.registered);
        new.registration.nar_hash = NarHash::of(b"another");
        assert_eq!(there.published_again(&new, false), None);
        let absent = info(&["a:1"], Origin::Fetched, Contents::Absent(None));
        let taken = absent.published_again(&new, false).unwrap();
        assert_eq!(taken.registration, new.registration);
        new.registration.path = path(3);
        assert_eq!(absent.published_again(&new, false), None);
    }

    #[test]
    fn a_narinfo_alone_changes_nothing_of_what_is_here() {
        let said = registration(&["c:3"]);
        let kind = Some(RootKind::Directory);
        let here = info(&["a:1"], Origin::Added, tree(b"t"));
        assert_eq!(here.registered_again(&said, kind, 300), None);
        let absent = info(&["a:1"], Origin::Fetched, Contents::Absent(None));
        assert_eq!(absent.registered_again(&said, None, 300), None);
        let known = absent.registered_again(&said, kind, 300).unwrap();
        assert_eq!(known.registration.signatures, ["a:1", "c:3"]);
        assert_eq!(known.contents, Contents::Absent(kind));
        assert_eq!(known.registered_again(&said, kind, 400), None);
    }
}
