//! What is registered of many paths, judged anew.

use std::sync::atomic::Ordering;

use super::Paths;
use super::path_info::{PathInfo, Registration};
use super::publish::Publishing;
use crate::store::error::StoreError;
use crate::store::records::{Durability, Family};
use crate::sync::lock;

impl Paths {
    /// Has `judge` look at all path infos that can be read, and registers what it returns instead: other
    /// signatures, and whether they vouch for the path. Nothing is published or registered meanwhile. All
    /// of it is written or nothing, and survives a power loss; nothing is written if `is_trial`.
    ///
    /// # Errors
    /// The database failed; nothing has changed then.
    pub fn revise(
        &self,
        is_trial: bool,
        judge: &mut dyn FnMut(&PathInfo) -> Option<Registration>,
    ) -> Result<(), StoreError> {
        let _publishing = lock(&self.publishing);
        let next = lock(&self.next_ordinal);
        let mut batch = Publishing::new(*next);
        self.records
            .scan_readable(Family::Paths, &[], |key, record| {
                // What cannot be read vouches for nothing, and is for `verify` to mend.
                let Ok(there) = PathInfo::scanned(key, record) else {
                    return Ok(true);
                };
                if let Some(registration) = judge(&there).filter(|_| !is_trial) {
                    let info = PathInfo {
                        registration,
                        ..there.clone()
                    };
                    self.put_record(&mut batch, &info, Some(&there));
                    batch.amended.push(info.ordinal);
                }
                Ok(true)
            })?;
        if batch.amended.is_empty() {
            return Ok(());
        }
        // Nothing is to be trusted again when the database is lost.
        batch.writes.batch.set_irreplaceable();
        let what = "path infos were revised";
        self.contents
            .write(&mut batch.writes, Durability::Power, what)?;
        // Nor is it to be in older parts of the second copy, of which a later one may be damaged.
        if let Err(e) = self.records.renew_second_copy() {
            tracing::warn!(
                "the second copy still has what was revised, before what it is now: {e}"
            );
        }
        self.corrected.fetch_or(batch.corrects, Ordering::SeqCst);
        for ordinal in batch.amended {
            self.cache.remove(&ordinal);
        }
        Ok(())
    }
}
