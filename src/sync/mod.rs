//! Locks and threads.
//!
//! A lock whose holder panicked is taken as it is: what it guards is changed whole, or is looked at
//! again by who takes it.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Takes a lock.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock that is shared with other readers.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock alone.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on a thread of its own, which ps(1) and top(1) show by the name. Who drops the handle does
/// not wait for it.
///
/// # Errors
/// The system gives no thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work)
}

/// Does something again and again on a thread of its own, until the process ends, with a pause before
/// each time. Where there is no thread it is not done, which is logged.
pub fn every(pause: Duration, name: &str, mut work: impl FnMut() + Send + 'static) {
    let repeat = move || {
        loop {
            std::thread::sleep(pause);
            work();
        }
    };
    if let Err(e) = spawn(name, repeat) {
        tracing::warn!("no thread {name}: {e}");
    }
}
