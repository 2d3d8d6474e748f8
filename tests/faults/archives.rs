//! NARs that are not what they must be.

use std::io::Write as _;
use std::time::{Duration, Instant};

use narfs::nix::compression::Compression;
use narfs::nix::hash::NarHash;

use crate::binary_cache::{Cache, Offer, Tree, compress, file, nar, noise};
use crate::memory::peak_of;
use crate::program::State;

/// An archive from its strings, each with length and padding.
fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    for part in parts {
        nar.extend_from_slice(&(part.len() as u64).to_le_bytes());
        nar.extend_from_slice(part);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// A directory whose entries are links with these names, in this order.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = vec![b"nix-archive-1", b"(", b"type", b"directory"];
    for name in names {
        parts.extend([&b"entry"[..], b"(", b"name", name, b"node", b"("]);
        parts.extend([&b"type"[..], b"symlink", b"target", b"t", b")", b")"]);
    }
    parts.push(b")");
    strings(&parts)
}

/// So many nodes, one in the other.
fn deep(nodes: usize) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = vec![b"nix-archive-1"];
    for _ in 1..nodes {
        parts.extend([&b"("[..], b"type", b"directory", b"entry", b"("]);
        parts.extend([&b"name"[..], b"d", b"node"]);
    }
    parts.extend([&b"("[..], b"type", b"symlink", b"target", b"t", b")"]);
    for _ in 1..nodes {
        parts.extend([&b")"[..], b")"]);
    }
    strings(&parts)
}

fn words(text: &str) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = vec![b"nix-archive-1"];
    parts.extend(
        text.split(' ')
            .map(|w| if w == "_" { b"" } else { w.as_bytes() }),
    );
    strings(&parts)
}

fn changed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    bytes
}

/// Archives that no honest cache has, signed all the same: NarHash and NarSize are theirs.
fn malformed() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let hello = || file(b"hello\n");
    let long = [b'n'; 256];
    let target = "t".repeat(4096);
    vec![
        ("empty-name", directory(&[b""]), "invalid file name"),
        ("dot", directory(&[b"."]), "invalid file name"),
        ("dotdot", directory(&[b".."]), "invalid file name"),
        ("slash", directory(&[b"a/b"]), "invalid file name"),
        ("climb", directory(&[b"../../etc"]), "invalid file name"),
        ("nul", directory(&[b"a\0b"]), "invalid file name"),
        ("long-name", directory(&[&long]), "at most 255 bytes"),
        ("duplicate", directory(&[b"a", b"a"]), "duplicate"),
        ("unsorted", directory(&[b"b", b"a"]), "not sorted"),
        ("unsorted-case", directory(&[b"a", b"B"]), "not sorted"),
        ("deep", deep(65), "deep"),
        (
            "padded",
            changed(hello(), |n| n[102] = 1),
            "non-zero padding",
        ),
        ("cut", changed(hello(), |n| n.truncate(100)), "end-of-file"),
        (
            "cut-at-end",
            changed(hello(), |n| n.truncate(104)),
            "end-of-file",
        ),
        ("only-magic", strings(&[b"nix-archive-1"]), "end-of-file"),
        ("no-nar", b"<html>not found</html>".to_vec(), "bad archive"),
        ("trailing", changed(hello(), |n| n.push(0)), "after the end"),
        ("two", [hello(), hello()].concat(), "after the end"),
        ("no-contents", words("( type regular )"), "expected"),
        (
            "late-mark",
            words("( type regular contents x executable _ )"),
            "expected",
        ),
        (
            "bad-mark",
            words("( type regular executable x contents y )"),
            "non-empty",
        ),
        ("kind", words("( type fifo )"), "fifo"),
        ("no-target", words("( type symlink target _ )"), "target"),
        (
            "target-nul",
            words("( type symlink target a\0b )"),
            "target",
        ),
        (
            "long-target",
            words(&format!("( type symlink target {target} )")),
            "at most 4095",
        ),
        (
            "huge-file",
            changed(hello(), |n| n[88..96].fill(0xff)),
            "does not fit",
        ),
        (
            "huge-name",
            changed(directory(&[b"a"]), |n| n[128..136].fill(0xff)),
            "bytes",
        ),
    ]
}

