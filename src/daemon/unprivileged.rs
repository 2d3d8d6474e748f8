//! Who may ask the daemon without being root, and what that may cost.
//!
//! The control socket is open to everybody, and the kernel says who has connected (SO_PEERCRED).
//! Root, and whoever the daemon runs as, may have it do everything. A client
//! without privileges is anybody else.
//! Invariant: a client learns what [`Request::Status`] and [`Request::Figures`] tell, changes
//! nothing, and cannot keep others from being answered: clients are few at once, each user has a
//! part of the places, requests are short, both directions have deadlines, and clients are answered
//! one after the other.
//!
//! What clients learn: version and process of the daemon, where the state is and where it is
//! mounted, how much it stores, sources (by their URLs without passwords, see
//! [`redacted`](crate::substituter::redacted); what else a URL has in it is shown, so that a token belongs
//! into netrc) and how they answer, which store paths are being fetched, and the names of traces that
//! are being recorded. Names of store paths can be listed in the mount by everybody; who wants that
//! none be told closes the directory of the state (mode 0700).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use thiserror::Error;

use crate::command::Request;
use crate::sync;

/// Clients at once. Each has a thread, and waits for its turn.
const MOST: usize = 32;
/// Clients of one user at once, so that no user takes all places.
const MOST_OF_ONE: usize = 8;
/// Longest request of a client, in bytes. What they may ask has some ten; what they may not ask is
/// read, as far as it is not excessive, so that they can be told.
pub(super) const REQUEST_LIMIT: u32 = 64 << 10;
/// Time for a request, and for taking its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The clients that are being answered.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_user: Mutex<BTreeMap<u32, usize>>,
    turn: Mutex<()>,
}

/// Why somebody is not answered.
#[derive(Debug, Error)]
#[error("the daemon answers too many who are not root just now; try again")]
pub(super) struct TooMany;

impl Clients {
    /// Who has connected: `None` for who may do everything.
    ///
    /// # Errors
    /// The system does not say who it is.
    pub(super) fn greet(
        self: &Arc<Self>,
        stream: &UnixStream,
    ) -> io::Result<Result<Option<Client>, TooMany>> {
        let user = rustix::net::sockopt::socket_peercred(stream)?.uid;
        if user.is_root() || user == rustix::process::geteuid() {
            return Ok(Ok(None));
        }
        Ok(self.enter(user.as_raw()).map(Some).ok_or(TooMany))
    }

    fn enter(self: &Arc<Self>, user: u32) -> Option<Client> {
        let mut by_user = self.by_user();
        let all: usize = by_user.values().sum();
        let of_this = by_user.get(&user).copied().unwrap_or_default();
        if all >= MOST || of_this >= MOST_OF_ONE {
            return None;
        }
        by_user.insert(user, of_this + 1);
        let clients = self.clone();
        Some(Client { clients, user })
    }

    fn by_user(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        sync::lock(&self.by_user)
    }
}

/// A client that is being answered.
#[derive(Debug)]
pub(super) struct Client {
    clients: Arc<Clients>,
    user: u32,
}

impl Client {
    /// Whether a client may have this.
    pub(super) fn may(request: &Request) -> bool {
        matches!(request, Request::Status | Request::Figures)
    }

    /// What is said to a client that wants something else.
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

    /// Held while a client's question is answered.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        sync::lock(&self.clients.turn)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut by_user = self.clients.by_user();
        if let Some(of_this) = by_user.get_mut(&self.user) {
            *of_this -= 1;
            if *of_this == 0 {
                by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_part_of_the_places_and_all_users_have_a_bound() {
        let clients = Arc::new(Clients::default());
        let enter = |user| clients.enter(user);
        let mut first: Vec<_> = (0..MOST_OF_ONE).map(|_| enter(1).unwrap()).collect();
        assert!(enter(1).is_none());
        let others: Vec<_> = (2..100).map_while(enter).collect();
        assert_eq!(first.len() + others.len(), MOST);
        drop(first.pop());
        assert!(enter(1).is_some());
        drop((first, others));
        assert!(clients.by_user().is_empty());
    }

    #[test]
    fn clients_only_ask() {
        assert!(Client::may(&Request::Status) && Client::may(&Request::Figures));
        for request in [
            Request::Pins,
            Request::Roots,
            Request::Evict { to: 0 },
            Request::Upgrade { program: None },
            Request::Stats { paths: Vec::new() },
        ] {
            assert!(!Client::may(&request), "{request:?}");
        }
    }
}
