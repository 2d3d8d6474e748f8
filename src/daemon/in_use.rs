//! Which paths running programs use: what proc(5) says of their programs, directories, open files
//! and mappings, as Nix looks for runtime roots.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::nix::store_path::StorePathHash;

/// Length of a hash in text.
const HASH: usize = 32;

/// Hashes of store paths that any process but this one has open or mapped, wherever the store
/// is mounted for it. What cannot be read is of a process that has ended, or of a kernel thread.
pub(super) fn store_paths_in_use() -> HashSet<StorePathHash> {
    let mut used = HashSet::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.as_bytes().iter().all(u8::is_ascii_digit);
        if process && name.as_bytes() != own.as_bytes() {
            look_at(&entry.path(), &mut used);
        }
    }
    used
}

fn look_at(process: &Path, used: &mut HashSet<StorePathHash>) {
    let links = ["exe", "cwd", "root"].map(|link| process.join(link));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten();
    let open = open.flatten().map(|entry| entry.path());
    for link in links.into_iter().chain(open) {
        if let Ok(target) = fs::read_link(link) {
            find(target.as_os_str().as_bytes(), used);
        }
    }
    if let Ok(maps) = fs::read(process.join("maps")) {
        find(&maps, used);
    }
}

/// Names of store paths: `/HASH-`.
fn find(text: &[u8], used: &mut HashSet<StorePathHash>) {
    for part in text.split(|b| *b == b'/').skip(1) {
        if part.get(HASH) == Some(&b'-')
            && let Ok(hash) = StorePathHash::parse(&part[..HASH])
        {
            used.insert(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_paths_are_found_wherever_they_are_mounted() {
        let (a, b) = ("1".repeat(32), "2".repeat(32));
        let maps = format!(
            "7f00-7f01 r--p 00000000 00:42 7 /nix/store/{a}-glibc/lib/libc.so.6\n\
             7f01-7f02 r--p 00000000 00:42 7 /mnt/x/{b}-hello/bin/hello (deleted)\n\
             7f02-7f03 r--p 00000000 00:42 7 /nix/store/{}-e/x\n",
            "e".repeat(32)
        );
        let mut used = HashSet::new();
        find(maps.as_bytes(), &mut used);
        let mut found: Vec<_> = used.iter().map(ToString::to_string).collect();
        found.sort();
        assert_eq!(found, [a, b]);
    }

    #[test]
    fn a_file_that_another_process_has_open_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "3".repeat(32);
        let file = dir.path().join(format!("{hash}-x"));
        fs::write(&file, "x").unwrap();
        let hash: StorePathHash = hash.parse().unwrap();
        assert!(!store_paths_in_use().contains(&hash));
        let mut sleeper = std::process::Command::new("sleep")
            .arg("60")
            .stdin(fs::File::open(&file).unwrap())
            .spawn()
            .unwrap();
        assert!(store_paths_in_use().contains(&hash));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
