//! Whatever is taken for a listing is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narfs_fuzz::nix::listing::says_directory;

fuzz_target!(|data: &[u8]| {
    if says_directory(data) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok());
    }
});
