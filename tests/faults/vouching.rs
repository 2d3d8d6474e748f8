//! What paths and their references rest on: a signature, a content address, or the word of a source.

use narfs::nix::signature::SecretKey;
use narfs::nix::store_path::StorePath;
use serde_json::{Value, json};

use crate::binary_cache::{Cache, Offer, file};
use crate::program::{Ran, State};

/// A source that signs, one that does not, and what both have: `x`, which needs `lib`. The other one says
/// that it needs nothing.
struct Sources {
    signing: Cache,
    other: Cache,
    lib: Offer,
    x: Offer,
}

impl Sources {
    /// What any process of this machine is called with is in use: each test has `name`s of its own.
    fn new(name: &str) -> Self {
        let (signing, other) = (Cache::new(), Cache::new());
        let lib = Offer::named(&format!("lib-{name}"), file(b"42"));
        let text = format!("hello {}\n", lib.path().to_full(&signing.store_dir));
        let x = Offer::named(&format!("x-{name}"), file(text.as_bytes())).referring(&[lib.path()]);
        signing.put(&lib);
        signing.put(&x);
        other.put(&Offer::new(x.path(), x.stored.clone()).unsigned());
        Self {
            signing,
            other,
            lib,
            x,
        }
    }

    /// The references of `x` are those that are signed, and so is what shows them.
    fn are_signed_in(&self, state: &State) {
        let info = state.infos(&[&self.x.path().base_name()]).remove(0);
        let lib = self.lib.path().to_full(&self.signing.store_dir);
        assert_eq!(info["references"], json!([lib]));
        assert_eq!(info["signatures"].as_array().unwrap().len(), 1, "{info}");
        assert_eq!(info["unsigned"], false);
        state.gives_out(self.x.path(), &self.x.stored);
        state.is_whole();
    }
}

/// A command that fetches from `cache`, whose signatures need not be there.
fn unsigned(state: &State, cache: &Cache, command: &[&str], what: &[&str]) -> Ran {
    let url = cache.url();
    let from = ["--from", &url, "--no-require-sigs"];
    state.run(&[command, &from, what].concat())
}

/// A command that fetches from `cache` what is signed with its key.
fn signed(state: &State, cache: &Cache, command: &[&str], what: &[&str]) -> Ran {
    let mut arguments: Vec<_> = command.iter().map(|c| (*c).to_owned()).collect();
    arguments.extend(cache.arguments());
    arguments.extend(what.iter().map(|w| (*w).to_owned()));
    state.run(&arguments)
}

fn report(ran: &Ran) -> Value {
    ran.succeeds();
    serde_json::from_str(&ran.stdout()).unwrap()
}

fn format_of(state: &State) -> String {
    std::fs::read_to_string(state.dir().join("format")).unwrap()
}

