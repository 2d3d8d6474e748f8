//! Paths that are named by their contents need no signature, and are held to that name.

use narfs::nix::hash::{Hash, HashAlgo, NarHash};
use narfs::nix::store_path::{ContentAddress, HashModulo, IngestionMethod, StorePath};

use crate::binary_cache::{Cache, Offer, Tree, file, nar, path};
use crate::program::State;

/// An unsigned offer of `nar` under the path that follows from `address`.
fn addressed(
    cache: &Cache,
    name: &str,
    address: ContentAddress,
    references: &[&StorePath],
    nar: Vec<u8>,
) -> Offer {
    let path = address
        .store_path(&cache.store_dir, name, references.iter().copied(), false)
        .unwrap();
    let mut offer = Offer::new(&path, nar).referring(references).unsigned();
    offer.info.ca = Some(address);
    offer
}

fn recursive(nar: &[u8]) -> ContentAddress {
    let hash = Hash::of(HashAlgo::Sha256, nar);
    ContentAddress::fixed(IngestionMethod::Nar, hash).unwrap()
}

fn flat(algo: HashAlgo, contents: &[u8]) -> ContentAddress {
    ContentAddress::fixed(IngestionMethod::Flat, Hash::of(algo, contents)).unwrap()
}

fn text(contents: &[u8]) -> ContentAddress {
    ContentAddress::text(Hash::of(HashAlgo::Sha256, contents)).unwrap()
}

#[test]
fn contents_that_fulfil_their_address_need_no_signature() {
    let cache = Cache::new();
    let plain = Offer::named("plain", file(b"plain"));
    let contents = format!("{}\n", plain.path().to_full(&cache.store_dir));
    let text_nar = file(contents.as_bytes());
    let tree = nar(&Tree::Directory(vec![
        ("a", Tree::File(b"a")),
        ("b", Tree::Link("a")),
    ]));
    let offers = [
        addressed(&cache, "tree", recursive(&tree), &[], tree.clone()),
        addressed(
            &cache,
            "tree-ref",
            recursive(&tree),
            &[plain.path()],
            tree.clone(),
        ),
        addressed(
            &cache,
            "flat",
            flat(HashAlgo::Sha256, b"x"),
            &[],
            file(b"x"),
        ),
        addressed(
            &cache,
            "flat-sha1",
            flat(HashAlgo::Sha1, b"x"),
            &[],
            file(b"x"),
        ),
        addressed(
            &cache,
            "flat-sha512",
            flat(HashAlgo::Sha512, b""),
            &[],
            file(b""),
        ),
        addressed(
            &cache,
            "text",
            text(contents.as_bytes()),
            &[plain.path()],
            text_nar,
        ),
        itself(&cache),
    ];
    cache.put(&plain);
    offers.iter().for_each(|o| cache.put(o));
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds().counts(8, 0);
    for offer in &offers {
        let info = state.infos(&[&offer.path().base_name()]).remove(0);
        assert_eq!(info["ca"], offer.info.ca.unwrap().to_string());
        state.gives_out(offer.path(), &offer.stored);
    }
    assert_eq!(state.is_whole(), 8);
}

/// A path that holds its own name: its address is made with the name left out.
fn itself(cache: &Cache) -> Offer {
    let guess = path("itself");
    let archive = |own: &StorePath| file(own.to_full(&cache.store_dir).as_bytes());
    let modulo = |own: &StorePath| {
        let mut hasher = HashModulo::new(HashAlgo::Sha256, &own.hash());
        hasher.update(&archive(own));
        hasher.finish().unwrap().with_offsets
    };
    let address = ContentAddress::fixed(IngestionMethod::Nar, modulo(&guess)).unwrap();
    let own = address
        .store_path(&cache.store_dir, "itself", [], true)
        .unwrap();
    assert_eq!(modulo(&own), modulo(&guess));
    let mut offer = Offer::new(&own, archive(&own))
        .referring(&[&own])
        .unsigned();
    offer.info.ca = Some(address);
    offer
}

