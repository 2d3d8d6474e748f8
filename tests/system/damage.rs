//! A state that is damaged on the disk, in a mount with sources.

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::binary_cache::{Cache, Offer, Tree, nar, noise};
use crate::on_demand::{SHORT, key, plain};
use crate::support::{Sandbox, run, wait_until};

/// The database files of the closed state with this extension.
fn files(sandbox: &Sandbox, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.state.join("db")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

/// Flips a bit of `content` in the blob file of the closed state that has it.
fn flip(sandbox: &Sandbox, content: &[u8]) {
    for file in files(sandbox, "blob") {
        let mut bytes = fs::read(&file).unwrap();
        let found = bytes.windows(content.len()).position(|w| w == content);
        if let Some(at) = found {
            bytes[at + content.len() / 2] ^= 1;
            return fs::write(&file, bytes).unwrap();
        }
    }
    panic!("the contents are in no file");
}

fn offer(name: &str, data: &[u8]) -> Offer {
    Offer::named(
        name,
        nar(&Tree::Directory(vec![("data", Tree::File(data))])),
    )
}

fn data_of(sandbox: &Sandbox, offer: &Offer) -> PathBuf {
    sandbox.store().join(offer.path().base_name()).join("data")
}

fn is_eio(outcome: Result<Vec<u8>, Error>) -> bool {
    outcome.is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
}

fn copy(sandbox: &Sandbox, cache: &Cache, offer: &Offer) {
    let mut arguments = vec!["copy".to_owned()];
    arguments.extend(cache.arguments());
    arguments.push(offer.path().base_name());
    sandbox.narfs(&arguments);
}

#[test]
fn the_read_that_meets_damage_has_the_contents_from_a_source() {
    let cache = Cache::new();
    let data = noise(1, 1 << 20);
    let (victim, twin) = (offer("victim", &data), offer("twin", &data));
    let other = offer("other", &noise(2, 1 << 20));
    for offer in [&victim, &twin, &other] {
        cache.put(offer);
    }
    let sandbox = Sandbox::empty();
    copy(&sandbox, &cache, &victim);
    copy(&sandbox, &cache, &other);
    flip(&sandbox, &data[500_000..500_064]);

    // Without a source it is an error, and only of what is damaged.
    sandbox.mount();
    assert!(is_eio(fs::read(data_of(&sandbox, &victim))));
    assert_eq!(
        fs::read(data_of(&sandbox, &other)).unwrap(),
        noise(2, 1 << 20)
    );
    sandbox.unmount();

    // The next owner knows it: what has the same chunk gets another one.
    copy(&sandbox, &cache, &twin);
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for offer in [&twin, &victim, &other] {
        let read = fs::read(data_of(&sandbox, offer)).unwrap();
        assert!(read == data || offer.path() == other.path());
    }
    // The copy has mended it, so that nothing is fetched.
    assert_eq!(server.requests(&format!("/{}", victim.info.url)), 0);
    sandbox.unmount();

    // A bit that nobody has met yet is mended by the read that does.
    flip(&sandbox, &data[700_000..700_064]);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    assert!(fs::read(data_of(&sandbox, &victim)).unwrap() == data);
    assert!(fs::read(data_of(&sandbox, &twin)).unwrap() == data);
    assert_eq!(server.requests(&format!("/{}", victim.info.url)), 1);
    sandbox.narfs(&["verify"]);
    sandbox.unmount();
    assert!(!sandbox.state.join("damaged-chunks").exists());
}

#[test]
fn files_of_the_database_that_are_gone_or_cut_come_again_from_a_source() {
    let ways: [fn(&Path); 2] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::write(file, &fs::read(file).unwrap()[..100_000]).unwrap(),
    ];
    for way in ways {
        let cache = Cache::new();
        let (first, last) = (noise(3, 1 << 20), noise(4, 1 << 20));
        let offers = [offer("first", &first), offer("last", &last)];
        let sandbox = Sandbox::empty();
        for offer in &offers {
            cache.put(offer);
            copy(&sandbox, &cache, offer);
        }
        let files = files(&sandbox, "blob");
        assert!(files.len() >= 2, "{files:?}");
        files.iter().for_each(|file| way(file));
        let server = plain(&cache);
        sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
        for (offer, data) in offers.iter().zip([&first, &last]) {
            assert!(fs::read(data_of(&sandbox, offer)).unwrap() == *data);
        }
        sandbox.narfs(&["verify"]);
        sandbox.unmount();
        // What was written since is there without a source.
        sandbox.mount();
        for (offer, data) in offers.iter().zip([&first, &last]) {
            assert!(fs::read(data_of(&sandbox, offer)).unwrap() == *data);
        }
        let absent = fs::metadata(sandbox.store().join("no-path"));
        assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
        sandbox.unmount();
    }
}

