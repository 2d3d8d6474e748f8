//! Which paths running programs use: what proc(5) says of their programs, directories, open files,
//! mappings and environments, as Nix looks for runtime roots.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::nix::store_path::StorePathHash;

/// Length of a hash in text.
const HASH: usize = 32;

/// Programs that the kernel starts by itself, by the files that name them.
const STARTED_BY_KERNEL: [&str; 3] = ["modprobe", "fbsplash", "poweroff_cmd"];

/// What counts as a use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// That another process has it open or mapped: its contents are to stay.
    Open,
    /// Also that any process has it in its environment, or that the kernel may start it: whoever
    /// knows the name may come back for it.
    Known,
}

/// Hashes of store paths that any process but this one has open or mapped, wherever the store
/// is mounted for it. What cannot be read is of a process that has ended, or of a kernel thread.
pub(super) fn store_paths_in_use() -> HashSet<StorePathHash> {
    in_use(Use::Open).into_keys().collect()
}

/// Hashes of store paths that are in use, each with one of the files in /proc that say so.
pub(super) fn in_use(which: Use) -> HashMap<StorePathHash, PathBuf> {
    let mut used = HashMap::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.as_bytes().iter().all(u8::is_ascii_digit);
        if process && (which == Use::Known || name.as_bytes() != own.as_bytes()) {
            look_at(&entry.path(), which, &mut used);
        }
    }
    if which == Use::Known {
        for name in STARTED_BY_KERNEL {
            let file = Path::new("/proc/sys/kernel").join(name);
            look_into(&file, fs::read(&file).ok(), &mut used);
        }
    }
    used
}

fn look_at(process: &Path, which: Use, used: &mut HashMap<StorePathHash, PathBuf>) {
    let links = ["exe", "cwd", "root"].map(|link| process.join(link));
    let open = fs::read_dir(process.join("fd")).into_iter().flatten();
    let open = open.flatten().map(|entry| entry.path());
    for link in links.into_iter().chain(open) {
        let target = fs::read_link(&link).ok();
        look_into(
            &link,
            target.map(|t| t.into_os_string().into_encoded_bytes()),
            used,
        );
    }
    let texts: &[&str] = match which {
        Use::Open => &["maps"],
        Use::Known => &["maps", "environ"],
    };
    for text in texts {
        let file = process.join(text);
        look_into(&file, fs::read(&file).ok(), used);
    }
}

fn look_into(file: &Path, text: Option<Vec<u8>>, used: &mut HashMap<StorePathHash, PathBuf>) {
    find(&text.unwrap_or_default(), |hash| {
        used.entry(hash).or_insert_with(|| file.to_owned());
    });
}

/// Names of store paths: `/HASH-`.
fn find(text: &[u8], mut each: impl FnMut(StorePathHash)) {
    for part in text.split(|b| *b == b'/').skip(1) {
        if part.get(HASH) == Some(&b'-')
            && let Ok(hash) = StorePathHash::parse(&part[..HASH])
        {
            each(hash);
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
        let mut found = Vec::new();
        find(maps.as_bytes(), |hash| found.push(hash.to_string()));
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

    #[test]
    fn what_a_process_has_in_its_environment_is_known_but_not_open() {
        let hash = "4".repeat(32);
        let mut sleeper = std::process::Command::new("sleep")
            .arg("60")
            .env("WHERE", format!("/bin:/some/store/{hash}-x/bin"))
            .spawn()
            .unwrap();
        let hash: StorePathHash = hash.parse().unwrap();
        assert!(!store_paths_in_use().contains(&hash));
        let environ = format!("/proc/{}/environ", sleeper.id());
        assert_eq!(in_use(Use::Known).get(&hash), Some(&environ.into()));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
