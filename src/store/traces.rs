//! Traces: named lists of paths in the order in which something used them.

use super::records::{Batch, Durability, Family, Reader, Writer};
use super::{Store, StoreError, lock};
use crate::nix::store_path::StorePath;

fn encode(paths: &[StorePath]) -> Vec<u8> {
    let mut out = Writer::default();
    out.list(paths, Writer::path);
    out.finish()
}

fn name_of(trace: &str) -> String {
    format!("the trace {trace:?}")
}

impl Store {
    /// Keeps a list of paths under a name, in place of what was there.
    ///
    /// # Errors
    /// The database failed.
    pub fn put_trace(&self, name: &str, paths: &[StorePath]) -> Result<(), StoreError> {
        let _changing = lock(&self.changing_roots);
        let mut batch = Batch::default();
        let family = Family::Traces;
        batch.put(family, name.as_bytes(), encode(paths));
        self.records
            .write(batch, Durability::Power, "a trace was written")
    }

    /// The list under a name.
    ///
    /// # Errors
    /// The database failed or the record is damaged.
    pub fn trace(&self, name: &str) -> Result<Option<Vec<StorePath>>, StoreError> {
        match self.records.get(Family::Traces, name.as_bytes())? {
            Some(record) => {
                let read = |fields: &mut Reader<'_>| fields.list(Reader::path);
                Reader::whole(&record, || name_of(name), read).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The names of all lists, sorted, each with its number of paths.
    ///
    /// # Errors
    /// The database failed or a record is damaged.
    pub fn traces(&self) -> Result<Vec<(String, usize)>, StoreError> {
        let mut traces = Vec::new();
        self.records.scan(Family::Traces, &[], |key, value| {
            let name = String::from_utf8_lossy(key).into_owned();
            let count = Reader::new(value).number();
            let count = count.ok_or_else(|| StoreError::Damaged {
                what: name_of(&name),
            })?;
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
        if self.records.get(Family::Traces, name.as_bytes())?.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.delete(Family::Traces, name.as_bytes());
        self.records
            .write(batch, Durability::Power, "a trace was deleted")?;
        Ok(true)
    }
}
