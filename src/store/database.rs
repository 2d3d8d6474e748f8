//! RocksDB: column families and options.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, BoundColumnFamily, Cache, ColumnFamilyDescriptor,
    CompactOptions, DBCompressionType, DBRawIteratorWithThreadMode, DBWithThreadMode, FlushOptions,
    LogLevel, MultiThreaded, Options, ReadOptions, SnapshotWithThreadMode, WriteBufferManager,
    WriteOptions,
};

use super::StoreError;
use super::blob_files::{BlobFile, blob_files, total};
use super::descriptors::for_database;
use super::directory::{self, Format, check_room, free};
use super::error::database;
use super::write_batch::{Operation, WriteBatch};
use crate::sync::lock;

/// A database that gets families while it is used.
type DB = DBWithThreadMode<MultiThreaded>;
type DBRawIterator<'d> = DBRawIteratorWithThreadMode<'d, DB>;

pub(super) const CHUNKS: &str = "chunks";
pub(super) const DIGESTS: &str = "digests";
pub(super) const TREES: &str = "trees";
pub(super) const PATHS: &str = "paths";
pub(super) const ORDINALS: &str = "ordinals";
pub(super) const META: &str = "meta";
pub(super) const USES: &str = "uses";
pub(super) const ROOTS: &str = "roots";
pub(super) const TRACES: &str = "traces";
pub(super) const RECLAIMED: &str = "reclaimed";
pub(super) const PROFILES: &str = "profiles";
pub(super) const VIEWS: &str = "views";

/// The families, each with the format that it came with.
const FAMILIES: [(&str, Format); 12] = [
    (CHUNKS, Format::First),
    (DIGESTS, Format::First),
    (TREES, Format::First),
    (PATHS, Format::First),
    (ORDINALS, Format::First),
    (META, Format::First),
    (USES, Format::Second),
    (ROOTS, Format::Second),
    (TRACES, Format::Second),
    (RECLAIMED, Format::Second),
    (PROFILES, Format::Second),
    (VIEWS, Format::Third),
];

/// The format that a state needs for what is written. Any record may be one that format 1 does not
/// know, such as a path info with an origin; what is deleted needs no family.
fn needed(operations: &[Operation]) -> Format {
    let written = |name| operations.iter().any(|o| o.0 == name && o.2.is_some());
    match operations {
        [] => Format::First,
        _ if written(VIEWS) => Format::Third,
        _ => Format::Second,
    }
}

/// Values of `chunks` from this size on, in bytes, lie in blob files: compaction then moves
/// keys, not contents.
const BLOB: u64 = 1 << 10;
/// Size of the files with the keys of `chunks`, in bytes. One is for some 10,000 chunks. Compactions
/// work on 25 at a time, for which there has to be room on a disk that is nearly full.
const FRAGMENT: u64 = 256 << 10;
/// Bytes of the log at most: what is older is written to files. A start reads the log.
const LOG: u64 = 16 << 20;
/// Below this nothing is written, neither to the log nor to files: after one write that finds no room
/// RocksDB refuses all others until it is opened anew.
const LEAST_FREE: u64 = 16 << 20;

/// The database, with its families at hand.
pub(super) struct Database {
    pub(super) db: DB,
    cache: Cache,
    memory: usize,
    buffers: WriteBufferManager,
    /// The directory of the database.
    dir: PathBuf,
    /// That of the state. Held while it is raised.
    format: Mutex<Format>,
}