/// Flips a bit in the first block of each table of a column family of the closed state.
fn flip_tables(sandbox: &Sandbox, family: &str) {
    let name = format!("name{family}");
    let mut flipped = 0;
    for file in files(sandbox, "sst") {
        let mut bytes = fs::read(&file).unwrap();
        // So the properties of a table say whose it is.
        if bytes.windows(name.len()).any(|w| w == name.as_bytes()) {
            bytes[40] ^= 1;
            fs::write(&file, bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0, "there is no table of {family}");
}

#[test]
fn path_infos_that_cannot_be_read_come_again_from_a_source_under_their_numbers() {
    let cache = Cache::new();
    let data: Vec<_> = (0..60).map(|n| noise(n + 1, 2000)).collect();
    let offers: Vec<_> = (0..)
        .zip(&data)
        .map(|(n, data)| offer(&format!("needle-{n}"), data))
        .collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let sandbox = Sandbox::empty();
    let mut all = vec!["copy".to_owned(), "--all".to_owned()];
    all.extend(cache.arguments());
    sandbox.narfs(&all);
    let data_of = |offer| data_of(&sandbox, offer);
    let numbers = || -> Vec<_> {
        let numbers = offers
            .iter()
            .map(|offer| fs::metadata(data_of(offer)).unwrap().ino());
        numbers.collect()
    };
    sandbox.mount();
    let before = numbers();
    sandbox.unmount();
    flip_tables(&sandbox, "paths");
    // It would give them back.
    fs::remove_file(sandbox.state.join("second-copy")).unwrap();

    // Without a source it is an error of these paths alone, and not that they are absent.
    sandbox.mount();
    let mut lost = Vec::new();
    for (offer, data) in offers.iter().zip(&data) {
        match fs::read(data_of(offer)) {
            Ok(read) => assert!(read == *data),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => lost.push(offer),
            Err(e) => panic!("{e}"),
        }
    }
    assert!((1..60).contains(&lost.len()), "{}", lost.len());
    let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
    for offer in &lost {
        let base = offer.path().base_name();
        assert!(log.contains(&format!("the path info of {base}")), "{log}");
    }
    // The next daemon takes the table out; what it had stays lost.
    wait_until("the table is taken out", || {
        let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
        log.contains("was taken out of the database")
    });
    let ran = run(&mut sandbox.command(&["verify"]), b"");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let named = ran.stderr;
    assert!(
        lost.iter()
            .all(|offer| named.contains(&offer.path().base_name())),
        "{named}"
    );
    let status = sandbox.json(&["status"]);
    assert_eq!(status["unreadable_paths"], lost.len());
    assert_eq!(sandbox.json(&["stats"])["unreadable_paths"], lost.len());
    sandbox.unmount();

    // Half of them by their use, the others by a repair.
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for (offer, data) in offers.iter().zip(&data).take(30) {
        assert!(fs::read(data_of(offer)).unwrap() == *data);
    }
    sandbox.narfs(&["verify", "--repair"]);
    assert_eq!(numbers(), before);
    sandbox.narfs(&["verify"]);
    assert_eq!(sandbox.json(&["status"])["unreadable_paths"], 0);
    sandbox.unmount();
    sandbox.mount();
    for (offer, data) in offers.iter().zip(&data) {
        assert!(fs::read(data_of(offer)).unwrap() == *data);
    }
    assert_eq!(numbers(), before);
    sandbox.unmount();
}

#[test]
fn trees_that_cannot_be_read_come_again_by_the_first_lookup_of_their_roots() {
    let cache = Cache::new();
    let data: Vec<_> = (0..3).map(|n| noise(n + 1, 2000)).collect();
    let numbered = (0..).zip(&data);
    let offers: Vec<_> = numbered
        .map(|(n, data)| offer(&format!("tree-{n}"), data))
        .collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let sandbox = Sandbox::empty();
    for offer in &offers {
        copy(&sandbox, &cache, offer);
    }
    let own = sandbox.make_dir("own");
    fs::write(own.join("data"), noise(9, 2000)).unwrap();
    let added = sandbox.add(&own);
    flip_tables(&sandbox, "trees");

    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    for (offer, data) in offers.iter().zip(&data) {
        let root = sandbox.store().join(offer.path().base_name());
        assert!(fs::metadata(root).unwrap().is_dir());
        assert!(fs::read(data_of(&sandbox, offer)).unwrap() == *data);
    }
    // What no source has is kept a second time, as long as it is small.
    let asked = server.all_requests();
    let base = added.trim().trim_start_matches("/nix/store/").to_owned();
    let root = sandbox.store().join(&base);
    assert!(fs::metadata(&root).unwrap().is_dir());
    assert!(fs::read(root.join("data")).unwrap() == noise(9, 2000));
    assert_eq!(server.all_requests(), asked);
    assert_eq!(sandbox.json(&["verify"])["failures"], serde_json::json!([]));
    sandbox.unmount();
}