#[test]
fn references_that_nobody_vouches_for_are_told_and_give_way_to_signed_ones() {
    let sources = Sources::new("told");
    let (state, x) = (State::new(), sources.x.path().base_name());
    unsigned(&state, &sources.other, &["copy"], &[&x]).succeeds();
    unsigned(&state, &sources.other, &["closure", "v"], &[&x]).succeeds();
    let info = state.infos(&[&x]).remove(0);
    assert_eq!(
        (&info["references"], &info["unsigned"]),
        (&json!([]), &json!(true))
    );
    // Whatever has followed them says so.
    let prefetched = unsigned(&state, &sources.other, &["prefetch", "--json"], &[&x]);
    assert_eq!(report(&prefetched)["unsigned"], 1);
    for command in ["verify", "gc"] {
        assert_eq!(report(&state.run(&[command, "--json"]))["unsigned"], 1);
        let told = state.run(&[command]);
        assert!(
            told.succeeds().stderr().contains("word of a source"),
            "{command}"
        );
    }
    assert!(
        state
            .run(&["path-info"])
            .stderr()
            .contains("for 1 of these paths")
    );
    let view = report(&state.run(&["closures", "--json"]))
        .as_array()
        .unwrap()[0]
        .clone();
    assert_eq!((&view["paths"], &view["unsigned"]), (&json!(1), &json!(1)));
    // No program of an older version is locked out by that.
    assert!(format_of(&state).starts_with("narfs-state 3\n"));

    // Where signatures are required and nobody has one, it goes on with what there is.
    let from_other = report(&signed(
        &state,
        &sources.other,
        &["prefetch", "--json"],
        &[&x],
    ));
    assert_eq!(
        (&from_other["complete"], &from_other["unsigned"]),
        (&json!(true), &json!(1))
    );
    // Where there is one, its references count from then on, with all that needs them.
    let prefetched = report(&signed(
        &state,
        &sources.signing,
        &["prefetch", "--json"],
        &[&x],
    ));
    assert_eq!(
        (&prefetched["paths"], &prefetched["unsigned"]),
        (&json!(2), &json!(0))
    );
    sources.are_signed_in(&state);
    let view = report(&state.run(&["closures", "--json"]))
        .as_array()
        .unwrap()[0]
        .clone();
    assert_eq!((&view["paths"], &view["unsigned"]), (&json!(2), &json!(0)));
    // What was signed stays so, whatever another one says, also where the contents come anew.
    state.run(&["evict", "--to", "0"]);
    unsigned(&state, &sources.other, &["copy"], &[&x]).succeeds();
    unsigned(&state, &sources.other, &["closure", "v"], &[&x]).succeeds();
    sources.are_signed_in(&state);
}

#[test]
fn a_registration_without_contents_gives_way_too() {
    for command in [&["copy"][..], &["prefetch"], &["closure", "w"]] {
        let sources = Sources::new(&format!("registered-{}", command[0]));
        let (state, x) = (State::new(), sources.x.path().base_name());
        unsigned(&state, &sources.other, &["closure", "v"], &[&x]).succeeds();
        signed(&state, &sources.signing, command, &[&x]).succeeds();
        signed(&state, &sources.signing, &["prefetch"], &[&x]).succeeds();
        sources.are_signed_in(&state);
        assert_eq!(state.is_whole(), 2, "{command:?}");
    }
}

#[test]
fn a_copy_from_a_source_that_signs_vouches_for_what_is_here() {
    let sources = Sources::new("copied");
    let (state, x) = (State::new(), sources.x.path().base_name());
    unsigned(&state, &sources.other, &["copy"], &[&x]).succeeds();
    let copied = signed(&state, &sources.signing, &["copy"], &[&x]);
    copied.succeeds().counts(1, 0);
    sources.are_signed_in(&state);
    // Contents that were dropped do not get in the way.
    let state = State::new();
    unsigned(&state, &sources.other, &["copy"], &[&x]).succeeds();
    state.run(&["evict", "--to", "0"]);
    signed(&state, &sources.signing, &["copy"], &[&x]).succeeds();
    sources.are_signed_in(&state);
}

#[test]
fn signatures_of_keys_that_are_not_trusted_vouch_for_nothing_until_they_are() {
    let sources = Sources::new("untrusted");
    let (state, x) = (State::new(), sources.x.path().base_name());
    unsigned(&state, &sources.signing, &["copy"], &[&x]).succeeds();
    let infos = state.infos(&[]);
    assert_eq!(infos.len(), 2);
    for info in &infos {
        assert_eq!(info["unsigned"], true, "{info}");
        assert_eq!(info["signatures"].as_array().unwrap().len(), 1, "{info}");
    }
    // Only records that say it need it.
    let listed = "narfs-state 4\nstore-dir /nix/store\nfeature vouched\n";
    assert_eq!(format_of(&state), listed);
    signed(&state, &sources.signing, &["copy"], &[&x])
        .succeeds()
        .counts(0, 0);
    assert!(
        state
            .infos(&[])
            .iter()
            .all(|info| info["unsigned"] == false)
    );
    sources.are_signed_in(&state);
}

