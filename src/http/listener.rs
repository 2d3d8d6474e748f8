//! Listening sockets and their addresses.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::net::{AddressFamily, SocketType, sockopt};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::stream::Stream;

/// Prefix of the address of a unix socket.
const UNIX: &str = "unix:";

/// An address to listen at: `127.0.0.1:9464`, `[::1]:9464` or `unix:/PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// An IP address and a port; port 0 for any free one.
    Tcp(SocketAddr),
    /// An absolute path. Access is controlled by its directory; the socket itself is open to all
    /// users.
    Unix(PathBuf),
}

#[derive(Debug, Error)]
#[error("{text:?} is not an address to listen at{why}; give {example}")]
pub struct AddressError {
    text: String,
    why: &'static str,
    example: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let example = "one such as 127.0.0.1:9464, [::1]:9464 or unix:/run/narfs/http.sock";
        let wrong = |why, example: String| AddressError {
            text: text.to_owned(),
            why,
            example,
        };
        if let Some(path) = text.strip_prefix(UNIX) {
            return match Path::new(path) {
                path if path.is_absolute() => Ok(Self::Unix(path.to_owned())),
                _ => Err(wrong(" (its path is not absolute)", example.to_owned())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if port.parse::<u16>().is_ok() {
            // The interface determines who can connect, so it has no default.
            let example =
                format!("127.0.0.1:{port} for this machine, 0.0.0.0:{port} for everybody");
            return Err(wrong(" (it does not say to whom)", example));
        }
        Err(wrong("", example.to_owned()))
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Address {
    /// Whether a socket that listens at `actual` satisfies this address.
    pub fn is_met_by(&self, actual: &Self) -> bool {
        match (self, actual) {
            (Self::Tcp(wanted), Self::Tcp(actual)) => {
                wanted.ip() == actual.ip() && [0, actual.port()].contains(&wanted.port())
            }
            _ => self == actual,
        }
    }
}

#[derive(Debug)]
pub struct Listener(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Socket::Tcp(listener))
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self(Socket::Unix(listener))
    }
}

impl TryFrom<OwnedFd> for Listener {
    type Error = io::Error;

    /// Takes a descriptor passed by another process.
    fn try_from(descriptor: OwnedFd) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let kind = sockopt::socket_type(&descriptor);
        if kind.map_err(|_| wrong("it is not a socket"))? != SocketType::STREAM {
            return Err(wrong("it is not a stream socket"));
        }
        if !sockopt::socket_acceptconn(&descriptor)? {
            return Err(wrong(
                "it is a socket that does not listen (the unit needs Accept=no)",
            ));
        }
        match sockopt::socket_domain(&descriptor)? {
            AddressFamily::INET | AddressFamily::INET6 => Ok(TcpListener::from(descriptor).into()),
            AddressFamily::UNIX => Ok(UnixListener::from(descriptor).into()),
            _ => Err(wrong("it is neither a TCP nor a unix socket")),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Listens at `address`. A unix socket at which no process listens is replaced.
    ///
    /// # Errors
    /// Another process listens there, or this process lacks permission.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Ok(TcpListener::bind(address)?.into()),
            Address::Unix(path) => {
                if is_stale(path) {
                    std::fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
                Ok(listener.into())
            }
        }
    }

    /// The address; `None` for a unix socket without a path.
    ///
    /// # Errors
    /// The system does not report it.
    pub fn address(&self) -> io::Result<Option<Address>> {
        Ok(match &self.0 {
            Socket::Tcp(listener) => Some(Address::Tcp(listener.local_addr()?)),
            Socket::Unix(listener) => {
                let address = listener.local_addr()?;
                address.as_pathname().map(|path| Address::Unix(path.into()))
            }
        })
    }

    /// The socket itself, if it is a unix socket.
    pub fn into_unix(self) -> Option<UnixListener> {
        match self.0 {
            Socket::Unix(listener) => Some(listener),
            Socket::Tcp(_) => None,
        }
    }

    /// Registers the socket with the runtime of this thread.
    pub(super) fn into_incoming(self) -> io::Result<Incoming> {
        Ok(match self.0 {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Incoming::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Socket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Incoming::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        })
    }
}

/// Whether a path is a socket at which no process listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |e: io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

/// A [`Listener`] registered with a runtime.
pub(super) enum Incoming {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Incoming {
    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Responses are written in one piece; Nagle's algorithm would only delay them.
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["127.0.0.1:9464", "[::1]:9464", "0.0.0.0:0", "unix:/run/x"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
    }

    #[test]
    fn what_does_not_say_to_whom_it_is_open_is_explained() {
        for text in [":9464", "9464"] {
            let said = text.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains("127.0.0.1:9464 for this machine"), "{said}");
        }
        for text in [
            "",
            "localhost:9464",
            "127.0.0.1",
            "unix:x",
            "/run/x",
            ":99999",
        ] {
            let said = text.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains("[::1]:9464 or unix:/"), "{said}");
        }
    }

    #[test]
    fn any_free_port_is_met_by_each() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        let actual = address("127.0.0.1:9464");
        assert!(address("127.0.0.1:0").is_met_by(&actual));
        assert!(actual.is_met_by(&actual));
        for other in ["127.0.0.1:9465", "127.0.0.2:0", "[::1]:9464", "unix:/x"] {
            assert!(!address(other).is_met_by(&actual), "{other}");
        }
    }

    #[test]
    fn a_descriptor_must_be_a_listening_socket() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listening.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(at).unwrap();
        let listener = Listener::try_from(OwnedFd::from(listening)).unwrap();
        assert_eq!(listener.address().unwrap(), Some(Address::Tcp(at)));
        let refused = |d: OwnedFd| Listener::try_from(d).unwrap_err().to_string();
        assert!(refused(connected.into()).contains("does not listen"));
        assert!(refused(std::io::pipe().unwrap().0.into()).contains("not a socket"));
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(refused(datagrams.into()).contains("not a stream socket"));
    }

    #[test]
    fn a_unix_socket_that_was_left_behind_is_replaced_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let address = Address::Unix(path.clone());
        let listener = Listener::bind(&address).unwrap();
        assert_eq!(listener.address().unwrap(), Some(address.clone()));
        let taken = Listener::bind(&address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        drop(Listener::bind(&address).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        Listener::bind(&address).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }
}
