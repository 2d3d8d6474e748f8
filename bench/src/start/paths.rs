//! A binary cache of very many small paths, each of two files, with references to others.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Of Nix's base 32.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
/// Bytes of the hash in the name of a store path.
const NAME_BYTES: usize = 20;
/// Paths that each refers to.
const REFERENCES: u32 = 5;

/// Makes the binary cache, unsigned, of NARs that are not compressed.
pub fn binary_cache(dir: &Path, paths: u32) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let file = dir.join(name);
        fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))
    };
    fs::create_dir_all(dir.join("nar"))?;
    write("nix-cache-info", b"StoreDir: /nix/store\nPriority: 40\n")?;
    for path in 0..paths {
        let name = base_name(path);
        let hash = &name[..32];
        let nar = nar(path);
        let digest = base32(&Sha256::digest(&nar));
        let size = nar.len();
        let mut references: Vec<String> = (1..=REFERENCES.min(path))
            .map(|other| base_name((path.wrapping_mul(7) + other * 13) % path))
            .collect();
        references.sort();
        references.dedup();
        write(&format!("nar/{hash}.nar"), &nar)?;
        let narinfo = format!(
            "StorePath: /nix/store/{name}\nURL: nar/{hash}.nar\nCompression: none\n\
             FileHash: sha256:{digest}\nFileSize: {size}\nNarHash: sha256:{digest}\n\
             NarSize: {size}\nReferences: {}\n",
            references.join(" ")
        );
        write(&format!("{hash}.narinfo"), narinfo.as_bytes())?;
    }
    Ok(())
}

/// `HASH-NAME` of a path.
pub fn base_name(path: u32) -> String {
    let digest = Sha256::digest(path.to_le_bytes());
    format!("{}-package-{path}", base32(&digest[..NAME_BYTES]))
}

/// What its file `a` has.
pub fn contents(path: u32) -> Vec<u8> {
    format!("This is what path {path} has in it.\n")
        .repeat(20)
        .into_bytes()
}

/// A directory of the files `a` and `b`.
fn nar(path: u32) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut words = |words: &[&[u8]]| {
        for word in words {
            nar.extend((word.len() as u64).to_le_bytes());
            nar.extend(*word);
            nar.resize(nar.len().next_multiple_of(8), 0);
        }
    };
    words(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    let contents = contents(path);
    for (name, contents) in [(b"a", contents.as_slice()), (b"b", &contents[..100])] {
        words(&[b"entry", b"(", b"name", name, b"node"]);
        words(&[b"(", b"type", b"regular", b"contents", contents, b")", b")"]);
    }
    words(&[b")"]);
    nar
}

/// Nix's base 32: the last digit first, five bits each.
fn base32(bytes: &[u8]) -> String {
    let digit = |at: usize| {
        let (byte, shift) = (at * 5 / 8, at * 5 % 8);
        let low = u16::from(bytes[byte]);
        let high = bytes.get(byte + 1).map_or(0, |b| u16::from(*b));
        char::from(ALPHABET[usize::from((high << 8 | low) >> shift & 31)])
    };
    (0..(bytes.len() * 8).div_ceil(5))
        .rev()
        .map(digit)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_written_as_nix_writes_them() {
        // The hash of no bytes, as `nix-hash --type sha256 --base32 --flat` prints it.
        let empty = base32(&Sha256::digest([]));
        assert_eq!(
            empty,
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"
        );
    }

    #[test]
    fn the_paths_are_what_nix_understands() {
        let dir = tempfile::tempdir().unwrap();
        binary_cache(dir.path(), 10).unwrap();
        for path in 0..10 {
            let name = base_name(path);
            assert!(dir.path().join(format!("nar/{}.nar", &name[..32])).exists());
            assert!(dir.path().join(format!("{}.narinfo", &name[..32])).exists());
        }
        assert_eq!(nar(3).len() % 8, 0);
    }
}
