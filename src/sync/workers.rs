//! Threads that share small pieces of work.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};

type Work = Box<dyn FnOnce() + Send>;

/// Threads, one for each core, that do pieces of work beside those who ask for it. They begin with the first
/// piece, and end when this is dropped and what waits is done.
#[derive(Debug)]
pub struct Workers {
    /// The name of the threads.
    name: &'static str,
    /// Pieces that may wait.
    waiting: usize,
    queue: OnceLock<SyncSender<Work>>,
}

impl Workers {
    /// Threads of this name, for which at most so many pieces wait.
    pub const fn new(name: &'static str, waiting: usize) -> Self {
        Self {
            name,
            waiting,
            queue: OnceLock::new(),
        }
    }

    /// Has a thread do this soon. `false` if too much waits already, or there are no threads: then it is
    /// not done.
    pub fn try_run(&self, work: impl FnOnce() + Send + 'static) -> bool {
        let queue = self.queue.get_or_init(|| self.begin());
        queue.try_send(Box::new(work)).is_ok()
    }

    fn begin(&self) -> SyncSender<Work> {
        let (queue, work) = sync_channel(self.waiting);
        let work = Arc::new(Mutex::new(work));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores {
            let work = work.clone();
            if let Err(e) = super::spawn(self.name, move || run(&work)) {
                tracing::warn!("cannot start the thread {}: {e}", self.name);
            }
        }
        queue
    }
}

fn run(queue: &Mutex<Receiver<Work>>) {
    loop {
        // The one that waits for work has the lock, and the others wait for that.
        let next = super::lock(queue).recv();
        let Ok(work) = next else {
            return;
        };
        work();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn work_is_done_by_all_threads_and_what_has_no_place_is_refused() {
        let workers = Workers::new("test", 2);
        let cores = std::thread::available_parallelism().unwrap().get();
        let together = Arc::new(Barrier::new(cores + 1));
        let (done, is_done) = channel();
        let ask = || {
            let (together, done) = (together.clone(), done.clone());
            workers.try_run(move || {
                together.wait();
                done.send(()).unwrap();
            })
        };
        // Every thread has a piece, and two wait.
        let mut given = 0;
        while given < cores + 2 {
            given += usize::from(ask());
        }
        assert!(!ask());
        together.wait();
        for _ in 0..cores {
            is_done.recv().unwrap();
        }
    }

    #[test]
    fn what_waits_is_done_after_the_end() {
        let (done, is_done) = channel();
        let workers = Workers::new("test", 8);
        for _ in 0..8 {
            let done = done.clone();
            assert!(workers.try_run(move || done.send(()).unwrap()));
        }
        drop((workers, done));
        assert_eq!(is_done.iter().count(), 8);
    }
}
