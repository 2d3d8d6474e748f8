//! Who may ask the daemon without being root, and what that may cost.
//!
//! The control socket is open to everybody, and the kernel says who has connected (SO_PEERCRED).
//! Root, and whoever the daemon runs as, may have it do everything. A guest is anybody else.
//! Invariant: a guest learns what [`Command::Status`] and [`Command::Figures`] tell, changes
//! nothing, and cannot keep others from being answered: guests are few at once, each user has a
//! part of the places, requests are short, both directions have deadlines, and guests are answered
//! one after the other.
//!
//! What guests learn: version and process of the daemon, where the state is and where it is
//! mounted, how much it stores, sources (by their URLs without passwords, see
//! [`redacted`](crate::substituter::redacted); what else a URL has in it is shown, so that a token belongs
//! into netrc) and how they answer, which store paths are being fetched, and the names of traces that
//! are being recorded. Names of store paths can be listed in the mount by everybody; who wants that
//! none be told closes the directory of the state (mode 0700).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::command::Command;

/// Guests at once. Each has a thread, and waits for its turn.
const MOST: usize = 32;
/// Guests of one user at once, so that no user takes all places.
const MOST_OF_ONE: usize = 8;
/// Longest request of a guest, in bytes. What they may ask has some ten; what they may not ask is
/// read, as far as it is not excessive, so that they can be told.
pub(super) const REQUEST_LIMIT: u32 = 64 << 10;
/// Time for a request, and for taking its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The guests that are being answered.
#[derive(Debug, Default)]
pub(super) struct Guests {
    by_user: Mutex<BTreeMap<u32, usize>>,
    turn: Mutex<()>,
}

/// Why somebody is not answered.
#[derive(Debug, Error)]
#[error("the daemon answers too many who are not root just now; try again")]
pub(super) struct TooMany;

impl Guests {
    /// Who has connected: `None` for who may do everything.
    ///
    /// # Errors
    /// The system does not say who it is.
    pub(super) fn greet(
        self: &Arc<Self>,
        stream: &UnixStream,
    ) -> io::Result<Result<Option<Guest>, TooMany>> {
        let user = rustix::net::sockopt::socket_peercred(stream)?.uid;
        if user.is_root() || user == rustix::process::geteuid() {
            return Ok(Ok(None));
        }
        Ok(self.enter(user.as_raw()).map(Some).ok_or(TooMany))
    }

    fn enter(self: &Arc<Self>, user: u32) -> Option<Guest> {
        let mut by_user = self.by_user();
        let all: usize = by_user.values().sum();
        let of_this = by_user.get(&user).copied().unwrap_or_default();
        if all >= MOST || of_this >= MOST_OF_ONE {
            return None;
        }
        by_user.insert(user, of_this + 1);
        let guests = self.clone();
        Some(Guest { guests, user })
    }

    fn by_user(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.by_user.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest that is being answered.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    user: u32,
}

impl Guest {
    /// Whether a guest may have this.
    pub(super) fn may(command: &Command) -> bool {
        matches!(command, Command::Status | Command::Figures)
    }

    /// What is said to a guest that wants something else.
    pub(super) fn refusal(&self, state: &Path) -> String {
        let daemon = rustix::process::geteuid();
        let also = if daemon.is_root() {
            String::new()
        } else {
            format!(" and user {}", daemon.as_raw())
        };
        format!(
            "only root{also} may have the daemon of the state {} do this, and you are user {}; \
             `narfs status`, `narfs metrics` and `narfs top` are for everybody",
            state.display(),
            self.user
        )
    }

    /// Held while a guest's question is answered.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        let turn = &self.guests.turn;
        turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut by_user = self.guests.by_user();
        if let Some(of_this) = by_user.get_mut(&self.user) {
            *of_this -= 1;
            if *of_this == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

/// A connection that is read and written until a deadline, if there is one.
#[derive(Debug)]
pub(super) struct Within<'s> {
    stream: &'s UnixStream,
    deadline: Option<Instant>,
}

impl<'s> Within<'s> {
    pub(super) fn new(stream: &'s UnixStream, patience: Duration) -> Self {
        Self::until(stream, Some(Instant::now() + patience))
    }

    pub(super) fn until(stream: &'s UnixStream, deadline: Option<Instant>) -> Self {
        Self { stream, deadline }
    }

    /// The stream, which waits no longer than is left.
    ///
    /// # Errors
    /// Nothing is left.
    pub(super) fn stream(&self) -> io::Result<&'s UnixStream> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.stream.set_write_timeout(Some(left))?;
        }
        Ok(self.stream)
    }
}

impl Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream()?.read(buffer)
    }
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_part_of_the_places_and_all_users_have_a_bound() {
        let guests = Arc::new(Guests::default());
        let enter = |user| guests.enter(user);
        let mut first: Vec<_> = (0..MOST_OF_ONE).map(|_| enter(1).unwrap()).collect();
        assert!(enter(1).is_none());
        let others: Vec<_> = (2..100).map_while(enter).collect();
        assert_eq!(first.len() + others.len(), MOST);
        drop(first.pop());
        assert!(enter(1).is_some());
        drop((first, others));
        assert!(guests.by_user().is_empty());
    }

    #[test]
    fn what_trickles_is_not_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let trickles = std::thread::spawn(move || {
            while (&theirs).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let began = Instant::now();
        let mut within = Within::new(&ours, Duration::from_millis(100));
        within.read_exact(&mut [0; 1000]).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(ours);
        trickles.join().unwrap();
        // What is not taken is not waited for either.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut within = Within::new(&ours, Duration::from_millis(100));
        within.write_all(&vec![0; 8 << 20]).unwrap_err();
    }

    #[test]
    fn guests_only_ask() {
        assert!(Guest::may(&Command::Status) && Guest::may(&Command::Figures));
        for command in [
            Command::Pins,
            Command::Roots,
            Command::Evict { to: 0 },
            Command::Upgrade { program: None },
            Command::Stats { paths: Vec::new() },
        ] {
            assert!(!Guest::may(&command), "{command:?}");
        }
    }
}
