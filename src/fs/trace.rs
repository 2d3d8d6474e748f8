//! Recording of the paths that a run accesses, in the order of first access.
//!
//! Only requests of the kernel are seen; it sends none for what it has cached.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::store::PathOrdinal;
use crate::sync;

/// The traces being recorded, by name.
#[derive(Debug, Default)]
pub struct Recorder {
    /// Whether there is any; checked by most requests.
    recording: AtomicBool,
    traces: Mutex<BTreeMap<String, Trace>>,
}

#[derive(Debug, Default)]
struct Trace {
    seen: HashSet<PathOrdinal>,
    order: Vec<PathOrdinal>,
}

impl Recorder {
    fn traces(&self) -> MutexGuard<'_, BTreeMap<String, Trace>> {
        sync::lock(&self.traces)
    }

    /// Starts a trace; `false` if one of this name is being recorded.
    pub fn start(&self, name: &str) -> bool {
        let mut traces = self.traces();
        if traces.contains_key(name) {
            return false;
        }
        traces.insert(name.to_owned(), Trace::default());
        self.recording.store(true, Ordering::Relaxed);
        true
    }

    /// Ends a trace and returns its paths; `None` if there is none of this name.
    pub fn stop(&self, name: &str) -> Option<Vec<PathOrdinal>> {
        let mut traces = self.traces();
        let trace = traces.remove(name);
        self.recording.store(!traces.is_empty(), Ordering::Relaxed);
        trace.map(|t| t.order)
    }

    /// The traces being recorded, each with its number of paths so far.
    pub fn running(&self) -> Vec<(String, usize)> {
        let traces = self.traces();
        let each = traces.iter().map(|(name, t)| (name.clone(), t.order.len()));
        each.collect()
    }

    /// Records an access to a path.
    pub(super) fn touch(&self, ordinal: PathOrdinal) {
        if !self.recording.load(Ordering::Relaxed) {
            return;
        }
        for trace in self.traces().values_mut() {
            if trace.seen.insert(ordinal) {
                trace.order.push(ordinal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_each_path_once_in_the_order_of_the_first_touch() {
        let recorder = Recorder::default();
        recorder.touch(PathOrdinal(9));
        assert!(recorder.start("a"));
        assert!(!recorder.start("a"));
        for n in [3, 1, 3, 2, 1] {
            recorder.touch(PathOrdinal(n));
        }
        assert!(recorder.start("b"));
        recorder.touch(PathOrdinal(1));
        assert_eq!(recorder.running(), [("a".into(), 3), ("b".into(), 1)]);
        let order =
            |o: Option<Vec<PathOrdinal>>| o.unwrap().iter().map(|o| o.0).collect::<Vec<_>>();
        assert_eq!(order(recorder.stop("a")), [3, 1, 2]);
        assert_eq!(recorder.stop("a"), None);
        recorder.touch(PathOrdinal(7));
        assert_eq!(order(recorder.stop("b")), [1, 7]);
        assert!(!recorder.recording.load(Ordering::Relaxed));
    }
}