#[test]
fn malformed_archives_are_refused_each_by_itself() {
    let cache = Cache::new();
    let good = Offer::named("good", directory(&[b"a", b"b"]));
    cache.put(&good);
    let just_deep_enough = Offer::named("just-deep-enough", deep(64));
    cache.put(&just_deep_enough);
    let offers: Vec<_> = malformed()
        .into_iter()
        .map(|(name, nar, word)| (Offer::named(name, nar), word))
        .collect();
    for (offer, _) in &offers {
        cache.put(offer);
    }
    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    let failures: Vec<_> = offers.iter().map(|(o, word)| (o.path(), *word)).collect();
    ran.copies_but(2, &failures);
    state.has_exactly(&[good.path(), just_deep_enough.path()]);
    state.has_nothing_of(offers[0].0.path());
    state.gives_out(good.path(), &good.stored);
    assert_eq!(state.is_whole(), 2);
    // A second time is the same: nothing is remembered as good.
    let again = state.copy(&cache, &["--all"]);
    again.copies_but(0, &failures);
}

#[test]
fn archives_that_are_not_the_signed_ones_are_refused() {
    let cache = Cache::new();
    let nar = || file(&noise(1, 3000));
    let lying = |name, change: fn(&mut Offer)| {
        let mut offer = Offer::named(name, nar());
        change(&mut offer);
        cache.put(&offer);
        offer
    };
    let hash = lying("hash", |o| o.info.nar_hash = NarHash::of(b"another"));
    let small = lying("small", |o| o.info.nar_size -= 8);
    let tiny = lying("tiny", |o| o.info.nar_size = 1);
    let large = lying("large", |o| o.info.nar_size += 8);
    let largest = lying("largest", |o| o.info.nar_size = u64::MAX);
    let flipped = lying("flipped", |o| o.stored[1000] ^= 1);
    let cut = lying("cut", |o| o.stored.truncate(2000));
    let empty = lying("empty", |o| o.stored.clear());
    let gone = lying("gone", |_| ());
    std::fs::remove_file(cache.nar_file(&gone)).unwrap();
    let directory = lying("directory", |_| ());
    std::fs::remove_file(cache.nar_file(&directory)).unwrap();
    std::fs::create_dir(cache.nar_file(&directory)).unwrap();
    let mut outside = lying("outside", |_| ());
    outside.info.url = "nar/../../etc/passwd".into();
    std::fs::write(cache.narinfo_file(outside.path()), cache.text(&outside)).unwrap();
    let good = Offer::named("good", nar());
    cache.put(&good);

    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    ran.copies_but(
        1,
        &[
            (hash.path(), "hash mismatch"),
            (small.path(), "size mismatch"),
            (tiny.path(), "size mismatch"),
            (large.path(), "size mismatch"),
            (largest.path(), "size mismatch"),
            (flipped.path(), "hash mismatch"),
            (cut.path(), "end-of-file"),
            (empty.path(), "end-of-file"),
            (gone.path(), "the NAR is gone"),
            (directory.path(), "not a regular file"),
            (outside.path(), "points outside of the binary cache"),
        ],
    );
    state.has_exactly(&[good.path()]);
    state.has_nothing_of(hash.path());
    assert_eq!(state.is_whole(), 1);
}

const SUPPORTED: [Compression; 8] = [
    Compression::None,
    Compression::Xz,
    Compression::Bzip2,
    Compression::Gzip,
    Compression::Zstd,
    Compression::Br,
    Compression::Lzip,
    Compression::Lz4,
];

