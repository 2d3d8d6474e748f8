//! Tests of the reader and the writer together: the table of what is refused, and round trips.

use std::collections::BTreeMap;
use std::io;

use proptest::prelude::*;

use super::*;
use crate::nix::hash::NarHash;
use crate::nix::nar::{Writer, sizes};

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

/// An archive from a text: the magic string, then words; `_` is the empty string.
fn words(text: &str) -> Vec<u8> {
    let words = text
        .split(' ')
        .map(|word| if word == "_" { "" } else { word });
    let parts: Vec<&[u8]> = std::iter::once("nix-archive-1")
        .chain(words)
        .map(str::as_bytes)
        .collect();
    strings(&parts)
}

/// Reads everything, contents too, and checks the end.
fn read_all(nar: impl Read) -> Result<Vec<(Event, Vec<u8>)>, NarError> {
    let mut reader = Reader::new(nar);
    let mut events = Vec::new();
    while let Some(event) = reader.next()? {
        let mut contents = Vec::new();
        if let Event::Regular { .. } = event {
            let mut buffer = [0; 1000];
            loop {
                match reader.read_contents(&mut buffer)? {
                    0 => break,
                    read => contents.extend_from_slice(&buffer[..read]),
                }
            }
        }
        events.push((event, contents));
    }
    reader.expect_end()?;
    Ok(events)
}

#[track_caller]
fn defect(nar: &[u8]) -> NarDefect {
    match read_all(nar) {
        Err(NarError::Malformed { defect, offset }) => {
            assert!(offset <= nar.len() as u64);
            defect
        }
        other => panic!("expected a malformed archive, got {other:?}"),
    }
}

fn entry(name: &str) -> String {
    format!("entry ( name {name} node ( type symlink target t ) )")
}

fn directory(entries: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = entries.iter().map(|name| entry(name)).collect();
    words(&format!("( type directory {} )", entries.join(" ")))
}

const HELLO: &str = "( type regular contents hello\n )";

#[test]
fn a_plain_file_has_the_known_bytes() {
    let nar = words(HELLO);
    assert_eq!(nar.len(), 120);
    assert_eq!(
        NarHash::of(&nar).to_nix32(),
        "sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw"
    );
    let events = read_all(&nar[..]).unwrap();
    let file = Event::Regular {
        executable: false,
        size: 6,
        offset: 96,
    };
    assert_eq!(events, [(file, b"hello\n".to_vec())]);

    let mut writer = Writer::new(Vec::new());
    assert_eq!(writer.regular(false, 6).unwrap(), 96);
    writer.contents(b"hel").unwrap();
    writer.contents(b"lo\n").unwrap();
    assert_eq!(writer.finish().unwrap(), nar);
}

#[test]
fn offsets_are_those_of_listings() {
    let executable = words("( type regular executable _ contents x )");
    let events = read_all(&executable[..]).unwrap();
    let file = Event::Regular {
        executable: true,
        size: 1,
        offset: 128,
    };
    assert_eq!(events[0].0, file);

    let tree = words("( type directory entry ( name f node ( type regular contents x ) ) )");
    let events = read_all(&tree[..]).unwrap();
    let file = Event::Regular {
        executable: false,
        size: 1,
        offset: 232,
    };
    assert_eq!(events[2].0, file);
}

#[test]
fn names_and_targets_are_raw_bytes() {
    let nar = strings(&[
        b"nix-archive-1",
        b"(",
        b"type",
        b"directory",
        b"entry",
        b"(",
        b"name",
        b"\xff\x01~nix~case~hack~1",
        b"node",
        b"(",
        b"type",
        b"symlink",
        b"target",
        b"/a//b/\xfe",
        b")",
        b")",
        b")",
    ]);
    let events = read_all(&nar[..]).unwrap();
    assert_eq!(
        events[1].0,
        Event::Entry {
            name: b"\xff\x01~nix~case~hack~1".to_vec()
        }
    );
    assert_eq!(
        events[2].0,
        Event::Symlink {
            target: b"/a//b/\xfe".to_vec()
        }
    );
    assert_eq!(events[3].0, Event::DirectoryEnd);
}

#[test]
fn bad_names_are_refused() {
    for name in ["_", ".", "..", "a/b", "/", "a\0b", &"n".repeat(256)] {
        let found = defect(&directory(&[name]));
        let named = matches!(
            found,
            NarDefect::InvalidName { .. } | NarDefect::TooLong { .. }
        );
        assert!(named, "{name}: {found}");
    }
    assert!(read_all(&directory(&[&"n".repeat(255)])[..]).is_ok());
    assert!(read_all(&directory(&["..."])[..]).is_ok());
}

