//! A narinfo that is accepted survives writing and reading, with the same fingerprint and signatures.

use crate::nix::cache_info::CacheInfo;
use crate::nix::narinfo::NarInfo;
use crate::nix::signature::{CACHE_NIXOS_ORG_KEY, PublicKey, SecretKey, Signature, TrustedKeys};
use crate::nix::store_path::StoreDir;

pub fn run(data: &[u8]) {
    let store = StoreDir::default();
    if let Ok(info) = NarInfo::parse(&store, data) {
        let mut again = NarInfo::parse(&store, info.to_text(&store).as_bytes()).unwrap();
        again.guix_signature.clone_from(&info.guix_signature);
        again.further.clone_from(&info.further);
        assert_eq!(info, again);
        assert_eq!(info.fingerprint(&store), again.fingerprint(&store));
        let key = PublicKey::parse(CACHE_NIXOS_ORG_KEY).unwrap();
        let keys: TrustedKeys = [key].into_iter().collect();
        let _ = info.trust(&store, &keys);
    }
    if let Ok(info) = CacheInfo::parse(data) {
        assert_eq!(CacheInfo::parse(info.to_text().as_bytes()).unwrap(), info);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(key) = PublicKey::parse(text) {
            assert_eq!(key.to_string(), text);
        }
        if let Ok(signature) = Signature::parse(text) {
            assert_eq!(signature.to_string(), text);
            let _ = signature.to_bytes();
        }
        let _ = SecretKey::parse(text);
    }
}
