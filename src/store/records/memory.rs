//! Records in memory, for tests: they can lose what is not durable, and fail at any write.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::backend::{
    Backend, BackendError, Batch, Durability, End, Opening, Record, View, Visitor, Write,
};
use super::blob_files::BlobFile;
use super::family::Family;
use crate::nix::store_path::StorePath;
use crate::store::format::Format;
use crate::sync::lock;

type Map = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// What ends with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The process is killed: what only a flush makes durable is lost.
    Process,
    /// The power fails: so is what was written since the last batch of [`Durability::Power`].
    Power,
    /// The disk fails: so is everything.
    All,
}

/// Records in memory. A clone shares them, as two processes share a disk; only one may use it at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryBackend(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    /// What readers see.
    seen: Arc<Map>,
    /// What the last flush has written to files.
    flushed: Arc<Map>,
    /// Batches that were written since then, but for those that only a flush makes durable.
    log: Vec<Vec<Write>>,
    /// How much of the log survives a power loss.
    synced: usize,
    /// Writes and flushes that were begun since the last reset.
    writes: u64,
    /// The number of the write that fails, and that all later ones do.
    failing: Option<u64>,
    /// Processes that have opened it.
    openings: u64,
    /// Snapshots that live.
    snapshots: Arc<()>,
    /// Batches that survive a power loss, and flushes.
    syncs: (u64, u64),
    /// Records that were read, one after the other or by their keys.
    reads: Arc<AtomicU64>,
    unreadable: Arc<Unreadable>,
}

/// Records that cannot be read; with `true` those that were replaced since: a listing ends there even so.
type Unreadable = BTreeMap<(Family, Vec<u8>), bool>;

impl MemoryBackend {
    /// Has the write of this number, counted from now on and from 0, fail, and each one after it. What
    /// it was to write is not written.
    pub(crate) fn fail_from(&self, write: Option<u64>) {
        let mut disk = lock(&self.0);
        disk.writes = 0;
        disk.failing = write;
    }

    /// Makes every record of a chunk another one, as a disk may that fails.
    pub(crate) fn damage_chunks(&self) {
        let mut disk = lock(&self.0);
        let damage = |map: &mut Arc<Map>| {
            let chunks = Arc::make_mut(map).iter_mut();
            let chunks = chunks.filter(|((family, _), _)| *family == Family::Chunks);
            chunks.for_each(|(_, record)| *record = b"nonsense".to_vec());
        };
        damage(&mut disk.seen);
        damage(&mut disk.flushed);
    }

    /// How many times it was waited for the disk so far: by batches that survive a power loss, and by
    /// flushes.
    pub(crate) fn syncs(&self) -> (u64, u64) {
        lock(&self.0).syncs
    }

    /// How many records were read so far, by their keys or one after the other.
    pub(crate) fn reads(&self) -> u64 {
        lock(&self.0).reads.load(Ordering::Relaxed)
    }

    /// Has a record be unreadable, as in a block that has changed on the disk: until it is replaced for those
    /// who know its key, and for good for listings.
    pub(in crate::store) fn damage(&self, family: Family, key: &[u8]) {
        let mut disk = lock(&self.0);
        let unreadable = Arc::make_mut(&mut disk.unreadable);
        unreadable.insert((family, key.to_vec()), false);
    }

    /// Counts an opening.
    pub(super) fn opened(&self) -> Opening {
        let mut disk = lock(&self.0);
        disk.openings += 1;
        Opening {
            before: disk.openings - 1,
            now: disk.openings,
        }
    }

    /// The same of the path info of a path.
    pub(crate) fn damage_path_info(&self, path: &StorePath) {
        self.damage(Family::Paths, path.hash().as_bytes());
    }

    /// How many writes and flushes were begun since the last call of [`MemoryBackend::fail_from`].
    pub(crate) fn writes(&self) -> u64 {
        lock(&self.0).writes
    }

    /// What the next process finds. Nothing fails any more.
    pub(crate) fn after(&self, loss: Loss) -> Self {
        let disk = lock(&self.0);
        if loss == Loss::All {
            return Self(Arc::new(Mutex::new(Disk {
                openings: disk.openings,
                ..Disk::default()
            })));
        }
        let mut seen = (*disk.flushed).clone();
        let kept = match loss {
            Loss::Process => disk.log.len(),
            Loss::Power => disk.synced,
            Loss::All => 0,
        };
        let log = disk.log.iter().take(kept).cloned().collect::<Vec<_>>();
        log.iter().for_each(|batch| apply(&mut seen, batch));
        Self(Arc::new(Mutex::new(Disk {
            seen: Arc::new(seen),
            flushed: disk.flushed.clone(),
            synced: log.len(),
            log,
            unreadable: disk.unreadable.clone(),
            openings: disk.openings,
            ..Disk::default()
        })))
    }
}

impl Disk {
    /// Counts a write.
    fn begin(&mut self) -> Result<(), BackendError> {
        let number = self.writes;
        self.writes += 1;
        match self.failing {
            Some(failing) if number >= failing => Err(BackendError::new("this write is to fail")),
            _ => Ok(()),
        }
    }
}

