//! Profiles that cannot be what is asked: one line says why, and nothing changes.

use std::fs;

use crate::binary_cache::{Cache, Offer, Tree, file, nar, path};
use crate::program::{Ran, State};

struct Fixture {
    cache: Cache,
    state: State,
    offers: Vec<Offer>,
}

fn package(name: &str, program: &str) -> Offer {
    let bin = Tree::Directory(vec![(program, Tree::Program(b"#!"))]);
    Offer::named(name, nar(&Tree::Directory(vec![("bin", bin)])))
}

impl Fixture {
    /// Two packages that go together and one that does not; the first is installed.
    fn new() -> Self {
        let cache = Cache::new();
        let offers = vec![
            package("one-1.0", "one"),
            package("two-1.0", "two"),
            package("other-1.0", "one"),
        ];
        for offer in &offers {
            cache.put(offer);
        }
        let state = State::new();
        let fixture = Self {
            cache,
            state,
            offers,
        };
        let first = fixture.base(0);
        fixture.fetching(&["profile", "install", &first]).succeeds();
        fixture
    }

    fn base(&self, n: usize) -> String {
        self.offers[n].path().base_name()
    }

    /// Runs a command that may fetch.
    fn fetching(&self, arguments: &[&str]) -> Ran {
        let mut command = self.state.command(arguments);
        Ran::of(command.args(self.cache.arguments()))
    }

    fn history(&self) -> String {
        self.state.run(&["profile", "history", "--json"]).stdout()
    }

    fn list(&self) -> String {
        self.state.run(&["profile", "list", "--json"]).stdout()
    }

    /// Does something that must fail and change no profile.
    #[track_caller]
    fn refuses(&self, words: &[&str], run: impl FnOnce() -> Ran) {
        let before = (self.history(), self.list());
        run().fails(words);
        assert_eq!((self.history(), self.list()), before);
    }
}

#[test]
fn what_is_not_there_is_named_with_what_there_is() {
    let fixture = Fixture::new();
    let absent = ["no profile 'absent'", "the profiles are: default"];
    for arguments in [
        &["profile", "-p", "absent", "list"][..],
        &["profile", "-p", "absent", "history"],
        &["profile", "-p", "absent", "rollback"],
        &["profile", "-p", "absent", "switch", "1"],
        &["profile", "-p", "absent", "remove", "x"],
        &["profile", "-p", "absent", "diff"],
        &["profile", "-p", "absent", "delete-generations", "old"],
    ] {
        fixture.state.run(arguments).fails(&absent);
    }
    let state = &fixture.state;
    let run = |arguments: &'static [&'static str]| move || state.run(arguments);
    let none_older = "no profile version older than the current (1) exists";
    fixture.refuses(&[none_older], run(&["profile", "rollback"]));
    fixture.refuses(&[none_older], run(&["profile", "diff"]));
    let absent = "profile version 9 does not exist";
    fixture.refuses(&[absent], run(&["profile", "switch", "9"]));
    fixture.refuses(&[absent], run(&["profile", "diff", "9"]));
    let current = "cannot delete current version of profile 'default'";
    fixture.refuses(&[current], run(&["profile", "delete-generations", "1"]));
    let words = ["no package 'thing', 'two'", "it has one"];
    fixture.refuses(&words, run(&["profile", "remove", "thing", "one", "two"]));
    let empty = State::new();
    empty.run(&["profile", "list"]).fails(&["no narfs state"]);
}

#[test]
fn packages_with_the_same_file_conflict_in_the_words_of_nix() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.base(0), fixture.base(2));
    let [one, there] = [one, other.clone()].map(|base| format!("'/nix/store/{base}/bin/one'"));
    let words = [&one, &there, "have the same priority 5", "packages '"];
    fixture.refuses(&words, || fixture.fetching(&["profile", "install", &other]));
    let install = ["profile", "install", &other, "--priority", "4"];
    fixture.fetching(&install).succeeds();
    assert!(fixture.list().contains(&other));
}

