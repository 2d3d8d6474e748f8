//! What keeps records.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;

use thiserror::Error;

use super::blob_files::BlobFile;
use super::family::Family;
use crate::store::format::{Feature, Format, Needs};

/// Writes that are done together or not at all, in their order.
#[derive(Debug, Default)]
pub(in crate::store) struct Batch {
    pub(super) writes: Vec<Write>,
    features: BTreeSet<Feature>,
    is_irreplaceable: bool,
}

/// A write of a [`Batch`].
#[derive(Clone, Debug)]
pub(super) enum Write {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    Clear(Family),
}

impl Batch {
    /// These writes.
    pub(super) fn of(writes: Vec<Write>) -> Self {
        Self {
            writes,
            ..Self::default()
        }
    }

    /// Writes a record; it replaces the one with the same key.
    pub(in crate::store) fn put(
        &mut self,
        family: Family,
        key: impl Into<Vec<u8>>,
        record: impl Into<Vec<u8>>,
    ) {
        self.writes
            .push(Write::Put(family, key.into(), record.into()));
    }

    /// Deletes a record, if there is one.
    pub(in crate::store) fn delete(&mut self, family: Family, key: impl Into<Vec<u8>>) {
        self.writes.push(Write::Delete(family, key.into()));
    }

    /// Adds the writes of another batch behind those of this one.
    pub(in crate::store) fn append(&mut self, mut other: Self) {
        self.writes.append(&mut other.writes);
        self.features.append(&mut other.features);
        self.is_irreplaceable |= other.is_irreplaceable;
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Deletes all records that a family has before the batch.
    pub(in crate::store) fn clear(&mut self, family: Family) {
        self.writes.push(Write::Clear(family));
    }

    /// Says that a record needs a feature.
    pub(in crate::store) fn need(&mut self, feature: Feature) {
        self.features.insert(feature);
    }

    /// Says that no source could bring back what these writes are, in whatever families they are.
    pub(in crate::store) fn set_irreplaceable(&mut self) {
        self.is_irreplaceable = true;
    }

    /// Whether no source could bring back something of these writes.
    pub(super) fn is_irreplaceable(&self) -> bool {
        let is_of_state = |write: &Write| {
            let (Write::Put(family, ..) | Write::Delete(family, _) | Write::Clear(family)) = write;
            matches!(
                family,
                Family::Profiles | Family::Views | Family::Roots | Family::Traces
            )
        };
        self.is_irreplaceable || self.writes.iter().any(is_of_state)
    }

    /// Keys of a family that these writes put.
    pub(in crate::store) fn keys_put(&self, family: Family) -> impl Iterator<Item = &[u8]> {
        self.writes.iter().filter_map(move |write| match write {
            Write::Put(of, key, _) if *of == family => Some(&key[..]),
            _ => None,
        })
    }

    /// What a state needs for these writes. Any record may be one that format 1 does not know, such as a
    /// path info with an origin; what deletes records needs no family.
    pub(super) fn needs(&self) -> Needs {
        let needed = self.writes.iter().map(|write| match write {
            Write::Put(family, ..) => family.since().max(Format::Second),
            Write::Delete(..) | Write::Clear(_) => Format::Second,
        });
        let format = needed.max().unwrap_or(Format::First);
        let listed = (!self.features.is_empty()).then_some(Format::Listed);
        Needs {
            format: listed.unwrap_or(format),
            features: self.features.clone(),
        }
    }
}

/// What a batch survives once it is written. A batch that is not durable is lost whole or kept whole,
/// and of two batches of the same durability the later one is never kept without the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Durability {
    /// It is lost with this process, unless a flush comes first. For chunks, whose bytes would be
    /// written twice otherwise.
    Flush,
    /// It survives this process, but not a power loss.
    Process,
    /// It survives a power loss, and so do all batches of [`Durability::Process`] before it.
    Power,
}

/// The bytes of a record.
pub(in crate::store) enum Record<'b> {
    /// In memory of the database.
    Pinned(rocksdb::DBPinnableSlice<'b>),
    #[cfg(test)]
    Owned(Vec<u8>),
}

impl Deref for Record<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pinned(bytes) => bytes,
            #[cfg(test)]
            Self::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Record<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Why a backend failed.
#[derive(Debug, Error)]
#[error("{text}")]
pub struct BackendError {
    /// Whether it found other bytes than it wrote, or could not read a file.
    is_corruption: bool,
    /// Whether it refuses every write for that, until it is opened anew.
    is_refusal: bool,
    /// In the words of the backend.
    text: String,
}

impl BackendError {
    /// A part of the database that is not there.
    pub(super) fn missing(text: &str) -> Self {
        Self {
            is_corruption: true,
            is_refusal: false,
            text: text.to_owned(),
        }
    }

