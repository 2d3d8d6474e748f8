//! Output of a request before its report.

use std::io;

use crate::fetch::Snapshot;

/// Receives what a request produces before its report.
pub trait Output {
    /// Takes bytes of a file or a NAR.
    ///
    /// # Errors
    /// The requester has closed the connection.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes the progress of a copy.
    ///
    /// # Errors
    /// The requester has closed the connection; the request stops.
    fn progress(&mut self, snapshot: &Snapshot) -> io::Result<()>;
}

/// Discards output, for requests without any, or when no requester waits for it.
pub struct NoOutput;

impl Output for NoOutput {
    fn data(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn progress(&mut self, _snapshot: &Snapshot) -> io::Result<()> {
        Ok(())
    }
}