/// Notes that the records of a batch can be read.
fn replace(unreadable: &mut Arc<Unreadable>, batch: &[Write]) {
    if unreadable.is_empty() {
        return;
    }
    let unreadable = Arc::make_mut(unreadable);
    for write in batch {
        if let Write::Put(family, key, _) | Write::Delete(family, key) = write
            && let Some(replaced) = unreadable.get_mut(&(*family, key.clone()))
        {
            *replaced = true;
        }
    }
}

fn damaged() -> BackendError {
    BackendError::missing("this record cannot be read")
}

fn apply(map: &mut Map, batch: &[Write]) {
    for write in batch {
        match write.clone() {
            Write::Put(family, key, record) => drop(map.insert((family, key), record)),
            Write::Delete(family, key) => drop(map.remove(&(family, key))),
            Write::Clear(family) => map.retain(|(of, _), _| *of != family),
        }
    }
}

fn scan(
    (map, unreadable, reads): (&Map, &Unreadable, &AtomicU64),
    family: Family,
    from: &[u8],
    visit: &mut Visitor<'_>,
) -> Result<(), BackendError> {
    let from = (Bound::Included((family, from.to_vec())), Bound::Unbounded);
    let end = unreadable.range(from.clone()).next();
    let end = end.filter(|((of, _), _)| *of == family).map(|(at, _)| at);
    for (at, record) in map.range(from).take_while(|((of, _), _)| *of == family) {
        if end.is_some_and(|end| at >= end) {
            break;
        }
        reads.fetch_add(1, Ordering::Relaxed);
        if !visit(&at.1, record) {
            return Ok(());
        }
    }
    end.map_or(Ok(()), |_| Err(damaged()))
}

impl View for MemoryBackend {
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        // The visitor may write.
        let (seen, unreadable, reads) = {
            let disk = lock(&self.0);
            (
                disk.seen.clone(),
                disk.unreadable.clone(),
                disk.reads.clone(),
            )
        };
        scan((&seen, &unreadable, &reads), family, from, visit)
    }
}

/// The records at one moment.
struct MemorySnapshot {
    seen: Arc<Map>,
    unreadable: Arc<Unreadable>,
    #[expect(dead_code, reason = "it counts")]
    counted: Arc<()>,
    reads: Arc<AtomicU64>,
}

impl View for MemorySnapshot {
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        scan(
            (&self.seen, &self.unreadable, &self.reads),
            family,
            from,
            visit,
        )
    }
}

impl Backend for MemoryBackend {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Record<'_>>, BackendError> {
        let (disk, key) = (lock(&self.0), (family, key.to_vec()));
        disk.reads.fetch_add(1, Ordering::Relaxed);
        if disk.unreadable.get(&key) == Some(&false) {
            return Err(damaged());
        }
        Ok(disk.seen.get(&key).cloned().map(Record::Owned))
    }

    fn end_key(&self, family: Family, end: End) -> Result<Option<Vec<u8>>, BackendError> {
        let seen = lock(&self.0).seen.clone();
        let mut keys = seen.keys().filter(|(of, _)| *of == family);
        let key = match end {
            End::First => keys.next(),
            End::Last => keys.next_back(),
        };
        Ok(key.map(|(_, key)| key.clone()))
    }

    fn make_families(&self, _: Format) -> Result<(), BackendError> {
        Ok(())
    }

    fn empty_families(&self, families: &[Family]) -> Result<(), BackendError> {
        let mut batch = Batch::default();
        families.iter().for_each(|family| batch.clear(*family));
        self.write(batch, Durability::Power)
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), BackendError> {
        let mut disk = lock(&self.0);
        disk.begin()?;
        apply(Arc::make_mut(&mut disk.seen), &batch.writes);
        replace(&mut disk.unreadable, &batch.writes);
        if durability != Durability::Flush {
            disk.log.push(batch.writes);
        }
        if durability == Durability::Power {
            disk.synced = disk.log.len();
            disk.syncs.0 += 1;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BackendError> {
        let mut disk = lock(&self.0);
        disk.begin()?;
        disk.flushed = disk.seen.clone();
        disk.log.clear();
        disk.synced = 0;
        disk.syncs.1 += 1;
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn View + Send + Sync + '_> {
        let disk = lock(&self.0);
        Box::new(MemorySnapshot {
            seen: disk.seen.clone(),
            unreadable: disk.unreadable.clone(),
            counted: disk.snapshots.clone(),
            reads: disk.reads.clone(),
        })
    }

    fn snapshots(&self) -> Result<u64, BackendError> {
        Ok(Arc::strong_count(&lock(&self.0).snapshots) as u64 - 1)
    }

    fn unwritten(&self) -> u64 {
        0
    }

    fn set_mended(&self) {}

    fn has_new_damage(&self) -> bool {
        false
    }

    fn refuses_writes(&self) -> bool {
        false
    }

    fn file_bytes(&self, family: Family) -> Result<u64, BackendError> {
        let seen = lock(&self.0).seen.clone();
        let of_family = seen.iter().filter(|((of, _), _)| *of == family);
        Ok(of_family
            .map(|((_, k), v)| (k.len() + v.len()) as u64)
            .sum())
    }

    fn file_records(&self, family: Family) -> Result<u64, BackendError> {
        let seen = lock(&self.0).seen.clone();
        Ok(seen.keys().filter(|(of, _)| *of == family).count() as u64)
    }

    fn merge(&self, _: Family, _: bool) {}

    fn blob_files(&self) -> std::io::Result<Vec<BlobFile>> {
        Ok(Vec::new())
    }
}
