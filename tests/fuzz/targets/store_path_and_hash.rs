//! Texts of paths, hashes and content addresses; the search for hashes against a naive one.

use crate::nix::hash::{Hash, HashAlgo};
use crate::nix::nix32;
use crate::nix::store_path::{
    ContentAddress, HashFinder, HashModulo, HashStream, StoreDir, StorePath, StorePathHash,
};

pub fn run(data: &[u8]) {
    if let Ok(bytes) = nix32::decode(data) {
        assert_eq!(nix32::encode(&bytes).as_bytes(), data);
    }
    if let Ok(path) = StorePath::parse_base_name(data) {
        assert_eq!(path.base_name().as_bytes(), data);
        let store = StoreDir::default();
        assert_eq!(
            StorePath::parse_full(&store, &path.to_full(&store)).unwrap(),
            path
        );
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = StorePath::parse_full(&StoreDir::default(), text);
        if let Ok(dir) = StoreDir::parse(text) {
            assert_eq!(dir.as_str(), text);
        }
        if let Ok(hash) = Hash::parse(text) {
            for form in [hash.to_nix32(), hash.to_hex(), hash.to_sri()] {
                assert_eq!(Hash::parse(&form).unwrap(), hash);
            }
        }
        if let Ok(address) = ContentAddress::parse(text) {
            assert_eq!(
                ContentAddress::parse(&address.to_string()).unwrap(),
                address
            );
        }
    }
    scan(data);
}

/// The first 32 bytes are the needle if they are one, the next tells the cut, the rest is the stream.
fn scan(data: &[u8]) {
    let Some((needle, rest)) = data.split_at_checked(32) else {
        return;
    };
    let (Ok(hash), Some((cut, stream))) = (StorePathHash::parse(needle), rest.split_first()) else {
        return;
    };
    let mut found = Vec::new();
    let finder = HashFinder::new([hash], [0; 32]);
    let (mut hidden, mut finding) = (Vec::new(), HashStream::default());
    let mut modulo = HashModulo::new(HashAlgo::Sha1, &hash);
    for block in stream.chunks(usize::from(*cut).max(1)) {
        hidden.extend_from_slice(finding.push(block, &finder, |offset, _| {
            found.push(offset as usize);
            true
        }));
        modulo.update(block);
    }
    hidden.extend_from_slice(finding.rest());

    let mut blanked = stream.to_vec();
    let mut places = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        if stream[at..].starts_with(needle) {
            blanked[at..at + 32].fill(0);
            places.push(at);
            at += 32;
        } else {
            at += 1;
        }
    }
    assert_eq!(found, places);
    assert_eq!(hidden, blanked);
    let hashes = modulo.finish().unwrap();
    assert_eq!(hashes.without_offsets, Hash::of(HashAlgo::Sha1, &blanked));
    for place in places {
        blanked.extend_from_slice(format!("|{place}").as_bytes());
    }
    assert_eq!(hashes.with_offsets, Hash::of(HashAlgo::Sha1, &blanked));
}
