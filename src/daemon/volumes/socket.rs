//! The socket of the volume plugin.
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
use crate::http::{self, Address, Listener};
use crate::supervision::Supervisor;
use crate::supervision::kept::{PLUGIN, PLUGIN_SOCKET};

#[derive(Debug, Error)]
pub enum SocketError {
    #[error(
        "{} is not a socket, so the volume plugin cannot listen there; remove it, or give \
         another path with --volume-plugin",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// Another process uses the socket.
    #[error(
        "another process listens at {}; end it, or give another path with --volume-plugin (none: do \
         without)",
        .0.display()
    )]
    Taken(PathBuf),
    #[error("cannot listen for container engines at {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The descriptor is not a listening unix socket.
    #[error(
        "the descriptor {PLUGIN:?} from the service manager is not usable for the volume plugin; it must be \
         a listening unix socket (ListenStream=/PATH)"
    )]
    Handed(#[source] io::Error),
}

#[derive(Debug)]
pub(in crate::daemon) struct PluginSocket {
    path: PathBuf,
    listener: Option<Listener>,
    /// Created by a daemon, not by a service manager.
    is_ours: bool,
    /// Not yet kept for a next daemon; the socket file is removed on drop.
    is_new: bool,
}

impl PluginSocket {
    /// The socket from the service manager, or the one at `wanted`, where the previous daemon may
    /// have left it.
    ///
    /// # Errors
    /// The socket cannot be created. Only a warning if a mount is `at_stake` that would end with
    /// this daemon.
    pub(in crate::daemon) fn find(
        supervisor: &Supervisor,
        wanted: Option<&Path>,
        at_stake: bool,
    ) -> Result<Option<Self>, SocketError> {
        let found = Self::take_or_make(supervisor, wanted);
        found.or_else(|e| match at_stake {
            true => {
                tracing::error!("{}", chain(&e));
                Ok(None)
            }
            false => Err(e),
        })
    }

    fn take_or_make(
        supervisor: &Supervisor,
        wanted: Option<&Path>,
    ) -> Result<Option<Self>, SocketError> {
        let before = supervisor
            .take(PLUGIN_SOCKET)
            .and_then(|(_, kept)| at_path(kept).ok());
        let handed = supervisor.take(PLUGIN).map(|(_, handed)| at_path(handed));
        let handed = handed.transpose().map_err(SocketError::Handed)?;
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
                return Ok(Some(Self::new(path, listener, true, false)));
            }
            supervisor.forget(PLUGIN_SOCKET);
            if !is_wanted {
                remove(&path);
            }
        }
        if let Some((path, listener)) = handed {
            return Ok(Some(Self::new(path, listener, false, false)));
        }
        let Some(path) = wanted else {
            return Ok(None);
        };
        let listener = bind(&path)?.into();
        Ok(Some(Self::new(path, listener, true, true)))
    }

    fn new(path: PathBuf, listener: Listener, is_ours: bool, is_new: bool) -> Self {
        Self {
            path,
            listener: Some(listener),
            is_ours,
            is_new,
        }
    }

    /// Starts to answer engines, and has the socket kept for the next daemon.
    ///
    /// # Errors
    /// No threads are available.
    pub(in crate::daemon) fn serve(
        &mut self,
        answer: impl Fn(&str, &[u8]) -> (u16, String) + Send + Sync + 'static,
        supervisor: &Supervisor,
    ) -> io::Result<()> {
        let Some(listener) = self.listener.take() else {
            return Ok(());
        };
        if self.is_ours {
            supervisor.keep(PLUGIN_SOCKET, listener.as_fd());
        }
        // It runs until the process ends.
        http::serve(listener, http::calls(answer))?;
        self.is_new = false;
        Ok(())
    }

    pub(in crate::daemon) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Removes the socket, as there will be no next daemon.
    pub(in crate::daemon) fn end(mut self, supervisor: &Supervisor) {
        if self.is_ours {
            supervisor.forget(PLUGIN_SOCKET);
            self.is_new = true;
        }
    }
}

impl Drop for PluginSocket {
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

fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) if is_listened_at(path).map_err(failed)? => {
            return Err(SocketError::Taken(path.to_owned()));
        }
        // No process listens there any more.
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever can create containers has the rights of root.
    let mode = std::fs::Permissions::from_mode(0o600);
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
        let first = bind(&path).unwrap();
        let mode = path.symlink_metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let taken = bind(&path).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(_)), "{taken}");
        // Also when the process is too busy to accept.
        let queue: Vec<_> = std::iter::from_fn(|| is_busy_after_one_more(&path)).collect();
        let taken = bind(&path).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(_)), "{taken}");
        drop((first, queue));
        drop(bind(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let said = bind(&path).unwrap_err().to_string();
        assert!(
            said.contains("is not a socket") && said.contains("narfs.sock"),
            "{said}"
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let said = bind(&path.join("x")).unwrap_err();
        assert!(matches!(said, SocketError::Listen { .. }), "{said}");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(bind(&long), Err(SocketError::Listen { .. })));
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
