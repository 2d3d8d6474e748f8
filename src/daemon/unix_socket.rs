//! A unix socket with a path that a daemon listens at, besides the control socket.
//!
//! Invariant: a file at its path that is not a socket, or a socket at which another process
//! listens, is left alone. A socket created by a daemon outlives it for the next one and is removed
//! at the end of the last; a socket from a service manager belongs to the manager.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use crate::command::chain;
use crate::http::{Address, Listener};
use crate::supervision::Supervisor;
use crate::supervision::kept::{NIX, NIX_SOCKET, PLUGIN, PLUGIN_SOCKET};

/// What a socket is for.
#[derive(Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Who listens.
    server: &'static str,
    clients: &'static str,
    flag: &'static str,
    /// Name of a descriptor from a service manager.
    handed: &'static str,
    /// Name of the descriptor of a socket that a daemon has created.
    kept: &'static str,
    /// Mode of a socket that a daemon creates.
    mode: u32,
}

/// The volume plugin. Whoever can create containers has the rights of root.
pub(super) const VOLUME_PLUGIN: &Purpose = &Purpose {
    server: "the volume plugin",
    clients: "container engines",
    flag: "--volume-plugin",
    handed: PLUGIN,
    kept: PLUGIN_SOCKET,
    mode: 0o600,
};

/// The worker socket. A client sees and does what every user can do in the mount; what only root may do
/// depends on its credentials.
pub(super) const NIX_WORKER: &Purpose = &Purpose {
    server: "the worker for Nix",
    clients: "Nix",
    flag: "--nix-socket",
    handed: NIX,
    kept: NIX_SOCKET,
    mode: 0o666,
};

