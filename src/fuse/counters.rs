//! Counts of the kernel's requests, by operation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

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
pub struct Counters([AtomicU64; ALL.len()]);

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
    pub(super) fn count(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn snapshot(&self) -> RequestCounts {
        let mut counts = RequestCounts::default();
        for (operation, name) in ALL {
            let n = self.0[operation as usize].load(Ordering::Relaxed);
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
}
