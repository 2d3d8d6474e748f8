//! Which paths running programs use: what proc(5) says of their programs, directories, open files,
//! mappings, mounts, command lines and environments, as Nix looks for runtime roots.
//!
//! Invariant: what a process uses is never less than it was. One that cannot be looked at may be
//! waiting for the very answer that this look holds up: it is left alone, and what it was seen to use
//! last counts, as does whatever it may have come to since (the caller's part, by [`Unseen::since`]).

mod process;

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use crate::nix::store_path::StorePathHash;
use crate::sync;
use process::{Found, Looker, Mounts};

pub(super) use process::Use;

/// Programs that the kernel starts by itself, by the files that name them.
const STARTED_BY_KERNEL: [&str; 3] = ["modprobe", "fbsplash", "poweroff_cmd"];

/// Looking at a process takes well under a millisecond, and waits as long as that process waits for a
/// page of a file while it holds the lock of its memory, as in the middle of execve(2).
const PATIENCE: Duration = Duration::from_secs(2);
/// The same after the first one that was waited for in vain: there may be many, for one reason.
const LESS_PATIENCE: Duration = Duration::from_millis(200);
/// Threads that may hang at processes at once.
const HANGING: usize = 64;

/// Why it is not known what is in use.
#[derive(Debug, Error)]
pub enum InUseError {
    /// There is no thread to look on, or it ended.
    #[error("it cannot be told what running programs use")]
    NoThread(#[source] std::io::Error),
}

/// A process, told from others of the same number by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    number: u32,
    /// In ticks since the machine was started.
    start: u64,
}

/// A process that cannot be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unseen {
    pub(super) process: u32,
    pub(super) name: String,
    /// When it began, in seconds since 1970.
    pub(super) since: u64,
}

/// What is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InUse {
    /// By the hashes of store paths, each with one of the files that say so.
    pub(super) hashes: HashMap<StorePathHash, PathBuf>,
    /// By inode numbers in our file system.
    pub(super) inodes: HashMap<u64, PathBuf>,
    /// Processes that could not be looked at; what they were seen to use last is among the above.
    pub(super) unseen: Vec<Unseen>,
}

/// What is kept from one look to the next.
#[derive(Default)]
struct Memory {
    /// What each process uses that uses anything.
    last: HashMap<(Process, Use), Found>,
    /// Looks that hang.
    hanging: HashMap<Process, JoinHandle<()>>,
}

/// One look at a time.
static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

/// What processes use, wherever the store is mounted for them; for [`Use::Open`] this one apart.
/// `superblock` is our file system, where it is mounted. What cannot be read is of a process that
/// has ended, or of a kernel thread.
///
/// # Errors
/// See [`InUseError`].
pub(super) fn in_use(which: Use, superblock: Option<u32>) -> Result<InUse, InUseError> {
    let own = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let numbers = numbers.filter(|number| which == Use::Known || *number != own);
    let processes = numbers.filter_map(|number| {
        let start = start_of(number)?;
        Some(Process { number, start })
    });
    let mut found = Found::default();
    if which == Use::Known {
        for name in STARTED_BY_KERNEL {
            found.read_file(&Path::new("/proc/sys/kernel").join(name));
        }
    }
    look_at_devices(&mut found);
    let looks: Looks = Arc::new(move |tasks: Vec<Task>, sender: &Sender<Saw>| {
        let mut looker = Looker {
            which,
            superblock,
            mounts: Mounts::default(),
        };
        for Task { process, inside } in tasks {
            let place = PathBuf::from(format!("/proc/{}", process.number));
            let mut saw = looker.look_quickly(&place);
            // Nobody may listen any more, and then it does not matter either.
            let _ = sender.send(Saw::Outside(saw.clone()));
            if inside {
                saw.extend(&looker.look_inside(&place));
                let _ = sender.send(Saw::All(saw));
            }
        }
    });
    let mut memory = sync::lock(&MEMORY);
    memory.look(which, processes.collect(), found, &looks, PATIENCE)
}

/// Files that the kernel itself reads.
fn look_at_devices(found: &mut Found) {
    found.read_file(Path::new("/proc/swaps"));
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        if device.file_name().as_bytes().starts_with(b"loop") {
            found.read_file(&device.path().join("loop/backing_file"));
        }
    }
}

