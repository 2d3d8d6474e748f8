//! Narinfos that are malformed, about something else, or vouched for by nobody.

use narfs::nix::compression::Compression;
use narfs::nix::signature::SecretKey;
use narfs::nix::store_path::StorePath;

use crate::binary_cache::{Cache, Offer, file, path};
use crate::program::State;

/// A name, what to do with the text of an honest narinfo, and what the error must say.
type Case = (&'static str, fn(&str) -> String, &'static str);

/// The text without the line of a field.
fn without(text: &str, field: &str) -> String {
    let prefix = format!("{field}: ");
    let lines = text.lines().filter(|l| !l.starts_with(&prefix));
    lines.map(|l| format!("{l}\n")).collect()
}

/// The text with another value of a field.
fn with(text: &str, field: &str, value: &str) -> String {
    let prefix = format!("{field}: ");
    let lines = text.lines().map(|l| match l.strip_prefix(&prefix) {
        Some(_) => format!("{prefix}{value}\n"),
        None => format!("{l}\n"),
    });
    lines.collect()
}

const MALFORMED: &[Case] = &[
    ("crlf", |t| t.replace('\n', "\r\n"), "corrupt"),
    (
        "cut",
        |t| t[..t.len() - 1].into(),
        "final newline is missing",
    ),
    (
        "cut-in-line",
        |t| t[..t.len() - 40].into(),
        "final newline is missing",
    ),
    ("empty", |_| String::new(), "StorePath missing"),
    ("html", |_| "<html>\n<p>hello</p>\n".into(), "corrupt"),
    ("blank-line", |t| format!("{t}\n"), "corrupt"),
    ("no-path", |t| without(t, "StorePath"), "StorePath missing"),
    ("no-url", |t| without(t, "URL"), "URL missing"),
    ("no-hash", |t| without(t, "NarHash"), "NarHash missing"),
    ("no-size", |t| without(t, "NarSize"), "NarSize missing"),
    ("size-zero", |t| with(t, "NarSize", "0"), "NarSize"),
    ("size-text", |t| with(t, "NarSize", "many"), "NarSize"),
    ("size-minus", |t| with(t, "NarSize", "-1"), "NarSize"),
    (
        "size-huge",
        |t| with(t, "NarSize", "18446744073709551616"),
        "NarSize",
    ),
    ("hash-text", |t| with(t, "NarHash", "sha256:abc"), "NarHash"),
    (
        "hash-md5",
        |t| with(t, "NarHash", "md5:d41d8cd98f00b204e9800998ecf8427e"),
        "NarHash",
    ),
    ("url-empty", |t| with(t, "URL", ""), "URL"),
    (
        "references-bare",
        |t| t.replace("References: \n", "References:\n"),
        "References",
    ),
    (
        "references-odd",
        |t| with(t, "References", "../../etc"),
        "References",
    ),
    (
        "deriver-odd",
        |t| format!("{t}Deriver: /etc/passwd\n"),
        "Deriver",
    ),
    ("sig-odd", |t| with(t, "Sig", "nonsense"), "Sig"),
    ("ca-odd", |t| format!("{t}CA: text:sha256:x\n"), "CA"),
    ("path-twice", |t| t.repeat(2), "corrupt"),
    (
        "other-dir",
        |t| t.replace("/nix/store/", "/gnu/store/"),
        "StorePath",
    ),
    ("no-dir", |t| t.replace("/nix/store/", ""), "StorePath"),
    (
        "below",
        |t| t.replace("-below\n", "-below/bin\n"),
        "StorePath",
    ),
    (
        "other-hash",
        |t| {
            t.replace(
                &path("other-hash").base_name(),
                &path("another").base_name(),
            )
        },
        "is about",
    ),
];

