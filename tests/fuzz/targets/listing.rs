//! Whatever is taken for a listing is JSON.

use crate::nix::listing::says_directory;

pub fn run(data: &[u8]) {
    if says_directory(data) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok());
    }
}
