//! Who is at the other end of a connection.

use std::sync::Arc;

use crate::sync::Pace;

/// A client, and what it may do.
pub(super) struct Client {
    /// Root, or the user that the daemon runs as.
    pub(super) is_trusted: bool,
    /// Whether there is a place for it.
    pub(super) is_admitted: bool,
    /// The pace of costly answers, if it is not trusted.
    pub(super) costly: Arc<Pace>,
}

impl Client {
    /// Waits for the turn of an answer that takes a look at all paths or processes.
    pub(super) fn wait_for_turn(&self) {
        if !self.is_trusted {
            std::thread::sleep(self.costly.turn());
        }
    }
}
