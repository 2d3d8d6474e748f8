//! Counters and latencies of FUSE requests, by operation.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::measure::{Histogram, Latencies};
use crate::sync;

/// The operations that are counted, by their FUSE names.
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

/// The counters of a connection.
#[derive(Debug, Default)]
pub struct Counters {
    begun: [AtomicU64; ALL.len()],
    answered: [Latencies; ALL.len()],
    served_bytes: AtomicU64,
    store_lookups: AtomicU64,
    /// Reads in flight, by what is read.
    reads: Mutex<HashMap<u64, u32>>,
}

/// A read in flight.
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

/// A lookup in a store directory, in flight.
#[derive(Debug)]
pub(super) struct StoreLookup(Arc<Counters>);

impl Drop for StoreLookup {
    fn drop(&mut self) {
        self.0.store_lookups.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A request in flight. Its latency is recorded on drop, on whichever thread.
#[derive(Debug)]
pub(super) struct InFlight {
    counters: Arc<Counters>,
    operation: Operation,
    since: Instant,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.counters.answered[self.operation as usize].add(self.since.elapsed());
    }
}

impl InFlight {
    /// Counts bytes of file contents in the reply.
    pub(super) fn served(&self, bytes: usize) {
        let served = &self.counters.served_bytes;
        served.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Latencies of requests at one moment, from arrival to reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RequestTimes {
    /// By operation; only those that occurred.
    pub operations: BTreeMap<String, Histogram>,
    /// Requests in flight.
    pub waiting: u64,
    /// Bytes of file contents returned.
    pub served_bytes: u64,
}

/// Counts of requests at one moment; FORGET, which has no reply, is separate.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RequestCounts {
    /// Requests with a reply, by operation; only those that occurred.
    pub requests: BTreeMap<String, u64>,
    pub total: u64,
    pub forgets: u64,
}

impl Counters {
    /// Counts a message without a reply.
    pub(super) fn count(&self, operation: Operation) {
        self.begun[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request, and starts its latency.
    pub(super) fn begin(self: &Arc<Self>, operation: Operation) -> InFlight {
        self.count(operation);
        InFlight {
            counters: self.clone(),
            operation,
            since: Instant::now(),
        }
    }

    fn reads(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        sync::lock(&self.reads)
    }

    /// Counts a read until its reply; `of` identifies what is read.
    pub(super) fn begin_read(self: &Arc<Self>, of: u64) -> Reading {
        *self.reads().entry(of).or_default() += 1;
        Reading(self.clone(), of)
    }

    /// Whether a read of this is in flight.
    pub(super) fn is_read(&self, of: u64) -> bool {
        self.reads().contains_key(&of)
    }

    /// Counts a lookup in a store directory until its reply.
    pub(super) fn begin_store_lookup(self: &Arc<Self>) -> StoreLookup {
        self.store_lookups.fetch_add(1, Ordering::SeqCst);
        StoreLookup(self.clone())
    }

    /// Number of lookups in store directories that are in flight.
    pub(super) fn store_lookups(&self) -> u64 {
        self.store_lookups.load(Ordering::SeqCst)
    }

    /// The current latencies.
    pub fn times(&self) -> RequestTimes {
        let mut times = RequestTimes {
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            ..RequestTimes::default()
        };
        for (operation, name) in ALL {
            if operation == Forget {
                continue;
            }
            // Before the counts of started requests, as no request is answered before it is
            // started.
            let histogram = self.answered[operation as usize].snapshot();
            let begun = self.begun[operation as usize].load(Ordering::Relaxed);
            times.waiting += begun.saturating_sub(histogram.count());
            if begun > 0 {
                times.operations.insert(name.to_owned(), histogram);
            }
        }
        times
    }

    /// The current counts.
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
