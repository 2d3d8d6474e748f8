//! The listening socket, and who may be a client.
//!
//! Everybody who can connect may ask what every user of the mount can find out there, and have the same
//! fetched. Root and the user that the daemon runs as are trusted: they also add roots, and see whose roots
//! there are.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::session::Session;
use crate::command::chain;
use crate::control::{Place, Places};
use crate::engine::Engine;
use crate::sync::{self, Pace};

/// Trusted clients at once; each has a thread.
const TRUSTED: usize = 256;
/// Other clients at once.
const OTHERS: usize = 128;
/// Clients of one other user at once: a build has a connection for each of its Nix processes.
const OF_USER: usize = 16;
/// Clients that are told at once that there is no place for them.
const TURNED_AWAY: usize = 16;
/// Answers a second, for clients that are not trusted, that take a look at all paths or processes.
const COSTLY: u32 = 10;
/// Pause after a client for which there is not even a place to be turned away: who connects as fast as
/// possible takes no core for that.
const CROWDED: Duration = Duration::from_millis(1);
/// Pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

struct Clients {
    trusted: Arc<Places>,
    others: Arc<Places>,
    turned_away: Arc<Places>,
    costly: Arc<Pace>,
}

impl Clients {
    /// The place of a client, and what it may do; `None` where it is not even told that there is none.
    fn admit(&self, stream: &UnixStream) -> io::Result<Option<(Client, Place)>> {
        let user = rustix::net::sockopt::socket_peercred(stream)?.uid;
        let is_trusted = user.is_root() || user == rustix::process::geteuid();
        let places = match is_trusted {
            true => &self.trusted,
            false => &self.others,
        };
        let user = user.as_raw();
        let place = places.take(user, stream.try_clone()?);
        let is_admitted = place.is_some();
        let place = match place {
            Some(place) => Some(place),
            None => self.turned_away.take(user, stream.try_clone()?),
        };
        let costly = self.costly.clone();
        let client = Client {
            is_trusted,
            is_admitted,
            costly,
        };
        Ok(place.map(|place| (client, place)))
    }
}

/// Answers clients that connect to `listener`, each on its own thread, until the process ends.
///
/// # Errors
/// No threads are available.
pub fn serve(listener: UnixListener, engine: Arc<Engine>) -> io::Result<()> {
    listener.set_nonblocking(false)?;
    let clients = Clients {
        trusted: Places::new(TRUSTED, TRUSTED),
        others: Places::new(OTHERS, OF_USER),
        turned_away: Places::new(TURNED_AWAY, TURNED_AWAY),
        costly: Arc::new(Pace::new(COSTLY)),
    };
    let accept = move || {
        for stream in listener.incoming() {
            let begun = stream.and_then(|stream| match clients.admit(&stream)? {
                Some((client, place)) => begin(&engine, stream, client, place),
                None => {
                    std::thread::sleep(CROWDED);
                    Ok(())
                }
            });
            if let Err(e) = begun {
                tracing::warn!("cannot serve a client of Nix: {e}");
                std::thread::sleep(PAUSE);
            }
        }
    };
    sync::spawn("narfs-nix", accept).map(drop)
}

fn begin(engine: &Arc<Engine>, stream: UnixStream, client: Client, place: Place) -> io::Result<()> {
    let engine = engine.clone();
    let answer = move || serve_one(&engine, &stream, &client, &place);
    sync::spawn("narfs-nix-client", answer).map(drop)
}

/// Answers one client until its connection ends.
pub(super) fn serve_one(engine: &Engine, stream: &UnixStream, client: &Client, place: &Place) {
    if let Err(e) = Session::new(engine, stream, client, place).run() {
        tracing::debug!("a connection of Nix ended: {}", chain(&e));
    }
}
