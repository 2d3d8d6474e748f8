//! The worker for Nix, at its socket.

use std::io;

use super::process::Daemon;
use super::unix_socket::UnixSocket;
use crate::http::Listener;
use crate::nix_worker;
use crate::sync;

impl Daemon {
    /// Starts to answer clients of Nix.
    ///
    /// # Errors
    /// No threads are available.
    pub(super) fn serve_nix(&self, mut socket: UnixSocket) -> io::Result<()> {
        let serve = |listener: Listener| match listener.into_unix() {
            Some(listener) => nix_worker::serve(listener, self.engine.clone()),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        socket.serve(&self.supervisor, serve)?;
        *sync::lock(&self.nix_worker) = Some(socket);
        Ok(())
    }
}