#[test]
fn names_ascend_by_bytes() {
    assert!(read_all(&directory(&["B", "a", "â"])[..]).is_ok());
    assert!(read_all(&directory(&["a", "a.b", "a0", "ab"])[..]).is_ok());
    assert!(matches!(
        defect(&directory(&["a", "a"])),
        NarDefect::DuplicateName { .. }
    ));
    assert!(matches!(
        defect(&directory(&["a", "B"])),
        NarDefect::NotSorted { .. }
    ));
    assert!(matches!(
        defect(&directory(&["a", "c", "b"])),
        NarDefect::NotSorted { .. }
    ));
    assert!(matches!(
        defect(&directory(&["ab", "a"])),
        NarDefect::NotSorted { .. }
    ));
}

#[test]
fn padding_is_zero() {
    let nar = words(HELLO);
    // In the magic string, in the contents, and after the last parenthesis.
    for at in [21, 23, 102, 103, 113, 119] {
        let mut nar = nar.clone();
        nar[at] = 1;
        assert_eq!(defect(&nar), NarDefect::NonZeroPadding, "{at}");
    }
}

#[test]
fn nothing_may_follow() {
    for extra in [&b"\0"[..], b"\0\0\0\0\0\0\0\0", b"nix-archive-1"] {
        let mut nar = words(HELLO);
        nar.extend_from_slice(extra);
        assert_eq!(defect(&nar), NarDefect::TrailingBytes);
    }
    let twice = words(&format!("{HELLO} {HELLO}"));
    assert_eq!(defect(&twice), NarDefect::TrailingBytes);
}

#[test]
fn the_body_of_a_file_is_in_one_order() {
    for bad in [
        "( type regular )",
        "( type regular executable _ )",
        "( type regular contents x executable _ )",
        "( type regular executable _ executable _ contents x )",
        "( type regular contents x contents x )",
        "( type regular type regular contents x )",
        "( type socket )",
        "( type _ )",
        "( target x )",
        "( type symlink )",
        "( type symlink target x target y )",
        "( type symlink contents x )",
        "( type directory contents x )",
        "( type directory entry ( node ( type regular contents x ) name x ) )",
        "( type directory entry ( name x ) )",
        "( type directory entry name x )",
        "type regular",
        "_",
    ] {
        assert!(
            matches!(defect(&words(bad)), NarDefect::Unexpected { .. }),
            "{bad}"
        );
    }
    let marker = words("( type regular executable yes contents x )");
    assert_eq!(defect(&marker), NarDefect::ExecutableMarker);
}

#[test]
fn long_tokens_are_refused_before_they_are_read() {
    let token = |length: usize| defect(&words(&format!("( {}", "t".repeat(length))));
    assert!(matches!(token(32), NarDefect::Unexpected { .. }));
    assert!(matches!(token(33), NarDefect::TooLong { .. }));
    let mut nar = words("( type");
    nar.extend_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(
        defect(&nar),
        NarDefect::TooLong {
            limit: 32,
            length: u64::MAX,
            ..
        }
    ));
    let mut nar = words("( type symlink target");
    nar.extend_from_slice(&4096u64.to_le_bytes());
    assert!(matches!(
        defect(&nar),
        NarDefect::TooLong { limit: 4095, .. }
    ));
}

#[test]
fn bad_targets_are_refused() {
    let link = |target: &str| words(&format!("( type symlink target {target} )"));
    for bad in ["_", "a\0b"] {
        assert!(matches!(
            defect(&link(bad)),
            NarDefect::InvalidTarget { .. }
        ));
    }
    assert!(read_all(&link(&"t".repeat(4095))[..]).is_ok());
}

#[test]
fn a_size_beyond_all_archives_is_refused() {
    let mut nar = words("( type regular contents");
    nar.extend_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(defect(&nar), NarDefect::SizeOverflow { size: u64::MAX });
    let mut nar = words("( type regular contents");
    nar.extend_from_slice(&(u64::MAX / 2).to_le_bytes());
    assert_eq!(defect(&nar), NarDefect::Truncated);
}

#[test]
fn depth_is_limited_for_reader_and_writer_alike() {
    let nested = |directories: usize| {
        let open = "( type directory entry ( name d node ".repeat(directories);
        let close = " ) )".repeat(directories);
        words(&format!("{open}( type directory ){close}"))
    };
    assert!(read_all(&nested(63)[..]).is_ok());
    assert_eq!(defect(&nested(64)), NarDefect::TooDeep);

    let mut writer = Writer::new(io::sink());
    for _ in 0..63 {
        writer.directory().unwrap();
        writer.entry(b"d").unwrap();
    }
    writer.directory().unwrap();
    writer.entry(b"d").unwrap();
    assert!(matches!(
        writer.symlink(b"t"),
        Err(NarError::Malformed { .. })
    ));
}

