//! Which paths running programs use, according to proc(5): executables, working directories, open
//! files, mappings, mounts, command lines and environments. Nix finds runtime roots in the same
//! way.
//!
//! Invariant: the result never misses a use. A process that cannot be inspected may be waiting for
//! a reply that this very scan delays: it is skipped, and what it was last seen to use counts as
//! used, as does everything that it may have used since (which is up to the caller, by
//! [`Unseen::since`]).

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
use process::{Found, Inspector, Mounts};

pub(super) use process::Use;

/// Programs that the kernel starts by itself; these files name them.
const STARTED_BY_KERNEL: [&str; 3] = ["modprobe", "fbsplash", "poweroff_cmd"];

/// Timeout for the inspection of one process. It takes well under a millisecond, unless the process
/// is waiting for a page of a file while it holds the lock of its memory, as in the middle of
/// execve(2).
const TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout after one inspection has timed out: there may be many such processes, for one reason.
const SHORT_TIMEOUT: Duration = Duration::from_millis(200);
/// Limit of threads that hang at processes at the same time.
const MAX_HANGING: usize = 64;

#[derive(Debug, Error)]
pub enum InUseError {
    /// The thread could not be started, or ended early.
    #[error("cannot determine what running programs use")]
    NoThread(#[source] std::io::Error),
}

/// A process, distinguished by its start time from others with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    number: u32,
    /// In clock ticks since boot.
    start: u64,
}

/// A process that could not be inspected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unseen {
    pub(super) process: u32,
    pub(super) name: String,
    /// Start time, in seconds since 1970.
    pub(super) since: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct InUse {
    /// Store path hashes, each with a file that mentions it.
    pub(super) hashes: HashMap<StorePathHash, PathBuf>,
    /// Inode numbers in our file system, each with a file that refers to it.
    pub(super) inodes: HashMap<u64, PathBuf>,
    /// Processes that could not be inspected; what they were last seen to use is included above.
    pub(super) unseen: Vec<Unseen>,
}

/// Results kept from one scan to the next.
#[derive(Default)]
struct Memory {
    /// The last results of each process that used anything.
    last: HashMap<(Process, Use), Found>,
    /// Inspections that hang.
    hanging: HashMap<Process, JoinHandle<()>>,
}

/// Locked during a scan, so that there is one at a time.
static MEMORY: LazyLock<Mutex<Memory>> = LazyLock::new(Mutex::default);

/// What processes use, in whichever mount namespace; for [`Use::Open`] without this process.
/// `superblock` is our file system, if it is mounted. A file that cannot be read belongs to a
/// process that has ended, or to a kernel thread.
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
    let inspect: Inspect = Arc::new(move |tasks: Vec<Task>, sender: &Sender<Inspected>| {
        let mut looker = Inspector {
            which,
            superblock,
            mounts: Mounts::default(),
        };
        for Task { process, inside } in tasks {
            let place = PathBuf::from(format!("/proc/{}", process.number));
            let mut result = looker.inspect_unlocked(&place);
            // The receiver may have given up, and then the result is not needed.
            let _ = sender.send(Inspected::Outside(result.clone()));
            if inside {
                result.extend(&looker.inspect_locked(&place));
                let _ = sender.send(Inspected::All(result));
            }
        }
    });
    let mut memory = sync::lock(&MEMORY);
    let mut in_use = memory.scan(which, processes.collect(), found, &inspect, TIMEOUT)?;
    // After the processes: mount(8) opens an image, gives it to a loop device and closes it.
    let mut kernel = Found::default();
    add_kernel_files(&mut kernel);
    in_use.hashes.extend(kernel.hashes);
    Ok(in_use)
}

/// Adds the files that the kernel itself reads.
fn add_kernel_files(found: &mut Found) {
    found.read_file(Path::new("/proc/swaps"));
    for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        if device.file_name().as_bytes().starts_with(b"loop") {
            found.read_file(&device.path().join("loop/backing_file"));
        }
    }
}

/// A process to inspect, and whether waiting for a lock is allowed.
#[derive(Clone, Copy, Debug)]
struct Task {
    process: Process,
    inside: bool,
}

/// Results of the inspection of one process, in this order; without `inside` only the first.
enum Inspected {
    Outside(Found),
    All(Found),
}

/// Inspects processes one after the other.
type Inspect = Arc<dyn Fn(Vec<Task>, &Sender<Inspected>) + Send + Sync>;

impl Memory {
    /// Inspects processes on separate threads: a thread that hangs is left behind, and a new one
    /// continues with the next process.
    fn scan(
        &mut self,
        which: Use,
        processes: Vec<Process>,
        mut found: Found,
        inspect: &Inspect,
        mut timeout: Duration,
    ) -> Result<InUse, InUseError> {
        self.hanging.retain(|_, thread| !thread.is_finished());
        let mut unseen = Vec::new();
        let mut last = HashMap::new();
        let mut left = &processes[..];
        while !left.is_empty() {
            let full = self.hanging.len() >= MAX_HANGING;
            let task = |process: &Process| Task {
                process: *process,
                inside: !full && !self.hanging.contains_key(process),
            };
            let tasks: Vec<_> = left.iter().map(task).collect();
            let (sender, results) = mpsc::channel();
            let work = inspect.clone();
            let given = tasks.clone();
            let thread = sync::spawn("narfs-in-use", move || work(given, &sender));
            let thread = thread.map_err(InUseError::NoThread)?;
            let mut done = 0;
            for Task { process, inside } in tasks {
                let result = receive(&results, inside, timeout);
                done += 1;
                let (seen, outcome) = match result {
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
                // Earlier results count as well, and are kept for the next scan.
                if let Some(before) = self.last.remove(&(process, which)) {
                    found.extend(&before);
                    last.insert((process, which), before);
                }
                unseen.push(process);
                match outcome {
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => {
                        timeout = timeout.min(SHORT_TIMEOUT);
                        self.hanging.insert(process, thread);
                        break;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        let ended = std::io::Error::other("the inspection failed");
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

/// Waits for the result of one inspection. After a timeout, the error comes with the partial
/// result.
fn receive(
    results: &Receiver<Inspected>,
    inside: bool,
    timeout: Duration,
) -> Result<Found, (Found, RecvTimeoutError)> {
    let mut seen = Found::default();
    loop {
        match results.recv_timeout(timeout) {
            Ok(Inspected::All(all)) => return Ok(all),
            Ok(Inspected::Outside(outside)) if !inside => return Ok(outside),
            Ok(Inspected::Outside(outside)) => seen = outside,
            Err(e) => return Err((seen, e)),
        }
    }
}

impl Unseen {
    /// `None` if the process has ended.
    fn new(process: Process) -> Option<Self> {
        // None of this needs the lock of the process's memory.
        let name = fs::read_to_string(format!("/proc/{}/comm", process.number)).ok()?;
        Some(Self {
            process: process.number,
            name: name.trim().to_owned(),
            since: since_1970(process.start),
        })
    }
}

/// The start time of a process, in clock ticks since boot: field 22 of its stat file, see proc(5).
/// Field 2, in parentheses, may contain blanks.
fn start_of(number: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

/// Converts to seconds since 1970; 0 if that is not possible.
fn since_1970(ticks: u64) -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let mut lines = stat.lines();
    let started = lines.find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok());
    let second = rustix::param::clock_ticks_per_second().max(1);
    started.map_or(0, |started| started + ticks / second)
}

#[cfg(test)]
mod tests;
