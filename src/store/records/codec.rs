//! How records are encoded: one writer, and one reader that gives the same fields back.
//!
//! Integers are little-endian and of a fixed width, a *number* is LEB128, a *string* is its length as a
//! number and its bytes. `docs/format.md` says which fields each record has.

use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::error::StoreError;
use crate::tree::{read_number, write_number};

/// Writes the fields of a record, one after the other.
#[derive(Debug, Default)]
pub(in crate::store) struct Writer(Vec<u8>);

impl Writer {
    /// Begins a record with its version.
    pub(in crate::store) fn versioned(version: u8) -> Self {
        let mut writer = Self::default();
        writer.byte(version);
        writer
    }

    /// The record.
    pub(in crate::store) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(in crate::store) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(in crate::store) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(in crate::store) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(in crate::store) fn i64(&mut self, value: i64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Bytes without their length.
    pub(in crate::store) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(in crate::store) fn string(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        write_number(&mut self.0, bytes.len() as u64);
        self.bytes(bytes);
    }

    /// A store path: its hash, and its name as a string.
    pub(in crate::store) fn path(&mut self, path: &StorePath) {
        self.bytes(path.hash().as_bytes());
        self.string(path.name());
    }

    /// A list: how many items there are, as a number, and each item as `write` writes it.
    pub(in crate::store) fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        write_number(&mut self.0, items.len() as u64);
        for item in items {
            write(self, item);
        }
    }
}

/// Reads the fields of a record from its front; `None` where it ends early or makes no sense.
pub(in crate::store) struct Reader<'r>(&'r [u8]);

impl<'r> Reader<'r> {
    /// Reads a whole record with `read`, which has to read all of it. `what` names the record in the
    /// error.
    pub(in crate::store) fn whole<T>(
        record: &'r [u8],
        what: impl FnOnce() -> String,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, StoreError> {
        let mut reader = Self(record);
        let value = read(&mut reader).filter(|_| reader.is_at_end());
        value.ok_or_else(|| StoreError::Damaged { what: what() })
    }

    pub(in crate::store) fn new(record: &'r [u8]) -> Self {
        Self(record)
    }

    pub(in crate::store) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the version, which has to be this one.
    pub(in crate::store) fn version(&mut self, version: u8) -> Option<()> {
        (self.byte()? == version).then_some(())
    }

    pub(in crate::store) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(in crate::store) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(in crate::store) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(in crate::store) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(in crate::store) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(in crate::store) fn bytes(&mut self, length: usize) -> Option<&'r [u8]> {
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }

    /// All that is left.
    pub(in crate::store) fn rest(&mut self) -> &'r [u8] {
        std::mem::take(&mut self.0)
    }

    pub(in crate::store) fn number(&mut self) -> Option<usize> {
        usize::try_from(read_number(&mut self.0)?).ok()
    }

    /// The bytes of a string, which need not be text.
    pub(in crate::store) fn byte_string(&mut self) -> Option<&'r [u8]> {
        let length = self.number()?;
        self.bytes(length)
    }

    pub(in crate::store) fn string(&mut self) -> Option<&'r str> {
        std::str::from_utf8(self.byte_string()?).ok()
    }

    pub(in crate::store) fn hash(&mut self) -> Option<StorePathHash> {
        self.array().map(StorePathHash::from_bytes)
    }

    /// A store path: its hash, and its name as a string.
    pub(in crate::store) fn path(&mut self) -> Option<StorePath> {
        StorePath::new(self.hash()?, self.string()?).ok()
    }

    /// A list: a number, and as many items, each read by `read`.
    pub(in crate::store) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        (0..self.number()?).map(|_| read(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_these_bytes_and_come_back() {
        let path = StorePath::new(StorePathHash::from_bytes([7; 20]), "x-1").unwrap();
        let mut writer = Writer::versioned(3);
        writer.u32(0x0102);
        writer.u64(5);
        writer.i64(-2);
        writer.string("ab");
        writer.path(&path);
        writer.list(&[9, 8], |w, item| w.byte(*item));
        let long = [b'l'; 200];
        writer.string(long);
        let record = writer.finish();
        let head = [
            &[3, 2, 1, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0xfe][..],
            &[0xff; 7],
            b"\x02ab",
            &[7; 20],
            b"\x03x-1\x02\x09\x08\xc8\x01",
        ];
        assert_eq!(record, [&head.concat()[..], &long].concat());
        let read = |record: &[u8]| {
            Reader::whole(record, String::new, |r| {
                r.version(3)?;
                Some((
                    (r.u32()?, r.u64()?, r.i64()?, r.string()?.to_owned()),
                    (r.path()?, r.list(Reader::byte)?, r.byte_string()?.to_vec()),
                ))
            })
        };
        let expected = (
            (0x0102, 5, -2, "ab".to_owned()),
            (path, vec![9, 8], long.to_vec()),
        );
        assert_eq!(read(&record).unwrap(), expected);
        for n in 0..record.len() {
            assert!(read(&record[..n]).is_err(), "{n}");
        }
        assert!(read(&[&record[..], &[0]].concat()).is_err());
        assert!(read(&[&[4], &record[1..]].concat()).is_err());
    }
}