#[test]
fn malformed_narinfos_are_refused_each_by_itself() {
    let cache = Cache::new();
    let good = Offer::named("good", file(b"good"));
    cache.put(&good);
    let mut failures: Vec<(StorePath, &str)> = Vec::new();
    for (name, change, word) in MALFORMED {
        let offer = Offer::named(name, file(b"bad"));
        cache.put_as(&offer, change(&cache.text(&offer)).as_bytes());
        failures.push((offer.path().clone(), word));
    }
    let long = Offer::named("long", file(b"bad"));
    let text = format!("{}X: {}\n", cache.text(&long), "x".repeat(17 << 20));
    cache.put_as(&long, text.as_bytes());
    failures.push((long.path().clone(), "longer than"));
    let binary = Offer::named("binary", file(b"bad"));
    let text = [cache.text(&binary).as_bytes(), b"Deriver: \xff\xfe\n"].concat();
    cache.put_as(&binary, &text);
    failures.push((binary.path().clone(), "Deriver"));

    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    let failures: Vec<_> = failures.iter().map(|(p, word)| (p, *word)).collect();
    ran.copies_but(1, &failures);
    assert!(ran.stderr().contains(&cache.url()));
    state.has_exactly(&[good.path()]);
    state.has_nothing_of(failures[0].0);
    assert_eq!(state.is_whole(), 1);
}

#[test]
fn the_name_that_was_asked_for_is_the_name_that_must_come() {
    let cache = Cache::new();
    let offer = Offer::named("hello-2.10", file(b"hello"));
    cache.put(&offer);
    let other = StorePath::new(offer.path().hash(), "hello-2.12").unwrap();
    let full = other.to_full(&cache.store_dir);
    let state = State::new();
    let ran = state.copy(&cache, &[&full]);
    ran.copies_but(0, &[(&other, "is about")]);
    state.has_exactly(&[]);
    // By its hash alone it is what the source says.
    state
        .copy(&cache, &[&offer.path().hash().to_string()])
        .succeeds();
    state.has_exactly(&[offer.path()]);
    // And the other name is not there now either.
    let ran = state.copy(&cache, &[&full]);
    ran.copies_but(0, &[(&other, "hello-2.10")]);
    state
        .run(&["path-info", &full])
        .fails(&["hello-2.12", "hello-2.10"]);
}

#[test]
fn what_no_trusted_key_has_signed_is_refused() {
    let cache = Cache::new();
    let good = Offer::named("good", file(b"good"));
    cache.put(&good);
    let unsigned = Offer::named("unsigned", file(b"bad")).unsigned();
    cache.put(&unsigned);
    let signed_by = |name, key: &SecretKey| {
        let mut offer = Offer::named(name, file(b"bad")).unsigned();
        offer.info.sign(&cache.store_dir, key);
        cache.put(&offer);
        offer
    };
    let stranger = SecretKey::from_seed("stranger-1", [8; 32]).unwrap();
    let stranger = signed_by("stranger", &stranger);
    let namesake = SecretKey::from_seed("faults-1", [9; 32]).unwrap();
    let namesake = signed_by("namesake", &namesake);
    // Signed, and then changed.
    let changed = |name, field, value: &str| {
        let offer = Offer::named(name, file(b"bad"));
        cache.put_as(&offer, with(&cache.text(&offer), field, value).as_bytes());
        offer
    };
    let size = changed("size", "NarSize", "1000");
    let references = changed("references", "References", &path("good").base_name());
    let hash = format!("sha256:{}", "0".repeat(52));
    let hash = changed("hash", "NarHash", &hash);
    // The signature of another path.
    let borrowed = Offer::named("borrowed", file(b"good")).unsigned();
    let of_good = cache.text(&good);
    let of_good = of_good.lines().find(|l| l.starts_with("Sig: ")).unwrap();
    let text = format!("{}{of_good}\n", cache.text(&borrowed));
    cache.put_as(&borrowed, text.as_bytes());

    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    let failures = [
        (unsigned.path(), "it is not signed"),
        (stranger.path(), "stranger-1"),
        (namesake.path(), "the one by 'faults-1' is wrong"),
        (size.path(), "the one by 'faults-1' is wrong"),
        (references.path(), "the one by 'faults-1' is wrong"),
        (hash.path(), "the one by 'faults-1' is wrong"),
        (borrowed.path(), "the one by 'faults-1' is wrong"),
    ];
    ran.copies_but(1, &failures);
    state.has_exactly(&[good.path()]);
    state.has_nothing_of(unsigned.path());

    // Nothing is believed of a key that is none.
    let from = cache.url();
    let ran = state.run(&[
        "copy",
        "--from",
        &from,
        "--trusted-public-key",
        "x:y",
        "--all",
    ]);
    ran.fails(&["--trusted-public-key", "x:y"]);

    // Without signatures a source is believed, but not the bytes that it sends.
    let state = State::new();
    let arguments = ["copy", "--from", &from, "--no-require-sigs", "--all"];
    let ran = state.run(&arguments);
    let stderr = ran.stderr();
    assert_eq!(ran.output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("warning: --no-require-sigs"), "{stderr}");
    assert!(
        stderr.contains("size mismatch") && stderr.contains("hash mismatch"),
        "{stderr}"
    );
    ran.counts(6, 2);
    state.has_nothing_of(size.path());
    state.has_nothing_of(hash.path());
    assert_eq!(state.is_whole(), 6);
}

