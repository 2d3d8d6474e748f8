//! Messages between a daemon and its supervisor, in the format of sd_notify(3), with a descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use narfs_mounting::passing;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Prefix of the line that tells the keeper the executable of the next daemon.
pub const REPLACE: &str = "X_NARFS_REPLACE=";
/// Prefix of the line that tells a daemon how many descriptors follow.
const KEPT: &str = "X_NARFS_KEPT=";
/// Limit of the length of a message, in bytes; error texts may be long.
const LIMIT: usize = 64 << 10;

pub struct Message<'m> {
    text: &'m str,
    descriptor: Option<BorrowedFd<'m>>,
}

impl<'m> Message<'m> {
    pub fn new(text: &'m str, descriptor: Option<BorrowedFd<'m>>) -> Self {
        Self { text, descriptor }
    }

    /// Sends the message in one piece.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let text = self.text.as_bytes();
        let text = &text[..text.len().min(LIMIT)];
        passing::send(socket, text, self.descriptor).map(drop)
    }
}

#[derive(Debug)]
pub struct Received {
    pub text: String,
    pub descriptor: Option<OwnedFd>,
}

impl Received {
    /// The value of a line `NAME=VALUE`; `name` includes the `=`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|l| l.strip_prefix(name))
    }
}

/// Receives the next message; `None` at the end of the connection. Without a `timeout` it waits
/// indefinitely.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], or the connection failed.
pub fn receive(socket: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Option<Received>> {
    if let Some(timeout) = timeout {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let mut buffer = vec![0; LIMIT];
    let (length, descriptor) = passing::receive(socket, &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    buffer.truncate(length);
    Ok(Some(Received {
        text: String::from_utf8_lossy(&buffer).into_owned(),
        descriptor,
    }))
}

/// Sends a daemon the descriptors kept for it.
pub fn send_kept<'k>(
    socket: BorrowedFd<'_>,
    kept: impl ExactSizeIterator<Item = (&'k String, &'k OwnedFd)>,
) -> io::Result<()> {
    Message::new(&format!("{KEPT}{}", kept.len()), None).send(socket)?;
    for (name, descriptor) in kept {
        let text = format!("FDNAME={name}");
        Message::new(&text, Some(descriptor.as_fd())).send(socket)?;
    }
    Ok(())
}

/// Receives the descriptors sent by [`send_kept`].
pub fn receive_kept(socket: BorrowedFd<'_>) -> io::Result<Vec<(String, OwnedFd)>> {
    let next = || -> io::Result<Received> {
        receive(socket, None)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    };
    let first = next()?;
    let count = first.value(KEPT).and_then(|n| n.parse::<usize>().ok());
    let mut kept = Vec::new();
    for _ in 0..count.unwrap_or(0) {
        let message = next()?;
        let name = message.value("FDNAME=").unwrap_or_default().to_owned();
        kept.extend(message.descriptor.map(|d| (name, d)));
    }
    Ok(kept)
}

/// A connected pair of sockets for a keeper and its daemon.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Connects to the socket of a service manager, named as in `NOTIFY_SOCKET`; a leading `@` means an
/// abstract socket.
pub fn connect(name: &str) -> io::Result<OwnedFd> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(name)?,
    };
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_arrives_with_its_names() {
        let (ours, theirs) = pair().unwrap();
        let kept: std::collections::BTreeMap<String, OwnedFd> = ["a", "b"]
            .map(|name| (name.to_owned(), std::io::pipe().unwrap().0.into()))
            .into();
        send_kept(ours.as_fd(), kept.iter()).unwrap();
        let received = receive_kept(theirs.as_fd()).unwrap();
        let names: Vec<_> = received.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let number = |d: &OwnedFd| rustix::fs::fstat(d).unwrap().st_ino;
        assert_eq!(number(&received[1].1), number(&kept["b"]));
        let none = receive(theirs.as_fd(), Some(Duration::ZERO)).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::TimedOut);
        drop(ours);
        assert!(receive(theirs.as_fd(), None).unwrap().is_none());
        assert!(receive_kept(theirs.as_fd()).is_err());
    }

    #[test]
    fn a_message_has_lines_and_may_have_no_descriptor() {
        let (ours, theirs) = pair().unwrap();
        let text = "FDSTORE=1\nFDNAME=fuse-7.45";
        Message::new(text, None).send(ours.as_fd()).unwrap();
        let message = receive(theirs.as_fd(), None).unwrap().unwrap();
        assert_eq!(message.value("FDNAME="), Some("fuse-7.45"));
        assert_eq!(message.value("FDSTORE="), Some("1"));
        assert!(message.value("READY=").is_none() && message.descriptor.is_none());
    }
}