impl Database {
    /// Opens or makes the database in `dir` of a state that has this format, with at most `memory`
    /// bytes for blocks and for what is not yet flushed, in a process that may open so many files.
    /// Families that the format has not are made when something is written to them.
    pub(super) fn open(
        dir: &Path,
        format: Format,
        memory: usize,
        descriptors: u64,
    ) -> Result<Self, StoreError> {
        // Half for blocks, half for writes; a write buffer of its own bound rather than one
        // charged to the cache, so that an ingest does not push out what a mount reads.
        let cache = Cache::new_lru_cache(memory / 2);
        let buffers = WriteBufferManager::new_write_buffer_manager(memory / 2, false);
        // Else RocksDB reserves disk for what it may write some day, first of all for its log.
        let options = Options::default().get_options_from_string("allow_fallocate=false");
        let mut options = options.map_err(database("it was opened"))?;
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Chunks go without the log; an atomic flush keeps them and their digests together.
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(&buffers);
        options.set_max_open_files(for_database(descriptors));
        options.set_max_total_wal_size(LOG);
        options.set_max_background_jobs(2);
        options.set_bytes_per_sync(8 << 20);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        // A crash while the format was raised leaves families out, or has one more.
        let there = match format {
            Format::First | Format::Second => DB::list_cf(&options, dir).unwrap_or_default(),
            Format::Third | Format::Listed => Vec::new(),
        };
        let families = FAMILIES
            .into_iter()
            .filter(|(name, since)| *since <= format || there.iter().any(|t| t == name));
        let families = families.map(|(name, _)| {
            ColumnFamilyDescriptor::new(name, family_options(name, &cache, memory))
        });
        let db =
            DB::open_cf_descriptors(&options, dir, families).map_err(database("it was opened"))?;
        let database = Self {
            db,
            cache,
            memory,
            buffers,
            dir: dir.to_owned(),
            format: Mutex::new(format),
        };
        database.delete_leftovers()?;
        Ok(database)
    }

    /// Deletes the blob files that a process has left behind that was killed while it wrote them.
    /// RocksDB takes those without an end for files that are being written, and keeps them for
    /// good. Nothing is written to blob files yet.
    fn delete_leftovers(&self) -> Result<(), StoreError> {
        let used = self.number_of(CHUNKS, "rocksdb.num-blob-files")?;
        let used_bytes = self.number_of(CHUNKS, "rocksdb.live-blob-file-size")?;
        let fail = || self.directory_error("what was left behind cannot be deleted");
        let files = self.blob_files()?;
        if files.len() as u64 == used {
            return Ok(());
        }
        let newest = newest_manifest(&self.dir).map_err(fail())?;
        let (mut needed, mut left) = (Vec::new(), Vec::new());
        for file in files {
            // RocksDB deletes meanwhile what it knows that it needs no more.
            let Some(is_finished) = if_there(file.is_finished()).map_err(fail())? else {
                continue;
            };
            // What was in use when this one was opened is older than its manifest.
            if file.number > newest || !is_finished {
                left.push(file);
            } else {
                needed.push(file);
            }
        }
        let bytes = total(&left);
        if needed.len() as u64 != used || total(&needed) != used_bytes {
            tracing::warn!(
                bytes,
                "blob files of the database are damaged or missing, so that it is not sure which were \
                 left behind by a process that was killed; they stay; `narfs verify` names what suffers"
            );
            return Ok(());
        }
        for file in &left {
            if_there(file.delete()).map_err(fail())?;
        }
        tracing::info!(
            bytes,
            files = left.len(),
            "deleted what a process had left behind that was killed"
        );
        Ok(())
    }

    /// The blob files on the disk.
    pub(super) fn blob_files(&self) -> Result<Vec<BlobFile>, StoreError> {
        blob_files(&self.dir).map_err(self.directory_error("its files cannot be listed"))
    }

    /// The directory of the state.
    fn state(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Names the state where its directory cannot be used.
    pub(super) fn directory_error(
        &self,
        what: &'static str,
    ) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let dir = self.state().to_owned();
        move |source| StoreError::Directory { dir, what, source }
    }

    /// An error when there is no room to write on the disk.
    fn check_room(&self) -> Result<(), StoreError> {
        check_room(self.state(), LEAST_FREE, self.unwritten())
    }

