//! Taking tables out of the database that cannot be read any more.
//!
//! RocksDB has no call for it: a merge has to read what it drops. So the edit that drops a table is appended
//! to its manifest here, as RocksDB's own tool does (`ldb unsafe_remove_sst_file`), while nobody has the
//! database open. The manifest is a log (`db/log_format.h`) of edits (`db/version_edit.h`), both of which
//! have to stay readable for RocksDB: blocks of 32 KiB; in them records, each of a masked CRC32C, a length, a
//! kind and bytes; an edit is a sequence of tagged fields. Invariant: what cannot be understood is an error,
//! and nothing is written then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Error, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::blob_files::BlobContents;
use super::rocks::newest_manifest;
use crate::store::directory::sync_names;
use crate::tree::{read_number, write_number};

const BLOCK: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Tags of fields of an edit.
const COMPARATOR: u64 = 1;
const LOG_NUMBER: u64 = 2;
const COMPACTED: u64 = 5;
const DELETED_TABLE: u64 = 6;
const NEW_TABLE: u64 = 103;
const FAMILY: u64 = 200;
const NEW_FAMILY: u64 = 201;
const DROPPED_FAMILY: u64 = 202;
const NEW_BLOB_FILE: u64 = 400;
const BLOB_GARBAGE: u64 = 401;
/// Those that are a number that does not matter here.
const NUMBERS: [u64; 7] = [LOG_NUMBER, 3, 4, 9, 10, 203, 300];
/// Fields that whoever does not know them passes over have this bit, and a length.
const IGNORABLE: u64 = 1 << 13;
/// What ends the further fields of a table, and those of a blob file.
const END_OF_TABLE: u64 = 1;
const END_OF_BLOB_FILE: u64 = 0;
/// Bytes behind a key in the manifest: when it was written, and how.
const WRITTEN: usize = 8;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) number: u64,
    level: u64,
    family_number: u64,
    /// The name of its family.
    pub(super) family: String,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

/// The tables of the closed database in `dir`.
pub(super) fn tables(dir: &Path) -> io::Result<Vec<Table>> {
    tables_in(&current(dir)?)
}

/// The tables in a manifest.
pub(super) fn tables_in(manifest: &Path) -> io::Result<Vec<Table>> {
    let contents = Contents::of(manifest)?;
    Ok(contents.tables.into_values().collect())
}

/// The numbers and names of the families in a manifest.
pub(super) fn families_in(manifest: &Path) -> io::Result<BTreeMap<u64, String>> {
    Ok(Contents::of(manifest)?.families)
}

/// What can be read of a manifest.
pub(super) struct Left {
    pub(super) families: BTreeMap<u64, String>,
    pub(super) tables: Vec<u64>,
    pub(super) is_whole: bool,
}

/// What can be read of a manifest.
pub(super) fn left_in(manifest: &Path) -> Left {
    let mut contents = Contents::default();
    let (edits, read) = readable_edits(&fs::read(manifest).unwrap_or_default());
    let is_understood = edits.iter().all(|edit| contents.apply(edit).is_some());
    Left {
        families: contents.families,
        tables: contents.tables.into_keys().collect(),
        is_whole: is_understood && read.is_ok(),
    }
}

/// Writes a manifest anew with these families, of which it has some, and with blob files of one of them. That
/// one's tables come after the blob files: RocksDB looks for these when it reads of tables.
pub(super) fn complete(
    manifest: &Path,
    families: &BTreeMap<u64, String>,
    blobs: Option<&(u64, Vec<BlobContents>)>,
) -> io::Result<()> {
    let bytes = fs::read(manifest)?;
    let mut known = Contents::default();
    let mut out = Vec::new();
    let mut added = Vec::new();
    for edit in edits(&bytes)? {
        let is_known = |known: &Contents, family| known.families.contains_key(&family);
        known.apply(&edit).ok_or_else(invalid)?;
        append(0, &mut out, &edit);
        if let Some((family, files)) = blobs
            && is_known(&known, *family)
            && added.is_empty()
        {
            added = files.iter().map(|file| file.edit(*family)).collect();
            added.iter().for_each(|edit| append(0, &mut out, edit));
        }
    }
    for (family, name) in families {
        if !known.families.contains_key(family) {
            append(0, &mut out, &new_family(*family, name));
        }
    }
    let draft = manifest.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(&out)?;
    file.sync_all()?;
    fs::rename(draft, manifest)
}

/// An edit that adds a family without tables.
fn new_family(number: u64, name: &str) -> Vec<u8> {
    let mut edit = Vec::new();
    [LOG_NUMBER, 0, FAMILY, number, NEW_FAMILY, name.len() as u64]
        .iter()
        .for_each(|field| write_number(&mut edit, *field));
    edit.extend_from_slice(name.as_bytes());
    edit
}

impl BlobContents {
    /// An edit that adds the file, none of which is garbage as far as is known. No checksum is kept of it.
    fn edit(&self, family: u64) -> Vec<u8> {
        let mut edit = Vec::new();
        let (method, checksum) = (0, 0);
        let file = [self.number, self.records, self.bytes, method, checksum];
        let fields = [FAMILY, family, NEW_BLOB_FILE].into_iter().chain(file);
        let fields = fields.chain([END_OF_BLOB_FILE]);
        fields.for_each(|field| write_number(&mut edit, field));
        edit
    }
}

/// The newest manifest in `dir`, named or not.
pub(super) fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let number = match newest_manifest(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => 0,
        number => number?,
    };
    Ok((number > 0).then(|| dir.join(format!("MANIFEST-{number:06}"))))
}

