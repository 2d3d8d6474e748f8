//! A listing that is accepted survives writing and reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narfs_fuzz::nix::listing::Listing;

fuzz_target!(|data: &[u8]| {
    if let Ok(listing) = Listing::parse(data) {
        let json = listing.to_json().unwrap();
        assert_eq!(Listing::parse(&json).unwrap(), listing);
    }
});
