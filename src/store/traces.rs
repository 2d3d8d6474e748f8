//! Traces: named lists of paths in the order in which something used them.

use std::sync::{Arc, Mutex};

use super::error::StoreError;
use super::records::{Batch, Durability, Family, Reader, Records, Writer};
use crate::nix::store_path::StorePath;
use crate::sync::lock;

fn encode(paths: &[StorePath]) -> Vec<u8> {
    let mut out = Writer::default();
    out.list(paths, Writer::path);
    out.finish()
}

fn name_of(trace: &str) -> String {
    format!("the trace {trace:?}")
}

/// The traces of a state.
///
/// What a method changes survives a power loss when it returns; after a crash within it the trace is the
/// old or the new one.
pub struct Traces {
    records: Arc<Records>,
    /// Held while a trace changes, so that of two who delete it one did.
    changing: Mutex<()>,
}

impl Traces {
    pub(super) fn new(records: Arc<Records>) -> Self {
        Self {
            records,
            changing: Mutex::default(),
        }
    }

    /// Keeps a list of paths under a name, in place of what was there.
    ///
    /// # Errors
    /// The database failed.
    pub fn put(&self, name: &str, paths: &[StorePath]) -> Result<(), StoreError> {
        let _changing = lock(&self.changing);
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
    pub fn get(&self, name: &str) -> Result<Option<Vec<StorePath>>, StoreError> {
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
    pub fn list(&self) -> Result<Vec<(String, usize)>, StoreError> {
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
    pub fn delete(&self, name: &str) -> Result<bool, StoreError> {
        let _changing = lock(&self.changing);
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
