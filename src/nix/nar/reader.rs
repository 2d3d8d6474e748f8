//! Reading a NAR as a stream of events.
//!
//! Owns the read buffer and the position. Invariant: memory is bounded by the depth and name
//! limits, never by what the archive announces; after an error every further call fails.

use std::io::{ErrorKind, Read};

use super::{
    MAGIC, MAX_DEPTH, MAX_NAME_LEN, MAX_TARGET_LEN, NarDefect, NarError, check_entry_name,
    check_order, check_target,
};

/// Size of the read buffer in bytes. Tokens take some ten bytes each, so a call below serves
/// thousands of them; reads of contents that are at least as large go around the buffer.
const BUFFER_SIZE: usize = 64 * 1024;

/// Longest token of the grammar that is looked at; the real ones have 10 bytes at most, the rest is
/// for error messages.
const MAX_TOKEN_LEN: usize = 32;

/// A step through the tree of a NAR, in the order of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A directory begins; its entries follow.
    Directory,
    /// An entry of the directory; its node follows.
    Entry {
        /// The name, any bytes but `/` and NUL.
        name: Vec<u8>,
    },
    /// The innermost directory ends.
    DirectoryEnd,
    /// A regular file; its contents wait for [`Reader::read_contents`].
    Regular {
        /// Whether the file is executable.
        executable: bool,
        /// Size of the contents in bytes.
        size: u64,
        /// Offset of the first byte of the contents in the NAR, as `.ls` listings have it.
        offset: u64,
    },
    Symlink {
        /// The target, byte for byte.
        target: Vec<u8>,
    },
}

/// Where the reader is in the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the magic string.
    Start,
    /// Before a node.
    Node,
    /// In a directory, before `entry` or `)`.
    Directory,
    /// In the contents of a file, with so many bytes to come, and so many bytes of padding after them.
    Contents { remaining: u64, padding: u64 },
    /// After a node, before the `)` of its entry, or at the end of the archive.
    NodeEnd,
    /// After the last `)`.
    End,
    /// After an error.
    Failed,
}

impl State {
    fn describe(self) -> &'static str {
        match self {
            Self::Start => "at the beginning of the archive",
            Self::Node => "before a node",
            Self::Directory => "in a directory",
            Self::Contents { .. } => "in the contents of a file",
            Self::NodeEnd => "after a node",
            Self::End => "after the end of the archive",
            Self::Failed => "after an error",
        }
    }
}

/// Reads a NAR from a stream. It buffers, so it may read beyond the archive.
pub struct Reader<R> {
    input: Input<R>,
    state: State,
    /// The directories that are open, each with the name last seen in it.
    open: Vec<Option<Vec<u8>>>,
}

