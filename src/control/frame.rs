//! Frames of the control socket.
//!
//! A frame is one byte of kind, four bytes of length (little-endian), and the payload. The client
//! sends its version first (`V`), then a request (`C`). The daemon answers with its own version,
//! any number of frames with data (`D`) or progress (`P`), and finally a report (`R`) or a failure
//! (`F`). Versions, requests, progress, reports and failures are JSON. A connection carries one
//! request; closing it cancels the request. A frame `A` in place of `C` hands over a mount
//! ([`HandOver`](super::HandOver)).
//!
//! A client that sends no version is older than versions, or is `mount.narfs`; it gets an error
//! text (`E`) in place of `F`.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The [`Version`] of the sender.
pub const VERSION: u8 = b'V';
/// A request.
pub const REQUEST: u8 = b'C';
/// A mount that is handed over.
pub const HAND_OVER: u8 = b'A';
/// Bytes of a file or a NAR.
pub const DATA: u8 = b'D';
/// Progress of a request.
pub const PROGRESS: u8 = b'P';
/// The report, which ends the exchange.
pub const REPORT: u8 = b'R';
/// A failure, which ends the exchange.
pub const FAILURE: u8 = b'F';
/// A failure as plain text.
pub const ERROR: u8 = b'E';

/// Version of the protocol. It is incremented when a request or report changes such that an older
/// program would misunderstand it.
const PROTOCOL: u32 = 1;

/// Limit of the length of a frame, in bytes; the largest is the listing of a very large path.
pub const LIMIT: u32 = 1 << 30;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "control.sock";

/// The first frame from either end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub protocol: u32,
    /// Version of the program, for messages.
    pub program: String,
}

impl Version {
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

/// Longest path that the address of a socket has room for, in bytes (unix(7)).
const ADDRESS: usize = 107;

/// Calls `with` with a path of the socket in the directory `state`: its own, or, if that is longer than the
/// address of a socket may be, one through a descriptor of the directory. That is no path where /proc is of
/// another PID namespace than this process.
pub fn at_socket<T>(state: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let socket = state.join(SOCKET);
    if socket.as_os_str().len() <= ADDRESS {
        return with(&socket);
    }
    let directory = std::fs::File::open(state)?;
    if !Path::new("/proc/self").exists() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "its path is longer than the address of a socket may be, and /proc is not that of this process, \
             through which narfs would reach it; mount that of its PID namespace, or use a shorter path",
        ));
    }
    with(Path::new(&format!(
        "/proc/self/fd/{}/{SOCKET}",
        directory.as_raw_fd()
    )))
}

/// Sends a frame.
///
/// # Errors
/// The peer has closed the connection, or does not read in time.
pub fn send(stream: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut header = [kind, 0, 0, 0, 0];
    header[1..].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&header)?;
    stream.write_all(payload)
}

/// Receives the next frame.
///
/// # Errors
/// The connection ended or failed, or the frame is too long.
pub fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut kind = [0; 1];
    stream.read_exact(&mut kind).map_err(ended)?;
    let payload = receive_rest(stream, LIMIT)?;
    let payload = payload
        .ok_or_else(|| io::Error::other("a frame on the control socket exceeds the size limit"))?;
    Ok((kind[0], payload))
}

/// The payload of a frame whose kind is known; `None` if it is longer than `limit`.
pub fn receive_rest(stream: &mut impl Read, limit: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).map_err(ended)?;
    let length = u32::from_le_bytes(length);
    if length > limit {
        return Ok(None);
    }
    let mut payload = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut payload)?;
    if payload.len() < length as usize {
        return Err(ended(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(Some(payload))
}

/// Says what the end of a stream inside a frame means.
fn ended(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ io::ErrorKind::UnexpectedEof => io::Error::new(
            kind,
            "the other process ended before it had said everything",
        ),
        _ => error,
    }
}
