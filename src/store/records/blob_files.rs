//! The blob files of the database as they lie on the disk: which there are, and what is in each.
//!
//! RocksDB says how much of its blob files is garbage, but not in which of them it is. So their
//! format is read here (version 1, `db/blob/blob_log_format.h` of RocksDB, which has to stay
//! readable): a header of 30 bytes; records, each of a header of 32 bytes that begins with the
//! lengths of key and value, the key, and the value; and at the end a footer of 32 bytes. Nothing
//! here changes what is in a file. Invariant: what cannot be understood is left alone.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// With this begin header and footer.
const MAGIC: [u8; 4] = 2_395_959u32.to_le_bytes();
const HEADER: u64 = 30;
const FOOTER: u64 = 32;
/// Of a record: lengths of key and value, expiration, two checksums.
const RECORD: u64 = 32;
/// What a chunk takes in a blob file besides its record.
pub(in crate::store) const OVERHEAD: u64 = RECORD + 8;
/// Bytes that are read for the header and the key of a record.
const PIECE: usize = 512;

/// A blob file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct BlobFile {
    /// Later ones have higher numbers.
    pub(in crate::store) number: u64,
    /// Bytes.
    pub(in crate::store) size: u64,
    path: PathBuf,
}

/// How much is in a blob file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobContents {
    pub(super) number: u64,
    pub(super) records: u64,
    /// Bytes of the records with their headers.
    pub(super) bytes: u64,
}

/// The blob files in the directory of the database, in the order of their numbers.
pub(in crate::store) fn blob_files(db: &Path) -> io::Result<Vec<BlobFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(db)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".blob"));
        let Some(number) = number.and_then(|n| n.parse().ok()) else {
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => files.push(BlobFile {
                number,
                size: metadata.len(),
                path: entry.path(),
            }),
            // Deleted since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    files.sort_by_key(|f| f.number);
    Ok(files)
}

/// Bytes that files take.
pub(in crate::store) fn total(files: &[BlobFile]) -> u64 {
    files.iter().map(|f| f.size).sum()
}

impl BlobFile {
    /// Whether it was written to its end. RocksDB refers to no other.
    pub(in crate::store) fn is_finished(&self) -> io::Result<bool> {
        let Some(at) = self.size.checked_sub(FOOTER).filter(|at| *at >= HEADER) else {
            return Ok(false);
        };
        let mut magic = [0; 4];
        File::open(&self.path)?.read_exact_at(&mut magic, at)?;
        Ok(magic == MAGIC)
    }

    /// How much is in it; `None` if it was not written to its end.
    pub(super) fn contents(&self) -> io::Result<Option<BlobContents>> {
        if !self.is_finished()? {
            return Ok(None);
        }
        let end = self.size - FOOTER;
        let mut records = [0; 8];
        let file = File::open(&self.path)?;
        file.read_exact_at(&mut records, end + MAGIC.len() as u64)?;
        Ok(Some(BlobContents {
            number: self.number,
            records: u64::from_le_bytes(records),
            bytes: end - HEADER,
        }))
    }

    /// Deletes the file; an empty directory if somebody has put that in its place.
    pub(in crate::store) fn delete(&self) -> io::Result<()> {
        fs::remove_file(&self.path).or_else(|e| match e.kind() {
            io::ErrorKind::IsADirectory => fs::remove_dir(&self.path),
            _ => Err(e),
        })
    }

    /// The numbers of the chunks in it, as ranges, ascending and disjoint; `None` if it is still
    /// being written, was deleted meanwhile or is not understood.
    pub(in crate::store) fn chunk_numbers(&self) -> io::Result<Option<Vec<Range<u64>>>> {
        let read = || -> io::Result<Option<Vec<u64>>> {
            if !self.is_finished()? {
                return Ok(None);
            }
            self.keys()
        };
        match read() {
            Ok(numbers) => Ok(numbers.map(ranges)),
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(e),
            },
        }
    }

    fn keys(&self) -> io::Result<Option<Vec<u64>>> {
        let file = File::open(&self.path)?;
        // What lies between is skipped, not read ahead.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
        let mut file = BufReader::with_capacity(PIECE, file);
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header)?;
        if !header.starts_with(&MAGIC) {
            return Ok(None);
        }
        let mut keys = Vec::new();
        let end = self.size - FOOTER;
        let mut at = HEADER;
        while at < end {
            let mut record = [0; OVERHEAD as usize];
            file.read_exact(&mut record)?;
            let number = |at: usize| {
                let bytes = record.get(at..at + 8).and_then(|b| b.try_into().ok());
                bytes.map_or(0, u64::from_le_bytes)
            };
            let (key, value) = (number(0), number(8));
            let next = at.checked_add(OVERHEAD).and_then(|n| n.checked_add(value));
            let Some(next) = next.filter(|n| key == 8 && *n <= end) else {
                return Ok(None);
            };
            keys.push(number(RECORD as usize).swap_bytes());
            match i64::try_from(value) {
                Ok(value) => file.seek_relative(value)?,
                Err(_) => drop(file.seek(SeekFrom::Start(next))?),
            }
            at = next;
        }
        Ok(Some(keys))
    }
}

fn ranges(mut numbers: Vec<u64>) -> Vec<Range<u64>> {
    numbers.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for n in numbers {
        match ranges.last_mut() {
            Some(last) if n < last.end => {}
            Some(last) if n == last.end => last.end += 1,
            _ => ranges.push(n..n + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_follow_each_other_are_one_range() {
        assert_eq!(ranges(vec![7, 3, 4, 5, 4]), [3..6, 7..8]);
        assert!(ranges(Vec::new()).is_empty());
    }

    #[test]
    fn what_is_no_whole_blob_file_is_not_understood() {
        let dir = tempfile::tempdir().unwrap();
        let whole = {
            let mut bytes = MAGIC.to_vec();
            bytes.resize(HEADER as usize, 0);
            bytes.extend_from_slice(&8u64.to_le_bytes());
            bytes.extend_from_slice(&3u64.to_le_bytes());
            bytes.extend_from_slice(&[0; 16]);
            bytes.extend_from_slice(&77u64.to_be_bytes());
            bytes.extend_from_slice(b"abc");
            bytes.extend_from_slice(&MAGIC);
            bytes.resize(bytes.len() + 28, 0);
            bytes
        };
        let of = |bytes: &[u8]| {
            fs::write(dir.path().join("000012.blob"), bytes).unwrap();
            let files = blob_files(dir.path()).unwrap();
            assert_eq!((files.len(), files[0].number), (1, 12));
            assert_eq!(files[0].size, bytes.len() as u64);
            (
                files[0].is_finished().unwrap(),
                files[0].chunk_numbers().unwrap(),
            )
        };
        let (finished, numbers) = of(&whole);
        let numbers = numbers.unwrap();
        assert!(finished && numbers.len() == 1 && numbers[0] == (77..78));
        for cut in 0..whole.len() {
            assert_eq!(of(&whole[..cut]), (false, None), "{cut}");
        }
        // A length that leads out of the file.
        let mut wrong = whole.clone();
        wrong[HEADER as usize + 8] = 200;
        assert_eq!(of(&wrong), (true, None));
        wrong[HEADER as usize + 15] = 255;
        assert_eq!(of(&wrong), (true, None));
        fs::remove_file(dir.path().join("000012.blob")).unwrap();
        assert!(blob_files(dir.path()).unwrap().is_empty());
    }
}
