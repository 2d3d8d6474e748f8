//! Greetings, requests and answers, made by hand and recorded from real clients.

use super::*;
use crate::nix::store_path::{StoreDir, StorePath};

const NEWEST: Version = Version::NEWEST;

macro_rules! recorded {
    ($name:literal, $operations:expr) => {
        (
            $name,
            include_bytes!(concat!("../../../tests/fuzz/seeds/worker_protocol/", $name)),
            &$operations,
        )
    };
}

fn store_path(digit: &str, name: &str) -> StorePath {
    let text = format!("/nix/store/{}-{name}", digit.repeat(32));
    StorePath::parse_full(&StoreDir::default(), &text).unwrap()
}

/// Reads an operation that has been written to the end.
fn read(number: u64, version: Version, written: &Writer) -> Result<Operation, ProtocolError> {
    let mut reader = Reader::new(written.as_bytes());
    let read = Operation::read(number, version, &StoreDir::default(), &mut reader)?;
    assert!(reader.source().is_empty(), "{read:?} leaves something");
    Ok(read)
}

fn written(write: impl FnOnce(&mut Writer)) -> Writer {
    let mut out = Writer::default();
    write(&mut out);
    out
}

/// The greeting with a client that sends this; the version, and what it is sent.
fn greeted(client: &Writer) -> (Result<Version, ProtocolError>, Vec<u8>) {
    let greeting = Greeting {
        program: "narfs 1",
        is_trusted: false,
    };
    let mut sent = Vec::new();
    let send = |bytes: &[u8]| {
        sent.extend_from_slice(bytes);
        Ok(())
    };
    let mut reader = Reader::new(client.as_bytes());
    let version = greet(&mut reader, send, &greeting);
    if version.is_ok() {
        assert!(reader.source().is_empty());
    }
    (version, sent)
}

fn hello(minor: u64, more: impl FnOnce(&mut Writer)) -> Writer {
    written(|out| {
        out.number(CLIENT_MAGIC);
        out.number(1 << 8 | minor);
        more(out);
        // No processor to run on, and no space to reserve.
        out.number(0);
        out.number(0);
    })
}

#[test]
fn each_version_is_greeted_with_what_it_reads() {
    let magic = |out: &mut Writer| {
        out.number(SERVER_MAGIC);
        out.number(0x126);
    };
    let (version, sent) = greeted(&hello(21, |_| {}));
    assert_eq!(version.unwrap(), Version::OLDEST);
    assert_eq!(sent, written(magic).as_bytes());
    let (version, sent) = greeted(&hello(34, |_| {}));
    assert_eq!(version.unwrap(), Version::minor(34));
    let program = written(|out| {
        magic(out);
        out.string("narfs 1");
    });
    assert_eq!(sent, program.as_bytes());
    let (version, sent) = greeted(&hello(35, |_| {}));
    assert_eq!(version.unwrap(), Version::minor(35));
    assert_eq!(sent[program.as_bytes().len()..], 2u64.to_le_bytes());
    // One with features, and a newer one.
    for minor in [38, 41] {
        let features = |out: &mut Writer| out.list(&["a", "b"], |out, f| out.string(f));
        let (version, sent) = greeted(&hello(minor, features));
        assert_eq!(version.unwrap(), NEWEST);
        let expected = written(|out| {
            magic(out);
            out.number(0);
            out.string("narfs 1");
            out.number(2);
        });
        assert_eq!(sent, expected.as_bytes());
    }
}

#[test]
fn who_does_not_speak_the_protocol_is_refused() {
    let http = written(|out| out.0.extend_from_slice(b"GET / HTTP/1.1\r\n"));
    let (refused, sent) = greeted(&http);
    assert!(matches!(refused, Err(ProtocolError::Magic)));
    assert!(sent.is_empty());
    for minor in [0, 20, 0x200 | 38] {
        let (refused, _) = greeted(&hello(minor, |_| {}));
        assert!(matches!(refused, Err(ProtocolError::Version)), "{minor}");
    }
    let cut = Writer(hello(34, |_| {}).0[..20].to_vec());
    assert!(matches!(greeted(&cut).0, Err(ProtocolError::Io(_))));
    let endless = hello(38, |out| out.number(u64::MAX));
    assert!(greeted(&endless).0.is_err());
}

