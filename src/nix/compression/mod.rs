//! The compression methods of binary caches.
//!
//! Owns the names and suffixes, and a decoder for each. Invariant: a decoder ends without an error only where
//! its input ends after at least one whole member or frame (lzip alone lets other bytes follow, as its manual
//! wants), all members are decoded, and the memory of a decoder is bounded whatever its input says. How much
//! comes out is not bounded here: the reader of a NAR knows its size.

mod brotli;
mod lz4;
mod memory;

use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read};
use std::str::FromStr;

use liblzma::stream::{CONCATENATED, Stream};
use thiserror::Error;

/// Memory of a decoder where nobody says otherwise: windows of 128 MiB, which `zstd --ultra -22` uses, and 65
/// MiB for `xz -9`.
const MEMORY: u64 = 128 << 20;

/// Memory that any stream may need, however it begins: windows of 8 MiB, which `zstd -19` and `xz -6` use,
/// and the tables of the decoder.
pub const USUAL_MEMORY: u64 = 9 << 20;

/// Memory of a decoder beside its window.
const TABLES: u64 = 1 << 20;

/// Bytes read from the input at a time.
const INPUT_BUFFER_SIZE: usize = 128 * 1024;

/// How a NAR is compressed. The names are those of narinfo files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    Xz,
    /// bzip2, which an empty name means.
    Bzip2,
    Gzip,
    Zstd,
    Br,
    Lzip,
    Lz4,
    /// The legacy `.lzma` container: known, but not decoded.
    Lzma,
    /// `compress`: known, but not decoded.
    Compress,
    /// `grzip`: known, but not decoded.
    Grzip,
    /// `lrzip`: known, but not decoded.
    Lrzip,
    /// `lzop`: known, but not decoded.
    Lzop,
}

/// Why there is no decoder.
#[derive(Debug, Error)]
pub enum CompressionError {
    #[error("unknown compression method '{name}'")]
    Unknown { name: String },
    /// Nix knows the method, narfs does not.
    #[error("compression method '{method}' is not supported; the cache must offer another one")]
    Unsupported { method: Compression },
    /// The decoder could not be set up.
    #[error("cannot set up the decoder for '{method}'")]
    Setup {
        method: Compression,
        #[source]
        source: io::Error,
    },
}

impl Compression {
    const ALL: [Self; 13] = [
        Self::None,
        Self::Xz,
        Self::Bzip2,
        Self::Gzip,
        Self::Zstd,
        Self::Br,
        Self::Lzip,
        Self::Lz4,
        Self::Lzma,
        Self::Compress,
        Self::Grzip,
        Self::Lrzip,
        Self::Lzop,
    ];