#[test]
fn every_truncation_is_noticed() {
    let nar = words(
        "( type directory entry ( name f node ( type regular executable _ contents x ) ) entry ( name l node \
         ( type symlink target t ) ) )",
    );
    assert!(read_all(&nar[..]).is_ok());
    for length in 0..nar.len() {
        assert_eq!(defect(&nar[..length]), NarDefect::Truncated, "{length}");
    }
}

#[test]
fn contents_that_are_not_read_are_skipped() {
    let big = "x".repeat(3 * BUFFER_SIZE + 5);
    let nar = words(&format!(
        "( type directory entry ( name a node ( type regular contents {big} ) ) {} )",
        entry("b")
    ));
    let mut reader = Reader::new(&nar[..]);
    let mut names = Vec::new();
    while let Some(event) = reader.next().unwrap() {
        match event {
            Event::Entry { name } => names.push(name),
            Event::Regular { .. } => assert_eq!(reader.read_contents(&mut [0; 7]).unwrap(), 7),
            _ => {}
        }
    }
    assert_eq!(names, [b"a", b"b"]);
    assert_eq!(reader.input.position, nar.len() as u64);
    assert!(reader.next().unwrap().is_none());
    assert!(reader.expect_end().is_ok());
}

/// Hands out its bytes in pieces of the given sizes, and notes how much room each call was given.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
    rooms: Vec<usize>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rooms.push(buffer.len());
        if self.rooms.len().is_multiple_of(3) {
            return Err(ErrorKind::Interrupted.into());
        }
        let piece = self.piece.min(buffer.len());
        self.bytes.read(&mut buffer[..piece])
    }
}

#[test]
fn small_reads_are_buffered_and_large_ones_are_not_copied() {
    let big = "x".repeat(1 << 20);
    let nar = words(&format!("( type regular contents {big} )"));
    let mut input = Pieces {
        bytes: &nar,
        piece: usize::MAX,
        rooms: Vec::new(),
    };
    let mut reader = Reader::new(&mut input);
    reader.next().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match reader.read_contents(&mut buffer).unwrap() {
            0 => break,
            read => total += read,
        }
    }
    assert_eq!(total, 1 << 20);
    assert!(reader.next().unwrap().is_none());
    reader.expect_end().unwrap();
    // One fill of the buffer for all tokens, one read of all the rest of the contents, then the closing
    // tokens and the end.
    assert!(input.rooms.len() <= 6, "{:?}", input.rooms);
    assert!(
        input.rooms.contains(&((1 << 20) - (BUFFER_SIZE - 96))),
        "{:?}",
        input.rooms
    );
}

/// Fails after its bytes.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::other("the line is dead")),
            read => Ok(read),
        }
    }
}

#[test]
fn failures_of_the_stream_are_kept_apart_and_stay() {
    let nar = words(HELLO);
    let mut reader = Reader::new(Failing(&nar[..100]));
    reader.next().unwrap();
    let error = reader.next().unwrap_err();
    let NarError::Io {
        offset: 100,
        source,
    } = error
    else {
        panic!("expected an I/O error, got {error:?}");
    };
    assert_eq!(source.to_string(), "the line is dead");
    assert!(matches!(reader.next(), Err(NarError::Misuse { .. })));
    assert!(matches!(
        reader.read_contents(&mut [0; 4]),
        Err(NarError::Misuse { .. })
    ));

    // A decoder may notice corruption at its very end only: that must not get lost.
    assert!(matches!(
        read_all(Failing(&nar)),
        Err(NarError::Io { offset: 120, .. })
    ));
}

#[test]
fn the_reader_refuses_calls_out_of_order() {
    let nar = words(HELLO);
    let mut reader = Reader::new(&nar[..]);
    assert!(matches!(
        reader.read_contents(&mut [0; 4]),
        Err(NarError::Misuse { .. })
    ));
    reader.next().unwrap();
    assert!(matches!(reader.expect_end(), Err(NarError::Misuse { .. })));
    assert!(reader.next().unwrap().is_none());
    assert!(reader.expect_end().is_ok());
}

