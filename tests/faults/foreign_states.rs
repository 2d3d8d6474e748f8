//! State directories that are not there, not ours, too new, half made, or in use.

use std::fs;
use std::process::Stdio;

use crate::binary_cache::{Cache, Offer, file};
use crate::program::State;

const READING: &[&[&str]] = &[
    &["path-info"],
    &["ls", "x"],
    &["cat", "x"],
    &["dump", "x"],
    &["stats"],
    &["verify"],
];

fn cache() -> (Cache, Offer) {
    let cache = Cache::new();
    let offer = Offer::named("hello", file(b"hello"));
    cache.put(&offer);
    (cache, offer)
}

#[test]
fn commands_that_only_read_make_no_state() {
    let state = State::new();
    let dir = state.dir().display().to_string();
    for command in READING {
        state
            .run(command)
            .fails(&[&dir, "there is no narfs state in"]);
        assert!(!state.dir().exists());
    }
    // Nor in a directory that is empty.
    fs::create_dir(state.dir()).unwrap();
    state
        .run(&["path-info"])
        .fails(&[&dir, "there is no narfs state in"]);
    assert_eq!(fs::read_dir(state.dir()).unwrap().count(), 0);
}

#[test]
fn directories_with_something_else_in_them_are_left_alone() {
    let (cache, offer) = cache();
    let state = State::new();
    let dir = state.dir().display().to_string();
    fs::create_dir(state.dir()).unwrap();
    fs::write(state.dir().join("thesis.tex"), "x").unwrap();
    state
        .copy(&cache, &["--all"])
        .fails(&[&dir, "is not a narfs state directory", "--state"]);
    state
        .run(&["path-info"])
        .fails(&[&dir, "is not a narfs state directory"]);
    assert_eq!(fs::read_dir(state.dir()).unwrap().count(), 1);
    // What mkfs and a crash while the state was made leave behind is nobody's.
    let state = State::new();
    fs::create_dir_all(state.dir().join("lost+found")).unwrap();
    fs::write(state.dir().join(".format"), "narfs-sta").unwrap();
    fs::write(state.dir().join("lock"), "").unwrap();
    state
        .run(&["path-info"])
        .fails(&["there is no narfs state in"]);
    state.copy(&cache, &["--all"]).succeeds();
    state.has_exactly(&[offer.path()]);
    // A file, and a directory below one.
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    for at in [file.clone(), file.join("state")] {
        let state = State::at(at);
        let ran = state.copy(&cache, &["--all"]);
        ran.fails(&[&state.dir().display().to_string(), "ot a directory"]);
    }
}

#[test]
fn formats_that_are_newer_or_damaged_are_refused() {
    let (cache, offer) = cache();
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    let format = state.dir().join("format");
    let good = fs::read(&format).unwrap();
    let dir = state.dir().display().to_string();
    for (text, word) in [
        ("narfs-state 5\nstore-dir /nix/store\n", "narfs-state 5"),
        (
            "narfs-state 4\nstore-dir /nix/store\nfeature tapes\n",
            "does not know: tapes; use a newer narfs",
        ),
        ("narfs-state 1\n", "store-dir"),
        ("narfs-state 3\n", "store-dir"),
        ("narfs-state 1\nstore-dir relative\n", "store-dir"),
        ("something\n", "not a narfs state directory"),
        ("", "not a narfs state directory"),
    ] {
        fs::write(&format, text).unwrap();
        state.copy(&cache, &["--all"]).fails(&[&dir, word]);
        state.run(&["path-info"]).fails(&[&dir, word]);
    }
    fs::write(&format, good).unwrap();
    state.has_exactly(&[offer.path()]);
    // A database with a hole is no empty one.
    for entry in fs::read_dir(state.dir().join("db")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("MANIFEST") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    state
        .run(&["path-info"])
        .fails(&["is damaged, or a part of it is missing"]);
}

#[test]
fn a_state_in_use_names_its_owner() {
    let (cache, offer) = cache();
    let state = State::new();
    state.copy(&cache, &["--all"]).succeeds();
    // A dump that nobody reads owns the state until it is read.
    let large = tempfile::tempdir().unwrap();
    fs::write(large.path().join("zeros"), vec![0; 1 << 20]).unwrap();
    let ran = state.run(&[
        "add",
        &large.path().display().to_string(),
        "--name",
        "zeros",
    ]);
    ran.succeeds();
    let mut dump = state.command(&["dump", ran.stdout().trim()]);
    let mut owner = dump.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = owner.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut [0]).unwrap();
    let named = format!("is owned by process {} (", owner.id());
    let dir = state.dir().display().to_string();
    state.run(&["path-info"]).fails(&[&dir, &named, "dump"]);
    state.copy(&cache, &["--all"]).fails(&[&dir, &named]);
    owner.kill().unwrap();
    owner.wait().unwrap();
    state.gives_out(offer.path(), &offer.stored);
}
