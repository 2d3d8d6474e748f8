//! Locks, threads, and turns.
//!
//! A lock whose holder panicked is used as it is: the data behind it is changed in one step, or
//! checked again by the next holder.

mod pace;
mod workers;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

pub use pace::Pace;
pub use workers::Workers;

/// Locks a mutex.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for shared access.
pub fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks for exclusive access.
pub fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` on a new thread, named for ps(1) and top(1). Dropping the handle does not wait for
/// the thread.
///
/// # Errors
/// The system has no more threads.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(work)
}

/// Repeats `work` on a new thread until the process ends, each time after a pause. If the thread
/// cannot be started, that is only logged.
pub fn every(pause: Duration, name: &str, mut work: impl FnMut() + Send + 'static) {
    let repeat = move || {
        loop {
            std::thread::sleep(pause);
            work();
        }
    };
    if let Err(e) = spawn(name, repeat) {
        tracing::warn!("cannot start the thread {name}: {e}");
    }
}
