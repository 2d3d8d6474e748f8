//! Whatever is taken for the beginning of a listing is taken for it whatever follows.

use crate::nix::listing::says_directory;

pub fn run(data: &[u8]) {
    if says_directory(data) {
        for more in [&b"}"[..], b"\0", b"\"type\":\"regular\""] {
            assert!(says_directory(&[data, more].concat()));
        }
    }
}