#[test]
fn contents_that_do_not_fulfil_their_address_are_refused() {
    let cache = Cache::new();
    let with = |mut offer: Offer, nar: Vec<u8>| {
        // NarHash and NarSize, which nobody signed, are those of what is sent.
        offer.info.nar_hash = NarHash::of(&nar);
        offer.info.nar_size = nar.len() as u64;
        offer.stored = nar;
        cache.put(&offer);
        offer
    };
    let other = || file(b"other");
    let tree = addressed(&cache, "tree", recursive(&file(b"x")), &[], file(b"x"));
    let tree = with(tree, other());
    let own = with(itself(&cache), other());
    let flat_other = addressed(&cache, "flat", flat(HashAlgo::Sha256, b"x"), &[], vec![]);
    let flat_other = with(flat_other, other());
    let flat_program = addressed(&cache, "program", flat(HashAlgo::Sha256, b"x"), &[], vec![]);
    let flat_program = with(flat_program, nar(&Tree::Program(b"x")));
    let flat_tree = addressed(&cache, "in-tree", flat(HashAlgo::Md5, b"x"), &[], vec![]);
    let flat_tree = with(
        flat_tree,
        nar(&Tree::Directory(vec![("x", Tree::File(b"x"))])),
    );
    let text_other = addressed(&cache, "text", text(b"x"), &[], vec![]);
    let text_other = with(text_other, other());
    // The address is fulfilled, but the path is not made from it.
    let mut renamed = addressed(&cache, "name", recursive(&file(b"x")), &[], file(b"x"));
    renamed.info.store_path = path("renamed");
    renamed.info.url = "nar/renamed.nar".into();
    cache.put(&renamed);
    let mut referring = addressed(&cache, "ref", recursive(&file(b"x")), &[], file(b"x"));
    referring.info.references = vec![path("renamed")];
    cache.put(&referring);
    let git = Hash::of(HashAlgo::Sha1, b"x");
    let git = ContentAddress::fixed(IngestionMethod::Git, git).unwrap();
    let git = addressed(&cache, "git", git, &[], file(b"x"));
    cache.put(&git);

    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    let failures = [
        (tree.path(), "claims to be content-addressed but isn't"),
        (own.path(), "ca hash mismatch"),
        (flat_other.path(), "ca hash mismatch"),
        (flat_program.path(), "plain file"),
        (flat_tree.path(), "plain file"),
        (text_other.path(), "ca hash mismatch"),
        (renamed.path(), "claims to be content-addressed but isn't"),
        (referring.path(), "claims to be content-addressed but isn't"),
        (git.path(), "git object"),
    ];
    ran.copies_but(0, &failures);
    state.has_exactly(&[]);
    state.has_nothing_of(flat_other.path());
}

/// A path that holds its own name, with the address that Nix 2.17 to 2.34 made: without offsets.
fn itself_without_offsets(cache: &Cache) -> Offer {
    let guess = path("itself");
    let archive =
        |own: &StorePath| file(format!("of {}", own.to_full(&cache.store_dir)).as_bytes());
    let hash = |own: &StorePath| {
        let mut hasher = HashModulo::new(HashAlgo::Sha256, &own.hash());
        hasher.update(&archive(own));
        hasher.finish().unwrap().without_offsets
    };
    let address = ContentAddress::fixed(IngestionMethod::Nar, hash(&guess)).unwrap();
    let own = address
        .store_path(&cache.store_dir, "itself", [], true)
        .unwrap();
    let mut offer = Offer::new(&own, archive(&own)).referring(&[&own]);
    offer.info.ca = Some(address);
    offer
}