    pub(super) fn new(text: &str) -> Self {
        Self {
            is_corruption: false,
            is_refusal: false,
            text: text.to_owned(),
        }
    }

    /// The same of a write that was refused because something is damaged.
    pub(super) fn refusing(self) -> Self {
        Self {
            is_refusal: self.is_corruption,
            ..self
        }
    }

    /// Whether a write was refused because something is damaged: it is accepted once the database is opened
    /// anew.
    pub(super) fn is_refusal(&self) -> bool {
        self.is_refusal
    }

    /// Whether it found other bytes than it wrote, or missed a file.
    pub(in crate::store) fn is_corruption(&self) -> bool {
        self.is_corruption
    }
}

/// How RocksDB says that a file is not there, or that the disk does not give it back: ENOENT, EIO, EUCLEAN,
/// EISDIR.
const UNREADABLE: [&str; 4] = [
    "No such file or directory",
    "Input/output error",
    "Structure needs cleaning",
    "Is a directory",
];

impl From<rocksdb::Error> for BackendError {
    fn from(error: rocksdb::Error) -> Self {
        let kind = error.kind();
        let text = error.into_string();
        // The binding does not say which error of the disk it was.
        let is_missing = kind == rocksdb::ErrorKind::IOError
            && UNREADABLE.iter().any(|said| text.contains(said));
        Self {
            is_corruption: kind == rocksdb::ErrorKind::Corruption || is_missing,
            is_refusal: false,
            text,
        }
    }
}

/// Keys of a family, of which some may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) family: Family,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

impl Lost {
    /// Whether the loss would be taken for a record that was never there. Contents that are not there are
    /// damage anyway, and what is only a matter of speed or tidiness is done without.
    pub(super) fn matters(&self) -> bool {
        matches!(
            self.family,
            Family::Paths | Family::Ordinals | Family::Roots | Family::Profiles | Family::Views
        )
    }

    pub(super) fn contains(&self, family: Family, key: &[u8]) -> bool {
        family == self.family && *key >= *self.first && *key <= *self.last
    }
}

/// The number of an opening of a database, and that of the last one before. Any program that opens it gives
/// it another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) before: u64,
    pub(super) now: u64,
}

/// Takes a record, and says whether it wants the next one.
pub(super) type Visitor<'v> = dyn FnMut(&[u8], &[u8]) -> bool + 'v;

/// All records at one moment.
pub(super) trait View {
    /// Visits the records of a family from a key on.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError>;

    /// The keys of a family of which some were lost with a table that was damaged.
    fn lost(&self, _family: Family) -> Vec<Lost> {
        Vec::new()
    }
}

/// The first or the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    First,
    Last,
}

/// What keeps records. It does what its caller says, and decides nothing.
pub(super) trait Backend: View + Send + Sync {
    /// A record.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Record<'_>>, BackendError>;

    /// The first or last key of a family.
    fn end_key(&self, family: Family, end: End) -> Result<Option<Vec<u8>>, BackendError>;

    /// Makes the families of a format that are not there. A family that is not there is empty.
    fn make_families(&self, format: Format) -> Result<(), BackendError>;

    /// Empties families, whether they can be read or not.
    fn empty_families(&self, families: &[Family]) -> Result<(), BackendError>;

    /// Writes a batch; when this returns, it survives what `durability` says. The families of the records
    /// that it puts are there.
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), BackendError>;

    /// Makes all batches durable that were written before.
    fn flush(&self) -> Result<(), BackendError>;

    /// The records as they are now, whatever is written later.
    fn snapshot(&self) -> Box<dyn View + Send + Sync + '_>;

    /// How many snapshots there are.
    fn snapshots(&self) -> Result<u64, BackendError>;

    /// Bytes of batches that are not in a file yet, the log apart.
    fn unwritten(&self) -> u64;

    /// Whether it has met an error after which it refuses every write.
    fn refuses_writes(&self) -> bool;

    /// Says that what was lost has come again, or is known to be lost.
    fn set_mended(&self);
    /// Whether it has met damage that the next one who opens it takes out.
    fn has_new_damage(&self) -> bool;
    /// Bytes of the files of a family.
    fn file_bytes(&self, family: Family) -> Result<u64, BackendError>;

    /// Records in the files of a family, with those that are deleted or replaced, but not merged with
    /// what deletes or replaces them.
    fn file_records(&self, family: Family) -> Result<u64, BackendError>;

    /// Merges the records of a family with what deletes or replaces them; with `all` also where nothing
    /// is newer.
    fn merge(&self, family: Family, all: bool);

    /// The files in which chunks are, in the order of their numbers.
    fn blob_files(&self) -> std::io::Result<Vec<BlobFile>>;
}

impl fmt::Debug for dyn Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}
