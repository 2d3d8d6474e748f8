//! Traces: named lists of paths in the order in which something used them.

use super::database::TRACES;
use super::write_batch::WriteBatch;
use super::{Store, StoreError, lock};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::tree::{read_number, write_number};

fn encode(paths: &[StorePath]) -> Vec<u8> {
    let mut out = Vec::new();
    write_number(&mut out, paths.len() as u64);
    for path in paths {
        out.extend_from_slice(path.hash().as_bytes());
        write_number(&mut out, path.name().len() as u64);
        out.extend_from_slice(path.name().as_bytes());
    }
    out
}

fn decode(mut bytes: &[u8]) -> Option<Vec<StorePath>> {
    let count = read_number(&mut bytes)?;
    let mut paths = Vec::new();
    for _ in 0..count {
        let (hash, rest) = bytes.split_first_chunk()?;
        bytes = rest;
        let length = usize::try_from(read_number(&mut bytes)?).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let hash = StorePathHash::from_bytes(*hash);
        paths.push(StorePath::new(hash, std::str::from_utf8(name).ok()?).ok()?);
    }
    bytes.is_empty().then_some(paths)
}

fn damaged(name: &str) -> StoreError {
    StoreError::Damaged {
        what: format!("the trace {name:?}"),
    }
}

impl Store {
    /// Keeps a list of paths under a name, in place of what was there.
    ///
    /// # Errors
    /// The database failed.
    pub fn put_trace(&self, name: &str, paths: &[StorePath]) -> Result<(), StoreError> {
        let _changing = lock(&self.changing_roots);
        let mut batch = WriteBatch::default();
        batch.put(TRACES, name.as_bytes(), encode(paths));
        self.database.write_synced(batch, "a trace was written")
    }

    /// The list under a name.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn trace(&self, name: &str) -> Result<Option<Vec<StorePath>>, StoreError> {
        match self.database.get(TRACES, name.as_bytes())? {
            Some(record) => decode(&record).map(Some).ok_or_else(|| damaged(name)),
            None => Ok(None),
        }
    }

    /// The names of all lists, sorted, each with its number of paths.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn traces(&self) -> Result<Vec<(String, usize)>, StoreError> {
        let mut traces = Vec::new();
        self.database.scan(TRACES, &[], |key, value| {
            let name = String::from_utf8_lossy(key).into_owned();
            let count = read_number(&mut &*value).and_then(|n| usize::try_from(n).ok());
            let count = count.ok_or_else(|| damaged(&name))?;
            traces.push((name, count));
            Ok(true)
        })?;
        Ok(traces)
    }

    /// Deletes a list. Returns whether there was one.
    ///
    /// # Errors
    /// The database failed.
    pub fn delete_trace(&self, name: &str) -> Result<bool, StoreError> {
        let _changing = lock(&self.changing_roots);
        if self.database.get(TRACES, name.as_bytes())?.is_none() {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        batch.delete(TRACES, name.as_bytes());
        self.database.write_synced(batch, "a trace was deleted")?;
        Ok(true)
    }
}