    /// Parses the name in a narinfo file; an empty name means bzip2, for the sake of very old caches.
    ///
    /// # Errors
    /// [`CompressionError::Unknown`] for any other name than Nix's.
    pub fn parse(name: &str) -> Result<Self, CompressionError> {
        if name.is_empty() {
            return Ok(Self::Bzip2);
        }
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| CompressionError::Unknown { name: name.into() })
    }

    /// The name in a narinfo file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Lzip => "lzip",
            Self::Lz4 => "lz4",
            Self::Lzma => "lzma",
            Self::Compress => "compress",
            Self::Grzip => "grzip",
            Self::Lrzip => "lrzip",
            Self::Lzop => "lzop",
        }
    }

    /// What Nix appends to `nar/HASH.nar`: nothing for most methods that it does not write by default, such
    /// as gzip.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Xz => ".xz",
            Self::Bzip2 => ".bz2",
            Self::Zstd => ".zst",
            Self::Lzip => ".lzip",
            Self::Lz4 => ".lz4",
            Self::Br => ".br",
            _ => "",
        }
    }

    /// The method of a file with this name, by its suffix; [`Self::None`] for a name without a known suffix.
    #[must_use]
    pub fn of_file_name(name: &str) -> Self {
        let by_suffix = |method: &Self| match method.suffix() {
            "" => false,
            suffix => name.ends_with(suffix),
        };
        let others = [
            (".gz", Self::Gzip),
            (".lz", Self::Lzip),
            (".lzma", Self::Lzma),
        ];
        let other = others.iter().find(|(suffix, _)| name.ends_with(suffix));
        let known = Self::ALL.into_iter().find(by_suffix);
        known
            .or(other.map(|(_, method)| *method))
            .unwrap_or(Self::None)
    }

    /// Whether there is a decoder for it.
    #[must_use]
    pub const fn is_supported(self) -> bool {
        !matches!(
            self,
            Self::Lzma | Self::Compress | Self::Grzip | Self::Lrzip | Self::Lzop
        )
    }

    /// Bytes of memory that a decoder needs for a stream that begins like this; `None` if more of it has to
    /// be seen. What follows is taken to need no more than that, or than what is usual.
    #[must_use]
    pub fn memory(self, head: &[u8]) -> Option<u64> {
        let window = match self {
            Self::Zstd => memory::zstd(head)?,
            Self::Xz => memory::xz(head)?,
            Self::Lzip => memory::lzip(head)?,
            Self::Br => memory::brotli(head)?,
            Self::None | Self::Gzip => return Some(0),
            _ => 0,
        };
        Some(window.saturating_add(TABLES).max(USUAL_MEMORY))
    }

    /// Decodes `input` to its end. Truncated or corrupt input is an error of the returned reader, and stays
    /// one.
    ///
    /// # Errors
    /// [`CompressionError`] if there is no decoder for the method, or it cannot be set up.
    pub fn reader<R: Read + Send + 'static>(
        self,
        input: R,
    ) -> Result<Box<dyn Read + Send>, CompressionError> {
        self.reader_within(input, MEMORY)
    }

    /// The same, with so many bytes of memory. That more is needed is an error of the returned reader.
    ///
    /// # Errors
    /// See [`Self::reader`].
    pub fn reader_within<R: Read + Send + 'static>(
        self,
        input: R,
        memory: u64,
    ) -> Result<Box<dyn Read + Send>, CompressionError> {
        let setup = |source| CompressionError::Setup {
            method: self,
            source,
        };
        if self == Self::None {
            return Ok(Box::new(input));
        }
        let input = BufReader::with_capacity(INPUT_BUFFER_SIZE, NonEmpty::new(input));
        Ok(match self {
            Self::Xz => {
                let stream = Stream::new_stream_decoder(memory, CONCATENATED);
                let stream = stream.map_err(|error| setup(error.into()))?;
                boxed(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Self::Lzip => {
                let stream = Stream::new_lzip_decoder(memory, CONCATENATED);
                let stream = stream.map_err(|error| setup(error.into()))?;
                boxed(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Self::Bzip2 => boxed(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Gzip => boxed(flate2::bufread::MultiGzDecoder::new(input)),
            Self::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input);
                let mut decoder = decoder.map_err(setup)?;
                decoder
                    .window_log_max(memory::zstd_log(memory))
                    .map_err(setup)?;
                boxed(decoder)
            }
            Self::Br => boxed(brotli::Decoder::new(input)),
            Self::Lz4 => boxed(lz4::Decoder::new(input)),
            Self::None | Self::Lzma | Self::Compress | Self::Grzip | Self::Lrzip | Self::Lzop => {
                return Err(CompressionError::Unsupported { method: self });
            }
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(name: &str) -> Result<Self, CompressionError> {
        Self::parse(name)
    }
}

fn boxed<D: Read + Send + 'static>(decoder: D) -> Box<dyn Read + Send> {
    Box::new(FinalError {
        decoder,
        failed: false,
    })
}

/// Turns an empty input into an error: some codecs take it for zero frames, but a NAR is never empty.
struct NonEmpty<R> {
    inner: R,
    seen: bool,
}

impl<R> NonEmpty<R> {
    const fn new(inner: R) -> Self {
        Self { inner, seen: false }
    }
}

impl<R: Read> Read for NonEmpty<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if read == 0 && !self.seen && !buffer.is_empty() {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                "the compressed stream is empty",
            ));
        }
        self.seen |= read > 0;
        Ok(read)
    }
}

/// Makes errors final: some codecs report one once, and a clean end afterwards.
struct FinalError<D> {
    decoder: D,
    failed: bool,
}

impl<D: Read> Read for FinalError<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::Error::other("the compressed stream failed before"));
        }
        let result = self.decoder.read(buffer);
        let passing = |error: &io::Error| error.kind() == ErrorKind::Interrupted;
        self.failed = result.as_ref().is_err_and(|error| !passing(error));
        result
    }
}

#[cfg(test)]
mod tests;
