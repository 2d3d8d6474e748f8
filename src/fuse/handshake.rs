//! The start of a session: from the kernel's INIT, or from the agreement of a previous daemon.
//!
//! A connection belongs to the holder of its `/dev/fuse` descriptor. The kernel sends INIT only
//! once, and a fuser session begins with it. fuser therefore always receives it through a socket:
//! at first the kernel's own INIT, which is recorded as an [`Agreement`]; later one generated from
//! the agreement. Then the descriptor replaces the socket. Invariant: a daemon that takes over a
//! connection is offered exactly what the first daemon and the kernel agreed on.
//!
//! Layouts are those of `include/uapi/linux/fuse.h`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::file_handles::FileHandles;
use crate::fs::Numbers;

/// FUSE_INIT.
const INIT: u32 = 26;
/// Major version of the protocol.
const MAJOR: u32 = 7;
/// Size of `struct fuse_in_header` and `fuse_out_header`.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
/// Size of `struct fuse_init_in`; 16 before 7.36.
const INIT_IN: usize = 64;
/// FUSE_INIT_EXT: there are 32 more flags.
const SECOND_HALF: u64 = 1 << 30;
/// Device number of /dev/fuse (MISC_MAJOR, FUSE_MINOR).
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// Smallest buffer that the kernel accepts for a read (FUSE_MIN_READ_BUFFER).
const READ_BUFFER: usize = 8192;
/// Buffer size for any request: the kernel refuses a read with a buffer smaller than the largest
/// write that fuser announces (its `MAX_WRITE_SIZE`).
const LONGEST_REQUEST: usize = (16 << 20) + 4096;
/// FUSE_EXPORT_SUPPORT: files can be opened by handle.
const EXPORT_SUPPORT: u64 = 1 << 4;
/// Flag of an agreement for [`Numbers::Short`], which older daemons ignore. It is not a FUSE flag,
/// and is never passed to the kernel or to fuser.
const SHORT_NUMBERS: u64 = 1 << 63;
/// FUSE_NOTIFY_RESEND: requests that were read and not answered are to be sent again. Since 7.40.
const NOTIFY_RESEND: i32 = 7;

/// What the kernel and the first daemon of a connection agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Device number of the superblock (0:NUMBER), as in mountinfo.
    pub superblock: u32,
    /// Minor version of the kernel's protocol.
    minor: u32,
    max_readahead: u32,
    /// Flags offered by the kernel and accepted by the daemon; also [`SHORT_NUMBERS`].
    flags: u64,
}

/// As one word: `7.45-20000-1234abcd-98`.
impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            superblock,
            minor,
            max_readahead,
            flags,
        } = self;
        write!(
            f,
            "{MAJOR}.{minor}-{max_readahead:x}-{flags:x}-{superblock}"
        )
    }
}

impl FromStr for Agreement {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let read = || {
            let mut parts = text.split('-');
            let version = parts.next()?.strip_prefix("7.")?;
            let agreement = Self {
                minor: version.parse().ok()?,
                max_readahead: u32::from_str_radix(parts.next()?, 16).ok()?,
                flags: u64::from_str_radix(parts.next()?, 16).ok()?,
                superblock: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(agreement)
        };
        read().ok_or_else(|| invalid(format!("{text:?} is not a valid FUSE agreement")))
    }
}

impl Agreement {
    /// From the kernel's INIT and its reply.
    fn of(request: &[u8], reply: &[u8], superblock: u32) -> io::Result<Self> {
        let init = request.get(IN_HEADER..).unwrap_or_default();
        let given = reply.get(OUT_HEADER..).unwrap_or_default();
        let number = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let read = || {
            let half = |n: u32| u64::from(n) << 32;
            let offered = u64::from(number(init, 12)?);
            let offered = offered | number(init, 16).map_or(0, half);
            let wanted = u64::from(number(given, 12)?);
            // After flags: max_background and congestion_threshold (2 each), max_write, time_gran
            // (4 each), max_pages, map_alignment (2 each).
            let wanted = wanted | number(given, 32).map_or(0, half);
            Some(Self {
                superblock,
                minor: number(init, 4)?,
                max_readahead: number(init, 8)?,
                flags: offered & (wanted | SECOND_HALF) & !SHORT_NUMBERS | SHORT_NUMBERS,
            })
        };
        read().ok_or_else(|| invalid("the kernel's INIT or its reply is too short".to_owned()))
    }

