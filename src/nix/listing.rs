//! The `.ls` listing of a NAR, version 1, of which only the kind of the root is read.
//!
//! A listing is not signed: it says where to look, never what is there. Invariant: the beginning of a listing
//! is enough, since what a directory holds is not read.

use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// Whether the beginning of a listing says that the root of its NAR is a directory. The entries of a
/// directory come before its type in what Nix writes, and say the same.
#[must_use]
pub fn says_directory(start: &[u8]) -> bool {
    let mut found = None;
    let mut deserializer = serde_json::Deserializer::from_slice(start);
    // Reading ends with an error as soon as the kind is known.
    let _ = deserializer.deserialize_map(Top(&mut found));
    found.unwrap_or(false)
}

/// The listing itself.
struct Top<'f>(&'f mut Option<bool>);

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a listing")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" if map.next_value::<u64>()? != 1 => {
                    return Err(A::Error::custom("another version"));
                }
                "version" => {}
                "root" => return map.next_value_seed(Root(self.0)),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Root<'f>(&'f mut Option<bool>);

impl<'de> serde::de::DeserializeSeed<'de> for Root<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Root<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the root of a listing")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "entries" => *self.0 = Some(true),
                "type" => *self.0 = Some(map.next_value::<String>()? == "directory"),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            }
            return Err(A::Error::custom("the kind is known"));
        }
        Ok(())
    }
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
    fn the_beginning_is_enough() {
        for start in [
            r#"{"version":1,"root":{"type":"directory","en"#,
            r#"{"root":{"entries":{"bin":{"entr"#,
        ] {
            assert!(says_directory(start.as_bytes()), "{start}");
        }
        for start in ["{", r#"{"version":1,"root":{"#, r#"{"root":{"type":"direc"#] {
            assert!(!says_directory(start.as_bytes()), "{start}");
        }
    }

    #[test]
    fn the_root_may_be_of_any_kind() {
        for root in [
            r#"{"type":"symlink","target":"/x"}"#,
            r#"{"type":"regular","size":6,"executable":false,"narOffset":96}"#,
            r#"{"executable":false,"narOffset":96,"size":6,"type":"regular"}"#,
            r#"{"type":"socket"}"#,
        ] {
            let listing = format!(r#"{{"version":1,"root":{root}}}"#);
            assert!(!says_directory(listing.as_bytes()), "{root}");
        }
    }

    #[test]
    fn what_is_no_listing_says_nothing() {
        let deep = r#"{"version":1,"x":{"type":"directory","entries":{"d":"#.to_owned()
            + &r#"{"type":"directory","entries":{"d":"#.repeat(100_000);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"version":1,"root":{}}"#,
            r#"{"version":1,"root":"directory"}"#,
            r#"{"version":2,"root":{"type":"directory","entries":{}}}"#,
            &deep,
        ] {
            assert!(!says_directory(bad.as_bytes()), "{bad:.80}");
        }
    }
}
