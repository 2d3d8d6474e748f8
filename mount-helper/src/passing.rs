//! Bytes over a unix socket, with a descriptor that comes along (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Sends bytes, with a descriptor if there is one. Returns how many bytes were sent.
///
/// # Errors
/// The other end is gone, or takes nothing in time.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let parts = [IoSlice::new(bytes)];
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)
    });
    Ok(sent?)
}

/// Receives bytes, and the descriptor that came with them; 0 bytes at the end of the connection.
///
/// # Errors
/// Nothing comes in time, or the connection broke.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // Those that are too many are closed; the last counts.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        let parts = &mut [IoSliceMut::new(buffer)];
        rustix::net::recvmsg(socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let received = match received {
        // Who sent it ended without having read everything.
        Err(Errno::CONNRESET) => return Ok((0, None)),
        received => received?,
    };
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next().or(descriptor);
        }
    }
    Ok((received.bytes, descriptor))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_byte() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        send(ours.as_fd(), b"ab", Some(reader.as_fd())).unwrap();
        drop(reader);
        let mut byte = [0];
        let (length, passed) = receive(theirs.as_fd(), &mut byte).unwrap();
        assert_eq!((length, &byte), (1, b"a"));
        writer.write_all(b"x").unwrap();
        rustix::io::read(passed.unwrap(), &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert!(receive(theirs.as_fd(), &mut byte).unwrap().1.is_none());
        drop(ours);
        assert_eq!(receive(theirs.as_fd(), &mut byte).unwrap().0, 0);
    }
}