#[test]
fn other_contents_than_those_that_are_signed_are_not_passed_over() {
    let sources = Sources::new("forged");
    let (state, x) = (State::new(), sources.x.path());
    let forged = Offer::new(x, file(b"forged")).unsigned();
    sources.other.put(&forged);
    unsigned(&state, &sources.other, &["copy"], &[&x.base_name()]).succeeds();
    let words = ["taken without a signature", "not those", "narfs gc"];
    let prefetched = signed(&state, &sources.signing, &["prefetch"], &[&x.base_name()]);
    assert_eq!(prefetched.output.status.code(), Some(1));
    for word in words {
        assert!(
            prefetched.stderr().contains(word),
            "{}",
            prefetched.stderr()
        );
    }
    let copied = signed(&state, &sources.signing, &["copy"], &[&x.base_name()]);
    copied.copies_but(0, &[(x, words[0])]);
    let info = state.infos(&[&x.base_name()]).remove(0);
    assert_eq!(
        (&info["unsigned"], &info["signatures"]),
        (&json!(true), &json!([]))
    );
    // Once nothing keeps it, the right one comes.
    state.run(&["gc"]).succeeds();
    signed(&state, &sources.signing, &["copy"], &[&x.base_name()]).succeeds();
    sources.are_signed_in(&state);
}

/// Paths that one key has signed, two keys, another key, and none.
struct Signed {
    cache: Cache,
    second: SecretKey,
    first_alone: [StorePath; 2],
    both: StorePath,
    second_alone: StorePath,
}

impl Signed {
    fn new() -> (Self, State) {
        let cache = Cache::new();
        let second = SecretKey::from_seed("second-1", [8; 32]).unwrap();
        let offer = |name: &str| Offer::named(name, file(name.as_bytes()));
        let mut second_alone = offer("second-alone").unsigned();
        let mut both = offer("both");
        for offer in [&mut second_alone, &mut both] {
            offer.info.sign(&cache.store_dir, &second);
        }
        let first_alone = ["first-a", "first-b"].map(offer);
        for offer in first_alone.iter().chain([&both, &second_alone]) {
            cache.put(offer);
        }
        let state = State::new();
        let signed = Self {
            first_alone: first_alone.map(|offer| offer.path().clone()),
            both: both.path().clone(),
            second_alone: second_alone.path().clone(),
            cache,
            second,
        };
        let key = signed.second.to_public().to_string();
        let what = ["--trusted-public-key", &key, "--all"];
        state.copy(&signed.cache, &what).succeeds().counts(4, 0);
        (signed, state)
    }

    fn full(&self, path: &StorePath) -> String {
        path.to_full(&self.cache.store_dir)
    }

    fn forget(&self, state: &State, arguments: &[&str]) -> Value {
        let second = self.second.to_public().to_string();
        let known = ["key", "forget", "--json", "--trusted-public-key", &second];
        report(&state.run(&[&known, arguments].concat()))
    }
}

fn unsigned_paths(state: &State) -> Vec<String> {
    let mut paths: Vec<_> = state.infos(&[]);
    paths.retain(|info| info["unsigned"] == true);
    let paths = paths
        .iter()
        .map(|info| info["path"].as_str().unwrap().to_owned());
    paths.collect()
}

