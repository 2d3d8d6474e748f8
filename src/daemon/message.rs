//! Messages between a daemon and its supervisor: the words of sd_notify(3), with a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Begins the line that tells the keeper which program is to go on.
pub(super) const REPLACE: &str = "X_NARFS_REPLACE=";
/// Begins the line that tells a daemon how many descriptors follow.
const KEPT: &str = "X_NARFS_KEPT=";
/// Longest message, in bytes; a reason may be long.
const LIMIT: usize = 64 << 10;

/// What is sent.
pub(super) struct Message<'m> {
    text: &'m str,
    descriptor: Option<BorrowedFd<'m>>,
}

impl<'m> Message<'m> {
    pub(super) fn new(text: &'m str, descriptor: Option<BorrowedFd<'m>>) -> Self {
        Self { text, descriptor }
    }

    /// Sends it whole.
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = self.descriptor.as_slice();
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let text = self.text.as_bytes();
        let text = &text[..text.len().min(LIMIT)];
        let parts = [IoSlice::new(text)];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }
}

/// What was received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) text: String,
    pub(super) descriptor: Option<OwnedFd>,
}

impl Received {
    /// The value of a line `NAME=VALUE`; `name` has the `=`.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|l| l.strip_prefix(name))
    }
}

/// The next byte of a stream, with the descriptor that came with it; `None` at its end.
pub(super) fn receive_byte(socket: BorrowedFd<'_>) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    let mut byte = [0];
    let (length, descriptor) = receive_into(socket, &mut byte)?;
    Ok((length > 0).then_some((byte[0], descriptor)))
}

/// The next message, if one comes within `patience`, or ever; `None` at the end of the
/// connection.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`], or the connection broke.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    patience: Option<Duration>,
) -> io::Result<Option<Received>> {
    if let Some(patience) = patience {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut asked, Some(&patience)))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let mut buffer = vec![0; LIMIT];
    let (length, descriptor) = receive_into(socket, &mut buffer)?;
    if length == 0 {
        return Ok(None);
    }
    buffer.truncate(length);
    Ok(Some(Received {
        text: String::from_utf8_lossy(&buffer).into_owned(),
        descriptor,
    }))
}

/// Receives bytes, 0 at the end of the connection, and a descriptor.
fn receive_into(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let received = rustix::net::recvmsg(socket, &mut parts, &mut ancillary, flags);
        match received.map_err(io::Error::from) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Who sent it ended without having read everything.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok((0, None)),
            received => break received?,
        }
    };
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next().or(descriptor);
        }
    }
    Ok((received.bytes, descriptor))
}

/// Sends a daemon what is kept for it.
pub(super) fn send_kept<'k>(
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

/// Receives what [`send_kept`] sent.
pub(super) fn receive_kept(socket: BorrowedFd<'_>) -> io::Result<Vec<(String, OwnedFd)>> {
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

/// A pair of sockets for a keeper and its daemon.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// The socket of a service manager, by the name in `NOTIFY_SOCKET`; `@` begins an abstract one.
pub(super) fn connect(name: &str) -> io::Result<OwnedFd> {
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
