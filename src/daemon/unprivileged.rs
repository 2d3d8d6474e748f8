//! Access of unprivileged clients to the control socket, and its cost.
//!
//! Everybody may connect to the control socket, and the kernel reports the user (SO_PEERCRED). Root
//! and the user that the daemon runs as may make any request; every other client is unprivileged.
//! Invariant: an unprivileged client learns what [`Request::Status`] and [`Request::Figures`]
//! report, changes nothing, and cannot keep others from being answered: the number of such clients
//! is limited, in total and per user, requests are short, both directions have deadlines, and these
//! clients are answered one after the other.
//!
//! They learn: version and pid of the daemon, the state directory and the mount points, the size of
//! the state, sources (their URLs without passwords, see
//! [`redacted`](crate::substituter::redacted); other parts of a URL are shown, so a token belongs
//! into netrc) and their health, store paths being fetched, and names of traces being recorded. The
//! mount lists the names of store paths to everybody anyway; to hide all of this, make the state
//! directory inaccessible (mode 0700).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use thiserror::Error;

use crate::command::Request;
use crate::sync;

/// Unprivileged clients at once; each has a thread and waits for its turn.
const MAX_CLIENTS: usize = 32;
/// Clients of one user at once, so that no user can take all places.
const MAX_CLIENTS_PER_USER: usize = 8;
/// Limit of the length of their requests, in bytes. Permitted requests have some ten bytes; others
/// are read up to this limit, so that they can be refused with an explanation.
pub(super) const REQUEST_LIMIT: u32 = 64 << 10;
/// Timeout for reading a request and for sending its answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The unprivileged clients being answered.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_user: Mutex<BTreeMap<u32, usize>>,
    wait_turn: Mutex<()>,
}

/// Too many unprivileged clients are connected.
#[derive(Debug, Error)]
#[error("the daemon has too many unprivileged clients at the moment; try again")]
pub(super) struct TooManyClients;

impl Clients {
    /// Classifies a connection: `None` for a privileged client.
    ///
    /// # Errors
    /// The system does not report the user.
    pub(super) fn classify(
        self: &Arc<Self>,
        stream: &UnixStream,
    ) -> io::Result<Result<Option<Client>, TooManyClients>> {
        let user = rustix::net::sockopt::socket_peercred(stream)?.uid;
        if user.is_root() || user == rustix::process::geteuid() {
            return Ok(Ok(None));
        }
        Ok(self.admit(user.as_raw()).map(Some).ok_or(TooManyClients))
    }

    fn admit(self: &Arc<Self>, user: u32) -> Option<Client> {
        let mut by_user = self.by_user();
        let all: usize = by_user.values().sum();
        let of_this = by_user.get(&user).copied().unwrap_or_default();
        if all >= MAX_CLIENTS || of_this >= MAX_CLIENTS_PER_USER {
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

/// An unprivileged client being answered.
#[derive(Debug)]
pub(super) struct Client {
    clients: Arc<Clients>,
    user: u32,
}

impl Client {
    /// Whether an unprivileged client may make this request.
    pub(super) fn may(request: &Request) -> bool {
        matches!(request, Request::Status | Request::Figures)
    }

    /// The answer to a request that needs privileges.
    pub(super) fn refusal(&self, state: &Path) -> String {
        let daemon = rustix::process::geteuid();
        let also = if daemon.is_root() {
            String::new()
        } else {
            format!(" and user {}", daemon.as_raw())
        };
        format!(
            "only root{also} may make this request to the daemon of the state {}, and you are user {}; \
             `narfs status`, `narfs metrics` and `narfs top` are available to everybody",
            state.display(),
            self.user
        )
    }

    /// Locked while a request is answered.
    pub(super) fn wait_turn(&self) -> MutexGuard<'_, ()> {
        sync::lock(&self.clients.wait_turn)
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
        let admit = |user| clients.admit(user);
        let mut first: Vec<_> = (0..MAX_CLIENTS_PER_USER)
            .map(|_| admit(1).unwrap())
            .collect();
        assert!(admit(1).is_none());
        let others: Vec<_> = (2..100).map_while(admit).collect();
        assert_eq!(first.len() + others.len(), MAX_CLIENTS);
        drop(first.pop());
        assert!(admit(1).is_some());
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
