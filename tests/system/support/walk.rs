//! Looking at every file below a directory.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file, directory or link, and what lstat said.
pub struct Seen {
    /// Where.
    pub path: PathBuf,
    /// What lstat said.
    pub metadata: Metadata,
}

/// Everything below `top`, `top` included, in the order of names.
pub fn walk(top: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path)
            .unwrap_or_else(|e| panic!("cannot stat {}: {e}", path.display()));
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            let mut entries: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
            entries.sort();
            open.extend(entries.into_iter().rev());
        }
        seen.push(Seen { path, metadata });
    }
    seen
}

/// Walks, and reads every file and every link; how many bytes that was.
pub fn read_everything(top: &Path) -> u64 {
    let mut total = 0;
    for Seen { path, metadata } in walk(top) {
        if metadata.is_symlink() {
            fs::read_link(&path).unwrap();
        } else if metadata.is_file() {
            let mut contents = Vec::new();
            File::open(&path)
                .unwrap()
                .read_to_end(&mut contents)
                .unwrap();
            assert_eq!(contents.len() as u64, metadata.len(), "{}", path.display());
            total += metadata.len();
        }
    }
    total
}

/// Reads a file past the kernel's cache of it.
pub fn read_anew(file: &File) -> Vec<u8> {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut contents = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut contents, 0).unwrap();
    contents
}
