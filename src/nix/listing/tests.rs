//! Tests of the listing format.

use proptest::prelude::*;

use super::*;

fn parse(json: &str) -> Result<Listing, ListingError> {
    Listing::parse(json.as_bytes())
}

fn regular(size: u64, executable: bool, nar_offset: Option<u64>) -> Node {
    Node::Regular {
        size,
        executable,
        nar_offset,
    }
}

#[test]
fn both_spellings_of_nix_are_read() {
    let old = r#"{"root":{"entries":{"bin":{"entries":{"x":
        {"executable":true,"narOffset":400,"size":7,"type":"regular"}},"type":"directory"},
        "l":{"target":"bin/x","type":"symlink"},
        "t":{"narOffset":232,"size":3,"type":"regular"}},"type":"directory"},"version":1}"#;
    let listing = parse(old).unwrap();
    let Node::Directory { entries } = &listing.root else {
        panic!("expected a directory");
    };
    assert_eq!(entries["t"], regular(3, false, Some(232)));
    assert_eq!(
        entries["l"],
        Node::Symlink {
            target: "bin/x".into()
        }
    );
    assert_eq!(
        Listing::parse(&listing.to_json().unwrap()).unwrap(),
        listing
    );
}

#[test]
fn the_written_form_is_that_of_the_newest_nix() {
    let root = regular(6, false, Some(96));
    let json = Listing { root }.to_json().unwrap();
    assert_eq!(
        String::from_utf8(json).unwrap(),
        r#"{"version":1,"root":{"type":"regular","size":6,"executable":false,"narOffset":96}}"#
    );
}

#[test]
fn the_root_may_be_of_any_kind() {
    let link = parse(r#"{"version":1,"root":{"type":"symlink","target":"/x"}}"#).unwrap();
    assert_eq!(
        link.root,
        Node::Symlink {
            target: "/x".into()
        }
    );
    let file = parse(r#"{"version":1,"root":{"type":"regular","size":0}}"#).unwrap();
    assert_eq!(file.root, regular(0, false, None));
}

#[test]
fn what_no_archive_holds_is_refused() {
    for bad in [
        "",
        "{}",
        r#"{"version":2,"root":{"type":"directory","entries":{}}}"#,
        r#"{"version":1,"root":{"type":"directory"}}"#,
        r#"{"version":1,"root":{"type":"regular"}}"#,
        r#"{"version":1,"root":{"type":"regular","size":-1}}"#,
        r#"{"version":1,"root":{"type":"symlink"}}"#,
        r#"{"version":1,"root":{"type":"symlink","target":""}}"#,
        r#"{"version":1,"root":{"type":"socket"}}"#,
        r#"{"version":1,"root":{"type":"directory","entries":{"..":{"type":"symlink","target":"x"}}}}"#,
        r#"{"version":1,"root":{"type":"directory","entries":{"a/b":{"type":"symlink","target":"x"}}}}"#,
        r#"{"version":1,"root":{"type":"directory","entries":{"a\u0000":{"type":"symlink","target":"x"}}}}"#,
        r#"{"version":1,"root":{"type":"directory","entries":{"a":{"type":"symlink","target":"x"},
            "a":{"type":"symlink","target":"y"}}}}"#,
        r#"{"version":1,"root":{"type":"symlink","target":"x"}} x"#,
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    assert!(
        Listing::parse(b"{\"version\":1,\"root\":{\"type\":\"symlink\",\"target\":\"\xff\"}}")
            .is_err()
    );
}

fn nested(depth: usize) -> Listing {
    let mut root = Node::Directory {
        entries: BTreeMap::new(),
    };
    for _ in 1..depth {
        root = Node::Directory {
            entries: [("d".into(), root)].into(),
        };
    }
    Listing { root }
}

#[test]
fn depth_is_limited() {
    let deepest = nested(MAX_DEPTH);
    assert_eq!(
        Listing::parse(&deepest.to_json().unwrap()).unwrap(),
        deepest
    );
    assert!(matches!(
        nested(MAX_DEPTH + 1).to_json(),
        Err(ListingError::TooDeep)
    ));
    let bomb = r#"{"version":1,"root":{"type":"directory","entries":{"d":"#.to_string()
        + &r#"{"type":"directory","entries":{"d":"#.repeat(100_000);
    assert!(parse(&bomb).is_err());
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (any::<u64>(), any::<bool>(), any::<Option<u64>>())
            .prop_map(|(size, executable, offset)| regular(size, executable, offset)),
        "[^\0]{1,10}".prop_map(|target| Node::Symlink { target }),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        proptest::collection::btree_map("[^/\0.]{1,8}", inner, 0..6)
            .prop_map(|entries| Node::Directory { entries })
    })
}

proptest! {
    #[test]
    fn listings_survive(root in node()) {
        let listing = Listing { root };
        prop_assert_eq!(Listing::parse(&listing.to_json().unwrap()).unwrap(), listing);
    }
}
