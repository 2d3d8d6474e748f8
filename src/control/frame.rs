//! Frames of the control socket, which both of its ends send.
//!
//! A frame is one byte of kind, four of length (little-endian), and the payload. Whoever asks says its
//! version first (`V`), then a request (`C`); the daemon answers with its own version, any number of `D`
//! bytes and `P` progress, and at the end `R` a report or `F` an error. Versions, requests, progress,
//! reports and errors are JSON. One request a connection; who closes it stops the request. A frame
//! `A` in place of `C` hands over a mount ([`HandOver`](super::HandOver)).
//!
//! Who says no version is of the time before there were any, or `mount.narfs`, and gets `E`, an error
//! text, in place of `F`.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What this end is, a [`Version`].
pub const VERSION: u8 = b'V';
/// A request.
pub const REQUEST: u8 = b'C';
/// A mount that is handed over.
pub const HAND_OVER: u8 = b'A';
/// Bytes of a file or a NAR.
pub const DATA: u8 = b'D';
/// How far a request is.
pub const PROGRESS: u8 = b'P';
/// The report, at the end.
pub const REPORT: u8 = b'R';
/// Why the request failed, at the end.
pub const FAILURE: u8 = b'F';
/// The same as a text.
pub const ERROR: u8 = b'E';

/// The protocol that this program speaks. It grows when a request or a report changes so that an older
/// program would misunderstand it.
const PROTOCOL: u32 = 1;

/// Longest frame that is read, in bytes: the listing of a very large path.
pub const LIMIT: u32 = 1 << 30;

/// The name of the socket in the directory of a state.
pub const SOCKET: &str = "control.sock";

/// What each end says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of the protocol.
    pub protocol: u32,
    /// Of the program, for people.
    pub program: String,
}

impl Version {
    /// That of this program.
    pub fn ours() -> Self {
        Self {
            protocol: PROTOCOL,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "narfs {} (protocol {})", self.program, self.protocol)
    }
}

/// The name of a socket must be shorter than 108 bytes, that of a state need not be: the
/// directory is named by its descriptor.
pub fn through_descriptor<T>(
    state: &Path,
    with: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let directory = std::fs::File::open(state)?;
    with(Path::new(&format!(
        "/proc/self/fd/{}/{SOCKET}",
        directory.as_raw_fd()
    )))
}

/// Sends a frame.
///
/// # Errors
/// The other end is gone, or takes nothing in time.
pub fn send(stream: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut header = [kind, 0, 0, 0, 0];
    header[1..].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&header)?;
    stream.write_all(payload)
}

/// The next frame.
///
/// # Errors
/// The connection ended or broke, or the frame is too long.
pub fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut kind = [0; 1];
    stream.read_exact(&mut kind)?;
    let payload = receive_rest(stream, LIMIT)?;
    let payload =
        payload.ok_or_else(|| io::Error::other("a frame of the control socket is too long"))?;
    Ok((kind[0], payload))
}

/// The payload of a frame whose kind is known; `None` if it is longer than `limit`.
pub fn receive_rest(stream: &mut impl Read, limit: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > limit {
        return Ok(None);
    }
    let mut payload = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut payload)?;
    if payload.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(payload))
}
