//! Taking tables out of the database that cannot be read any more.
//!
//! RocksDB has no call for it: a merge has to read what it drops. So the edit that drops a table is appended
//! to its manifest here, as RocksDB's own tool does (`ldb unsafe_remove_sst_file`), while nobody has the
//! database open. The manifest is a log (`db/log_format.h`) of edits (`db/version_edit.h`), both of which
//! have to stay readable for RocksDB: blocks of 32 KiB; in them records, each of a masked CRC32C, a length, a
//! kind and bytes; an edit is a sequence of tagged fields. Invariant: what cannot be understood is an error,
//! and nothing is written then.

use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Write};
use std::path::Path;

use crate::tree::{read_number, write_number};

const BLOCK: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Tags of fields: those that come before the name of a family in the edit that makes it.
const COMPARATOR: u64 = 1;
const NUMBERS: [u64; 7] = [2, 3, 4, 9, 10, 203, 300];
const DELETED_FILE: u64 = 6;
const FAMILY: u64 = 200;
const NEW_FAMILY: u64 = 201;
/// Fields that whoever does not know them passes over have this bit, and a length.
const IGNORABLE: u64 = 1 << 13;

/// A table.
pub(super) struct Table {
    pub(super) number: u64,
    pub(super) level: u64,
    /// The name of its family.
    pub(super) family: String,
}

/// Takes tables out of the closed database in `dir`.
pub(super) fn take_out(dir: &Path, tables: &[&Table]) -> io::Result<()> {
    let current = fs::read_to_string(dir.join("CURRENT"))?;
    let path = dir.join(current.trim_end());
    let bytes = fs::read(&path)?;
    let mut families: Vec<(String, u64)> = Vec::new();
    for edit in edits(&bytes)? {
        families.extend(new_family(&edit));
    }
    let mut out = Vec::new();
    for table in tables {
        // A name is given again only after the family was dropped.
        let of_family = |(name, _): &&(String, u64)| *name == table.family;
        let (_, family) = families.iter().rev().find(of_family).ok_or_else(|| {
            let what = format!("the manifest does not have the family {}", table.family);
            Error::new(ErrorKind::InvalidData, what)
        })?;
        let mut edit = Vec::new();
        for number in [DELETED_FILE, table.level, table.number, FAMILY, *family] {
            write_number(&mut edit, number);
        }
        append(bytes.len(), &mut out, &edit);
    }
    let mut file = File::options().append(true).open(&path)?;
    file.write_all(&out)?;
    file.sync_all()
}

/// The edits of a manifest.
fn edits(bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let invalid = || Error::new(ErrorKind::InvalidData, "the manifest is not understood");
    let mut edits = Vec::new();
    let mut whole = Vec::new();
    for block in bytes.chunks(BLOCK) {
        let mut rest = block;
        while let Some((header, after)) = rest.split_at_checked(HEADER) {
            let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
            let (payload, after) = after.split_at_checked(length).ok_or_else(invalid)?;
            let kind = header[6];
            if header[..4] != checksum(kind, payload) {
                return Err(invalid());
            }
            match kind {
                FULL | FIRST => whole = payload.to_vec(),
                MIDDLE | LAST => whole.extend_from_slice(payload),
                _ => return Err(invalid()),
            }
            if matches!(kind, FULL | LAST) {
                edits.push(std::mem::take(&mut whole));
            }
            rest = after;
        }
    }
    Ok(edits)
}

/// Name and number of the family that an edit makes.
fn new_family(mut edit: &[u8]) -> Option<(String, u64)> {
    let (mut name, mut number) = (None, 0);
    while !edit.is_empty() {
        match read_number(&mut edit)? {
            NEW_FAMILY => name = Some(String::from_utf8(text(&mut edit)?.to_vec()).ok()?),
            FAMILY => number = read_number(&mut edit)?,
            tag if NUMBERS.contains(&tag) => drop(read_number(&mut edit)?),
            tag if tag == COMPARATOR || tag & IGNORABLE != 0 => drop(text(&mut edit)?),
            _ => return None,
        }
    }
    Some((name?, number))
}

fn text<'e>(edit: &mut &'e [u8]) -> Option<&'e [u8]> {
    let length = usize::try_from(read_number(edit)?).ok()?;
    let (text, rest) = edit.split_at_checked(length)?;
    *edit = rest;
    Some(text)
}

/// Appends a record to `out`, which comes behind `before` bytes of a log.
fn append(before: usize, out: &mut Vec<u8>, record: &[u8]) {
    let (mut rest, mut is_first) = (record, true);
    loop {
        let left = BLOCK - (before + out.len()) % BLOCK;
        if left < HEADER {
            out.resize(out.len() + left, 0);
            continue;
        }
        let (part, after) = rest.split_at(rest.len().min(left - HEADER));
        let kind = match (is_first, after.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, true) => LAST,
            (false, false) => MIDDLE,
        };
        out.extend_from_slice(&checksum(kind, part));
        out.extend_from_slice(&(part.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(part);
        if after.is_empty() {
            return;
        }
        (rest, is_first) = (after, false);
    }
}

/// The masked CRC32C of a record.
fn checksum(kind: u8, payload: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in std::iter::once(&kind).chain(payload) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let polynomial = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc = (crc >> 1) ^ polynomial;
        }
    }
    (!crc)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_wherever_blocks_end() {
        // From the definition of CRC32C: of `123456789` it is e3069283.
        let crc = 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(checksum(b'1', b"23456789"), crc.to_le_bytes());
        for before in BLOCK - 20..BLOCK + 1 {
            let mut log = Vec::new();
            append(0, &mut log, &vec![7; before - HEADER]);
            let mut more = Vec::new();
            append(log.len(), &mut more, b"an edit");
            append(log.len(), &mut more, &[9; 40_000]);
            log.append(&mut more);
            let edits = edits(&log).unwrap();
            let [_, middle, last] = &edits[..] else {
                panic!("{} edits", edits.len());
            };
            assert_eq!(
                (&middle[..], &last[..]),
                (&b"an edit"[..], &[9; 40_000][..])
            );
            log[before / 2] ^= 1;
            assert!(super::edits(&log).is_err());
        }
    }
}