    /// Bytes that can still be written before there is no room.
    pub(super) fn free_to_write(&self) -> Result<u64, StoreError> {
        let free = free(self.state())?;
        Ok(free.saturating_sub(LEAST_FREE + self.unwritten()))
    }

    /// Bytes that were written and are not yet in a file, the log apart.
    pub(super) fn unwritten(&self) -> u64 {
        self.buffers.get_usage() as u64
    }

    /// A family; `None` where the format of the state has not got it, so that nothing is in it.
    fn family(&self, name: &'static str) -> Option<Arc<BoundColumnFamily<'_>>> {
        self.db.cf_handle(name)
    }

    /// Has the state have a format, and the families of that.
    fn raise(&self, needed: Format) -> Result<(), StoreError> {
        let mut format = lock(&self.format);
        if *format >= needed {
            return Ok(());
        }
        directory::raise(self.state(), needed)?;
        for (name, since) in FAMILIES {
            if since <= needed && self.family(name).is_none() {
                let options = family_options(name, &self.cache, self.memory);
                let made = self.db.create_cf(name, &options);
                made.map_err(database("it was upgraded"))?;
            }
        }
        *format = needed;
        Ok(())
    }

    /// The batch in the form of the database, which has its families then.
    fn prepared(&self, batch: WriteBatch) -> Result<rocksdb::WriteBatch, StoreError> {
        let operations = batch.into_operations();
        self.raise(needed(&operations))?;
        let mut prepared = rocksdb::WriteBatch::default();
        for (name, key, value) in operations {
            match (self.family(name), value) {
                (Some(family), Some(value)) => prepared.put_cf(&family, key, value),
                (Some(family), None) => prepared.delete_cf(&family, key),
                // There is nothing to delete.
                (None, _) => {}
            }
        }
        Ok(prepared)
    }

    pub(super) fn get(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, StoreError> {
        let Some(family) = self.family(family) else {
            return Ok(None);
        };
        self.db
            .get_pinned_cf(&family, key)
            .map_err(database("a record was read"))
    }

    /// A property of a family that is a number.
    pub(super) fn number_of(&self, family: &'static str, name: &str) -> Result<u64, StoreError> {
        let Some(family) = self.family(family) else {
            return Ok(0);
        };
        let number = self
            .db
            .property_int_value_cf(&family, name)
            .map_err(database("its files were measured"))?;
        Ok(number.unwrap_or(0))
    }

    /// Errors that flushes and compactions have met since this was opened.
    pub(super) fn background_errors(&self) -> u64 {
        // RocksDB counts those of all families with the one named `default`.
        let errors = self.db.property_int_value("rocksdb.background-errors");
        errors.ok().flatten().unwrap_or(0)
    }

    /// Records in the files of a family, with those that are deleted or replaced and have not met
    /// what deletes or replaces them.
    pub(super) fn entries(&self, family: &'static str) -> Result<u64, StoreError> {
        let files = self.db.live_files();
        let files = files.map_err(database("its files were measured"))?;
        let of_family = files.iter().filter(|f| f.column_family_name == family);
        Ok(of_family.map(|f| f.num_entries).sum())
    }

    /// How many snapshots there are.
    pub(super) fn snapshots(&self) -> Result<u64, StoreError> {
        self.number_of(CHUNKS, "rocksdb.num-snapshots")
    }

    /// The first key of a family.
    pub(super) fn first_key(&self, family: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.end_key(family, |i| i.seek_to_first())
    }

    /// The last key of a family.
    pub(super) fn last_key(&self, family: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.end_key(family, |i| i.seek_to_last())
    }

    fn end_key(
        &self,
        family: &'static str,
        seek: impl FnOnce(&mut DBRawIterator<'_>),
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(family) = self.family(family) else {
            return Ok(None);
        };
        let mut iterator = self.db.raw_iterator_cf(&family);
        seek(&mut iterator);
        let key = iterator.key().map(<[u8]>::to_vec);
        iterator
            .status()
            .map_err(database("its first or last record was looked up"))?;
        Ok(key)
    }

    /// Makes everything that was written without the log durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.check_room()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families: Vec<_> = FAMILIES.iter().filter_map(|f| self.family(f.0)).collect();
        self.db
            .flush_cfs_opt(&families.iter().collect::<Vec<_>>(), &options)
            .map_err(database("chunks were written to disk"))
    }

    /// Gives the space of deleted records back, those of chunks apart: `reclaim.rs` has these.
    pub(super) fn compact_metadata(&self) -> Result<(), StoreError> {
        for family in [TREES, PATHS, ORDINALS, DIGESTS, USES] {
            self.merge(family, false)?;
        }
        Ok(())
    }

    /// Has the records of a family meet what deletes or replaces them; with `all` also where there
    /// is nothing newer.
    pub(super) fn merge(&self, family: &'static str, all: bool) -> Result<(), StoreError> {
        self.check_room()?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        if all {
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        }
        if let Some(family) = self.family(family) {
            self.db
                .compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    /// Writes `batch` to the log and waits for the disk.
    pub(super) fn write_synced(
        &self,
        batch: WriteBatch,
        what: &'static str,
    ) -> Result<(), StoreError> {
        self.check_room()?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        let written = self.db.write_opt(self.prepared(batch)?, &options);
        written.map_err(database(what))
    }

    /// Writes `batch` to the log, without waiting for the disk.
    pub(super) fn write(&self, batch: WriteBatch, what: &'static str) -> Result<(), StoreError> {
        self.check_room()?;
        let written = self.db.write(self.prepared(batch)?);
        written.map_err(database(what))
    }

    /// Writes `batch` without the log; a crash before the next flush loses it whole.
    pub(super) fn write_unlogged(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(self.prepared(batch)?, &options)
            .map_err(database("a chunk was written"))
    }

    /// Walks a family from `from` on; stops when `visit` says `false`.
    pub(super) fn scan(
        &self,
        family: &'static str,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        match self.family(family) {
            Some(family) => walk(self.db.raw_iterator_cf(&family), from, visit),
            None => Ok(()),
        }
    }

    /// The records as they are now, whatever is written later.
    pub(super) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            database: self,
            at: self.db.snapshot(),
        }
    }
}

/// The database at one moment.
pub(super) struct Snapshot<'d> {
    database: &'d Database,
    at: SnapshotWithThreadMode<'d, DB>,
}