#[test]
fn paths_that_no_source_has_and_what_is_no_path_are_refused() {
    let fixture = Fixture::new();
    let gone = path("gone-1.0").base_name();
    let two = fixture.base(1);
    let nowhere = [&gone, "none of the sources"];
    for arguments in [
        &["profile", "install", &two, &gone][..],
        &["profile", "set", &gone],
    ] {
        fixture.refuses(&nowhere, || fixture.fetching(arguments));
    }
    fixture.refuses(&["\"hello\"", "HASH-NAME"], || {
        fixture.fetching(&["profile", "install", "hello"])
    });
    let inside = format!("/nix/store/{two}/bin");
    fixture.refuses(&["lies within a store path"], || {
        fixture.fetching(&["profile", "install", &inside])
    });
    let renamed = format!("{}-three", &fixture.base(0)[..32]);
    fixture.refuses(&[&renamed, &fixture.base(0)], || {
        fixture.fetching(&["profile", "install", &renamed])
    });
    // The narinfo is there, its NAR is not: no tree, no environment.
    fs::remove_file(fixture.cache.nar_file(&fixture.offers[1])).unwrap();
    fixture.refuses(&[&two, "could not be fetched"], || {
        fixture.fetching(&["profile", "install", &two])
    });
    // A closure that is wanted whole, and is not to be had.
    let hollow = Offer::named("hollow-1", nar(&Tree::Directory(vec![])));
    let hollow = hollow.referring(&[&path("gone-1.0")]);
    fixture.cache.put(&hollow);
    let base = hollow.path().base_name();
    for command in ["install", "set"] {
        fixture.refuses(&[&gone[..32], "could not be fetched"], || {
            fixture.fetching(&["profile", command, &base, "--prefetch"])
        });
    }
    fixture.fetching(&["profile", "set", &base]).succeeds();
    let words = ["incompatible", "version 2", &base, "no manifest.json"];
    fixture.refuses(&words, || {
        fixture.fetching(&["profile", "install", &fixture.base(0)])
    });
}

#[test]
fn names_that_are_none_are_misuse() {
    let fixture = Fixture::new();
    for (name, reason) in [
        ("a/", "begins or ends with '/'"),
        ("/a", "begins or ends with '/'"),
        ("../a", "begins with '.'"),
        ("a/../b", "begins with '.'"),
        ("a//b", "an empty part"),
        ("", "an empty part"),
        ("a-3-link", "a link to a generation"),
        ("/nix/var/nix/profiles/../a", "begins with '.'"),
    ] {
        let ran = fixture.state.run(&["profile", "-p", name, "list"]);
        let stderr = ran.stderr();
        assert_eq!(ran.output.status.code(), Some(2), "{name}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{name}: {stderr}");
        assert!(stderr.contains(reason), "{name}: {stderr}");
    }
    for (spec, text) in [
        ("+0", "invalid number of generations to keep '+0'"),
        ("0d", "invalid number of days specifier '0d'"),
        ("x", "invalid generation number 'x'"),
    ] {
        let ran = fixture.state.run(&["profile", "delete-generations", spec]);
        assert_eq!(ran.output.status.code(), Some(2));
        assert_eq!(ran.stderr(), format!("narfs: {text}\n"));
    }
    let base = fixture.base(1);
    fixture.refuses(&["'default/x' and 'default'"], || {
        fixture.fetching(&["profile", "-p", "default/x", "install", &base])
    });
}

#[test]
fn a_file_with_a_mistake_changes_nothing_and_its_line_is_named() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("profiles.toml");
    let two = fixture.base(1);
    for (text, line, word) in [
        (
            "[profile.default]\npackages = []\n[profile.x\n",
            3,
            "not TOML",
        ),
        ("[profile.default]\npackages = []\nprio = 3\n", 3, "prio"),
        (
            "[profile.default]\npackages = []\n[profile.\"x/..\"]\n",
            3,
            "begins with '.'",
        ),
        ("[profile.default]\npackages = \"@\"\n", 2, "is not a list"),
        (
            "[profile.default]\npackages = [\"@\", 3]\n",
            2,
            "3 is not a package",
        ),
    ] {
        fs::write(&file, text.replace('@', &two)).unwrap();
        let place = format!("{}:{line}: ", file.display());
        fixture.refuses(&[&place, word], || {
            fixture.fetching(&["apply", file.to_str().unwrap()])
        });
    }
    // What is well written and cannot be had.
    let [one, other] = [0, 2].map(|n| fixture.base(n));
    let conflict = format!(
        "[profile.default]\npackages = []\n[profile.x]\npackages = [\"{one}\", \"{other}\"]\n"
    );
    let inside = format!("[profile.default]\nset = \"/nix/store/{two}/bin/{two}\"\n");
    let gone = format!("[profile.default]\nset = \"{}\"\n", path("gone-1.0"));
    let below = format!("[profile.\"default/x\"]\nset = \"{two}\"\n");
    for (text, word) in [
        (conflict, "have the same priority 5"),
        (inside, "lies within a store path"),
        (gone, "none of the sources"),
        (below, "'default/x' and 'default'"),
    ] {
        fs::write(&file, text).unwrap();
        fixture.refuses(&[word], || {
            fixture.fetching(&["apply", file.to_str().unwrap()])
        });
    }
    fs::remove_file(&file).unwrap();
    fixture.refuses(&["profiles.toml"], || {
        fixture.fetching(&["apply", file.to_str().unwrap()])
    });
    fixture
        .state
        .run(&["profile", "-p", "x", "list"])
        .fails(&["no profile 'x'"]);
}

