//! Access of unprivileged clients to the control socket, and its cost.
//!
//! Everybody may connect to the control socket, and the kernel reports the user (SO_PEERCRED). Root
//! and the user that the daemon runs as may make any request; every other client is unprivileged.
//! Invariant: an unprivileged client learns what [`Request::Status`] and [`Request::Figures`]
//! report, changes nothing, and cannot keep others from being answered. Root needs no place here. The
//! number of such clients is limited, in total and per user; where all places are taken, a new client
//! gets that of one which the daemon waits for, of the user that has most, so that a user with a range of
//! uids has no more than others; requests are short, and both directions have deadlines. What they ask
//! for is computed for all of them together (`shared_answers.rs`), at a rate.
//!
//! They learn: version and pid of the daemon, the state directory and the mount points, the size of
//! the state, sources (their URLs without passwords and tokens, see
//! [`redacted`](crate::substituter::redacted)) and their health, store paths being fetched, and names of
//! traces being recorded. The mount lists the names of store paths to everybody anyway; to hide all of
//! this, make the state directory inaccessible (mode 0700).

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use thiserror::Error;

use super::shared_answers::SharedAnswers;
use crate::command::{Request, RequestError};
use crate::sync::{self, Pace};

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
    places: Mutex<Places>,
    answers: SharedAnswers,
    pace: Pace,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            places: Mutex::default(),
            answers: SharedAnswers::default(),
            pace: Pace::new(RATE),
        }
    }
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// Who has been there longest comes first.
    taken: BTreeMap<u64, Place>,
}

#[derive(Debug)]
struct Place {
    user: u32,
    /// The connection, while it is the client that has to do something: to send, or to read.
    waits_for: Option<UnixStream>,
}

impl Places {
    fn of(&self, user: u32) -> usize {
        self.taken.values().filter(|p| p.user == user).count()
    }

    /// Takes the place of the client that the daemon has waited for longest, of the user that has most
    /// places, if those are more than `user` has. `false` if there is none.
    fn make_room(&mut self, user: u32) -> bool {
        let waiting = self.taken.iter().filter(|(_, p)| p.waits_for.is_some());
        // The first of those that are equal.
        let longest = waiting.rev().max_by_key(|(_, p)| self.of(p.user));
        let longest = longest.map(|(at, p)| (*at, self.of(p.user)));
        let Some((at, _)) = longest.filter(|(_, of_this)| *of_this > self.of(user)) else {
            return false;
        };
        let place = self.taken.remove(&at);
        if let Some(stream) = place.and_then(|place| place.waits_for) {
            // Its thread ends; one that has ended already is no failure.
            let _ = stream.shutdown(Shutdown::Both);
        }
        true
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
        let stream = stream.try_clone()?;
        let admitted = self.admit(user.as_raw(), stream);
        Ok(admitted.map(Some).ok_or(TooManyClients))
    }

    fn admit(self: &Arc<Self>, user: u32, stream: UnixStream) -> Option<Client> {
        let mut places = self.places();
        if places.of(user) >= MAX_CLIENTS_PER_USER
            || places.taken.len() >= MAX_CLIENTS && !places.make_room(user)
        {
            return None;
        }
        let number = places.next;
        places.next += 1;
        let waits_for = Some(stream);
        places.taken.insert(number, Place { user, waits_for });
        Some(Client {
            clients: self.clone(),
            user,
            number,
        })
    }

    /// Whether places are scarce, so that admitting costs more than accepting.
    pub(super) fn is_crowded(&self) -> bool {
        self.places().taken.len() >= MAX_CLIENTS
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        sync::lock(&self.places)
    }
}

/// An unprivileged client being answered.
#[derive(Debug)]
pub(super) struct Client {
    clients: Arc<Clients>,
    user: u32,
    number: u64,
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
        self.waits_for(None);
        std::thread::sleep(self.clients.pace.turn());
        let answer = self.clients.answers.get(request, compute);
        self.waits_for(stream.try_clone().ok());
        answer
    }

    fn waits_for(&self, stream: Option<UnixStream>) {
        if let Some(place) = self.clients.places().taken.get_mut(&self.number) {
            place.waits_for = stream;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.places().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection, with its other end.
    fn connection() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn a_user_has_a_part_of_the_places_and_all_users_have_a_bound() {
        let clients = Arc::new(Clients::default());
        let admit = |user| clients.admit(user, connection().0);
        let mut first: Vec<_> = (0..MAX_CLIENTS_PER_USER)
            .map(|_| admit(1).unwrap())
            .collect();
        assert!(admit(1).is_none());
        // They have been admitted, and are being answered.
        let answering = |client: Client| {
            client.waits_for(None);
            client
        };
        first.iter().for_each(|client| client.waits_for(None));
        let others: Vec<_> = (2..100).map_while(admit).map(answering).collect();
        assert_eq!(first.len() + others.len(), MAX_CLIENTS);
        assert!(clients.is_crowded());
        drop(first.pop());
        assert!(admit(1).is_some());
        drop((first, others));
        assert!(clients.places().taken.is_empty());
    }

    #[test]
    fn who_has_no_place_gets_one_of_those_that_the_daemon_waits_for() {
        let clients = Arc::new(Clients::default());
        let mut ends = Vec::new();
        let mut admit = |user| {
            let (ours, theirs) = connection();
            ends.push((user, theirs));
            clients.admit(user, ours)
        };
        // One user with few of them, and one with a range of uids that has the rest.
        let few: Vec<_> = (0..2).map(|_| admit(1).unwrap()).collect();
        let rest = 1000..1000 + (MAX_CLIENTS - few.len()) as u32;
        let range: Vec<_> = rest.map(|user| admit(user).unwrap()).collect();
        assert_eq!(few.len() + range.len(), MAX_CLIENTS);
        // Somebody else takes the first place of the user that has two, and then that of whoever is
        // waited for longest.
        let third = admit(3).unwrap();
        let fourth = admit(4).unwrap();
        let users = |clients: &Clients| -> Vec<u32> {
            let places = clients.places();
            places.taken.values().map(|place| place.user).collect()
        };
        let there = users(&clients);
        assert_eq!(there.len(), MAX_CLIENTS);
        assert!(!there.contains(&1));
        assert!([3, 4, 1000].iter().all(|user| there.contains(user)));
        // Who has a place already takes none of somebody who has no more.
        assert!(admit(3).is_none());
        // Whose place is taken finds the connection ended.
        let gone = ends.iter().filter(|(_, end)| {
            end.set_nonblocking(true).unwrap();
            matches!(io::Read::read(&mut &*end, &mut [0]), Ok(0))
        });
        assert_eq!(gone.count(), 2 + 1);
        drop((few, range, third, fourth));
        assert!(clients.places().taken.is_empty());
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
