//! One NAR: decompressed, hashed, unpacked and compared with what it must be, as it arrives.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use super::attempt::Attempt;
use crate::nix::compression::CompressionError;
use crate::nix::hash::{NarHash, Sha256Hasher};
use crate::nix::nar::{self, NarError};
use crate::nix::store_path::{
    ContentAddress, ContentAddressError, ContentVerifier, ContentVerifyError, IngestionMethod,
    StorePath,
};
use crate::store::{Hold, Origin, Publication, Registration, Store, StoreError};
use crate::substituter::BrokenOff;
use crate::tree::{UnpackError, Unpacked, Unpacker};

/// What is wrong with a NAR.
#[derive(Debug, Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// It is longer than the narinfo says; reading stopped there.
    #[error("size mismatch importing path: the NAR is longer than the {expected} bytes of NarSize")]
    TooLong { expected: u64 },
    #[error("size mismatch importing path: the NAR has {actual} bytes, NarSize is {expected}")]
    Size { expected: u64, actual: u64 },
    #[error("hash mismatch importing path: NarHash is {expected}, the NAR has {actual}")]
    Hash { expected: NarHash, actual: NarHash },
    #[error(transparent)]
    Content(#[from] ContentVerifyError),
    /// The NAR is malformed, broke off, does not fit, or could not be kept.
    #[error(transparent)]
    Unpack(#[from] UnpackError<StoreError>),
    /// The narinfo is good, but the source has no such NAR.
    #[error("the narinfo is there, but the NAR is gone")]
    Gone,
}

impl ReceiveError {
    /// Whether another try at the same source may succeed.
    pub(super) fn is_transient(&self) -> bool {
        // What cannot be decompressed comes again as it is.
        matches!(self, Self::Unpack(UnpackError::Nar(NarError::Io { source, .. }))
            if source.kind() != io::ErrorKind::InvalidData && !BrokenOff::is_final(source))
    }

    /// The state's own failure, which no other source can mend.
    pub(super) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Unpack(UnpackError::Sink(_) | UnpackError::Spool { .. })
        )
    }
}

/// A NAR that was received, and found to be what it must be.
#[derive(Debug)]
pub struct Received {
    pub unpacked: Unpacked,
    /// Keeps its chunks until it is published.
    pub hold: Hold,
    pub nar_hash: NarHash,
    pub nar_size: u64,
}

/// What a NAR must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) nar_hash: NarHash,
    pub(super) nar_size: u64,
}

/// Hashes the NAR as it passes, and stops it where it gets longer than it may be.
struct Hashing<'a, R> {
    inner: R,
    sha256: Sha256Hasher,
    content: Option<ContentVerifier>,
    length: u64,
    limit: u64,
    attempt: &'a Attempt,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.attempt.check_wanted()?;
        let n = self.inner.read(out)?;
        self.length += n as u64;
        if self.length > self.limit {
            return Err(io::Error::other("longer than NarSize"));
        }
        self.sha256.update(&out[..n]);
        if let Some(content) = &mut self.content {
            content.update(&out[..n]);
        }
        self.attempt.note_unpacked(self.length);
        Ok(n)
    }
}

/// Unpacks a NAR into the chunks of `store`. With `expected`, what differs from it is an error;
/// with `content`, the contents must fulfil that address.
///
/// # Errors
/// See [`ReceiveError`]. Chunks may have been kept; nothing is published here.
pub(super) fn unpack(
    store: &Store,
    nar: impl Read,
    references: &[StorePath],
    expected: Option<Expected>,
    content: Option<ContentVerifier>,
    attempt: &Attempt,
) -> Result<Received, ReceiveError> {
    let mut hashing = Hashing {
        inner: nar,
        sha256: Sha256Hasher::new(),
        content,
        length: 0,
        limit: expected.map_or(u64::MAX, |e| e.nar_size),
        attempt,
    };
    let mut writer = store
        .contents()
        .chunk_writer()
        .map_err(|e| ReceiveError::Unpack(UnpackError::Sink(e)))?;
    let unpacker = Unpacker::new(&mut writer, references, &store.spool());
    let unpacked = unpacker
        .within(&store.transfers().programs)
        .unpack(&mut hashing);
    let hold = writer.finish();
    compare(unpacked, hold, hashing, expected)
}

