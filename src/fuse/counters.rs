//! Counts of the kernel's requests, by operation, and how long each took to answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::measure::{Histogram, Latencies};
use crate::sync;

/// The operations that are told apart, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Lookup,
    Getattr,
    Readlink,
    Open,
    Read,
    Flush,
    Release,
    Opendir,
    Readdir,
    Readdirplus,
    Releasedir,
    Statfs,
    Access,
    Getxattr,
    Listxattr,
    Ioctl,
    Lseek,
    Forget,
}

use Operation::{
    Access, Flush, Forget, Getattr, Getxattr, Ioctl, Listxattr, Lookup, Lseek, Open, Opendir, Read,
    Readdir, Readdirplus, Readlink, Release, Releasedir, Statfs,
};

const ALL: [(Operation, &str); 18] = [
    (Lookup, "lookup"),
    (Getattr, "getattr"),
    (Readlink, "readlink"),
    (Open, "open"),
    (Read, "read"),
    (Flush, "flush"),
    (Release, "release"),
    (Opendir, "opendir"),
    (Readdir, "readdir"),
    (Readdirplus, "readdirplus"),
    (Releasedir, "releasedir"),
    (Statfs, "statfs"),
    (Access, "access"),
    (Getxattr, "getxattr"),
    (Listxattr, "listxattr"),
    (Ioctl, "ioctl"),
    (Lseek, "lseek"),
    (Forget, "forget"),
];

/// Running counts.
#[derive(Debug, Default)]
pub struct Counters {
    begun: [AtomicU64; ALL.len()],
    answered: [Latencies; ALL.len()],
    served_bytes: AtomicU64,
    store_lookups: AtomicU64,
    /// Reads that are not answered yet, by what they are of.
    reads: Mutex<HashMap<u64, u32>>,
}

/// A read of one thing, until it is answered.
#[derive(Debug)]
pub(super) struct Reading(Arc<Counters>, u64);

impl Drop for Reading {
    fn drop(&mut self) {
        let mut reads = self.0.reads();
        if let Some(count) = reads.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                reads.remove(&self.1);
            }
        }
    }
}

/// A lookup in a store directory, until it is answered.
#[derive(Debug)]
pub(super) struct StoreLookup(Arc<Counters>);

impl Drop for StoreLookup {
    fn drop(&mut self) {
        self.0.store_lookups.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request that is being answered. Its time ends when this is dropped, by whatever thread.
#[derive(Debug)]
pub(super) struct Answering {
    counters: Arc<Counters>,
    operation: Operation,
    since: Instant,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.counters.answered[self.operation as usize].add(self.since.elapsed());
    }
}

impl Answering {
    /// So many bytes of contents are the answer.
    pub(super) fn served(&self, bytes: usize) {
        let served = &self.counters.served_bytes;
        served.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// How long requests took from their arrival until they were answered, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RequestTimes {
    /// By operation; only those that came.
    pub operations: BTreeMap<String, Histogram>,
    /// Requests that are being answered.
    pub waiting: u64,
    /// Bytes of contents that were given out.
    pub served_bytes: u64,
}

/// The counts at one moment, by operation; FORGET, which is no question, is apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RequestCounts {
    /// Requests that wait for an answer, by operation; only those that came.
    pub requests: BTreeMap<String, u64>,
    /// Their sum.
    pub total: u64,
    /// FORGET messages.
    pub forgets: u64,
}

impl Counters {
    /// Counts what is no question.
    pub(super) fn count(&self, operation: Operation) {
        self.begun[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request, whose time begins.
    pub(super) fn begin(self: &Arc<Self>, operation: Operation) -> Answering {
        self.count(operation);
        Answering {
            counters: self.clone(),
            operation,
            since: Instant::now(),
        }
    }

    fn reads(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        sync::lock(&self.reads)
    }

    /// Counts a read until it is answered; `of` is what it is of.
    pub(super) fn begin_read(self: &Arc<Self>, of: u64) -> Reading {
        *self.reads().entry(of).or_default() += 1;
        Reading(self.clone(), of)
    }

    /// Whether a read of this is not answered yet.
    pub(super) fn is_read(&self, of: u64) -> bool {
        self.reads().contains_key(&of)
    }

    /// Counts a lookup in a store directory until it is answered.
    pub(super) fn begin_store_lookup(self: &Arc<Self>) -> StoreLookup {
        self.store_lookups.fetch_add(1, Ordering::SeqCst);
        StoreLookup(self.clone())
    }

    /// Lookups in store directories that are not answered yet.
    pub(super) fn store_lookups(&self) -> u64 {
        self.store_lookups.load(Ordering::SeqCst)
    }

    /// The times now.
    pub fn times(&self) -> RequestTimes {
        let mut times = RequestTimes {
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            ..RequestTimes::default()
        };
        for (operation, name) in ALL {
            if operation == Forget {
                continue;
            }
            // Before the begun ones: none is answered that has not begun.
            let histogram = self.answered[operation as usize].snapshot();
            let begun = self.begun[operation as usize].load(Ordering::Relaxed);
            times.waiting += begun.saturating_sub(histogram.count());
            if begun > 0 {
                times.operations.insert(name.to_owned(), histogram);
            }
        }
        times
    }

    /// The counts now.
    pub fn snapshot(&self) -> RequestCounts {
        let mut counts = RequestCounts::default();
        for (operation, name) in ALL {
            let n = self.begun[operation as usize].load(Ordering::Relaxed);
            if operation == Forget {
                counts.forgets = n;
            } else if n > 0 {
                counts.requests.insert(name.to_owned(), n);
                counts.total += n;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_its_own_count() {
        let counters = Counters::default();
        for (at, (operation, _)) in ALL.iter().enumerate() {
            assert_eq!(*operation as usize, at);
            counters.count(*operation);
        }
        let counts = counters.snapshot();
        assert_eq!((counts.total, counts.forgets), (17, 1));
        assert!(counts.requests.values().all(|n| *n == 1));
    }

    #[test]
    fn a_request_waits_until_it_is_answered() {
        let counters = Arc::new(Counters::default());
        let (read, lookup) = (counters.begin(Read), counters.begin(Lookup));
        assert_eq!(counters.times().waiting, 2);
        assert_eq!(counters.times().operations["read"].count(), 0);
        read.served(7);
        drop(read);
        std::thread::spawn(move || drop(lookup)).join().unwrap();
        counters.count(Forget);
        let times = counters.times();
        assert_eq!((times.waiting, times.served_bytes), (0, 7));
        let counts = times
            .operations
            .iter()
            .map(|(name, h)| (name.as_str(), h.count()));
        assert_eq!(counts.collect::<Vec<_>>(), [("lookup", 1), ("read", 1)]);
    }
}
