//! What a running request gives before its report.

use std::io;

use crate::fetch::Snapshot;

/// Where a running command puts what is not its report.
pub trait Output {
    /// Takes bytes of a file or a NAR.
    ///
    /// # Errors
    /// Nobody reads them.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes how far a copy is.
    ///
    /// # Errors
    /// Nobody listens any more; the command stops.
    fn progress(&mut self, snapshot: &Snapshot) -> io::Result<()>;
}

/// An output for commands that have none but their report, or where nobody waits for it.
pub struct NoOutput;

impl Output for NoOutput {
    fn data(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn progress(&mut self, _snapshot: &Snapshot) -> io::Result<()> {
        Ok(())
    }
}