#[test]
fn paths_of_requests_are_read() {
    let dir = StoreDir::default();
    let (a, b) = (store_path("1", "a"), store_path("2", "b"));
    let one = written(|out| out.path(&dir, &a));
    assert_eq!(
        read(1, NEWEST, &one).unwrap(),
        Operation::IsValidPath(a.clone())
    );
    assert_eq!(
        read(26, NEWEST, &one).unwrap(),
        Operation::QueryPathInfo(a.clone())
    );
    let both = vec![a.clone(), b.clone()];
    let with_substitute = written(|out| {
        out.paths(&dir, &both);
        out.number(1);
    });
    let expected = Operation::QueryValidPaths(both.clone());
    assert_eq!(read(31, NEWEST, &with_substitute).unwrap(), expected);
    let without = written(|out| out.paths(&dir, &both));
    assert_eq!(read(31, Version::minor(26), &without).unwrap(), expected);
    let map = written(|out| {
        out.list(&both, |out, path| {
            out.path(&dir, path);
            out.string("");
        });
    });
    let expected = Operation::QuerySubstitutablePathInfos(both);
    assert_eq!(read(30, NEWEST, &map).unwrap(), expected);
    assert_eq!(read(30, Version::OLDEST, &without).unwrap(), expected);
}

#[test]
fn targets_are_paths_or_outputs() {
    let targets = |version, texts: &[&str]| {
        let out = written(|out| {
            out.list(texts, |out, text| out.string(&format!("/nix/store/{text}")));
            out.number(0);
        });
        match read(46, version, &out)? {
            Operation::BuildPathsWithResults(targets) => Ok(targets),
            other => panic!("{other:?}"),
        }
    };
    let drv = format!("{}-x.drv", "1".repeat(32));
    let (named, all) = (format!("{drv}!out,dev"), format!("{drv}!*"));
    let read = targets(NEWEST, &[&drv, &named, &all]).unwrap();
    let outputs: Vec<_> = read.iter().map(|t| t.outputs.clone()).collect();
    let both = TargetOutputs::Named(vec!["out".to_owned(), "dev".to_owned()]);
    let expected = [TargetOutputs::None, both, TargetOutputs::All];
    assert_eq!(outputs, expected);
    assert!(read.iter().all(|t| t.path == store_path("1", "x.drv")));
    assert_eq!(read[1].text, format!("/nix/store/{named}"));
    // Before 1.30 a derivation stood for its outputs.
    let old = targets(Version::minor(29), &[&drv]).unwrap();
    assert_eq!(old[0].outputs, TargetOutputs::All);
    let file = format!("{}-x!out", "1".repeat(32));
    let nothing = format!("{drv}!");
    for wrong in [&file, &nothing, &format!("{drv}!a,,b")] {
        let refused = targets(NEWEST, &[wrong]);
        assert!(matches!(refused, Err(ProtocolError::Target(_))), "{wrong}");
    }
}

#[test]
fn what_writes_is_read_to_its_contents() {
    let dir = StoreDir::default();
    let path = store_path("1", "x");
    let strings = |out: &mut Writer, count: usize| (0..count).for_each(|_| out.string("x"));
    let numbers = |out: &mut Writer, count: usize| (0..count).for_each(|_| out.number(1));
    let refused = |number, version, out: &Writer| match read(number, version, out).unwrap() {
        Operation::Refused(refused) => (refused.name, refused.payload),
        other => panic!("{other:?}"),
    };
    let add = written(|out| {
        strings(out, 2);
        out.paths(&dir, std::slice::from_ref(&path));
        out.number(0);
    });
    assert_eq!(refused(7, NEWEST, &add), ("AddToStore", Payload::Frames));
    let nothing = Writer::default();
    let old = Version::minor(24);
    assert_eq!(refused(7, old, &nothing), ("AddToStore", Payload::Nar));
    let text = written(|out| {
        strings(out, 2);
        out.number(0);
    });
    assert_eq!(refused(8, old, &text), ("AddTextToStore", Payload::None));
    let nar = written(|out| {
        strings(out, 3);
        out.number(0);
        numbers(out, 3);
        out.number(0);
        strings(out, 1);
        numbers(out, 2);
    });
    assert_eq!(
        refused(39, NEWEST, &nar),
        ("AddToStoreNar", Payload::Frames)
    );
    let oldest = Version::OLDEST;
    assert_eq!(refused(39, oldest, &nar), ("AddToStoreNar", Payload::None));
    let garbage = written(|out| {
        out.number(2);
        out.paths(&dir, &[path]);
        numbers(out, 5);
    });
    assert_eq!(
        refused(20, NEWEST, &garbage),
        ("CollectGarbage", Payload::None)
    );
    let several = written(|out| numbers(out, 2));
    assert_eq!(refused(44, NEWEST, &several).1, Payload::Frames);
}

