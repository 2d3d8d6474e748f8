//! Access of unprivileged clients to the control socket, and its cost.
//!
//! Everybody may connect to the control socket, and the kernel reports the user (SO_PEERCRED). Root
//! and the user that the daemon runs as may make any request; every other client is unprivileged.
//! Invariant: an unprivileged client learns what [`Request::Status`] and [`Request::Figures`]
//! report, changes nothing, and cannot keep others from being answered. Root needs no place here. The
//! number of such clients is limited ([`Places`]); requests are short, and both directions have deadlines.
//! What they ask for is computed for all of them together (`shared_answers.rs`), at a rate.
//!
//! They learn: version and pid of the daemon, the state directory and the mount points, the size of
//! the state, sources (their URLs without passwords and tokens, see
//! [`redacted`](crate::substituter::redacted)) and their health, store paths being fetched, and names of
//! traces being recorded. The mount lists the names of store paths to everybody anyway; to hide all of
//! this, make the state directory inaccessible (mode 0700).

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::shared_answers::SharedAnswers;
use crate::command::{Request, RequestError};
use crate::control::{Place, Places};
use crate::sync::Pace;

/// Unprivileged clients at once; each has a thread.
const MAX_CLIENTS: usize = 32;
/// Clients of one user at once, so that no user can take all places.
const MAX_CLIENTS_PER_USER: usize = 8;
/// Limit of the length of their requests, in bytes. Permitted requests have some ten bytes; others
/// are read up to this limit, so that they can be refused with an explanation.
pub(super) const REQUEST_LIMIT: u32 = 64 << 10;
/// Timeout for reading a request and for sending its answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers a second. One costs some 200 us, with its thread and its connection.
const RATE: u32 = 100;

/// The unprivileged clients being answered.
#[derive(Debug)]
pub(super) struct Clients {
    places: Arc<Places>,
    answers: SharedAnswers,
    pace: Pace,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            places: Places::new(MAX_CLIENTS, MAX_CLIENTS_PER_USER),
            answers: SharedAnswers::default(),
            pace: Pace::new(RATE),
        }
    }
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
        let user = user.as_raw();
        let place = self.places.take(user, stream.try_clone()?);
        let client = place.map(|place| Client {
            clients: self.clone(),
            user,
            place,
        });
        Ok(client.map(Some).ok_or(TooManyClients))
    }

    /// Whether places are scarce, so that admitting costs more than accepting.
    pub(super) fn is_crowded(&self) -> bool {
        self.places.are_scarce()
    }
}

/// An unprivileged client being answered.
#[derive(Debug)]
pub(super) struct Client {
    clients: Arc<Clients>,
    user: u32,
    place: Place,
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

    /// The answer to a request, which other clients may have been given just before. Nobody takes the place
    /// of this one meanwhile, and it has to wait until `stream` is read afterwards.
    pub(super) fn answer(
        &self,
        request: Request,
        stream: &UnixStream,
        compute: impl FnOnce(Request) -> Result<Vec<u8>, RequestError>,
    ) -> Result<Arc<[u8]>, RequestError> {
        self.place.waits_for(None);
        std::thread::sleep(self.clients.pace.turn());
        let answer = self.clients.answers.get(request, compute);
        self.place.waits_for(stream.try_clone().ok());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