#[test]
fn a_profile_that_real_nix_has_made_is_listed_and_changed_with_what_it_has() {
    let cache = Cache::new();
    let [one, two] = [package("one-1.0", "one"), package("two-1.0", "two")];
    let full = |offer: &Offer| format!("/nix/store/{}", offer.path());
    let text = format!(
        "[ {{ meta = {{ priority = 4; }}; name = \"one-1.0\"; outPath = \"{}\"; type = \"derivation\"; }} ]",
        full(&one)
    );
    let manifest = Offer::named("env-manifest.nix", file(text.as_bytes())).referring(&[one.path()]);
    let (bin, link) = (format!("{}/bin", full(&one)), full(&manifest));
    let nix_env = Tree::Directory(vec![
        ("bin", Tree::Link(&bin)),
        ("manifest.nix", Tree::Link(&link)),
    ]);
    let nix_env = Offer::named("user-environment", nar(&nix_env));
    let nix_env = nix_env.referring(&[one.path(), manifest.path()]);
    let json = format!(
        "{{\"elements\":{{\"mine\":{{\"active\":true,\"note\":\"new\",\"priority\":4,\
         \"storePaths\":[\"{}\"]}}}},\"version\":3}}",
        full(&one)
    );
    let nix_profile = Tree::Directory(vec![
        ("bin", Tree::Link(&bin)),
        ("manifest.json", Tree::File(json.as_bytes())),
    ]);
    let nix_profile = Offer::named("profile", nar(&nix_profile)).referring(&[one.path()]);
    for offer in [&one, &two, &manifest, &nix_env, &nix_profile] {
        cache.put(offer);
    }
    let state = State::new();
    for (profile, made, name, kept) in [
        ("env", &nix_env, "one", "\"priority\":4"),
        (
            "new",
            &nix_profile,
            "mine",
            "\"mine\":{\"active\":true,\"note\":\"new\",\"priority\":4",
        ),
    ] {
        let run = |arguments: &[&str]| {
            let mut command = state.command(&[&["profile", "-p", profile], arguments].concat());
            Ran::of(command.args(cache.arguments()))
        };
        let list = || run(&["list", "--json"]).succeeds().stdout();
        run(&["set", &full(made)]).succeeds();
        assert!(list().contains(&format!("\"{name}\":")), "{}", list());
        run(&["install", &full(&two)]).succeeds();
        let listed: serde_json::Value = serde_json::from_str(&list()).unwrap();
        let path = listed["path"].as_str().unwrap();
        assert_eq!(listed["elements"].as_object().unwrap().len(), 2, "{listed}");
        let written = state
            .run(&["cat", &format!("{path}/manifest.json")])
            .stdout();
        assert!(written.contains(kept), "{written}");
        let bin = state.run(&["ls", &format!("{path}/bin")]).stdout();
        assert!(bin.contains("one") && bin.contains("two"), "{bin}");
        run(&["remove", name]).succeeds();
        assert!(!list().contains("one-1.0") && list().contains("two-1.0"));
    }
    // One that is cut off is an error that names it, and changes nothing.
    let cut = Offer::named(
        "cut",
        nar(&Tree::Directory(vec![("manifest.nix", Tree::File(b"[ {"))])),
    );
    cache.put(&cut);
    let mut set = state.command(&["profile", "-p", "cut", "set", &full(&cut)]);
    Ran::of(set.args(cache.arguments())).succeeds();
    let mut install = state.command(&["profile", "-p", "cut", "install", &full(&two)]);
    let ran = Ran::of(install.args(cache.arguments()));
    assert_eq!(ran.output.status.code(), Some(1), "{}", ran.stderr());
    assert!(ran.stderr().contains("manifest.nix"), "{}", ran.stderr());
}
