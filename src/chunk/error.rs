//! Why a chunk cannot be read from its record.

use thiserror::Error;

/// Why a chunk record cannot be decoded.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The record is shorter than its own header says.
    #[error("the chunk record is cut short")]
    Short,
    /// The record uses a codec, filter or base that this version does not know.
    #[error(
        "the chunk record uses {what} {value}, which this version of narfs does not know; use a newer narfs"
    )]
    Unknown {
        /// "codec", "filter" or "delta depth".
        what: &'static str,
        value: u8,
    },
    /// The claimed length is beyond what any chunk may have.
    #[error("the chunk record claims {0} bytes, more than a chunk may have")]
    TooLong(u32),
    /// The payload does not decompress to the claimed length.
    #[error("the chunk does not decompress: {0}")]
    Payload(String),
    /// The table of the frames makes no sense.
    #[error("the chunk record has wrong frames: {0}")]
    Frames(&'static str),
    /// The bytes, or the chaining values of their parts, are not those of the chunk.
    #[error("its bytes have another digest")]
    Digest,
}
