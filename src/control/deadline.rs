//! Connections that are not waited for longer than until a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection that is read and written until a deadline, if there is one.
#[derive(Debug)]
pub struct Within<'s> {
    stream: &'s UnixStream,
    deadline: Option<Instant>,
}

impl<'s> Within<'s> {
    /// A connection that is waited for so long.
    pub fn new(stream: &'s UnixStream, patience: Duration) -> Self {
        Self::until(stream, Some(Instant::now() + patience))
    }

    /// A connection that is waited for until a deadline, or as long as it takes.
    pub fn until(stream: &'s UnixStream, deadline: Option<Instant>) -> Self {
        Self { stream, deadline }
    }

    /// The stream, which waits no longer than is left.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn stream(&self) -> io::Result<&'s UnixStream> {
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.stream.set_write_timeout(Some(left))?;
        }
        Ok(self.stream)
    }
}

impl Read for Within<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream()?.read(buffer)
    }
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_is_not_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let trickles = std::thread::spawn(move || {
            while (&theirs).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let began = Instant::now();
        let mut within = Within::new(&ours, Duration::from_millis(100));
        within.read_exact(&mut [0; 1000]).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(ours);
        trickles.join().unwrap();
        // What is not taken is not waited for either.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut within = Within::new(&ours, Duration::from_millis(100));
        within.write_all(&vec![0; 8 << 20]).unwrap_err();
    }
}