    /// An INIT that offers what was agreed on.
    fn request(&self) -> Vec<u8> {
        let length = if self.flags & SECOND_HALF == 0 {
            IN_HEADER + 16
        } else {
            IN_HEADER + INIT_IN
        };
        let mut request = Vec::with_capacity(length);
        let flags = self.flags & !SHORT_NUMBERS;
        let (low, high) = (flags as u32, (flags >> 32) as u32);
        request.extend((length as u32).to_le_bytes());
        request.extend(INIT.to_le_bytes());
        request.extend(1u64.to_le_bytes());
        request.resize(IN_HEADER, 0);
        for number in [MAJOR, self.minor, self.max_readahead, low, high] {
            request.extend(number.to_le_bytes());
        }
        request.resize(length, 0);
        request
    }

    /// The kind of visible inode numbers of the connection.
    pub fn numbers(&self) -> Numbers {
        if self.flags & SHORT_NUMBERS == 0 {
            Numbers::Addresses
        } else {
            Numbers::Short
        }
    }

    /// Whether files can be opened by handle on the connection.
    pub fn file_handles(&self) -> FileHandles {
        if self.flags & EXPORT_SUPPORT == 0 {
            FileHandles::Refused
        } else {
            FileHandles::Given
        }
    }

    /// Whether the kernel resends requests that a previous daemon has not answered.
    fn resends(&self) -> bool {
        self.minor >= 40
    }
}

/// The origin of the connection of a session.
pub(super) enum Origin<'a> {
    /// A new connection, with this superblock.
    New(u32),
    /// A connection of a previous daemon.
    After(&'a Agreement),
}

impl Origin<'_> {
    /// The kind of visible inode numbers of the connection.
    pub(super) fn numbers(&self) -> Numbers {
        match self {
            Self::New(_) => Numbers::Short,
            Self::After(agreement) => agreement.numbers(),
        }
    }
}

/// Starts a session of `adapter` on a connection. It serves requests once it is spawned.
///
/// # Errors
/// The handshake of the kernel and fuser failed, or the connection is gone.
pub(super) fn begin<F: fuser::Filesystem>(
    adapter: F,
    device: BorrowedFd<'_>,
    beginning: &Origin<'_>,
    config: fuser::Config,
) -> io::Result<(fuser::Session<F>, Agreement)> {
    let request = match beginning {
        Origin::After(agreement) => agreement.request(),
        Origin::New(_) => {
            let mut request = vec![0; READ_BUFFER];
            let length = rustix::io::retry_on_intr(|| rustix::io::read(device, &mut request))?;
            request.truncate(length);
            request
        }
    };
    let (ours, fusers) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&ours, &request, SendFlags::NOSIGNAL)?;
    let place = fusers.as_raw_fd();
    let session = fuser::Session::from_fd(adapter, fusers, fuser::SessionACL::All, config)?;
    let mut reply = [0; 256];
    let length = rustix::io::read(&ours, &mut reply)?;
    let agreement = match *beginning {
        Origin::After(agreement) => *agreement,
        Origin::New(superblock) => {
            let reply = &reply[..length];
            rustix::io::write(device, reply)?;
            Agreement::of(&request, reply, superblock)?
        }
    };
    replace_descriptor(device, place)?;
    if matches!(beginning, Origin::After(_)) && agreement.resends() {
        resend_requests(device)?;
    }
    Ok((session, agreement))
}

/// Makes the kernel resend requests that were read and not answered.
fn resend_requests(device: BorrowedFd<'_>) -> io::Result<()> {
    let [length, code] = [
        (OUT_HEADER as i32).to_le_bytes(),
        NOTIFY_RESEND.to_le_bytes(),
    ];
    let notice = [length, code, [0; 4], [0; 4]].concat();
    rustix::io::write(device, &notice)?;
    Ok(())
}

/// Answers with EIO the requests made by the threads of a process that served the connection itself
/// and is exiting. They wait for their own process, which no signal ends: without replies it would
/// never be gone. Requests of other processes remain for the next daemon.
///
/// # Errors
/// The connection is gone.
pub fn release(device: &OwnedFd, threads: &[u32]) -> io::Result<()> {
    resend_requests(device.as_fd())?;
    let mut request = vec![0; LONGEST_REQUEST];
    while is_readable(device) {
        let length = match rustix::io::read(device, &mut request) {
            // The request was interrupted, or another reader was faster.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT | rustix::io::Errno::AGAIN) => {
                continue;
            }
            length => length?,
        };
        // len, opcode (4 each), unique, nodeid (8 each), uid, gid, pid (4 each).
        let (Some(unique), Some(pid)) = (request.get(8..16), request.get(32..36)) else {
            continue;
        };
        let pid = pid.try_into().map(u32::from_le_bytes);
        if length >= IN_HEADER && pid.is_ok_and(|pid| threads.contains(&pid)) {
            let length = (OUT_HEADER as u32).to_le_bytes();
            let answer = [&length, &(-libc::EIO).to_le_bytes()[..], unique].concat();
            // The requester may have been answered already.
            let _ = rustix::io::write(device, &answer);
        }
    }
    Ok(())
}

