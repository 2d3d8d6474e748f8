//! States on disks that are full or cannot be written.

use std::fs;

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::private_mount::PrivateMount;
use crate::program::State;

#[test]
fn a_full_disk_ends_the_copy_and_leaves_the_state_whole() {
    let cache = Cache::new();
    let small = Offer::named("small", file(b"small\n"));
    let large = Offer::named("large", file(&noise(1, 60 << 20)));
    for offer in [&small, &large] {
        cache.put(offer);
    }
    let disk = PrivateMount::new(130);
    let state = State::at(disk.path().join("state"));
    state.copy(&cache, &[&small.path().base_name()]).succeeds();
    for _ in 0..2 {
        let ran = state.copy(&cache, &[&large.path().base_name()]);
        ran.fails(&["bytes are free for the state", "state", "make room"]);
        state.has_exactly(&[small.path()]);
        state.has_nothing_of(large.path());
        assert_eq!(state.is_whole(), 1);
    }
    // What is small goes on fitting, and what is there can be read.
    state.gives_out(small.path(), &small.stored);
}

#[test]
fn a_large_memory_does_not_fill_the_disk_behind_the_back_of_the_check() {
    let cache = Cache::new();
    let large = Offer::named("large", file(&noise(1, 300 << 20)));
    cache.put(&large);
    let disk = PrivateMount::new(200);
    let state = State::at(disk.path().join("state"));
    let mut arguments = vec!["--memory", "2048", "copy", "--all"];
    let from = cache.arguments();
    arguments.extend(from.iter().map(String::as_str));
    let ran = state.run(&arguments);
    ran.fails(&["bytes are free for the state", "make room"]);
    state.has_exactly(&[]);
    assert_eq!(state.is_whole(), 0);
}

#[test]
fn a_program_that_is_larger_than_the_disk_comes_without_a_temporary_file() {
    let cache = Cache::new();
    let mut program = vec![0; 330 << 20];
    program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let large = Offer::named("large", file(&program));
    cache.put(&large);
    let disk = PrivateMount::new(300);
    let state = State::at(disk.path().join("state"));
    // Nothing is left of the 300 MiB if it is written there first.
    state.copy(&cache, &["--all"]).succeeds().counts(1, 0);
    assert_eq!(state.is_whole(), 1);
    state.gives_out(large.path(), &large.stored);
}

#[test]
fn contents_that_are_dropped_make_room_on_a_disk_that_is_nearly_full() {
    let cache = Cache::new();
    let offers: Vec<_> = (0..8)
        .map(|n| Offer::named(&format!("path-{n}"), file(&noise(n, 11 << 20))))
        .collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let disk = PrivateMount::new(220);
    let state = State::at(disk.path().join("state"));
    state.copy(&cache, &["--all"]).succeeds();
    // In a file with others.
    let mut pin = vec!["pin".to_owned()];
    pin.extend(cache.arguments());
    pin.push(offers[3].path().base_name());
    state.run(&pin).succeeds();
    let free = || {
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; (free() - (24 << 20)) as usize]).unwrap();
    state.run(&["evict", "--to", "12M"]).succeeds();
    // All but the one that is kept, and little besides.
    assert!(free() > (24 + 72) << 20, "{} bytes are free", free());
    state.run(&["gc"]).succeeds();
    state.has_exactly(&[offers[3].path()]);
    state.gives_out(offers[3].path(), &offers[3].stored);
    fs::remove_file(&ballast).unwrap();
    state.copy(&cache, &["--all"]).succeeds();
    assert_eq!(state.is_whole(), 8);
}

#[test]
fn a_state_that_was_filled_by_others_can_still_be_read() {
    let cache = Cache::new();
    let small = Offer::named("small", file(b"small\n"));
    let other = Offer::named("other", file(b"other\n"));
    cache.put(&small);
    cache.put(&other);
    let disk = PrivateMount::new(130);
    let state = State::at(disk.path().join("state"));
    state.copy(&cache, &[&small.path().base_name()]).succeeds();
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 40 << 20]).unwrap();
    let ran = state.copy(&cache, &[&other.path().base_name()]);
    ran.fails(&["bytes are free for the state", "make room"]);
    state.gives_out(small.path(), &small.stored);
    assert_eq!(state.is_whole(), 1);
    // To the last byte: what can be said is said, and nothing is lost.
    let mut rest = fs::File::options().append(true).open(&ballast).unwrap();
    while std::io::Write::write(&mut rest, &[0; 1 << 16]).is_ok_and(|n| n > 0) {}
    let ran = state.run(&["path-info"]);
    if ran.output.status.code() != Some(0) {
        ran.fails(&[&state.dir().display().to_string(), "No space left"]);
    }
    drop(rest);
    fs::remove_file(&ballast).unwrap();
    state.copy(&cache, &["--all"]).succeeds();
    state.has_exactly(&[small.path(), other.path()]);
    assert_eq!(state.is_whole(), 2);
}

#[test]
fn space_is_given_back_on_a_disk_that_others_have_filled_to_the_last_byte() {
    let cache = Cache::new();
    let offers: Vec<_> = (0..6)
        .map(|n| Offer::named(&format!("path-{n}"), file(&noise(n, 11 << 20))))
        .collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let disk = PrivateMount::new(260);
    let state = State::at(disk.path().join("state"));
    let free = || {
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let others = disk.path().join("others");
    for command in [&["evict", "--to", "0"][..], &["gc"]] {
        state.copy(&cache, &["--all"]).succeeds();
        let mut file = fs::File::create(&others).unwrap();
        while std::io::Write::write(&mut file, &[0; 1 << 12]).is_ok_and(|n| n > 0) {}
        assert_eq!(free(), 0);
        state.run(command).succeeds();
        assert!(free() > 60 << 20, "{command:?}: {} bytes are free", free());
        fs::remove_file(&others).unwrap();
    }
    // It goes on as before, and keeps nothing for a state without contents.
    state.has_exactly(&[]);
    assert!(!state.dir().join("ballast").exists());
    state.copy(&cache, &["--all"]).succeeds();
    assert_eq!(state.is_whole(), 6);
    assert!(state.dir().join("ballast").exists());
}

#[test]
fn a_read_only_disk_is_named() {
    let cache = Cache::new();
    let small = Offer::named("small", file(b"small\n"));
    cache.put(&small);
    let mut disk = PrivateMount::new(130);
    let state = State::at(disk.path().join("state"));
    state.copy(&cache, &["--all"]).succeeds();
    disk.make_read_only();
    let dir = state.dir().display().to_string();
    for command in ["copy", "path-info"] {
        let ran = match command {
            "copy" => state.copy(&cache, &["--all"]),
            _ => state.run(&[command]),
        };
        ran.fails(&[&dir, "Read-only file system"]);
    }
    // One that is not there yet.
    let new = State::at(disk.path().join("new"));
    let ran = new.copy(&cache, &["--all"]);
    ran.fails(&[&new.dir().display().to_string(), "Read-only file system"]);
    new.run(&["path-info"])
        .fails(&["there is no narfs state in"]);
}