#[test]
fn every_compression_is_read_and_checked() {
    let cache = Cache::new();
    let data = [noise(5, 60_000), vec![b'x'; 60_000]].concat();
    let nar = nar(&Tree::Directory(vec![
        ("bin", Tree::Directory(vec![("x", Tree::Program(&data))])),
        ("link", Tree::Link("bin/x")),
    ]));
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for method in SUPPORTED {
        let offer = |what: &str| Offer::named(&format!("{method}-{what}"), nar.clone());
        let whole = offer("good").compressed(method);
        cache.put(&whole);
        good.push(whole);
        if method == Compression::None {
            continue;
        }
        let mut cut = offer("cut").compressed(method);
        cut.stored.truncate(cut.stored.len() * 2 / 3);
        cache.put(&cut);
        bad.push(cut);
        let mut flipped = offer("flipped").compressed(method);
        let middle = flipped.stored.len() / 2;
        flipped.stored[middle] ^= 0x10;
        cache.put(&flipped);
        bad.push(flipped);
        // Named as something else than it is; and as nothing at all.
        let mut misnamed = offer("misnamed").compressed(method);
        misnamed.info.compression = match method {
            Compression::Zstd => Compression::Xz,
            _ => Compression::Zstd,
        };
        cache.put(&misnamed);
        bad.push(misnamed);
        let mut bare = offer("bare").compressed(method);
        bare.info.compression = Compression::None;
        cache.put(&bare);
        bad.push(bare);
    }
    let state = State::new();
    let ran = state.copy(&cache, &["--all"]);
    let failures: Vec<_> = bad.iter().map(|o| (o.path(), "narfs: ")).collect();
    ran.copies_but(good.len(), &failures);
    state.has_exactly(&good.iter().map(Offer::path).collect::<Vec<_>>());
    for offer in &good {
        state.gives_out(offer.path(), &nar);
    }
    assert_eq!(state.is_whole(), good.len() as u64);
}

#[test]
fn compressions_that_are_not_known_or_not_decoded_are_named() {
    let cache = Cache::new();
    let offer = |name| Offer::named(name, file(b"x"));
    let unknown = offer("unknown");
    let text = cache
        .text(&unknown)
        .replace("Compression: none", "Compression: zip");
    cache.put_as(&unknown, text.as_bytes());
    let mut old = offer("old");
    old.info.compression = Compression::Lrzip;
    cache.put(&old);
    let state = State::new();
    let failures = [(unknown.path(), "'zip'"), (old.path(), "'lrzip'")];
    state.copy(&cache, &["--all"]).copies_but(0, &failures);
}

/// A NAR whose file is 10 GiB of zeros, in a few kilobytes.
fn bomb(method: Compression) -> Vec<u8> {
    const PIECE: usize = 64 << 20;
    const PIECES: usize = 160;
    let mut head = words("( type regular contents");
    head.extend_from_slice(&((PIECE * PIECES) as u64).to_le_bytes());
    let zeros = compress(method, &vec![0; PIECE]);
    let mut out = compress(method, &head);
    for _ in 0..PIECES {
        out.write_all(&zeros).unwrap();
    }
    out
}

#[test]
fn a_decompression_bomb_costs_neither_time_nor_memory() {
    let cache = Cache::new();
    let mut failures = Vec::new();
    for (method, nar_size) in [
        (Compression::Zstd, 120),
        (Compression::Xz, 1 << 20),
        (Compression::Gzip, 1 << 20),
        (Compression::Bzip2, 120),
    ] {
        let mut offer = Offer::named(&format!("bomb-{method}"), Vec::new());
        offer.stored = bomb(method);
        offer.info.compression = method;
        offer.info.nar_size = nar_size;
        cache.put(&offer);
        failures.push(offer);
    }
    // Here the bomb follows a NAR that is good.
    let mut tail = Offer::named("tail", file(b"hello\n"));
    tail.stored = [
        compress(Compression::Zstd, &tail.stored),
        bomb(Compression::Zstd),
    ]
    .concat();
    tail.info.compression = Compression::Zstd;
    cache.put(&tail);
    failures.push(tail);

    let state = State::new();
    let mut arguments = vec!["copy".to_owned(), "--all".to_owned()];
    arguments.extend(cache.arguments());
    let started = Instant::now();
    let (ran, peak) = peak_of(&mut state.command(&arguments));
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(peak < 200 << 20, "{peak} bytes resident");
    let failures: Vec<_> = failures
        .iter()
        .map(|o| (o.path(), "the NAR is longer than the"))
        .collect();
    ran.copies_but(0, &failures);
    state.has_exactly(&[]);
}
