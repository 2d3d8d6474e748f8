//! Writing a NAR as a stream.
//!
//! Owns the output buffer and the order of calls. Invariant: whatever sequence of calls succeeds up
//! to [`Writer::finish`] has produced an archive that [`super::Reader`] accepts; every other
//! sequence fails.

use std::io::Write;

use super::{MAGIC, MAX_DEPTH, NarDefect, NarError, check_entry_name, check_order, check_target};

/// Size of the output buffer in bytes; contents that are larger go around it.
const BUFFER_SIZE: usize = 64 * 1024;

/// What the writer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A node.
    Node,
    /// An entry, or the end of the directory.
    Directory,
    /// So many bytes of contents, with so many bytes of padding after them.
    Contents { remaining: u64, padding: usize },
    /// Nothing: the archive is complete.
    End,
    /// Nothing: an earlier call failed.
    Failed,
}

impl State {
    fn describe(self) -> &'static str {
        match self {
            Self::Node => "where a node is due",
            Self::Directory => "in a directory",
            Self::Contents { .. } => "in the contents of a file",
            Self::End => "after the end of the archive",
            Self::Failed => "after an error",
        }
    }
}

/// Writes a NAR to a stream.
///
/// The root comes first: one of [`directory`](Self::directory), [`symlink`](Self::symlink) or
/// [`regular`](Self::regular). In a directory each [`entry`](Self::entry) is followed by its node,
/// until [`end_directory`](Self::end_directory).
pub struct Writer<W> {
    inner: W,
    buffer: Vec<u8>,
    position: u64,
    state: State,
    /// The directories that are open, each with the name last written in it.
    open: Vec<Option<Vec<u8>>>,
}

impl<W: Write> Writer<W> {
    /// Writes an archive that begins at the next byte of `inner`.
    pub fn new(inner: W) -> Self {
        let mut writer = Self {
            inner,
            buffer: Vec::with_capacity(BUFFER_SIZE),
            position: 0,
            state: State::Node,
            open: Vec::new(),
        };
        writer.string(MAGIC);
        writer
    }

    /// Bytes of the archive so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Begins a directory.
    ///
    /// # Errors
    /// [`NarError::Misuse`] where no node is due, [`NarDefect::TooDeep`] beyond the depth limit,
    /// [`NarError::Io`].
    pub fn directory(&mut self) -> Result<(), NarError> {
        self.begin_node("directory", b"directory")?;
        self.open.push(None);
        self.state = State::Directory;
        Ok(())
    }