/// Makes the descriptor number `place` refer to `device`.
fn replace_descriptor(device: BorrowedFd<'_>, place: i32) -> io::Result<()> {
    // SAFETY: both are open descriptors; the replaced one belongs to a session that reads from it
    // only after it is spawned, and that expects the connection there.
    let replace_descriptor = unsafe { libc::dup3(device.as_raw_fd(), place, libc::O_CLOEXEC) };
    if replace_descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Checks that a descriptor is a connection with a pending INIT: a read of another descriptor might
/// block for ever, or take a request that is not for us.
///
/// # Errors
/// It is not.
pub(super) fn has_pending_init(device: &OwnedFd) -> io::Result<()> {
    let status = rustix::fs::fstat(device)?;
    let number = (
        rustix::fs::major(status.st_rdev),
        rustix::fs::minor(status.st_rdev),
    );
    let is_device = rustix::fs::FileType::from_raw_mode(status.st_mode).is_char_device();
    if !is_device || number != FUSE_DEVICE {
        return Err(invalid("the descriptor is not /dev/fuse".to_owned()));
    }
    if is_readable(device) {
        Ok(())
    } else {
        Err(invalid("nothing is mounted with it".to_owned()))
    }
}

/// Whether the file system of a connection is still mounted.
pub fn is_connected(device: &OwnedFd) -> bool {
    poll_now(device).is_some_and(|events| !events.contains(PollFlags::ERR))
}

fn is_readable(device: &OwnedFd) -> bool {
    poll_now(device).is_some_and(|events| events == PollFlags::IN)
}

fn poll_now(device: &OwnedFd) -> Option<PollFlags> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)];
    let answered = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)));
    // A connection that is gone is readable, and the read fails.
    answered
        .ok()
        .map(|_| fds[0].revents() & (PollFlags::IN | PollFlags::ERR))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As written by a daemon without short numbers.
    const AGREEMENT: Agreement = Agreement {
        superblock: 98,
        minor: 45,
        max_readahead: 0x20000,
        flags: 0x12_4000_0001,
    };

    #[test]
    fn an_agreement_is_written_as_a_word_and_read_again() {
        let word = AGREEMENT.to_string();
        assert_eq!(word, "7.45-20000-1240000001-98");
        assert_eq!(word.parse::<Agreement>().unwrap(), AGREEMENT);
        assert_eq!(AGREEMENT.numbers(), Numbers::Addresses);
        for bad in [
            "",
            "7.45",
            "8.1-1-1",
            "7.45-1",
            "7.45-1-1",
            "7.45-1-1-1-1",
            "7.x-1-1-1",
            "7.4-1-1ffffffffffffffff-1",
        ] {
            assert!(bad.parse::<Agreement>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_both_sides_want_is_offered_again() {
        let request = AGREEMENT.request();
        assert_eq!(request.len(), IN_HEADER + INIT_IN);
        // The reply accepts one flag of the lower half that was offered, one that was not, and one
        // of the upper half.
        let mut reply = vec![0; OUT_HEADER];
        for number in [7, 45, 0x20000, 3u32, 0, 0, 0, 0, 2] {
            reply.extend(number.to_le_bytes());
        }
        let agreed = Agreement::of(&request, &reply, 98).unwrap();
        assert_eq!(agreed.flags, 0x2_4000_0001 | SHORT_NUMBERS);
        // Neither the kernel nor fuser sees it.
        assert_eq!(agreed.request()[52..60], [1, 0, 0, 0x40, 2, 0, 0, 0]);
        assert_eq!((agreed.minor, agreed.numbers()), (45, Numbers::Short));
        assert!(Agreement::of(&request, &reply[..20], 98).is_err());
    }

    #[test]
    fn an_old_kernels_init_is_short() {
        let old = Agreement {
            flags: 1,
            minor: 31,
            ..AGREEMENT
        };
        let request = old.request();
        assert_eq!(request.len(), IN_HEADER + 16);
        assert!(!old.resends() && AGREEMENT.resends());
        let mut reply = vec![0; OUT_HEADER];
        for number in [7, 31, 0x20000, 1u32] {
            reply.extend(number.to_le_bytes());
        }
        let agreed = Agreement::of(&request, &reply, 98).unwrap();
        let flags = old.flags | SHORT_NUMBERS;
        assert_eq!(agreed, Agreement { flags, ..old });
    }
}