/// Has a manifest be the one that is used.
pub(super) fn set_current(dir: &Path, manifest: &Path) -> io::Result<()> {
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    let draft = dir.join("CURRENT.new");
    let mut file = File::create(&draft)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    fs::rename(draft, dir.join("CURRENT"))?;
    sync_names(dir)
}

/// Takes tables out of the closed database in `dir`, which has them.
pub(super) fn take_out(dir: &Path, tables: &[Table]) -> io::Result<()> {
    let path = current(dir)?;
    let before = fs::metadata(&path)?.len() as usize;
    let mut out = Vec::new();
    for table in tables {
        let mut edit = Vec::new();
        for number in [
            DELETED_TABLE,
            table.level,
            table.number,
            FAMILY,
            table.family_number,
        ] {
            write_number(&mut edit, number);
        }
        append(before, &mut out, &edit);
    }
    let mut file = File::options().append(true).open(&path)?;
    file.write_all(&out)?;
    file.sync_all()
}

/// The manifest that is used.
pub(super) fn current(dir: &Path) -> io::Result<PathBuf> {
    let current = fs::read_to_string(dir.join("CURRENT"))?;
    Ok(dir.join(current.trim_end()))
}

fn invalid() -> Error {
    Error::new(ErrorKind::InvalidData, "the manifest is not understood")
}

/// What a database has.
#[derive(Default)]
struct Contents {
    families: BTreeMap<u64, String>,
    tables: BTreeMap<u64, Table>,
}

impl Contents {
    /// What a manifest says.
    fn of(manifest: &Path) -> io::Result<Self> {
        let mut contents = Self::default();
        for edit in edits(&fs::read(manifest)?)? {
            contents.apply(&edit).ok_or_else(invalid)?;
        }
        Ok(contents)
    }

    fn apply(&mut self, mut edit: &[u8]) -> Option<()> {
        let edit = &mut edit;
        let (mut family, mut name, mut is_dropped) = (0, None, false);
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        while !edit.is_empty() {
            match read_number(edit)? {
                FAMILY => family = read_number(edit)?,
                NEW_FAMILY => name = Some(String::from_utf8(text(edit)?.to_vec()).ok()?),
                DROPPED_FAMILY => is_dropped = true,
                DELETED_TABLE => {
                    read_number(edit)?;
                    gone.push(read_number(edit)?);
                }
                NEW_TABLE => new.push(table(edit)?),
                COMPACTED => {
                    read_number(edit)?;
                    text(edit)?;
                }
                NEW_BLOB_FILE => {
                    (0..3).try_for_each(|_| read_number(edit).map(drop))?;
                    (0..2).try_for_each(|_| text(edit).map(drop))?;
                    pass_over(edit, END_OF_BLOB_FILE)?;
                }
                BLOB_GARBAGE => {
                    (0..3).try_for_each(|_| read_number(edit).map(drop))?;
                    pass_over(edit, END_OF_BLOB_FILE)?;
                }
                tag if NUMBERS.contains(&tag) => drop(read_number(edit)?),
                tag if tag == COMPARATOR || tag & IGNORABLE != 0 => drop(text(edit)?),
                _ => return None,
            }
        }
        if let Some(name) = name {
            self.families.insert(family, name);
        }
        if is_dropped {
            self.families.remove(&family);
            self.tables.retain(|_, table| table.family_number != family);
        }
        for number in gone {
            self.tables.remove(&number);
        }
        for table in new {
            let of_family = Table {
                family_number: family,
                family: self.families.get(&family).cloned().unwrap_or_default(),
                ..table
            };
            self.tables.insert(of_family.number, of_family);
        }
        Some(())
    }
}

/// A table, its family apart.
fn table(edit: &mut &[u8]) -> Option<Table> {
    let (level, number, _size) = (read_number(edit)?, read_number(edit)?, read_number(edit)?);
    let mut key = || {
        let key = text(edit)?;
        Some(key.get(..key.len().checked_sub(WRITTEN)?)?.to_vec())
    };
    let (first, last) = (key()?, key()?);
    (0..2).try_for_each(|_| read_number(edit).map(drop))?;
    pass_over(edit, END_OF_TABLE)?;
    Some(Table {
        number,
        level,
        family_number: 0,
        family: String::new(),
        first,
        last,
    })
}

/// Passes over further fields, each with a length.
fn pass_over(edit: &mut &[u8], end: u64) -> Option<()> {
    while read_number(edit)? != end {
        text(edit)?;
    }
    Some(())
}

/// The edits of a manifest.
fn edits(bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let (edits, is_whole) = readable_edits(bytes);
    is_whole.map(|()| edits)
}

/// Those that come before what cannot be read.
fn readable_edits(bytes: &[u8]) -> (Vec<Vec<u8>>, io::Result<()>) {
    let mut edits = Vec::new();
    let is_whole = read_edits(bytes, &mut edits);
    (edits, is_whole)
}

fn read_edits(bytes: &[u8], edits: &mut Vec<Vec<u8>>) -> io::Result<()> {
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
    Ok(())
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

/// What each byte makes of a CRC32C: an opening reads the whole manifest of the one before.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            let polynomial = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc = (crc >> 1) ^ polynomial;
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The masked CRC32C of a record.
fn checksum(kind: u8, payload: &[u8]) -> [u8; 4] {
    let mut crc = !0u32;
    for byte in std::iter::once(&kind).chain(payload) {
        crc = CRC[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
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