#[test]
fn derivations_and_settings_are_read_to_their_ends() {
    let dir = StoreDir::default();
    let (drv, out_path) = (store_path("1", "x.drv"), store_path("2", "x"));
    let build = written(|out| {
        out.path(&dir, &drv);
        let outputs = [("out", Some(&out_path)), ("doc", None)];
        out.list(&outputs, |out, (name, path)| {
            out.string(name);
            out.path_or_none(&dir, *path);
            out.string("");
            out.string("");
        });
        out.number(0);
        out.string("x86_64-linux");
        out.string("/bin/sh");
        out.list(&["-c"], |out, argument| out.string(argument));
        out.list(&["a"], |out, name| {
            out.string(name);
            out.string("value");
        });
        out.number(0);
    });
    let outputs = vec![("out".to_owned(), Some(out_path)), ("doc".to_owned(), None)];
    let expected = Operation::BuildDerivation(drv, outputs);
    assert_eq!(read(36, NEWEST, &build).unwrap(), expected);
    let settings = written(|out| {
        (0..12).for_each(|_| out.number(7));
        out.list(&["a", "b"], |out, name| {
            out.string(name);
            out.string("value");
        });
    });
    assert_eq!(read(19, NEWEST, &settings).unwrap(), Operation::SetOptions);
}

#[test]
fn lengths_and_counts_are_bounded() {
    let length = |length: u64| written(|out| out.number(length));
    for long in [8193, 1 << 31, 1 << 63, u64::MAX] {
        let refused = read(1, NEWEST, &length(long)).unwrap_err();
        assert!(matches!(refused, ProtocolError::TooLong { .. }), "{long}");
    }
    // A list may have any length as long as its elements come.
    for count in [1, u64::MAX] {
        let refused = read(31, NEWEST, &length(count)).unwrap_err();
        assert!(matches!(refused, ProtocolError::Io(_)), "{count}");
    }
    let path = store_path("1", "x");
    let many = vec![path; 1 << 18];
    let many = written(|out| out.paths(&StoreDir::default(), &many));
    let refused = read(31, NEWEST, &many).unwrap_err();
    assert!(matches!(refused, ProtocolError::Request), "{refused}");
    // Of settings, too.
    let settings = written(|out| {
        (0..12).for_each(|_| out.number(0));
        out.number(u64::MAX);
        (0..(1 << 20)).for_each(|_| out.string("0123456789abcdef"));
    });
    let refused = read(19, NEWEST, &settings).unwrap_err();
    assert!(matches!(refused, ProtocolError::Request), "{refused}");
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let mut padded = written(|out| out.string("x"));
    padded.0[15] = 1;
    assert!(matches!(
        read(29, NEWEST, &padded),
        Err(ProtocolError::Padding)
    ));
    let mut text = written(|out| out.string("xxxxxxxx"));
    text.0[8] = 0xff;
    assert!(matches!(read(29, NEWEST, &text), Err(ProtocolError::Text)));
    let elsewhere = written(|out| out.string("/tmp/x"));
    assert!(matches!(
        read(1, NEWEST, &elsewhere),
        Err(ProtocolError::Path(_))
    ));
    for number in [0, 2, 3, 48, 1000, u64::MAX] {
        let refused = read(number, NEWEST, &Writer::default());
        assert!(
            matches!(refused, Err(ProtocolError::Operation(_))),
            "{number}"
        );
    }
}

