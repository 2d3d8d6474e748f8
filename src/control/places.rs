//! The places of clients at a socket.
//!
//! Invariant: the number of clients is bounded, in total and for each user. Where all places are taken, a
//! new client gets that of one which is waited for, of the user that has most, so that a user with a range of
//! uids has no more than others.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::sync;

/// See the module.
#[derive(Debug)]
pub struct Places {
    /// Clients at once.
    most: usize,
    /// Clients of one user at once, so that no user can take all places.
    most_of_user: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Who has been there longest comes first.
    by_number: BTreeMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    user: u32,
    /// The connection, while it is the client that has to do something: to send, or to read.
    waits_for: Option<UnixStream>,
}

impl Taken {
    fn of(&self, user: u32) -> usize {
        self.by_number.values().filter(|c| c.user == user).count()
    }

    /// Takes the place of the client that was waited for longest, of the user that has most places, if those
    /// are more than `user` has. `false` if there is none.
    fn make_room(&mut self, user: u32) -> bool {
        let waiting = self.by_number.iter().filter(|(_, c)| c.waits_for.is_some());
        // The first of those that are equal.
        let longest = waiting.rev().max_by_key(|(_, c)| self.of(c.user));
        let longest = longest.map(|(at, c)| (*at, self.of(c.user)));
        let Some((at, _)) = longest.filter(|(_, of_this)| *of_this > self.of(user)) else {
            return false;
        };
        let client = self.by_number.remove(&at);
        if let Some(stream) = client.and_then(|client| client.waits_for) {
            // Its thread ends; one that has ended already is no failure.
            let _ = stream.shutdown(Shutdown::Both);
        }
        true
    }
}

impl Places {
    pub fn new(most: usize, most_of_user: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_user,
            taken: Mutex::default(),
        })
    }

    /// A place for a client that is waited for; `None` if there is none.
    pub fn take(self: &Arc<Self>, user: u32, stream: UnixStream) -> Option<Place> {
        let mut taken = self.taken();
        if taken.of(user) >= self.most_of_user
            || taken.by_number.len() >= self.most && !taken.make_room(user)
        {
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        let waits_for = Some(stream);
        taken.by_number.insert(number, Client { user, waits_for });
        Some(Place {
            places: self.clone(),
            number,
        })
    }

    /// Whether places are scarce, so that taking one costs more than accepting a connection.
    pub fn are_scarce(&self) -> bool {
        self.taken().by_number.len() >= self.most
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        sync::lock(&self.taken)
    }
}

/// A place, until dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Place {
    /// Says that the client is waited for, so that another one may get its place; `None` that it is answered,
    /// so that nobody does.
    pub fn waits_for(&self, stream: Option<UnixStream>) {
        if let Some(client) = self.places.taken().by_number.get_mut(&self.number) {
            client.waits_for = stream;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 32;
    const MOST_OF_USER: usize = 8;

    /// A connection, with its other end.
    fn connection() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn a_user_has_a_part_of_the_places_and_all_users_have_a_bound() {
        let places = Places::new(MOST, MOST_OF_USER);
        let take = |user| places.take(user, connection().0);
        let mut first: Vec<_> = (0..MOST_OF_USER).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        // They have been admitted, and are being answered.
        let answering = |place: Place| {
            place.waits_for(None);
            place
        };
        first.iter().for_each(|place| place.waits_for(None));
        let others: Vec<_> = (2..100).map_while(take).map(answering).collect();
        assert_eq!(first.len() + others.len(), MOST);
        assert!(places.are_scarce());
        drop(first.pop());
        assert!(take(1).is_some());
        drop((first, others));
        assert!(places.taken().by_number.is_empty());
    }

    #[test]
    fn who_has_no_place_gets_one_of_those_that_are_waited_for() {
        let places = Places::new(MOST, MOST_OF_USER);
        let mut ends = Vec::new();
        let mut take = |user| {
            let (ours, theirs) = connection();
            ends.push((user, theirs));
            places.take(user, ours)
        };
        // One user with few of them, and one with a range of uids that has the rest.
        let few: Vec<_> = (0..2).map(|_| take(1).unwrap()).collect();
        let rest = 1000..1000 + (MOST - few.len()) as u32;
        let range: Vec<_> = rest.map(|user| take(user).unwrap()).collect();
        assert_eq!(few.len() + range.len(), MOST);
        // Somebody else takes the first place of the user that has two, and then that of whoever is
        // waited for longest.
        let third = take(3).unwrap();
        let fourth = take(4).unwrap();
        let there: Vec<u32> = places.taken().by_number.values().map(|c| c.user).collect();
        assert_eq!(there.len(), MOST);
        assert!(!there.contains(&1));
        assert!([3, 4, 1000].iter().all(|user| there.contains(user)));
        // Who has a place already takes none of somebody who has no more.
        assert!(take(3).is_none());
        // Whose place is taken finds the connection ended.
        let gone = ends.iter().filter(|(_, end)| {
            end.set_nonblocking(true).unwrap();
            matches!(std::io::Read::read(&mut &*end, &mut [0]), Ok(0))
        });
        assert_eq!(gone.count(), 2 + 1);
        drop((few, range, third, fourth));
        assert!(places.taken().by_number.is_empty());
    }
}