impl<R: Read> Reader<R> {
    /// Reads an archive that begins at the next byte of `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            input: Input::new(inner),
            state: State::Start,
            open: Vec::new(),
        }
    }

    /// Bytes of the archive consumed so far.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.input.position
    }

    /// The next event; contents that were not read are skipped. `None` after the end of the archive.
    ///
    /// # Errors
    /// [`NarError::Malformed`] if the archive breaks a rule, [`NarError::Io`] if the stream fails, and
    /// [`NarError::Misuse`] after an earlier error.
    #[allow(clippy::should_implement_trait)] // An iterator would need a second type for reading contents.
    pub fn next(&mut self) -> Result<Option<Event>, NarError> {
        let result = self.advance();
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn advance(&mut self) -> Result<Option<Event>, NarError> {
        loop {
            match self.state {
                State::Start => {
                    self.input
                        .expect(MAGIC, "the magic string 'nix-archive-1'")?;
                    self.state = State::Node;
                }
                State::Node => return self.read_node().map(Some),
                State::Directory => return self.read_directory().map(Some),
                State::Contents { remaining, padding } => {
                    self.input.skip(remaining)?;
                    self.input.expect_zeros(padding)?;
                    self.input.expect(b")", "')' after the contents")?;
                    self.state = State::NodeEnd;
                }
                State::NodeEnd if self.open.is_empty() => self.state = State::End,
                State::NodeEnd => {
                    self.input.expect(b")", "')' after the node")?;
                    self.state = State::Directory;
                }
                State::End => return Ok(None),
                State::Failed => return Err(self.misuse("reading")),
            }
        }
    }

    fn read_node(&mut self) -> Result<Event, NarError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.input.malformed(NarDefect::TooDeep));
        }
        self.input.expect(b"(", "'(' before a node")?;
        self.input.expect(b"type", "'type'")?;
        let kind = self.input.token("'regular', 'directory' or 'symlink'")?;
        match kind.as_bytes() {
            b"regular" => self.read_regular(),
            b"symlink" => {
                self.input.expect(b"target", "'target'")?;
                let target = self.input.string("a symlink target", MAX_TARGET_LEN)?;
                check_target(&target).map_err(|defect| self.input.malformed(defect))?;
                self.input.expect(b")", "')' after the target")?;
                self.state = State::NodeEnd;
                Ok(Event::Symlink { target })
            }
            b"directory" => {
                self.open.push(None);
                self.state = State::Directory;
                Ok(Event::Directory)
            }
            _ => Err(self
                .input
                .unexpected("'regular', 'directory' or 'symlink'", kind)),
        }
    }

    fn read_regular(&mut self) -> Result<Event, NarError> {
        let mut tag = self.input.token("'contents' or 'executable'")?;
        let executable = tag.as_bytes() == b"executable";
        if executable {
            let marker = self.input.token("an empty executable marker")?;
            if !marker.as_bytes().is_empty() {
                return Err(self.input.malformed(NarDefect::ExecutableMarker));
            }
            tag = self.input.token("'contents'")?;
        }
        if tag.as_bytes() != b"contents" {
            return Err(self.input.unexpected("tag 'contents'", tag));
        }
        let size = self.input.length()?;
        let offset = self.input.position;
        let padding = size.wrapping_neg() % 8;
        // Every position within the archive must be countable, or the sums of callers overflow.
        if offset
            .checked_add(size)
            .and_then(|end| end.checked_add(padding))
            .is_none()
        {
            return Err(self.input.malformed(NarDefect::SizeOverflow { size }));
        }
        self.state = State::Contents {
            remaining: size,
            padding,
        };
        Ok(Event::Regular {
            executable,
            size,
            offset,
        })
    }

    fn read_directory(&mut self) -> Result<Event, NarError> {
        let tag = self.input.token("'entry' or ')'")?;
        match tag.as_bytes() {
            b")" => {
                self.open.pop();
                self.state = State::NodeEnd;
                Ok(Event::DirectoryEnd)
            }
            b"entry" => {
                self.input.expect(b"(", "'(' before an entry")?;
                self.input.expect(b"name", "'name'")?;
                let name = self.input.string("the name of an entry", MAX_NAME_LEN)?;
                check_entry_name(&name).map_err(|defect| self.input.malformed(defect))?;
                if let Some(previous) = self.open.last_mut() {
                    check_order(previous.as_deref(), &name)
                        .map_err(|defect| self.input.malformed(defect))?;
                    *previous = Some(name.clone());
                }
                self.input.expect(b"node", "'node'")?;
                self.state = State::Node;
                Ok(Event::Entry { name })
            }
            _ => Err(self.input.unexpected("'entry' or ')'", tag)),
        }
    }

    /// Reads contents of the file that the last event announced; 0 means that there are no more (or
    /// that `buffer` is empty). Reads of 64 KiB and more are not copied.
    ///
    /// # Errors
    /// As [`Reader::next`]; [`NarError::Misuse`] if the last event was not a regular file.
    pub fn read_contents(&mut self, buffer: &mut [u8]) -> Result<usize, NarError> {
        let State::Contents { remaining, padding } = self.state else {
            return Err(self.misuse("reading of contents"));
        };
        let wanted = usize::try_from(remaining).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        match self.input.read_some(&mut buffer[..wanted]) {
            Ok(read) => {
                self.state = State::Contents {
                    remaining: remaining - read as u64,
                    padding,
                };
                Ok(read)
            }
            Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
        }
    }

    /// Checks that the archive was read to its end and that not one byte follows, and gives the stream back.
    ///
    /// # Errors
    /// [`NarDefect::TrailingBytes`] if something follows; [`NarError::Misuse`] before
    /// [`Reader::next`] has returned `None`.
    pub fn finish(mut self) -> Result<R, NarError> {
        self.expect_end()?;
        Ok(self.input.inner)
    }

    /// As [`Reader::finish`], but keeps the reader.
    ///
    /// # Errors
    /// As [`Reader::finish`].
    pub fn expect_end(&mut self) -> Result<(), NarError> {
        if self.state != State::End {
            return Err(self.misuse("end"));
        }
        let end = self.input.expect_end();
        if end.is_err() {
            self.state = State::Failed;
        }
        end
    }

    fn misuse(&self, call: &'static str) -> NarError {
        NarError::Misuse {
            call,
            state: self.state.describe(),
        }
    }
}

/// A short string of the grammar.
struct Token {
    bytes: [u8; MAX_TOKEN_LEN],
    length: usize,
}