/// Judges what was unpacked.
fn compare<R>(
    unpacked: Result<Unpacked, UnpackError<StoreError>>,
    hold: Result<Hold, StoreError>,
    hashing: Hashing<'_, R>,
    expected: Option<Expected>,
) -> Result<Received, ReceiveError> {
    let length = hashing.length;
    let nar_hash = NarHash::from_bytes(hashing.sha256.finish().sha256);
    // A NAR that was cut off at its limit looks like one that broke off.
    if let Some(e) = expected.filter(|e| length > e.nar_size) {
        return Err(ReceiveError::TooLong {
            expected: e.nar_size,
        });
    }
    let unpacked = unpacked?;
    if let Some(e) = expected {
        if length != e.nar_size {
            return Err(ReceiveError::Size {
                expected: e.nar_size,
                actual: length,
            });
        }
        if nar_hash != e.nar_hash {
            return Err(ReceiveError::Hash {
                expected: e.nar_hash,
                actual: nar_hash,
            });
        }
    }
    if let Some(content) = hashing.content {
        content.finish()?;
    }
    Ok(Received {
        unpacked,
        hold: hold.map_err(UnpackError::Sink)?,
        nar_hash,
        nar_size: length,
    })
}

/// Why a local tree could not be added.
#[derive(Debug, Error)]
pub enum AddError {
    /// It cannot be read, or holds what no store path can.
    #[error(transparent)]
    Dump(#[from] nar::DumpError),
    /// Its name cannot be that of a store path, or the state failed.
    #[error(transparent)]
    Address(#[from] ContentAddressError),
    #[error(transparent)]
    Receive(#[from] ReceiveError),
    /// Something else has its path, which only a source that was believed without a signature can
    /// have brought.
    #[error(
        "{path} is here with other contents, which a source said were those of this path; `narfs gc` \
         removes them when nothing uses them"
    )]
    OtherContents { path: StorePath },
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No pipe or thread to be had.
    #[error("cannot start reading")]
    Start(#[source] io::Error),
}

/// Adds the file, link or directory at `from` as a content-addressed path with the name `name`,
/// as `nix-store --add` does, and publishes it. What was fetched before is added from then on.
///
/// # Errors
/// See [`AddError`].
pub fn add(store: &Store, from: &Path, name: &str) -> Result<StorePath, AddError> {
    let (reader, writer) = io::pipe().map_err(AddError::Start)?;
    let (dumped, received) = std::thread::scope(|scope| {
        let dump = std::thread::Builder::new()
            .name("narfs-add".into())
            .spawn_scoped(scope, move || nar::dump_path(from, writer).map(drop))
            .map_err(AddError::Start)?;
        let attempt = Attempt::new(&Arc::default());
        let reader = io::BufReader::with_capacity(256 << 10, reader);
        let received = unpack(store, reader, &[], None, None, &attempt);
        let dumped = dump
            .join()
            .map_err(|_| AddError::Start(io::Error::other("the reading thread failed")))?;
        Ok::<_, AddError>((dumped, received))
    })?;
    // The reason for a NAR that broke off is on the other side of the pipe; but where we
    // stopped reading, the reason is ours.
    let received = match (dumped, received) {
        (Ok(()), received) => received?,
        (Err(_), Err(e)) if !e.is_transient() && e.is_ours() => return Err(e.into()),
        (Err(e), _) => return Err(e.into()),
    };
    let address = ContentAddress::fixed(IngestionMethod::Nar, received.nar_hash.into())?;
    let path = address.store_path(store.store_dir(), name, [], false)?;
    store.paths().publish(&[Publication {
        registration: Registration {
            path: path.clone(),
            nar_hash: received.nar_hash,
            nar_size: received.nar_size,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: Some(address),
            vouched: true,
        },
        origin: Origin::Added,
        tree: received.unpacked.tree,
        hold: received.hold,
    }])?;
    let there = store.paths().info(path.hash())?;
    if there.is_some_and(|there| there.registration.nar_hash != received.nar_hash) {
        return Err(AddError::OtherContents { path });
    }
    Ok(path)
}