#[test]
fn what_nix_takes_is_taken_and_kept_byte_for_byte() {
    let cache = Cache::new();
    let put = |offer: &Offer, change: &dyn Fn(String) -> String| {
        cache.put_as(offer, change(cache.text(offer)).as_bytes());
    };
    // No Compression is bzip2.
    let old = Offer::named("old", file(b"old")).compressed(Compression::Bzip2);
    put(&old, &|t| without(&t, "Compression"));
    let orphan = Offer::named("orphan", file(b"orphan"));
    put(&orphan, &|t| {
        format!("{t}Deriver: unknown-deriver\nSystem: x86_64-linux\n")
    });
    let mut many = Offer::named("many", file(b"many"));
    many.info.deriver = Some(path("many-1.0.drv"));
    let stranger = SecretKey::from_seed("stranger-1", [8; 32]).unwrap();
    let other = SecretKey::from_seed("other.example.org-1", [9; 32]).unwrap();
    many.info.sign(&cache.store_dir, &stranger);
    many.info.sign(&cache.store_dir, &other);
    many.info.references = vec![old.path().clone(), many.path().clone()];
    many.info.signatures.clear();
    many.info.sign(&cache.store_dir, &stranger);
    many.info.sign(&cache.store_dir, &cache.key);
    many.info.sign(&cache.store_dir, &other);
    put(&many, &|t| t);
    // Tabs, fields in another order, wrong hints that nobody checks.
    let odd = Offer::named("odd", file(b"odd"));
    put(&odd, &|t| {
        let mut lines: Vec<_> = t.lines().collect();
        lines.reverse();
        let text = lines.join("\n").replace("URL: ", "URL:\t");
        format!("{text}\nFileSize: 7\nFileHash: sha256:{}\n", "0".repeat(52))
    });
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds().counts(4, 0);

    let info = |offer: &Offer| state.infos(&[&offer.path().base_name()]).remove(0);
    let found = info(&many);
    let signatures = many.info.signatures.iter().map(ToString::to_string);
    assert_eq!(
        found["signatures"],
        serde_json::json!(signatures.collect::<Vec<_>>())
    );
    assert_eq!(
        found["deriver"],
        format!("/nix/store/{}", path("many-1.0.drv"))
    );
    let mut references = [old.path(), many.path()];
    references.sort();
    let references: Vec<_> = references
        .iter()
        .map(|r| format!("/nix/store/{r}"))
        .collect();
    assert_eq!(found["references"], serde_json::json!(references));
    assert_eq!(found["narHash"], many.info.nar_hash.to_sri());
    assert_eq!(found["narSize"], many.info.nar_size);
    assert!(info(&orphan)["deriver"].is_null());
    for offer in [&orphan, &many, &odd] {
        state.gives_out(offer.path(), &offer.stored);
    }
    state.gives_out(old.path(), &file(b"old"));
    assert_eq!(state.is_whole(), 4);
}