impl Token {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The stream below, buffered, with the position and the strings of the format.
struct Input<R> {
    inner: R,
    buffer: Box<[u8]>,
    /// The unread part of the buffer.
    start: usize,
    end: usize,
    /// Bytes consumed from the buffer or around it.
    position: u64,
}

impl<R: Read> Input<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER_SIZE].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
        }
    }

    fn malformed(&self, defect: NarDefect) -> NarError {
        NarError::Malformed {
            offset: self.position,
            defect,
        }
    }

    fn unexpected(&self, expected: &'static str, found: Token) -> NarError {
        self.malformed(NarDefect::Unexpected {
            expected,
            found: found.as_bytes().into(),
        })
    }

    /// One read of the stream below into `target`, or into the buffer if there is none; 0 at its end.
    fn read_inner(&mut self, target: Option<&mut [u8]>) -> Result<usize, NarError> {
        let buffer = target.unwrap_or(&mut self.buffer);
        loop {
            match self.inner.read(buffer) {
                // A stream that claims more than it was given room for must not make us read beyond
                // the buffer.
                Ok(read) => return Ok(read.min(buffer.len())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(NarError::Io {
                        offset: self.position,
                        source,
                    });
                }
            }
        }
    }

    /// Makes the buffer hold something, if the stream has something; says whether it does.
    fn fill(&mut self) -> Result<bool, NarError> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.end = self.read_inner(None)?;
        }
        Ok(self.start < self.end)
    }

    /// At least one byte into a non-empty target.
    fn read_some(&mut self, target: &mut [u8]) -> Result<usize, NarError> {
        let read = if self.start == self.end && target.len() >= BUFFER_SIZE {
            let read = self.read_inner(Some(target))?;
            if read == 0 {
                return Err(self.malformed(NarDefect::Truncated));
            }
            read
        } else {
            if !self.fill()? {
                return Err(self.malformed(NarDefect::Truncated));
            }
            let read = target.len().min(self.end - self.start);
            target[..read].copy_from_slice(&self.buffer[self.start..self.start + read]);
            self.start += read;
            read
        };
        self.position += read as u64;
        Ok(read)
    }

    fn read_exact(&mut self, mut target: &mut [u8]) -> Result<(), NarError> {
        while !target.is_empty() {
            let read = self.read_some(target)?;
            target = &mut target[read..];
        }
        Ok(())
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), NarError> {
        while bytes > 0 {
            if !self.fill()? {
                return Err(self.malformed(NarDefect::Truncated));
            }
            let available = self.end - self.start;
            let step = usize::try_from(bytes).map_or(available, |bytes| bytes.min(available));
            self.start += step;
            self.position += step as u64;
            bytes -= step as u64;
        }
        Ok(())
    }

    fn length(&mut self) -> Result<u64, NarError> {
        let mut bytes = [0; 8];
        self.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Up to seven bytes of padding.
    fn expect_zeros(&mut self, count: u64) -> Result<(), NarError> {
        let mut bytes = [0; 8];
        let padding = &mut bytes[..(count % 8) as usize];
        self.read_exact(padding)?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(self.malformed(NarDefect::NonZeroPadding));
        }
        Ok(())
    }

    /// The length of a string that must not be longer than `limit`.
    fn bounded_length(&mut self, expected: &'static str, limit: usize) -> Result<usize, NarError> {
        let length = self.length()?;
        usize::try_from(length)
            .ok()
            .filter(|&length| length <= limit)
            .ok_or_else(|| {
                self.malformed(NarDefect::TooLong {
                    expected,
                    limit,
                    length,
                })
            })
    }

    fn token(&mut self, expected: &'static str) -> Result<Token, NarError> {
        let mut token = Token {
            bytes: [0; MAX_TOKEN_LEN],
            length: self.bounded_length(expected, MAX_TOKEN_LEN)?,
        };
        self.read_exact(&mut token.bytes[..token.length])?;
        self.expect_zeros(token.length.wrapping_neg() as u64 % 8)?;
        Ok(token)
    }

    fn expect(&mut self, bytes: &[u8], expected: &'static str) -> Result<(), NarError> {
        let token = self.token(expected)?;
        if token.as_bytes() != bytes {
            return Err(self.unexpected(expected, token));
        }
        Ok(())
    }

    fn string(&mut self, expected: &'static str, limit: usize) -> Result<Vec<u8>, NarError> {
        let length = self.bounded_length(expected, limit)?;
        let mut bytes = vec![0; length];
        self.read_exact(&mut bytes)?;
        self.expect_zeros(length.wrapping_neg() as u64 % 8)?;
        Ok(bytes)
    }

    fn expect_end(&mut self) -> Result<(), NarError> {
        if self.fill()? {
            return Err(self.malformed(NarDefect::TrailingBytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
