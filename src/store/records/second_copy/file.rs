//! The file of the second copy.
//!
//! Invariants: it is made whole beside the one before and takes its place by a rename; from then on
//! entries are only added to it, or the last ones taken away.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::entry::{HEAD, Kind, MAGIC, decode, encode, head, sum};
use crate::store::clock::since_1970;
use crate::store::directory::sync_names;
use crate::store::records::backend::Write;
use crate::store::records::codec::{Reader, Writer};

/// The name of the file in the state.
const FILE: &str = "second-copy";
/// The same until it is whole.
const DRAFT: &str = ".second-copy";
/// First bytes of the file.
const TITLE: [u8; 16] = *b"narfs-copy 1\n\0\0\0";
/// Bytes before the first entry.
const HEADER: u64 = 48;
/// Bytes that are looked through at once for the next entry.
const WINDOW: usize = 64 << 10;

/// The file of the second copy, open.
#[derive(Debug)]
pub(super) struct CopyFile {
    file: File,
    /// Tells it from each other one.
    pub(super) edition: u64,
    /// The opening of the database that it follows.
    pub(super) opening: u64,
    /// Its length when it was made.
    pub(super) made: u64,
    pub(super) length: u64,
    /// How much of it survives a power loss.
    pub(super) synced: u64,
}

/// Takes records, for a file that is being made.
pub(super) type Sink<'s> = dyn FnMut(&[Write]) -> io::Result<()> + 's;

pub(in crate::store::records) fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

impl CopyFile {
    /// Makes the file with what `fill` gives. It survives a power loss and takes the place of the one
    /// before when this returns.
    pub(super) fn make<E: From<io::Error>>(
        state: &Path,
        opening: u64,
        fill: impl FnOnce(&mut Sink<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let draft = state.join(DRAFT);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&draft)?;
        let mut made = Self {
            file,
            edition: since_1970().as_nanos() as u64,
            opening,
            made: HEADER,
            length: HEADER,
            synced: 0,
        };
        let filled = made.fill(fill).and_then(|()| {
            made.write_header()?;
            made.file.sync_all()?;
            fs::rename(&draft, path(state))?;
            Ok(sync_names(state)?)
        });
        if filled.is_err() {
            // Its room may be missed.
            let _ = fs::remove_file(&draft);
        }
        made.synced = made.length;
        filled.map(|()| made)
    }

