//! A connection with a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A connection whose reads and writes fail after a deadline, if it has one.
#[derive(Debug)]
pub struct DeadlineStream<'s> {
    stream: &'s UnixStream,
    deadline: Option<Instant>,
}

impl<'s> DeadlineStream<'s> {
    pub fn new(stream: &'s UnixStream, timeout: Duration) -> Self {
        Self::until(stream, Some(Instant::now() + timeout))
    }

    pub fn until(stream: &'s UnixStream, deadline: Option<Instant>) -> Self {
        Self { stream, deadline }
    }

    /// The stream, with its timeouts set to the remaining time.
    ///
    /// # Errors
    /// The deadline has passed.
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

impl Read for DeadlineStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream()?.read(buffer)
    }
}

impl Write for DeadlineStream<'_> {
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
    fn a_slow_peer_is_cut_off_at_the_deadline() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let trickles = std::thread::spawn(move || {
            while (&theirs).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let began = Instant::now();
        let mut within = DeadlineStream::new(&ours, Duration::from_millis(100));
        // They would take a quarter of an hour.
        within.read_exact(&mut [0; 100_000]).unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(300));
        drop(ours);
        trickles.join().unwrap();
        // Writes time out as well.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut within = DeadlineStream::new(&ours, Duration::from_millis(100));
        within.write_all(&vec![0; 8 << 20]).unwrap_err();
    }
}
