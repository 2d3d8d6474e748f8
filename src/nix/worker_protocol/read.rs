//! Reading numbers, strings and lists of a client.

use std::io::{self, Read};

use thiserror::Error;

use crate::nix::store_path::{StoreDir, StorePath, StorePathError};

/// Bytes of a request that are kept in memory at most: some 180,000 store paths.
const REQUEST: u64 = 16 << 20;
/// Bytes of a string that is kept, other than a store path: settings, names, signatures.
const STRING: u64 = 64 << 10;
/// Bytes of a store path at most, with its store directory.
const PATH: u64 = 8 << 10;
/// Bytes that are read at once of what is not kept.
const PIECE: u64 = 64 << 10;

#[derive(Debug, Error)]
pub enum ProtocolError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("this is not Nix's worker protocol")]
    Magic,
    #[error("the client speaks a version of the protocol older than Nix 2.3; use a newer Nix")]
    Version,
    #[error("the request has {what} of {length} bytes; narfs takes at most {limit}")]
    TooLong {
        what: &'static str,
        length: u64,
        limit: u64,
    },
    #[error("the request is larger than {REQUEST} bytes; ask for fewer paths at a time")]
    Request,
    #[error("the request has a string with something else than zeros behind it")]
    Padding,
    #[error("the request has a string that is not UTF-8")]
    Text,
    #[error(transparent)]
    Path(#[from] StorePathError),
    #[error("the request has {0:?}, which is neither a store path nor outputs of a derivation")]
    Target(String),
    #[error("invalid operation {0}: narfs does not know it")]
    Operation(u64),
}

/// Reads what a client sends. [`Reader::begin`] starts each request.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    /// Bytes that this request may still have.
    left: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Self {
        let left = REQUEST;
        Self { from, left }
    }

    /// Lets a request have its bytes.
    pub fn begin(&mut self) {
        self.left = REQUEST;
    }

    /// Where it reads from.
    pub fn source(&mut self) -> &mut R {
        &mut self.from
    }

    /// Counts bytes of what is kept.
    fn spend(&mut self, bytes: u64) -> Result<(), ProtocolError> {
        self.left = self.left.checked_sub(bytes).ok_or(ProtocolError::Request)?;
        Ok(())
    }

    pub fn number(&mut self) -> Result<u64, ProtocolError> {
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Some numbers that mean nothing here.
    pub(super) fn skip_numbers(&mut self, count: usize) -> Result<(), ProtocolError> {
        (0..count).try_for_each(|_| self.number().map(drop))
    }

    fn padding(&mut self, length: u64) -> Result<(), ProtocolError> {
        let mut padding = [0; 8];
        let padding = &mut padding[..(length.wrapping_neg() % 8) as usize];
        self.from.read_exact(padding)?;
        match padding.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(ProtocolError::Padding),
        }
    }

    fn text(&mut self, what: &'static str, limit: u64) -> Result<String, ProtocolError> {
        let length = self.number()?;
        if length > limit {
            return Err(ProtocolError::TooLong {
                what,
                length,
                limit,
            });
        }
        // With what a list needs for each of its elements.
        self.spend(length + 32)?;
        let mut bytes = vec![0; length as usize];
        self.from.read_exact(&mut bytes)?;
        self.padding(length)?;
        String::from_utf8(bytes).map_err(|_| ProtocolError::Text)
    }

    pub(super) fn string(&mut self) -> Result<String, ProtocolError> {
        self.text("a string", STRING)
    }

    /// Reads bytes and forgets them.
    fn skip(&mut self, mut length: u64) -> Result<(), ProtocolError> {
        let mut piece = vec![0; length.min(PIECE) as usize];
        while length > 0 {
            let now = length.min(PIECE);
            self.from.read_exact(&mut piece[..now as usize])?;
            length -= now;
        }
        Ok(())
    }

    /// Reads a string and forgets it.
    pub(super) fn skip_string(&mut self) -> Result<(), ProtocolError> {
        let length = self.number()?;
        if length > REQUEST {
            return Err(ProtocolError::TooLong {
                what: "a string",
                length,
                limit: REQUEST,
            });
        }
        self.spend(length + 8)?;
        self.skip(length)?;
        self.padding(length)
    }

    /// Reads a list, or a map of `fields` strings each.
    fn skip_lists(&mut self, fields: usize) -> Result<(), ProtocolError> {
        for _ in 0..self.number()? {
            (0..fields).try_for_each(|_| self.skip_string())?;
        }
        Ok(())
    }

    pub(super) fn skip_strings(&mut self) -> Result<(), ProtocolError> {
        self.skip_lists(1)
    }

    pub(super) fn skip_pairs(&mut self) -> Result<(), ProtocolError> {
        self.skip_lists(2)
    }

    pub(super) fn path(&mut self, store_dir: &StoreDir) -> Result<StorePath, ProtocolError> {
        let text = self.text("a store path", PATH)?;
        Ok(StorePath::parse_full(store_dir, &text)?)
    }

    /// A path that may be absent.
    pub(super) fn path_or_none(
        &mut self,
        store_dir: &StoreDir,
    ) -> Result<Option<StorePath>, ProtocolError> {
        let text = self.text("a store path", PATH)?;
        let named = (!text.is_empty()).then_some(text);
        let path = named.map(|text| StorePath::parse_full(store_dir, &text));
        Ok(path.transpose()?)
    }

    pub(super) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, ProtocolError>,
    ) -> Result<Vec<T>, ProtocolError> {
        let mut list = Vec::new();
        for _ in 0..self.number()? {
            list.push(each(self)?);
        }
        Ok(list)
    }

    pub(super) fn paths(&mut self, store_dir: &StoreDir) -> Result<Vec<StorePath>, ProtocolError> {
        self.list(|reader| reader.path(store_dir))
    }

    /// Reads the pieces of something of unknown length, up to the empty one at its end, and forgets them;
    /// calls `progressed` before each.
    ///
    /// # Errors
    /// The connection failed.
    pub fn skip_frames(&mut self, mut progressed: impl FnMut(&mut R)) -> Result<(), ProtocolError> {
        loop {
            progressed(&mut self.from);
            let mut length = self.number()?;
            if length == 0 {
                return Ok(());
            }
            while length > 0 {
                progressed(&mut self.from);
                let now = length.min(PIECE);
                self.skip(now)?;
                length -= now;
            }
        }
    }
}