#[test]
fn a_key_that_is_forgotten_vouches_for_nothing_and_what_others_vouch_for_stays() {
    let (signed, state) = Signed::new();
    let mut lost: Vec<_> = signed.first_alone.iter().map(|p| signed.full(p)).collect();
    lost.sort();
    let first = signed.cache.key.to_public().to_string();
    let name = first.split_once(':').unwrap().0;
    let nowhere = ["--from", "file:///no/such/directory?optional=1"];
    for key in [name, &first] {
        let planned = signed.forget(&state, &["--dry-run", key]);
        assert_eq!(
            (&planned["signed"], &planned["kept"]),
            (&json!(3), &json!(1))
        );
        let mut would: Vec<_> = planned["lost"].as_array().unwrap().clone();
        would.sort_by_key(ToString::to_string);
        assert_eq!(would, lost);
        assert!(unsigned_paths(&state).is_empty());
    }
    // A key of the same name that has signed nothing.
    let other = SecretKey::from_seed(name, [9; 32])
        .unwrap()
        .to_public()
        .to_string();
    assert_eq!(signed.forget(&state, &[&other])["signed"], 0);
    let forgot = signed.forget(&state, &[&nowhere[..], &[name]].concat());
    assert_eq!(forgot["still_trusted"], false);
    assert_eq!(forgot["vouched_again"], json!([]));
    assert_eq!(forgot["unvouched"].as_array().unwrap().len(), 2);
    assert_eq!(unsigned_paths(&state), lost);
    let of = |path: &StorePath| state.infos(&[&path.base_name()]).remove(0);
    for path in [&signed.both, &signed.second_alone] {
        let signatures = &of(path)["signatures"];
        assert!(
            signatures[0].as_str().unwrap().starts_with("second-1:"),
            "{signatures}"
        );
        assert_eq!(signatures[1], Value::Null);
    }
    assert_eq!(of(&signed.first_alone[0])["signatures"], json!([]));
    // Nothing is gone, and nothing is done twice.
    assert_eq!(state.is_whole(), 4);
    assert_eq!(
        signed.forget(&state, &[&nowhere[..], &[name]].concat())["signed"],
        0
    );
    // Then the second key: one path was signed by both.
    let forgot = report(&state.run(&[
        "key", "forget", "--json", nowhere[0], nowhere[1], "second-1",
    ]));
    assert_eq!(forgot["lost"].as_array().unwrap().len(), 2);
    assert_eq!(unsigned_paths(&state).len(), 4);
}

#[test]
fn what_a_source_vouches_for_under_another_key_is_vouched_for_again_and_the_rest_is_named() {
    let (signed, state) = Signed::new();
    // The source has signed one of them anew, has another NAR of the other, and says so.
    let [again, not] = &signed.first_alone;
    let mut offer = Offer::new(again, file(b"first-a")).unsigned();
    offer.info.sign(&signed.cache.store_dir, &signed.second);
    signed.cache.put(&offer);
    let mut other = Offer::new(not, file(b"another")).unsigned();
    other.info.sign(&signed.cache.store_dir, &signed.second);
    signed.cache.put(&other);
    let first = signed.cache.key.to_public().to_string();
    let url = signed.cache.url();
    let forgot = signed.forget(
        &state,
        &["--from", &url, "--trusted-public-key", &first, &first],
    );
    assert_eq!(forgot["still_trusted"], true);
    assert_eq!(forgot["vouched_again"], json!([signed.full(again)]));
    let unvouched = forgot["unvouched"].as_array().unwrap();
    assert_eq!(
        (unvouched.len(), &unvouched[0]["path"]),
        (1, &json!(signed.full(not)))
    );
    let why = unvouched[0]["error"].as_str().unwrap();
    assert!(why.contains("not those that"), "{why}");
    assert_eq!(unsigned_paths(&state), [signed.full(not)]);
    // In words.
    let told = state.run(&["key", "forget", "--from", &url, "second-1"]);
    let said = told.succeeds().stdout();
    assert!(said.contains("vouched for by it alone"), "{said}");
    assert!(said.contains(&signed.full(again)), "{said}");
}

#[test]
fn what_is_no_key_and_content_addresses_are_nothing_to_be_forgotten() {
    let (_, state) = Signed::new();
    for text in ["a:b", "two words", ""] {
        let ran = state.run(&["key", "forget", text]);
        assert!(ran.stderr().contains("NAME:BASE64"), "{}", ran.stderr());
        assert_ne!(ran.output.status.code(), Some(0));
    }
    assert_eq!(
        report(&state.run(&["key", "forget", "--json", "nobody-1"]))["signed"],
        0
    );
    assert!(unsigned_paths(&state).is_empty());
}
