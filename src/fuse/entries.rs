//! Replies with entries: the inode number is the address, and the attributes have the visible
//! number.
//!
//! FUSE has two fields for these, and fuser fills both with the same number. LOOKUP and READDIRPLUS
//! are therefore answered here, directly on the connection. Invariant: fuser still replies to the
//! same request afterwards. The kernel rejects that reply, since request numbers are not reused; if
//! it has rejected ours, fuser's reply ends the request with EIO, so that no process waits for
//! ever.
//!
//! Layouts are those of `include/uapi/linux/fuse.h`.

use std::os::fd::OwnedFd;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, ReplyDirectoryPlus, ReplyEntry, RequestId};

use super::reply::{attr, validity};
use crate::fs::{Attributes, Entry, Kind, Numbers};

/// Size of `struct fuse_out_header`.
const HEADER: usize = 16;
/// Alignment of names in a listing.
const ALIGNMENT: usize = 8;

/// A connection, for replies with entries.
#[derive(Debug)]
pub(super) struct Entries {
    pub(super) device: OwnedFd,
    pub(super) numbers: Numbers,
}

impl Entries {
    /// Replies to a LOOKUP.
    pub(super) fn found(&self, request: RequestId, found: &Attributes, reply: ReplyEntry) {
        let mut answer = begin();
        self.entry(&mut answer, found);
        self.send(request, answer);
        reply.error(Errno::EIO);
    }

    /// Replies to a READDIRPLUS.
    pub(super) fn listed(&self, request: RequestId, listing: Listing, reply: ReplyDirectoryPlus) {
        if listing.0.len() == HEADER {
            return reply.ok();
        }
        self.send(request, listing.0);
        reply.error(Errno::EIO);
    }

    /// `struct fuse_entry_out`
    fn entry(&self, out: &mut Vec<u8>, found: &Attributes) {
        // The inode number may change until the kind is settled.
        let valid = validity(found);
        let generation = 0;
        for number in [found.inode.0, generation, valid.as_secs(), valid.as_secs()] {
            out.extend(number.to_le_bytes());
        }
        out.extend([0; 8]);
        self.attributes(out, found);
    }

    /// `struct fuse_attr`
    fn attributes(&self, out: &mut Vec<u8>, found: &Attributes) {
        let attr = attr(found, self.numbers);
        let time = found.time.duration_since(UNIX_EPOCH);
        let time = time.unwrap_or(Duration::ZERO);
        for number in [attr.ino.0, attr.size, attr.blocks] {
            out.extend(number.to_le_bytes());
        }
        for _ in 0..3 {
            out.extend(time.as_secs().to_le_bytes());
        }
        for _ in 0..3 {
            out.extend(time.subsec_nanos().to_le_bytes());
        }
        let mode = kind_bits(found.kind) | u32::from(attr.perm);
        for number in [
            mode,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.rdev,
            attr.blksize,
            0,
        ] {
            out.extend(number.to_le_bytes());
        }
    }

    fn send(&self, request: RequestId, mut answer: Vec<u8>) {
        let length = answer.len() as u32;
        answer[..4].copy_from_slice(&length.to_le_bytes());
        answer[8..HEADER].copy_from_slice(&request.0.to_le_bytes());
        if let Err(e) = rustix::io::write(&self.device, &answer) {
            tracing::debug!("the kernel rejected a reply: {e}");
        }
    }
}

/// The beginning of a successful reply; length and request are filled in later.
fn begin() -> Vec<u8> {
    let mut answer = Vec::with_capacity(512);
    answer.resize(HEADER, 0);
    answer
}

/// The file type bits of the mode.
fn kind_bits(kind: Kind) -> u32 {
    match kind {
        Kind::Directory => libc::S_IFDIR,
        Kind::File => libc::S_IFREG,
        Kind::Link => libc::S_IFLNK,
        Kind::Pipe => libc::S_IFIFO,
    }
}

/// Entries of a directory, in FUSE's encoding.
pub(super) struct Listing(Vec<u8>);

impl Listing {
    pub(super) fn new() -> Self {
        Self(begin())
    }

    /// `struct fuse_direntplus`
    pub(super) fn add(&mut self, entries: &Entries, entry: &Entry) {
        let out = &mut self.0;
        entries.entry(out, &entry.attributes);
        let shown = entries.numbers.shown(&entry.attributes);
        for number in [shown, entry.next] {
            out.extend(number.to_le_bytes());
        }
        // A name has at most 255 bytes.
        let length = entry.name.len() as u32;
        for number in [length, kind_bits(entry.attributes.kind) >> 12] {
            out.extend(number.to_le_bytes());
        }
        out.extend(&entry.name);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Inode;
    use crate::store::PathOrdinal;
    use std::time::SystemTime;

    #[test]
    fn an_entry_has_its_address_and_what_stat_shows() {
        let inode = Inode::node(PathOrdinal(5), 3);
        let attributes = Attributes {
            inode,
            in_store: inode,
            kind: Kind::Link,
            mode: 0o777,
            size: 9,
            links: 1,
            time: SystemTime::UNIX_EPOCH + Duration::new(1, 2),
            settled: true,
        };
        let (device, other) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let numbers = Numbers::Short;
        let entries = Entries { device, numbers };
        let mut listing = Listing::new();
        listing.add(
            &entries,
            &Entry {
                name: b"name-of-11b".to_vec(),
                next: 7,
                attributes,
            },
        );
        entries.send(RequestId(77), listing.0);
        let mut got = [0; 512];
        let length = rustix::io::read(&other, &mut got).unwrap();
        assert_eq!(length, 16 + 128 + 24 + 16);
        let word = |at: usize| u64::from_le_bytes(got[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_le_bytes(got[at..at + 4].try_into().unwrap());
        // struct fuse_out_header
        assert_eq!((half(0), half(4), word(8)), (length as u32, 0, 77));
        // struct fuse_entry_out
        assert_eq!((word(16), word(24), word(32)), (5 << 24 | 3, 0, 1 << 30));
        // struct fuse_attr
        let shown = numbers.shown(&attributes);
        assert_eq!((word(56), word(64), word(72)), (shown, 9, 1));
        assert_eq!((word(80), half(104), half(108)), (1, 2, 2));
        assert_eq!((half(116), half(120)), (0o120_777, 1));
        // struct fuse_dirent
        assert_eq!((word(144), word(152)), (shown, 7));
        assert_eq!((half(160), half(164)), (11, 10));
        assert_eq!(&got[168..length], b"name-of-11b\0\0\0\0\0");
    }
}
