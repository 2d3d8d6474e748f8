//! The `.ls` listing of a NAR, version 1, of which only the kind of the root is read.
//!
//! A listing is not signed: it says where to look, never what is there.

use serde::Deserialize;

#[derive(Deserialize)]
struct Listing {
    version: u64,
    root: Root,
}

#[derive(Deserialize)]
struct Root {
    #[serde(rename = "type")]
    kind: String,
}

/// Whether a listing says that the root of its NAR is a directory.
#[must_use]
pub fn says_directory(listing: &[u8]) -> bool {
    let listing = serde_json::from_slice::<Listing>(listing);
    listing.is_ok_and(|listing| listing.version == 1 && listing.root.kind == "directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_nix_are_read() {
        let old = br#"{"root":{"entries":{"bin":{"entries":{"x":{"executable":true,"narOffset":400,"size":7,
            "type":"regular"}},"type":"directory"},"l":{"target":"bin/x","type":"symlink"}},
            "type":"directory"},"version":1}"#;
        assert!(says_directory(old));
        assert!(says_directory(
            br#"{"version":1,"root":{"type":"directory","entries":{}}}"#
        ));
    }

    #[test]
    fn the_root_may_be_of_any_kind() {
        for root in [
            r#"{"type":"symlink","target":"/x"}"#,
            r#"{"type":"regular","size":6,"executable":false,"narOffset":96}"#,
            r#"{"type":"socket"}"#,
        ] {
            let listing = format!(r#"{{"version":1,"root":{root}}}"#);
            assert!(!says_directory(listing.as_bytes()), "{root}");
        }
    }

    #[test]
    fn what_is_no_listing_says_nothing() {
        let deep = r#"{"version":1,"root":{"type":"directory","entries":{"d":"#.to_owned()
            + &r#"{"type":"directory","entries":{"d":"#.repeat(100_000);
        for bad in [
            "",
            "{}",
            r#"{"version":1,"root":{}}"#,
            r#"{"version":2,"root":{"type":"directory","entries":{}}}"#,
            r#"{"version":1,"root":{"type":"directory","entries":{}}} x"#,
            r#"{"version":1,"root":{"type":"directory","type":"directory","entries":{}}}"#,
            &deep,
        ] {
            assert!(!says_directory(bad.as_bytes()), "{bad:.80}");
        }
    }
}
