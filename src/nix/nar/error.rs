//! What can go wrong with a NAR.
//!
//! Invariant: a stream that could not be read and a stream that says something wrong are never
//! mixed up, because the first may be tried again and the second must not.

use std::io;

use thiserror::Error;

/// Why reading or writing a NAR failed.
#[derive(Debug, Error)]
pub enum NarError {
    /// The stream below failed.
    #[error("I/O error at byte {offset} of the NAR")]
    Io {
        /// Position in the NAR, in bytes.
        offset: u64,
        /// The error of the stream below.
        #[source]
        source: io::Error,
    },
    /// The NAR breaks a rule of the format.
    #[error("bad archive: {defect} (at byte {offset})")]
    Malformed {
        /// Position in the NAR, in bytes: the end of what was understood.
        offset: u64,
        /// The broken rule.
        defect: NarDefect,
    },
    /// The caller broke the protocol of the reader or writer, or went on after an error.
    #[error("NAR {call} is not possible {state}")]
    Misuse {
        /// What was called.
        call: &'static str,
        /// What the reader or writer was at.
        state: &'static str,
    },
}

impl NarError {
    /// Whether the bytes themselves are at fault, so that reading them again is pointless.
    #[must_use]
    pub const fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed { .. })
    }
}

/// A broken rule of the format.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NarDefect {
    /// The stream ended inside the archive.
    #[error("unexpected end-of-file")]
    Truncated,
    /// Another string was due.
    #[error("expected {expected}, found '{}'", found.escape_ascii())]
    Unexpected {
        /// What was due.
        expected: &'static str,
        /// What came.
        found: Vec<u8>,
    },
    /// A string is longer than this place allows.
    #[error("expected {expected} of at most {limit} bytes, found a string of {length}")]
    TooLong {
        /// What was due.
        expected: &'static str,
        /// Most bytes allowed.
        limit: usize,
        /// Bytes announced.
        length: u64,
    },
    /// The bytes after a string are not zeros.
    #[error("non-zero padding")]
    NonZeroPadding,
    /// The name of an entry is not allowed.
    #[error("NAR contains invalid file name '{}'", name.escape_ascii())]
    InvalidName { name: Vec<u8> },
    /// A name comes before its neighbour.
    #[error("NAR directory is not sorted: '{}' follows '{}'", name.escape_ascii(), previous.escape_ascii())]
    NotSorted {
        /// The later name.
        name: Vec<u8>,
        /// The earlier name.
        previous: Vec<u8>,
    },
    /// A name comes twice.
    #[error("NAR directory is not sorted: '{}' comes twice", name.escape_ascii())]
    DuplicateName { name: Vec<u8> },
    /// The target of a symlink is not allowed.
    #[error("invalid symlink target '{}'", target.escape_ascii())]
    InvalidTarget {
        /// The target.
        target: Vec<u8>,
    },
    /// The string after `executable` is not empty.
    #[error("executable marker has non-empty value")]
    ExecutableMarker,
    /// Too many directories inside each other.
    #[error("NAR directory nesting exceeds maximum depth of {}", super::MAX_DEPTH)]
    TooDeep,
    /// The sizes add up to more than 64 bits can count.
    #[error("a file of {size} bytes does not fit into any archive")]
    SizeOverflow {
        /// The announced size in bytes.
        size: u64,
    },
    /// Something follows the archive.
    #[error("trailing bytes after the end of the archive")]
    TrailingBytes,
}
