//! Files of unpacked store paths: what they take on disk, and what is left if each distinct
//! content is kept once, as Nix's own optimisation and most deduplicating stores do.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// The level that narfs compresses chunks at, so that the difference lies in what is kept once.
pub const LEVEL: i32 = 3;

/// Calls `visit` for a file or directory and all below it.
fn walk(path: &Path, visit: &mut impl FnMut(&Path, &Metadata) -> Result<()>) -> Result<()> {
    let meta = fs::symlink_metadata(path).with_context(|| path.display().to_string())?;
    visit(path, &meta)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            walk(&entry?.path(), visit)?;
        }
    }
    Ok(())
}

/// What a tree takes of a file system.
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Allocated, as `du` counts them, but for what is reserved past the end of a file, as
    /// databases do for their logs.
    pub bytes: u64,
    /// Files, directories and links; a file with several names is one.
    pub inodes: u64,
}

/// What a tree takes of its file system: a file with several names counts once.
pub fn usage(root: &Path) -> Result<Usage> {
    let mut seen = HashSet::new();
    let mut usage = Usage::default();
    walk(root, &mut |_, meta| {
        if meta.is_dir() || meta.nlink() == 1 || seen.insert(meta.ino()) {
            let used = meta.len().next_multiple_of(meta.blksize().max(1));
            usage.bytes += used.min(meta.blocks() * 512);
            usage.inodes += 1;
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Allocated bytes of a tree.
pub fn disk_bytes(root: &Path) -> Result<u64> {
    usage(root).map(|usage| usage.bytes)
}

/// Allocated bytes of a Nix store as if its files had never been linked to each other.
pub fn unlinked_disk_bytes(root: &Path) -> Result<u64> {
    let links = crate::nix::store_dir(root).join(".links");
    let mut bytes = 0;
    walk(root, &mut |path, meta| {
        if !path.starts_with(&links) {
            bytes += meta.blocks() * 512;
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Distinct files, by content and executable bit, over all trees that were added.
#[derive(Default)]
pub struct Distinct {
    seen: HashSet<(blake3::Hash, bool)>,
    /// An optimised store has most files under several names: no need to read them again.
    inodes: HashSet<u64>,
    pub count: u64,
    pub bytes: u64,
    /// Each file compressed by itself, or kept as it is where that is shorter.
    pub compressed_bytes: u64,
}

impl Distinct {
    pub fn add(&mut self, path: &Path) -> Result<()> {
        walk(path, &mut |path, meta| {
            if meta.is_file() && (meta.nlink() == 1 || self.inodes.insert(meta.ino())) {
                self.add_file(path, meta)?;
            }
            Ok(())
        })
    }

    fn add_file(&mut self, path: &Path, meta: &Metadata) -> Result<()> {
        let open = || File::open(path).with_context(|| path.display().to_string());
        let hash = blake3::Hasher::new().update_reader(open()?)?.finalize();
        if !self.seen.insert((hash, meta.mode() & 0o100 != 0)) {
            return Ok(());
        }
        let mut encoder = zstd::Encoder::new(Count::default(), LEVEL)?;
        encoder.set_pledged_src_size(Some(meta.len()))?;
        io::copy(&mut open()?, &mut encoder)?;
        let compressed = encoder.finish()?.0;
        self.count += 1;
        self.bytes += meta.len();
        self.compressed_bytes += compressed.min(meta.len());
        Ok(())
    }
}

/// A writer that keeps nothing but the length.
#[derive(Default)]
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn equal_contents_count_once_and_the_executable_bit_tells_files_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("d")).unwrap();
        for name in ["a", "d/b", "run"] {
            fs::write(path(name), vec![7; 50_000]).unwrap();
        }
        fs::set_permissions(path("run"), fs::Permissions::from_mode(0o555)).unwrap();
        std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
        fs::write(path("noise"), b"x").unwrap();

        let mut files = Distinct::default();
        files.add(dir.path()).unwrap();
        files.add(dir.path()).unwrap();
        assert_eq!((files.count, files.bytes), (3, 100_001));
        assert!(files.compressed_bytes < 200, "{}", files.compressed_bytes);
    }

    #[test]
    fn a_file_with_two_names_takes_its_blocks_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::nix::store_dir(dir.path());
        fs::create_dir_all(store.join(".links")).unwrap();
        fs::write(store.join("a"), vec![7; 100_000]).unwrap();
        let one = disk_bytes(dir.path()).unwrap();
        fs::hard_link(store.join("a"), store.join("b")).unwrap();
        fs::hard_link(store.join("a"), store.join(".links/h")).unwrap();
        assert_eq!(disk_bytes(dir.path()).unwrap(), one);
        assert!(unlinked_disk_bytes(dir.path()).unwrap() >= one + 90_000);
    }
}
