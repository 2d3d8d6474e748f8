//! Bytes that change on the disk while nobody looks.

use std::fs;
use std::path::PathBuf;

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::program::State;

/// Flips a bit of `content` wherever a file of the closed database holds it.
fn flip(state: &State, content: &[u8]) -> PathBuf {
    for entry in fs::read_dir(state.dir().join("db")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(content.len()).position(|w| w == content);
        if let Some(at) = found {
            bytes[at + content.len() / 2] ^= 1;
            fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("the content is in no file of the database");
}

struct Damaged {
    cache: Cache,
    state: State,
    victim: Offer,
    twin: Offer,
    bystander: Offer,
    data: Vec<u8>,
}

/// Two paths with the same contents, whose third chunk or so has a flipped bit; and another path.
fn damaged() -> Damaged {
    let cache = Cache::new();
    let data = noise(1, 1 << 20);
    let archive = |data: &[u8]| {
        nar(&Tree::Directory(vec![
            ("data", Tree::File(data)),
            ("small", Tree::File(b"small\n")),
        ]))
    };
    let victim = Offer::named("victim", archive(&data));
    let twin = Offer::named("twin", archive(&data));
    let bystander = Offer::named("bystander", archive(&noise(2, 1 << 20)));
    for offer in [&victim, &twin, &bystander] {
        cache.put(offer);
    }
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    let file = flip(&state, &data[500_000..500_064]);
    assert_eq!(file.extension().unwrap(), "blob");
    Damaged {
        cache,
        state,
        victim,
        twin,
        bystander,
        data,
    }
}

/// The words after `chunk` in an error: the digest.
fn digest(text: &str) -> &str {
    let (_, after) = text.split_once("chunk ").expect("the error names a chunk");
    let digest = after.split(' ').next().unwrap();
    assert!(
        digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
        "{text}"
    );
    digest
}

#[test]
fn damaged_contents_are_an_error_and_never_given_out() {
    let d = damaged();
    let base = d.victim.path().base_name();
    let ran = d.state.run(&["verify"]);
    assert_eq!(ran.output.status.code(), Some(1));
    let stderr = ran.stderr();
    for path in [&d.victim, &d.twin] {
        let line = format!("narfs: /nix/store/{}: ", path.path());
        let lines: Vec<_> = stderr.lines().filter(|l| l.starts_with(&line)).collect();
        assert_eq!(lines.len(), 1, "{stderr}");
        digest(lines[0]);
    }
    assert!(!stderr.contains(d.bystander.path().name()), "{stderr}");
    assert!(
        ran.stdout().contains("1 paths are good"),
        "{}",
        ran.stdout()
    );
    assert!(ran.stdout().contains("2 damaged"), "{}", ran.stdout());

    for (command, what, whole) in [
        ("cat", format!("{base}/data"), &d.data),
        ("dump", base.clone(), &d.victim.stored),
    ] {
        let ran = d.state.run(&[command, &what]);
        assert_eq!(ran.output.status.code(), Some(1), "{command}");
        assert!(ran.stderr().contains(&base), "{}", ran.stderr());
        digest(&ran.stderr());
        let given = &ran.output.stdout;
        assert!(
            given.len() < whole.len() && whole.starts_with(given),
            "{command}"
        );
    }
    // What lies beside it can be read.
    let ran = d.state.run(&["cat", &format!("{base}/small")]);
    assert_eq!(ran.succeeds().stdout(), "small\n");
    d.state.gives_out(d.bystander.path(), &d.bystander.stored);
}

#[test]
fn damaged_contents_are_mended_from_a_source() {
    let d = damaged();
    let repair = |from: &[String]| {
        let mut arguments = vec!["verify".to_owned(), "--repair".to_owned()];
        arguments.extend_from_slice(from);
        d.state.run(&arguments)
    };
    // A source that lies about the very chunk does not help.
    let liar = Cache::new();
    let mut lie = Offer::new(d.victim.path(), d.victim.stored.clone());
    lie.stored[500_300] ^= 1;
    liar.put(&lie);
    let ran = repair(&liar.arguments());
    assert_eq!(ran.output.status.code(), Some(1));
    assert!(
        ran.stderr().contains("could not be fetched again"),
        "{}",
        ran.stderr()
    );
    assert_eq!(d.state.run(&["verify"]).output.status.code(), Some(1));

    let ran = repair(&d.cache.arguments());
    assert_eq!(ran.output.status.code(), Some(0), "{}", ran.stderr());
    // They share the damaged chunk: mending one mends the other.
    assert!(
        ran.stdout().contains("2 paths are good"),
        "{}",
        ran.stdout()
    );
    assert!(
        ran.stdout().contains("1 repaired, 0 damaged"),
        "{}",
        ran.stdout()
    );
    assert_eq!(d.state.is_whole(), 3);
    for offer in [&d.victim, &d.twin, &d.bystander] {
        d.state.gives_out(offer.path(), &offer.stored);
    }
}

#[test]
fn a_second_copy_of_damaged_contents_does_not_spread_the_damage() {
    let d = damaged();
    // Another path with the same chunk: it is published, since its NAR was right, but reading it
    // meets the damage.
    let third = Offer::named("third", d.victim.stored.clone());
    d.cache.put(&third);
    d.state.copy(&d.cache, &["--all"]).succeeds().counts(1, 0);
    let ran = d.state.run(&["dump", &third.path().base_name()]);
    assert_eq!(ran.output.status.code(), Some(1));
    digest(&ran.stderr());
    assert!(third.stored.starts_with(&ran.output.stdout));
}

#[test]
fn blob_files_that_are_cut_or_gone_are_an_error() {
    for cut in [true, false] {
        let d = damaged();
        for entry in fs::read_dir(d.state.dir().join("db")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "blob") {
                match cut {
                    true => fs::write(&path, &fs::read(&path).unwrap()[..200_000]).unwrap(),
                    false => fs::remove_file(&path).unwrap(),
                }
            }
        }
        let ran = d.state.run(&["dump", &d.bystander.path().base_name()]);
        assert_eq!(ran.output.status.code(), Some(1));
        assert!(d.bystander.stored.starts_with(&ran.output.stdout));
        assert!(ran.output.stdout.len() < d.bystander.stored.len());
        let ran = d.state.run(&["verify"]);
        assert_eq!(ran.output.status.code(), Some(1), "{}", ran.stdout());
    }
}
