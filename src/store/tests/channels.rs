//! Channels: lists that are replaced whole.

use std::fs;

use super::super::{ChannelName, Replaces, Store, StoreError, StoreOptions};
use crate::nix::store_path::{StorePath, StorePathHash};

fn open(dir: &std::path::Path) -> Store {
    let options = StoreOptions {
        memory: 16 << 20,
        create: true,
        ..StoreOptions::default()
    };
    Store::open(dir, &options).unwrap()
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new(StorePathHash::from_bytes([seed; 20]), name).unwrap()
}

fn name(text: &str) -> ChannelName {
    ChannelName::parse(text).unwrap()
}

fn put(store: &Store, channel: &str, url: &str, paths: &[StorePath], replaces: Replaces) -> bool {
    let mut writer = store.channels().write(&name(channel), url).unwrap();
    for path in paths {
        writer.push(path).unwrap();
    }
    writer.commit(replaces).unwrap()
}

fn paths(store: &Store, channel: &str) -> Result<Vec<StorePath>, StoreError> {
    let mut paths = Vec::new();
    store
        .channels()
        .paths(&name(channel), |path| paths.push(path))?;
    Ok(paths)
}

#[test]
fn a_list_is_replaced_whole_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let old = [path(1, "x-1"), path(2, "y-1")];
    let new = [path(3, "x-2")];
    {
        let store = open(dir.path());
        assert!(store.channels().list().unwrap().is_empty());
        assert!(put(&store, "b", "file:///b", &old, Replaces::Nothing));
        assert!(store.channels().add(&name("a"), "file:///a").unwrap());
        // What is not committed is nowhere.
        let mut writer = store.channels().write(&name("b"), "file:///b").unwrap();
        writer.push(&new[0]).unwrap();
        assert_eq!(paths(&store, "b").unwrap(), old);
        drop(writer);
    }
    let store = open(dir.path());
    assert_eq!(paths(&store, "b").unwrap(), old);
    assert!(paths(&store, "a").unwrap().is_empty());
    assert!(put(&store, "b", "file:///b", &new, Replaces::Old));
    assert_eq!(paths(&store, "b").unwrap(), new);
    let channels = store.channels().list().unwrap();
    let shown: Vec<_> = channels
        .iter()
        .map(|c| (c.name.as_str(), c.url.as_str(), c.list.map(|l| l.paths)))
        .collect();
    assert_eq!(
        shown,
        [("a", "file:///a", None), ("b", "file:///b", Some(1))]
    );
    assert_eq!(fs::read_dir(store.spool()).unwrap().count(), 0);
}

#[test]
fn a_list_does_not_come_in_the_place_of_another_channel() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let list = [path(1, "x-1")];
    assert!(!put(&store, "a", "file:///a", &list, Replaces::Old));
    assert!(store.channels().add(&name("a"), "file:///a").unwrap());
    assert!(!store.channels().add(&name("a"), "file:///a").unwrap());
    assert!(!put(&store, "a", "file:///a", &list, Replaces::Nothing));
    assert!(!put(&store, "a", "file:///other", &list, Replaces::Old));
    assert!(paths(&store, "a").unwrap().is_empty());
    assert!(store.channels().remove(&name("a")).unwrap());
    assert!(!store.channels().remove(&name("a")).unwrap());
    assert!(store.channels().get(&name("a")).unwrap().is_none());
}

#[test]
fn a_damaged_list_is_named_and_can_be_replaced_or_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let list = [path(1, "x-1"), path(2, "y-1")];
    assert!(put(&store, "a", "file:///a", &list, Replaces::Nothing));
    let file = dir.path().join("channels/a");
    let text = fs::read(&file).unwrap();
    for length in 0..text.len() {
        fs::write(&file, &text[..length]).unwrap();
        let error = paths(&store, "a").unwrap_err().to_string();
        assert!(error.contains("channels/a"), "{error}");
    }
    assert!(put(&store, "a", "file:///a", &list, Replaces::Old));
    assert_eq!(paths(&store, "a").unwrap(), list);
    fs::write(&file, "what?\n").unwrap();
    assert!(store.channels().list().is_err());
    assert!(store.channels().remove(&name("a")).unwrap());
}

#[test]
fn names_of_channels_are_names_of_plain_files() {
    for good in ["nixos", "nixos-25.11", "a_b+c", "9"] {
        assert_eq!(ChannelName::parse(good).unwrap().as_str(), good);
    }
    let long = "x".repeat(101);
    for bad in ["", ".", "..", ".x", "-x", "a/b", "a b", "ä", "a\n", &long] {
        assert!(ChannelName::parse(bad).is_err(), "{bad:?}");
    }
}