impl Snapshot<'_> {
    /// Walks a family, as [`Database::scan`] does, without filling the cache with it.
    pub(super) fn scan(
        &self,
        family: &'static str,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        match self.database.family(family) {
            Some(family) => walk(self.at.raw_iterator_cf_opt(&family, options), from, visit),
            None => Ok(()),
        }
    }
}

fn walk(
    mut iterator: DBRawIterator<'_>,
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    iterator.seek(from);
    while let Some((key, value)) = iterator.item() {
        if !visit(key, value)? {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(database("records were listed"))
}

/// The number of the newest manifest in the directory of the database.
fn newest_manifest(db: &Path) -> io::Result<u64> {
    let mut newest = 0;
    for entry in std::fs::read_dir(db)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("MANIFEST-"));
        newest = newest.max(number.and_then(|n| n.parse().ok()).unwrap_or(0));
    }
    Ok(newest)
}

fn family_options(name: &str, cache: &Cache, memory: usize) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(memory / 2);
    // Chunks and trees are compressed already, digests are noise.
    options.set_compression_type(match name {
        PATHS | ORDINALS => DBCompressionType::Zstd,
        _ => DBCompressionType::None,
    });
    if name == CHUNKS {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(BLOB);
        options.set_blob_compression_type(DBCompressionType::None);
        // Only `reclaim` moves blobs; compactions write none.
        options.set_target_file_size_base(FRAGMENT);
    }
    options
}

/// What came of a file; `None` if it was deleted meanwhile.
fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}