    /// Begins an entry of the directory; its node must follow.
    ///
    /// # Errors
    /// [`NarError::Malformed`] for a bad name or one that does not sort after the one before,
    /// [`NarError::Misuse`] outside a directory, [`NarError::Io`].
    pub fn entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        if self.state != State::Directory {
            return Err(self.misuse("entry"));
        }
        let previous = self.open.last().and_then(Option::as_deref);
        let checked = check_entry_name(name).and_then(|()| check_order(previous, name));
        checked.map_err(|defect| self.malformed(defect))?;
        if let Some(last) = self.open.last_mut() {
            *last = Some(name.into());
        }
        for token in [&b"entry"[..], b"(", b"name", name, b"node"] {
            self.string(token);
        }
        self.state = State::Node;
        self.flush_if_full()
    }

    /// Ends the innermost directory.
    ///
    /// # Errors
    /// [`NarError::Misuse`] outside a directory or where a node is due, [`NarError::Io`].
    pub fn end_directory(&mut self) -> Result<(), NarError> {
        if self.state != State::Directory {
            return Err(self.misuse("end of a directory"));
        }
        self.open.pop();
        self.end_node()
    }

    /// Writes a symbolic link.
    ///
    /// # Errors
    /// [`NarDefect::InvalidTarget`], [`NarError::Misuse`] where no node is due, [`NarError::Io`].
    pub fn symlink(&mut self, target: &[u8]) -> Result<(), NarError> {
        check_target(target).map_err(|defect| self.malformed(defect))?;
        self.begin_node("symlink", b"symlink")?;
        self.string(b"target");
        self.string(target);
        self.end_node()
    }

    /// Begins a regular file of exactly `size` bytes, which [`contents`](Self::contents) must
    /// bring. Returns the offset of the first content byte in the archive; an empty file is
    /// complete at once.
    ///
    /// # Errors
    /// [`NarError::Misuse`] where no node is due, [`NarDefect::SizeOverflow`], [`NarError::Io`].
    pub fn regular(&mut self, executable: bool, size: u64) -> Result<u64, NarError> {
        self.begin_node("regular file", b"regular")?;
        if executable {
            self.string(b"executable");
            self.string(b"");
        }
        self.string(b"contents");
        self.bytes(&size.to_le_bytes());
        let offset = self.position;
        let padding = (size.wrapping_neg() % 8) as usize;
        if offset
            .checked_add(size)
            .and_then(|end| end.checked_add(padding as u64))
            .is_none()
        {
            return Err(self.malformed(NarDefect::SizeOverflow { size }));
        }
        self.state = State::Contents {
            remaining: size,
            padding,
        };
        self.end_contents_if_complete()?;
        self.flush_if_full()?;
        Ok(offset)
    }

    /// Writes the next contents of the file; the last byte ends it.
    ///
    /// # Errors
    /// [`NarError::Misuse`] if it is more than was announced, or no file is open, [`NarError::Io`].
    pub fn contents(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let State::Contents { remaining, padding } = self.state else {
            return Err(self.misuse("contents"));
        };
        let Some(remaining) = remaining.checked_sub(bytes.len() as u64) else {
            self.state = State::Failed;
            return Err(NarError::Misuse {
                call: "contents",
                state: "beyond the announced size of the file",
            });
        };
        if bytes.len() >= BUFFER_SIZE {
            self.flush_buffer()?;
            self.write_through(bytes)?;
            self.position += bytes.len() as u64;
        } else {
            self.bytes(bytes);
        }
        self.state = State::Contents { remaining, padding };
        self.end_contents_if_complete()?;
        self.flush_if_full()
    }

    /// Flushes everything and gives the stream back.
    ///
    /// # Errors
    /// [`NarError::Misuse`] if the archive is not complete, [`NarError::Io`].
    pub fn finish(mut self) -> Result<W, NarError> {
        if self.state != State::End {
            return Err(self.misuse("end"));
        }
        self.flush_buffer()?;
        self.inner.flush().map_err(|source| NarError::Io {
            offset: self.position,
            source,
        })?;
        Ok(self.inner)
    }

    fn begin_node(&mut self, call: &'static str, kind: &[u8]) -> Result<(), NarError> {
        if self.state != State::Node {
            return Err(self.misuse(call));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.malformed(NarDefect::TooDeep));
        }
        for token in [b"(", &b"type"[..], kind] {
            self.string(token);
        }
        Ok(())
    }

    fn end_node(&mut self) -> Result<(), NarError> {
        self.string(b")");
        if self.open.is_empty() {
            self.state = State::End;
        } else {
            self.string(b")");
            self.state = State::Directory;
        }
        self.flush_if_full()
    }

    fn end_contents_if_complete(&mut self) -> Result<(), NarError> {
        let State::Contents {
            remaining: 0,
            padding,
        } = self.state
        else {
            return Ok(());
        };
        self.bytes(&[0; 8][..padding]);
        self.end_node()
    }

    fn string(&mut self, bytes: &[u8]) {
        self.bytes(&(bytes.len() as u64).to_le_bytes());
        self.bytes(bytes);
        self.bytes(&[0; 8][..bytes.len().wrapping_neg() % 8]);
    }

    /// Appends to the buffer, which grows by a few strings at most before it is flushed.
    fn bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
    }

    fn flush_if_full(&mut self) -> Result<(), NarError> {
        if self.buffer.len() >= BUFFER_SIZE {
            self.flush_buffer()?;
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> Result<(), NarError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write_through(&buffer);
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn write_through(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        self.inner.write_all(bytes).map_err(|source| {
            self.state = State::Failed;
            NarError::Io {
                offset: self.position,
                source,
            }
        })
    }

    /// A refused argument: what was written before is still whole, but the caller's tree is not
    /// what it thinks.
    fn malformed(&mut self, defect: NarDefect) -> NarError {
        self.state = State::Failed;
        NarError::Malformed {
            offset: self.position,
            defect,
        }
    }

    fn misuse(&mut self, call: &'static str) -> NarError {
        let state = self.state.describe();
        self.state = State::Failed;
        NarError::Misuse { call, state }
    }
}