#[test]
fn contents_are_skipped_up_to_their_end() {
    let frames = written(|out| {
        out.number(3);
        out.0.extend_from_slice(b"abc");
        out.number(100_000);
        out.0.resize(out.0.len() + 100_000, 7);
        out.number(0);
        out.number(26);
    });
    let mut reader = Reader::new(frames.as_bytes());
    let mut pieces = 0;
    reader.skip_frames(|_| pieces += 1).unwrap();
    assert_eq!((pieces, reader.number().unwrap()), (6, 26));
    let cut = written(|out| out.number(u64::MAX));
    Reader::new(cut.as_bytes()).skip_frames(|_| {}).unwrap_err();
}

#[test]
fn errors_have_the_form_of_the_version() {
    let new = written(|out| out.error(Version::minor(26), "why"));
    let expected = written(|out| {
        out.number(0x6378_7470);
        out.string("Error");
        out.number(0);
        out.string("Error");
        out.string("why");
        out.number(0);
        out.number(0);
    });
    assert_eq!(new.as_bytes(), expected.as_bytes());
    let old = written(|out| out.error(Version::minor(25), "why"));
    let expected = written(|out| {
        out.number(0x6378_7470);
        out.string("why");
        out.number(1);
    });
    assert_eq!(old.as_bytes(), expected.as_bytes());
}

/// What real clients have sent, and the operations in it.
const RECORDED: &[(&str, &[u8], &[&str])] = &[
    recorded!(
        "nix-2.8-path-info",
        [
            "SetOptions",
            "QueryMissing",
            "QueryPathInfo",
            "QueryPathInfo"
        ]
    ),
    recorded!(
        "nix-2.8-build",
        [
            "SetOptions",
            "BuildPathsWithResults",
            "AddTempRoot",
            "AddIndirectRoot"
        ]
    ),
    recorded!(
        "nix-2.8-copy",
        [
            "SetOptions",
            "BuildPathsWithResults",
            "QueryPathInfo",
            "QueryPathInfo"
        ]
    ),
    recorded!("nix-2.8-add", ["SetOptions", "AddToStore"]),
    recorded!("nix-2.8-evaluation", ["SetOptions", "AddToStore"]),
    recorded!("nix-2.8-roots", ["SetOptions", "FindRoots"]),
    recorded!("nix-2.8-verify", ["SetOptions", "VerifyStore"]),
    recorded!(
        "nix-2.34-path-info",
        [
            "SetOptions",
            "QueryMissing",
            "BuildPathsWithResults",
            "QueryPathInfo",
            "QueryPathInfo"
        ]
    ),
    recorded!(
        "nix-2.34-build",
        [
            "SetOptions",
            "QueryMissing",
            "BuildPathsWithResults",
            "AddTempRoot",
            "AddIndirectRoot"
        ]
    ),
    recorded!("nix-2.34-garbage", ["SetOptions", "CollectGarbage"]),
    recorded!(
        "nix-2.34-add",
        ["SetOptions", "IsValidPath", "AddToStoreNar"]
    ),
    recorded!(
        "nix-2.34-evaluation",
        ["SetOptions", "AddTempRoot", "IsValidPath", "AddToStore"]
    ),
];

#[test]
fn what_real_clients_send_is_read_whole() {
    for (name, sent, expected) in RECORDED {
        let greeting = Greeting {
            program: "narfs",
            is_trusted: true,
        };
        let mut reader = Reader::new(*sent);
        let version = greet(&mut reader, |_| Ok(()), &greeting).unwrap();
        let minor = if name.starts_with("nix-2.8") { 34 } else { 38 };
        assert_eq!(version, Version::minor(minor));
        let mut operations = Vec::new();
        while !reader.source().is_empty() {
            let number = reader.number().unwrap();
            reader.begin();
            let store_dir = StoreDir::default();
            let read = Operation::read(number, version, &store_dir, &mut reader).unwrap();
            operations.push(match read {
                Operation::Refused(refused) => {
                    if refused.payload == Payload::Frames {
                        reader.skip_frames(|_| {}).unwrap();
                    }
                    refused.name.to_owned()
                }
                read => {
                    let text = format!("{read:?}");
                    text.split('(').next().unwrap().to_owned()
                }
            });
        }
        assert_eq!(operations, *expected, "{name}");
    }
}