#[test]
fn the_writer_refuses_calls_out_of_order() {
    type Call = fn(&mut Writer<io::Sink>) -> Result<(), NarError>;
    let open_file: Call = |w| w.regular(false, 1).map(drop);
    let cases: [&[Call]; 14] = [
        &[|w| w.entry(b"a")],
        &[Writer::end_directory],
        &[|w| w.contents(b"a")],
        &[|w| w.symlink(b"t"), |w| w.symlink(b"t")],
        &[|w| w.symlink(b"t"), Writer::directory],
        &[|w| w.symlink(b"")],
        &[Writer::directory, |w| w.symlink(b"t")],
        &[Writer::directory, |w| w.entry(b"a"), Writer::end_directory],
        &[Writer::directory, |w| w.entry(b"a"), |w| w.entry(b"b")],
        &[
            Writer::directory,
            |w| w.entry(b"a"),
            |w| w.symlink(b"t"),
            |w| w.entry(b"a"),
        ],
        &[Writer::directory, |w| w.entry(b"..")],
        &[open_file, |w| w.contents(b"ab")],
        &[open_file, |w| w.symlink(b"t")],
        &[|w| w.regular(false, u64::MAX).map(drop)],
    ];
    for (index, calls) in cases.into_iter().enumerate() {
        let mut writer = Writer::new(io::sink());
        let (last, before) = calls.split_last().unwrap();
        for call in before {
            call(&mut writer).unwrap();
        }
        assert!(last(&mut writer).is_err(), "case {index}");
        // After an error nothing goes.
        assert!(writer.directory().is_err(), "case {index}");
        assert!(writer.finish().is_err(), "case {index}");
    }
    assert!(Writer::new(io::sink()).finish().is_err());
    let mut writer = Writer::new(io::sink());
    writer.regular(false, 2).unwrap();
    writer.contents(b"a").unwrap();
    assert!(writer.finish().is_err());
}

#[derive(Debug, Clone)]
enum Tree {
    Regular(bool, Vec<u8>),
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..20).prop_map(|mut name| {
        name.iter_mut()
            .filter(|byte| matches!(**byte, 0 | b'/'))
            .for_each(|byte| *byte = b'_');
        if name == b"." || name == b".." {
            b"dot".to_vec()
        } else {
            name
        }
    })
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(executable, contents)| Tree::Regular(executable, contents)),
        name().prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        proptest::collection::btree_map(name(), inner, 0..8).prop_map(Tree::Directory)
    })
}

fn write(tree: &Tree, writer: &mut Writer<Vec<u8>>) {
    match tree {
        Tree::Regular(executable, contents) => {
            writer.regular(*executable, contents.len() as u64).unwrap();
            contents
                .chunks(7)
                .for_each(|piece| writer.contents(piece).unwrap());
        }
        Tree::Symlink(target) => writer.symlink(target).unwrap(),
        Tree::Directory(entries) => {
            writer.directory().unwrap();
            for (name, child) in entries {
                writer.entry(name).unwrap();
                write(child, writer);
            }
            writer.end_directory().unwrap();
        }
    }
}

/// Size of a node, and in passing the offset of each file.
fn measure(tree: &Tree, at: u64, offsets: &mut Vec<u64>) -> u64 {
    match tree {
        Tree::Regular(executable, contents) => {
            offsets.push(at + sizes::regular_start(*executable));
            sizes::regular(*executable, contents.len() as u64)
        }
        Tree::Symlink(target) => sizes::symlink(target.len() as u64),
        Tree::Directory(entries) => {
            let mut size = sizes::DIRECTORY_START;
            for (name, child) in entries {
                size += sizes::entry_start(name.len() as u64);
                size += measure(child, at + size, offsets);
                size += sizes::ENTRY_END;
            }
            size + sizes::DIRECTORY_END
        }
    }
}

proptest! {
    #[test]
    fn trees_survive_and_sizes_agree(tree in tree(), piece in 1usize..200) {
        let mut writer = Writer::new(Vec::new());
        write(&tree, &mut writer);
        let nar = writer.finish().unwrap();

        let input = Pieces { bytes: &nar, piece, rooms: Vec::new() };
        let events = read_all(input).unwrap();
        let mut again = Writer::new(Vec::new());
        let mut read_offsets = Vec::new();
        for (event, contents) in events {
            match event {
                Event::Directory => again.directory().unwrap(),
                Event::Entry { name } => again.entry(&name).unwrap(),
                Event::DirectoryEnd => again.end_directory().unwrap(),
                Event::Symlink { target } => again.symlink(&target).unwrap(),
                Event::Regular { executable, size, offset } => {
                    read_offsets.push(offset);
                    prop_assert_eq!(again.regular(executable, size).unwrap(), offset);
                    again.contents(&contents).unwrap();
                }
            }
        }
        prop_assert_eq!(again.finish().unwrap(), nar.clone());

        let mut offsets = Vec::new();
        let size = sizes::MAGIC + measure(&tree, sizes::MAGIC, &mut offsets);
        prop_assert_eq!(size, nar.len() as u64);
        prop_assert_eq!(offsets, read_offsets);
    }
}