#[test]
fn an_address_that_two_contents_can_share_needs_a_signature() {
    let cache = Cache::new();
    let mut offer = itself_without_offsets(&cache);
    cache.put(&offer);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds().counts(1, 0);
    let info = state.infos(&[&offer.path().base_name()]).remove(0);
    assert_eq!(info["ca"], offer.info.ca.unwrap().to_string());
    offer.signed = false;
    cache.put(&offer);
    let ran = State::new().copy(&cache, &["--all"]);
    ran.copies_but(0, &[(offer.path(), "without the offsets")]);
    let believed = State::new();
    believed
        .copy(&cache, &["--all", "--no-require-sigs"])
        .succeeds();
}

#[test]
fn contents_are_compared_with_their_address_under_a_signature_too() {
    let cache = Cache::new();
    let with = |name: &str, address| {
        let mut offer = addressed(&cache, name, address, &[], file(b"x"));
        offer.info.nar_hash = NarHash::of(&file(b"other"));
        offer.info.nar_size = file(b"other").len() as u64;
        offer.stored = file(b"other");
        offer.signed = true;
        cache.put(&offer);
        offer
    };
    let offers = [
        with("flat", flat(HashAlgo::Sha256, b"x")),
        with("text", text(b"x")),
        with("tree", recursive(&file(b"x"))),
    ];
    let failures = offers.each_ref().map(|o| (o.path(), "ca hash mismatch"));
    State::new()
        .copy(&cache, &["--all"])
        .copies_but(0, &failures);
    let believing = State::new();
    for offer in &offers {
        let what = [&*offer.path().base_name(), "--no-require-sigs"];
        let ran = believing.copy(&cache, &what);
        assert_eq!(ran.output.status.code(), Some(1));
        let said = ran.stderr();
        assert!(said.contains("ca hash mismatch"), "{said}");
    }
}

#[test]
fn an_address_that_is_not_compared_is_not_shown() {
    let cache = Cache::new();
    let git = Hash::of(HashAlgo::Sha1, b"x");
    let git = ContentAddress::fixed(IngestionMethod::Git, git).unwrap();
    let mut git = addressed(&cache, "git", git, &[], file(b"x"));
    let mut renamed = Offer::named("renamed", file(b"x"));
    renamed.info.ca = Some(recursive(&file(b"x")));
    git.signed = true;
    cache.put(&git);
    cache.put(&renamed);
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds().counts(2, 0);
    for offer in [&git, &renamed] {
        let info = state.infos(&[&offer.path().base_name()]).remove(0);
        assert!(info["ca"].is_null(), "{info}");
    }
}

#[test]
fn an_address_of_a_kind_from_the_future_needs_a_signature_and_is_passed_over() {
    let cache = Cache::new();
    let future = |name: &str, ca: &str| {
        let mut offer = Offer::named(name, file(b"x"));
        offer.info.unknown_ca = Some(ca.into());
        cache.put(&offer);
        offer
    };
    let digest = "0hhs7qk2gx53jpvk8rmj2yna75kmkjy50ja7hjs70h3x26kmqgl2";
    let algorithm = format!("fixed:r:blake3:{digest}");
    let method = format!("fixed:zip:sha256:{digest}");
    let prefix = format!("sealed:sha256:{digest}");
    let mut offers = [
        future("algorithm", &algorithm),
        future("method", &method),
        future("prefix", &prefix),
    ];
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds().counts(3, 0);
    for offer in &mut offers {
        let info = state.infos(&[&offer.path().base_name()]).remove(0);
        assert!(info["ca"].is_null(), "{info}");
        offer.signed = false;
        cache.put(offer);
    }
    let words =
        [&algorithm, &method, &prefix].map(|ca| format!("content address '{ca}', whose kind"));
    let failures = [0, 1, 2].map(|i| (offers[i].path(), words[i].as_str()));
    State::new()
        .copy(&cache, &["--all"])
        .copies_but(0, &failures);
    State::new()
        .copy(&cache, &["--all", "--no-require-sigs"])
        .succeeds();
}