/// A process to look at, and whether a lock may be waited for.
#[derive(Clone, Copy, Debug)]
struct Task {
    process: Process,
    inside: bool,
}

/// What a look at one process saw, in this order; of one without `inside` only the first.
enum Saw {
    Outside(Found),
    All(Found),
}

/// Looks at processes, one after the other.
type Looks = Arc<dyn Fn(Vec<Task>, &Sender<Saw>) + Send + Sync>;

impl Memory {
    /// Has `looks` look at processes, on threads of their own: one that hangs is left behind, and the
    /// next one goes on.
    fn look(
        &mut self,
        which: Use,
        processes: Vec<Process>,
        mut found: Found,
        looks: &Looks,
        mut patience: Duration,
    ) -> Result<InUse, InUseError> {
        self.hanging.retain(|_, thread| !thread.is_finished());
        let mut unseen = Vec::new();
        let mut last = HashMap::new();
        let mut left = &processes[..];
        while !left.is_empty() {
            let full = self.hanging.len() >= HANGING;
            let task = |process: &Process| Task {
                process: *process,
                inside: !full && !self.hanging.contains_key(process),
            };
            let tasks: Vec<_> = left.iter().map(task).collect();
            let (sender, looked) = mpsc::channel();
            let work = looks.clone();
            let given = tasks.clone();
            let thread = sync::spawn("narfs-in-use", move || work(given, &sender));
            let thread = thread.map_err(InUseError::NoThread)?;
            let mut done = 0;
            for Task { process, inside } in tasks {
                let saw = receive(&looked, inside, patience);
                done += 1;
                let (seen, outcome) = match saw {
                    Ok(seen) => (seen, Ok(inside)),
                    Err((seen, e)) => (seen, Err(e)),
                };
                found.extend(&seen);
                if outcome == Ok(true) {
                    if !seen.is_empty() {
                        last.insert((process, which), seen);
                    }
                    continue;
                }
                // Whatever it was seen to use before counts, and is kept for the next time.
                if let Some(before) = self.last.remove(&(process, which)) {
                    found.extend(&before);
                    last.insert((process, which), before);
                }
                unseen.push(process);
                match outcome {
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => {
                        patience = patience.min(LESS_PATIENCE);
                        self.hanging.insert(process, thread);
                        break;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let ended = std::io::Error::other("the look broke off");
                        return Err(InUseError::NoThread(ended));
                    }
                }
            }
            left = &left[done..];
        }
        self.last.retain(|(_, of), _| *of != which);
        self.last.extend(last);
        let unseen = unseen.into_iter().filter_map(Unseen::new);
        Ok(InUse {
            hashes: found.hashes,
            inodes: found.inodes,
            unseen: unseen.collect(),
        })
    }
}

/// What the look at one process saw. If it does not end in time, with the part that it saw.
fn receive(
    looked: &Receiver<Saw>,
    inside: bool,
    patience: Duration,
) -> Result<Found, (Found, RecvTimeoutError)> {
    let mut seen = Found::default();
    loop {
        match looked.recv_timeout(patience) {
            Ok(Saw::All(all)) => return Ok(all),
            Ok(Saw::Outside(outside)) if !inside => return Ok(outside),
            Ok(Saw::Outside(outside)) => seen = outside,
            Err(e) => return Err((seen, e)),
        }
    }
}

impl Unseen {
    /// `None` if the process has ended.
    fn new(process: Process) -> Option<Self> {
        // None of this needs a lock of the process's memory.
        let name = fs::read_to_string(format!("/proc/{}/comm", process.number)).ok()?;
        Some(Self {
            process: process.number,
            name: name.trim().to_owned(),
            since: since_1970(process.start),
        })
    }
}

/// When a process was started, in ticks since the machine was: the 22nd field of proc(5)'s stat, of
/// which the second, in brackets, may have blanks.
fn start_of(number: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

/// Seconds since 1970; 0 where it cannot be told.
fn since_1970(ticks: u64) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut lines = stat.lines();
    let started = lines.find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok());
    let second = rustix::param::clock_ticks_per_second().max(1);
    started.map_or(0, |started| started + ticks / second)
}

#[cfg(test)]
mod tests;