#[derive(Debug, Error)]
pub enum SocketError {
    #[error(
        "{} is not a socket, so {} cannot listen there; remove it, or give another path with {}",
        .1.display(), .0.server, .0.flag
    )]
    NotASocket(&'static Purpose, PathBuf),
    /// Another process uses the socket.
    #[error(
        "another process listens at {}; end it, or give another path with {} (none: do without)",
        .1.display(), .0.flag
    )]
    Taken(&'static Purpose, PathBuf),
    #[error("cannot listen for {} at {}", purpose.clients, path.display())]
    Listen {
        purpose: &'static Purpose,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The descriptor is not a listening unix socket.
    #[error(
        "the descriptor {:?} from the service manager is not usable for {}; it must be a listening unix \
         socket (ListenStream=/PATH)",
        purpose.handed, purpose.server
    )]
    Handed {
        purpose: &'static Purpose,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug)]
pub(super) struct UnixSocket {
    purpose: &'static Purpose,
    path: PathBuf,
    listener: Option<Listener>,
    /// Created by a daemon, not by a service manager.
    is_ours: bool,
    /// Not yet kept for a next daemon; the socket file is removed on drop.
    is_new: bool,
}

impl UnixSocket {
    /// The socket from the service manager, or the one at `wanted`, where the previous daemon may
    /// have left it.
    ///
    /// # Errors
    /// The socket cannot be created. Only a warning if a mount is `at_stake` that would end with
    /// this daemon.
    pub(super) fn find(
        purpose: &'static Purpose,
        supervisor: &Supervisor,
        wanted: Option<&Path>,
        at_stake: bool,
    ) -> Result<Option<Self>, SocketError> {
        let found = Self::take_or_make(purpose, supervisor, wanted);
        found.or_else(|e| match at_stake {
            true => {
                tracing::error!("{}", chain(&e));
                Ok(None)
            }
            false => Err(e),
        })
    }

    fn take_or_make(
        purpose: &'static Purpose,
        supervisor: &Supervisor,
        wanted: Option<&Path>,
    ) -> Result<Option<Self>, SocketError> {
        let before = supervisor
            .take(purpose.kept)
            .and_then(|(_, kept)| at_path(kept).ok());
        let handed = supervisor
            .take(purpose.handed)
            .map(|(_, handed)| at_path(handed));
        let handed = handed.transpose();
        let handed = handed.map_err(|source| SocketError::Handed { purpose, source })?;
        let wanted = match &handed {
            Some((path, _)) => {
                if let Some(other) = wanted.filter(|w| w != path) {
                    let (path, other) = (path.display(), other.display());
                    tracing::warn!("the service manager has created {path}; ignoring {other}");
                }
                Some(path.clone())
            }
            None => wanted.map(Path::to_owned),
        };
        if let Some((path, listener)) = before {
            let is_wanted = wanted.as_ref() == Some(&path);
            if is_wanted && handed.is_none() && is_socket(&path) {
                return Ok(Some(Self::new(purpose, path, listener, true, false)));
            }
            supervisor.forget(purpose.kept);
            if !is_wanted {
                remove(&path);
            }
        }
        if let Some((path, listener)) = handed {
            return Ok(Some(Self::new(purpose, path, listener, false, false)));
        }
        let Some(path) = wanted else {
            return Ok(None);
        };
        let listener = bind(purpose, &path)?.into();
        Ok(Some(Self::new(purpose, path, listener, true, true)))
    }

    fn new(
        purpose: &'static Purpose,
        path: PathBuf,
        listener: Listener,
        is_ours: bool,
        is_new: bool,
    ) -> Self {
        Self {
            purpose,
            path,
            listener: Some(listener),
            is_ours,
            is_new,
        }
    }

    /// Has `serve` answer clients until the process ends, and the socket kept for the next daemon.
    ///
    /// # Errors
    /// Those of `serve`.
    pub(super) fn serve(
        &mut self,
        supervisor: &Supervisor,
        serve: impl FnOnce(Listener) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        if self.is_ours {
            supervisor.keep(self.purpose.kept, listener.as_fd());
        }
        serve(listener)?;
        self.is_new = false;
        Ok(())
    }

    pub(super) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Removes the socket, as there will be no next daemon.
    pub(super) fn end(mut self, supervisor: &Supervisor) {
        if self.is_ours {
            supervisor.forget(self.purpose.kept);
            self.is_new = true;
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if self.is_new {
            remove(&self.path);
        }
    }
}

/// A listening unix socket and its path.
fn at_path(descriptor: OwnedFd) -> io::Result<(PathBuf, Listener)> {
    let listener = Listener::try_from(descriptor)?;
    match listener.address()? {
        Some(Address::Unix(path)) => Ok((path, listener)),
        _ => Err(io::Error::other("it is not a unix socket with a path")),
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

/// Removes a socket that a daemon has created.
fn remove(path: &Path) {
    if is_socket(path)
        && let Err(e) = std::fs::remove_file(path)
    {
        tracing::warn!("cannot remove the socket {}: {e}", path.display());
    }
}

fn bind(purpose: &'static Purpose, path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Listen {
        purpose,
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NotASocket(purpose, path.to_owned()));
        }
        Ok(_) if is_listened_at(path).map_err(failed)? => {
            return Err(SocketError::Taken(purpose, path.to_owned()));
        }
        // No process listens there any more.
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(purpose.mode);
    std::fs::set_permissions(path, mode).map_err(failed)?;
    Ok(listener)
}

/// Whether a process listens at a socket, determined without waiting for a busy one to accept.
fn is_listened_at(path: &Path) -> io::Result<bool> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    let connected = rustix::net::connect(&socket, &SocketAddrUnix::new(path)?);
    match connected.map_err(io::Error::from) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_is_replaced_and_what_is_not_ours_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/narfs.sock");
        let first = bind(VOLUME_PLUGIN, &path).unwrap();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let taken = bind(VOLUME_PLUGIN, &path).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(..)), "{taken}");
        // Also when the process is too busy to accept.
        let queue: Vec<_> = std::iter::from_fn(|| is_busy_after_one_more(&path)).collect();
        let taken = bind(VOLUME_PLUGIN, &path).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(..)), "{taken}");
        drop((first, queue));
        drop(bind(VOLUME_PLUGIN, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let said = bind(VOLUME_PLUGIN, &path).unwrap_err().to_string();
        assert!(
            said.contains("is not a socket") && said.contains("narfs.sock"),
            "{said}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let said = bind(VOLUME_PLUGIN, &path.join("x")).unwrap_err();
        assert!(matches!(said, SocketError::Listen { .. }), "{said}");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(
            bind(VOLUME_PLUGIN, &long),
            Err(SocketError::Listen { .. })
        ));
    }

    /// Opens one more connection that waits to be accepted; `None` when the queue is full.
    fn is_busy_after_one_more(path: &Path) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        let socket = socket.unwrap();
        let address = SocketAddrUnix::new(path).unwrap();
        rustix::net::connect(&socket, &address)
            .is_ok()
            .then_some(socket)
    }
}