    fn fill<E: From<io::Error>>(
        &mut self,
        fill: impl FnOnce(&mut Sink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out = BufWriter::with_capacity(1 << 20, &self.file);
        let mut length = HEADER;
        out.write_all(&[0; HEADER as usize])?;
        let mut put = |kind, writes: &[Write]| {
            let entry = encode(kind, writes.iter());
            length += entry.len() as u64;
            out.write_all(&entry)
        };
        fill(&mut |writes| put(Kind::There, writes))?;
        put(Kind::Whole, &[])?;
        out.flush()?;
        drop(out);
        (self.made, self.length) = (length, length);
        Ok(())
    }

    /// Opens the file of a state; `None` if there is none, or it does not begin as one.
    pub(super) fn open(state: &Path) -> io::Result<Option<Self>> {
        let file = match File::options().read(true).write(true).open(path(state)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut header = [0; HEADER as usize];
        let length = file.metadata()?.len();
        if length < HEADER {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let (fields, summed) = header.split_at(40);
        let read = || {
            let mut fields = Reader::new(fields);
            let is_ours = fields.array()? == TITLE && sum(&[&header[..40]]) == *summed;
            let opened = Self {
                file,
                edition: fields.u64()?,
                opening: fields.u64()?,
                made: fields.u64()?,
                length,
                synced: 0,
            };
            is_ours.then_some(opened)
        };
        Ok(read())
    }

    /// Opens the file even if it does not begin as one; `None` if there is nothing in it.
    pub(super) fn open_damaged(state: &Path) -> io::Result<Option<Self>> {
        if let Some(whole) = Self::open(state)? {
            return Ok(Some(whole));
        }
        let file = match File::open(path(state)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let length = file.metadata()?.len();
        Ok((length > HEADER).then_some(Self {
            file,
            edition: 0,
            opening: 0,
            made: 0,
            length,
            synced: 0,
        }))
    }

    fn write_header(&self) -> io::Result<()> {
        let mut header = Writer::default();
        header.bytes(&TITLE);
        header.u64(self.edition);
        header.u64(self.opening);
        header.u64(self.made);
        let header = header.finish();
        self.file
            .write_all_at(&[&header[..], &sum(&[&header])].concat(), 0)
    }

    /// Says which opening of the database it follows from now on.
    pub(super) fn follow(&mut self, opening: u64) -> io::Result<()> {
        self.opening = opening;
        self.write_header()
    }

    /// Adds a change, which survives this process.
    pub(super) fn append<'w>(&mut self, writes: impl Iterator<Item = &'w Write>) -> io::Result<()> {
        let entry = encode(Kind::Change, writes);
        self.file.write_all_at(&entry, self.length)?;
        self.length += entry.len() as u64;
        Ok(())
    }

    /// Has all of it survive a power loss.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Notes that it does.
    pub(super) fn set_synced(&mut self) {
        self.synced = self.length;
    }

    /// Takes away what was added behind a length.
    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.length = length;
        self.synced = self.synced.min(length);
        Ok(())
    }

    /// Visits the entries from a place on, up to the first one that is not whole. Returns where that
    /// begins, or the end.
    pub(super) fn visit<E: From<io::Error>>(
        &self,
        from: u64,
        mut visit: impl FnMut(Kind, Vec<Write>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut at = from;
        while let Some((kind, writes, next)) = self.entry(at)? {
            visit(kind, writes)?;
            at = next;
        }
        Ok(at)
    }

    /// Visits all entries that are whole. Returns whether that is all of the file.
    pub(super) fn visit_all<E: From<io::Error>>(
        &self,
        mut visit: impl FnMut(Vec<Write>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (mut from, mut is_whole, mut is_ended) = (HEADER, self.edition > 0, false);
        loop {
            let at = self.visit(from, |kind, writes| {
                is_ended |= kind == Kind::Whole;
                visit(writes)
            })?;
            if at == self.length {
                return Ok(is_whole && is_ended);
            }
            is_whole = false;
            match self.find(at + 1)? {
                Some(next) => from = next,
                None => return Ok(false),
            }
        }
    }

    /// The entry at a place, and where the next one begins; `None` if there is none that is whole.
    fn entry(&self, at: u64) -> io::Result<Option<(Kind, Vec<Write>, u64)>> {
        let mut first = [0; HEAD];
        let Some(left) = self.length.checked_sub(at + HEAD as u64) else {
            return Ok(None);
        };
        self.file.read_exact_at(&mut first, at)?;
        let Some((length, expected)) = head(&first).filter(|(l, _)| u64::from(*l) <= left) else {
            return Ok(None);
        };
        let mut body = vec![0; length as usize];
        self.file.read_exact_at(&mut body, at + HEAD as u64)?;
        if sum(&[&length.to_le_bytes(), &body]) != expected {
            return Ok(None);
        }
        let next = at + HEAD as u64 + u64::from(length);
        Ok(decode(&body).map(|(kind, writes)| (kind, writes, next)))
    }

    /// Where the next bytes are that may begin an entry.
    fn find(&self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        let mut window = vec![0; WINDOW];
        while at + (HEAD as u64) <= self.length {
            let there = (self.length - at).min(WINDOW as u64) as usize;
            self.file.read_exact_at(&mut window[..there], at)?;
            let found = window[..there]
                .windows(MAGIC.len())
                .position(|w| w == MAGIC);
            if let Some(found) = found {
                return Ok(Some(at + found as u64));
            }
            at += (there - MAGIC.len() + 1) as u64;
        }
        Ok(None)
    }
}
