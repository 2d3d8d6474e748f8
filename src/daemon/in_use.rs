//! Which paths running programs use: what proc(5) says of their programs, directories, open files,
//! mappings and environments, as Nix looks for runtime roots.
//!
//! Invariant: what is said is whole. A process that cannot be looked at in time is an error: it may be
//! waiting for the very answer that this look holds up.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;

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

/// Looking at a process takes well under a millisecond, and waits as long as that process waits for a
/// page of a file while it holds the lock of its memory, as in the middle of execve(2).
const PATIENCE: Duration = Duration::from_secs(2);

/// Why it is not known what is in use.
#[derive(Debug, Error)]
pub enum InUseError {
    /// A process holds the lock of its memory.
    #[error(
        "it cannot be told what process {process} ({name}) uses: it is being started, or waits for a \
         page of a file; try again when it goes on, or end it"
    )]
    Silent {
        /// Its number.
        process: String,
        /// Its name.
        name: String,
    },
    /// There is no thread to look on, or it ended.
    #[error("it cannot be told what running programs use")]
    NoThread(#[source] std::io::Error),
}

/// A look that hangs, at the process of this number.
type Hanging = (String, JoinHandle<()>);

/// The last one: there is no other before it has ended, so that they do not pile up.
static HANGING: Mutex<Option<Hanging>> = Mutex::new(None);

/// What is in use, each with one of the files in /proc that say so.
type Used = HashMap<StorePathHash, PathBuf>;

/// Hashes of store paths that any process but this one has open or mapped, wherever the store
/// is mounted for it. What cannot be read is of a process that has ended, or of a kernel thread.
///
/// # Errors
/// See [`InUseError`].
pub(super) fn store_paths_in_use() -> Result<HashSet<StorePathHash>, InUseError> {
    Ok(in_use(Use::Open)?.into_keys().collect())
}

/// Hashes of store paths that are in use, each with one of the files in /proc that say so.
///
/// # Errors
/// See [`InUseError`].
pub(super) fn in_use(which: Use) -> Result<Used, InUseError> {
    in_time(&HANGING, PATIENCE, move |begins| {
        let mut used = HashMap::new();
        let own = std::process::id().to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.as_bytes().iter().all(u8::is_ascii_digit);
            if process && (which == Use::Known || name.as_bytes() != own.as_bytes()) {
                // Nobody may listen any more, and then it does not matter either.
                let _ = begins.send(Look::Begins(name.to_string_lossy().into_owned()));
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
    })
}

/// How far a look at all processes is.
enum Look {
    /// At that of this number.
    Begins(String),
    Done(Used),
}

/// Has `look` run on a thread of its own, as long as it goes on from one process to the next within
/// `patience`.
fn in_time(
    hanging: &Mutex<Option<Hanging>>,
    patience: Duration,
    look: impl FnOnce(&Sender<Look>) -> Used + Send + 'static,
) -> Result<Used, InUseError> {
    let hanging = || hanging.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((process, thread)) = &*hanging()
        && !thread.is_finished()
    {
        return Err(silent(process.clone()));
    }
    let (sender, looks) = mpsc::channel();
    let thread = thread::Builder::new().name("narfs-in-use".into());
    let work = move || {
        let used = look(&sender);
        let _ = sender.send(Look::Done(used));
    };
    let thread = thread.spawn(work).map_err(InUseError::NoThread)?;
    let mut at = String::new();
    loop {
        match looks.recv_timeout(patience) {
            Ok(Look::Begins(process)) => at = process,
            Ok(Look::Done(used)) => return Ok(used),
            Err(RecvTimeoutError::Timeout) => {
                *hanging() = Some((at.clone(), thread));
                return Err(silent(at));
            }
            Err(RecvTimeoutError::Disconnected) => {
                let ended = std::io::Error::other("the look broke off");
                return Err(InUseError::NoThread(ended));
            }
        }
    }
}

fn silent(process: String) -> InUseError {
    // This needs no lock of the process.
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    let name = name.trim().to_owned();
    InUseError::Silent { process, name }
}

fn look_at(process: &Path, which: Use, used: &mut Used) {
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

fn look_into(file: &Path, text: Option<Vec<u8>>, used: &mut Used) {
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
        assert!(!store_paths_in_use().unwrap().contains(&hash));
        let mut sleeper = std::process::Command::new("sleep")
            .arg("60")
            .stdin(fs::File::open(&file).unwrap())
            .spawn()
            .unwrap();
        assert!(store_paths_in_use().unwrap().contains(&hash));
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
        assert!(!store_paths_in_use().unwrap().contains(&hash));
        let environ = format!("/proc/{}/environ", sleeper.id());
        assert_eq!(
            in_use(Use::Known).unwrap().get(&hash),
            Some(&environ.into())
        );
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
    #[test]
    fn a_process_that_cannot_be_looked_at_is_an_error_that_names_it_until_it_can() {
        let hanging = Mutex::new(None);
        let patience = Duration::from_millis(50);
        let own = std::process::id().to_string();
        let (go_on, wait) = mpsc::channel::<()>();
        let begins = own.clone();
        let look = move |looks: &Sender<Look>| {
            looks.send(Look::Begins(begins)).unwrap();
            let _ = wait.recv();
            Used::new()
        };
        let named = |result: Result<Used, InUseError>| match result {
            Err(InUseError::Silent { process, name }) => {
                assert!(!name.is_empty());
                process
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(named(in_time(&hanging, patience, look)), own);
        // Nobody looks again before that is over.
        let never = |_: &Sender<Look>| -> Used { panic!("it was looked again") };
        assert_eq!(named(in_time(&hanging, patience, never)), own);
        drop(go_on);
        while hanging
            .lock()
            .unwrap()
            .as_ref()
            .is_some_and(|(_, thread)| !thread.is_finished())
        {
            thread::yield_now();
        }
        assert!(
            in_time(&hanging, patience, |_| Used::new())
                .unwrap()
                .is_empty()
        );
    }
}
