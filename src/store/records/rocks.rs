//! Records in RocksDB.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, BoundColumnFamily, Cache, ColumnFamilyDescriptor,
    CompactOptions, DBCompressionType, DBRawIteratorWithThreadMode, DBWithThreadMode, FlushOptions,
    LiveFile, LogLevel, MultiThreaded, Options, ReadOptions, SnapshotWithThreadMode,
    WaitForCompactOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::backend::{
    Backend, BackendError, Batch, Durability, End, Lost, Opening, Record, View, Visitor, Write,
};
use super::blob_files::{BlobFile, blob_files, total};
use super::family::Family;
use super::tables::{Damage, number};
use crate::store::directory::make_directory;
use crate::store::error::{StoreError, failed};
use crate::store::format::Format;

/// A database that gets families while it is used.
type DB = DBWithThreadMode<MultiThreaded>;

/// Values of `chunks` from this size on, in bytes, lie in blob files: compaction then moves
/// keys, not contents.
const BLOB: u64 = 1 << 10;
/// Size of the files with the keys of `chunks`, in bytes. One is for some 10,000 chunks. Compactions
/// work on 25 at a time, for which there has to be room on a disk that is nearly full.
const FRAGMENT: u64 = 256 << 10;
/// Bytes of the log at most: what is older is written to files. A start reads the log.
const LOG: u64 = 16 << 20;

/// Time that a merge waits at most until files that it has emptied are deleted.
const DELETION: Duration = Duration::from_secs(2);

/// What RocksDB makes anew where it is missing, and does not open without being able to read or replace it.
const MADE_ANEW: [&str; 2] = ["IDENTITY", "LOG"];

/// The database.
pub(super) struct RocksDb {
    db: DB,
    cache: Cache,
    memory: usize,
    buffers: WriteBufferManager,
    /// Its directory.
    dir: PathBuf,
    damage: Damage,
    opening: Opening,
}

/// Why the database cannot be opened.
pub(super) enum OpenError {
    /// RocksDB failed.
    Database(BackendError),
    /// Its directory cannot be used.
    Directory(io::Error),
}

impl OpenError {
    /// Whether it is that the disk is full.
    pub(super) fn is_for_want_of_room(&self) -> bool {
        match self {
            Self::Database(e) => e.to_string().contains("No space left on device"),
            Self::Directory(e) => e.kind() == io::ErrorKind::StorageFull,
        }
    }

    /// The same of a state, which has a second copy or not.
    pub(super) fn of_state(self, state: &Path, has_copy: bool) -> StoreError {
        let dir = state.to_owned();
        match self {
            Self::Database(source) if source.is_corruption() => StoreError::Incomplete {
                dir,
                has_copy,
                source: source.into(),
            },
            Self::Database(e) => failed("it was opened")(e),
            Self::Directory(source) => StoreError::Directory {
                dir,
                what: "what a killed process left behind in its database cannot be deleted",
                source,
            },
        }
    }
}

/// Makes a list of the tables in the directory of a database that has none.
pub(super) fn list_tables(dir: &Path) -> Result<(), OpenError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_log_level(LogLevel::Warn);
    Ok(DB::repair(&options, dir).map_err(BackendError::from)?)
}

/// Whether there are files with records. Those come after the file `CURRENT`.
fn has_records(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let kind = path.extension().unwrap_or_default();
        if ["sst", "blob", "log"]
            .iter()
            .any(|records| kind == *records)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

impl RocksDb {
    /// Opens or makes the database in `dir`, with the families of `format`, and at most `memory` bytes for
    /// blocks and for what is not flushed yet. While a table is known to be damaged, nothing is merged by
    /// itself.
    pub(super) fn open(
        dir: &Path,
        format: Format,
        memory: usize,
        open_files: i32,
    ) -> Result<Self, OpenError> {
        // Half for blocks, half for writes; a write buffer of its own bound rather than one
        // charged to the cache, so that an ingest does not push out what a mount reads.
        let cache = Cache::new_lru_cache(memory / 2);
        let buffers = WriteBufferManager::new_write_buffer_manager(memory / 2, false);
        let options = options(&buffers, open_files).map_err(BackendError::from)?;
        // RocksDB opens all families that are there, which may be more than the format has.
        let there = match format {
            Format::First | Format::Second => DB::list_cf(&options, dir).unwrap_or_default(),
            Format::Third | Format::Listed => Vec::new(),
        };
        let is_opened =
            |f: &Family| f.since() <= format || there.iter().any(|name| name == f.name());
        let families = Family::ALL.into_iter().filter(is_opened);
        let damage = Damage::of(dir);
        // RocksDB syncs what it writes there, but not the name of the directory.
        if !dir.join("CURRENT").exists() {
            make_directory(dir)?;
            // RocksDB would make a new database, and delete what is left of this one.
            if has_records(dir).map_err(OpenError::Directory)? {
                let missing = BackendError::missing("its file CURRENT is missing");
                return Err(OpenError::Database(missing));
            }
        }
        for name in MADE_ANEW {
            if dir.join(name).is_dir() {
                std::fs::remove_dir(dir.join(name))?;
            }
        }
        let merges = damage.tables().is_empty();
        let families = families.map(|f| {
            let mut of_family = family_options(f, &cache, memory);
            of_family.set_disable_auto_compactions(!merges);
            ColumnFamilyDescriptor::new(f.name(), of_family)
        });
        // Each opening begins a new manifest.
        let before = newest_manifest(dir).map_err(OpenError::Directory)?;
        let db = DB::open_cf_descriptors(&options, dir, families).map_err(BackendError::from)?;
        let now = newest_manifest(dir).map_err(OpenError::Directory)?;
        let database = Self {
            db,
            cache,
            memory,
            buffers,
            dir: dir.to_owned(),
            damage,
            opening: Opening { before, now },
        };
        database.delete_leftovers()?;
        Ok(database)
    }

    /// Deletes the blob files that a process has left behind that was killed while it wrote them.
    /// RocksDB takes those without an end for files that are being written, and keeps them for
    /// good. Nothing is written to blob files yet.
    fn delete_leftovers(&self) -> Result<(), OpenError> {
        let used = self.number_of(Family::Chunks, "rocksdb.num-blob-files")?;
        let used_bytes = self.number_of(Family::Chunks, "rocksdb.live-blob-file-size")?;
        let files = blob_files(&self.dir)?;
        if files.len() as u64 == used {
            return Ok(());
        }
        let newest = newest_manifest(&self.dir)?;
        let (mut needed, mut left) = (Vec::new(), Vec::new());
        for file in files {
            // RocksDB deletes meanwhile what it knows that it needs no more.
            let is_finished = match file.is_finished() {
                Ok(is_finished) => is_finished,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                // It is not one that RocksDB was still writing.
                Err(_) => true,
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
            match file.delete() {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        tracing::info!(
            bytes,
            files = left.len(),
            "deleted what a process had left behind that was killed"
        );
        Ok(())
    }

    /// Takes another manifest for that of the opening before, if there was one.
    pub(super) fn follow(&mut self, before: Option<u64>) {
        self.opening.before = before.unwrap_or(self.opening.before);
    }

    /// Whether records may be lost that were in tables which are damaged, and that nothing was asked for.
    pub(super) fn is_unsettled(&self) -> bool {
        self.damage.is_unsettled()
    }

    /// Notes that nothing brings these records back.
    pub(super) fn settle(&self) {
        self.damage.settle();
    }

    /// When it was opened.
    pub(super) fn opening(&self) -> Opening {
        self.opening
    }

    /// A family; `None` if the format of the state does not have it, so that it is empty.
    fn family(&self, family: Family) -> Option<Arc<BoundColumnFamily<'_>>> {
        self.db.cf_handle(family.name())
    }

    /// An error of RocksDB. A table that it names is left alone from now on.
    fn failed(&self, error: rocksdb::Error) -> BackendError {
        let error = BackendError::from(error);
        if error.is_corruption() && self.damage.note(&error) {
            for family in Family::ALL {
                if let Some(at) = self.family(family)
                    && self.is_damaged(family)
                    && let Err(e) = self
                        .db
                        .set_options_cf(&at, &[("disable_auto_compactions", "true")])
                {
                    tracing::warn!("what is damaged cannot be left alone: {e}");
                }
            }
        }
        error
    }

    /// The same of a write.
    fn refused(&self, error: rocksdb::Error) -> BackendError {
        let error = self.failed(error).refusing();
        if error.is_refusal() {
            self.damage.note_refusal(&error);
        }
        error
    }

    /// Whether a table of a family is known to be damaged.
    fn is_damaged(&self, family: Family) -> bool {
        let tables = self.damage.tables();
        let is_of_family = |file: &LiveFile| {
            file.column_family_name == family.name()
                && number(&file.name).is_some_and(|number| tables.contains(&number))
        };
        !tables.is_empty() && {
            let files = self.db.live_files();
            files.is_ok_and(|files| files.iter().any(is_of_family))
        }
    }

    /// Bytes of the tables of a family.
    pub(super) fn table_bytes(&self, family: Family) -> Result<u64, BackendError> {
        self.number_of(family, "rocksdb.live-sst-files-size")
    }

    /// A property of a family that is a number.
    fn number_of(&self, family: Family, name: &str) -> Result<u64, BackendError> {
        let Some(family) = self.family(family) else {
            return Ok(0);
        };
        let number = self.db.property_int_value_cf(&family, name)?;
        Ok(number.unwrap_or(0))
    }
}

impl View for RocksDb {
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        match self.family(family) {
            Some(family) => {
                let walked = walk(self.db.raw_iterator_cf(&family), from, visit);
                walked.map_err(|e| self.failed(e))
            }
            None => Ok(()),
        }
    }

    fn lost(&self, family: Family) -> Vec<Lost> {
        self.damage.lost(family)
    }
}

impl Backend for RocksDb {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Record<'_>>, BackendError> {
        let Some(at) = self.family(family) else {
            return Ok(None);
        };
        let found = self.db.get_pinned_cf(&at, key);
        match found.map_err(|e| self.failed(e))? {
            None if self.damage.is_lost(family, key) => Err(BackendError::missing(
                "the record was in a table that is damaged, if it was there",
            )),
            found => Ok(found.map(Record::Pinned)),
        }
    }

    fn end_key(&self, family: Family, end: End) -> Result<Option<Vec<u8>>, BackendError> {
        let Some(family) = self.family(family) else {
            return Ok(None);
        };
        let mut iterator = self.db.raw_iterator_cf(&family);
        match end {
            End::First => iterator.seek_to_first(),
            End::Last => iterator.seek_to_last(),
        }
        let key = iterator.key().map(<[u8]>::to_vec);
        iterator.status().map_err(|e| self.failed(e))?;
        Ok(key)
    }

    fn make_families(&self, format: Format) -> Result<(), BackendError> {
        for family in Family::ALL {
            if family.since() <= format && self.family(family).is_none() {
                let options = family_options(family, &self.cache, self.memory);
                self.db.create_cf(family.name(), &options)?;
            }
        }
        Ok(())
    }

    fn empty_families(&self, families: &[Family]) -> Result<(), BackendError> {
        for family in families {
            if self.family(*family).is_some() {
                self.db.drop_cf(family.name())?;
                let options = family_options(*family, &self.cache, self.memory);
                self.db.create_cf(family.name(), &options)?;
            }
        }
        Ok(())
    }

    fn write(&self, batch: Batch, durability: Durability) -> Result<(), BackendError> {
        let mut writes = WriteBatch::default();
        for write in batch.writes {
            let (Write::Put(family, ..) | Write::Delete(family, _) | Write::Clear(family)) = write;
            match (self.family(family), write) {
                (Some(at), Write::Put(_, key, record)) => writes.put_cf(&at, key, record),
                (Some(at), Write::Delete(_, key)) => writes.delete_cf(&at, key),
                (Some(at), Write::Clear(_)) => {
                    if let Some(last) = self.end_key(family, End::Last)? {
                        writes.delete_range_cf(&at, &[][..], &last);
                        writes.delete_cf(&at, last);
                    }
                }
                (None, Write::Put(..)) => return Err(BackendError::new("a family is missing")),
                (None, Write::Delete(..) | Write::Clear(_)) => {}
            }
        }
        let mut options = WriteOptions::default();
        match durability {
            Durability::Flush => options.disable_wal(true),
            Durability::Process => {}
            Durability::Power => options.set_sync(true),
        }
        let written = self.db.write_opt(writes, &options);
        written.map_err(|e| self.refused(e))
    }

    fn flush(&self) -> Result<(), BackendError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = Family::ALL.map(|f| self.family(f));
        let families: Vec<_> = families.iter().flatten().collect();
        let flushed = self.db.flush_cfs_opt(&families, &options);
        flushed.map_err(|e| self.refused(e))
    }

    fn snapshot(&self) -> Box<dyn View + Send + Sync + '_> {
        Box::new(RocksSnapshot {
            database: self,
            at: self.db.snapshot(),
        })
    }

    fn snapshots(&self) -> Result<u64, BackendError> {
        self.number_of(Family::Chunks, "rocksdb.num-snapshots")
    }

    fn unwritten(&self) -> u64 {
        self.buffers.get_usage() as u64
    }

    fn refuses_writes(&self) -> bool {
        // RocksDB counts those of all families with the one named `default`.
        let errors = self.db.property_int_value("rocksdb.background-errors");
        errors.ok().flatten().unwrap_or(0) > 0
    }

    fn set_mended(&self) {
        self.damage.set_mended();
    }

    fn has_new_damage(&self) -> bool {
        self.damage.has_new_table()
    }

    fn file_bytes(&self, family: Family) -> Result<u64, BackendError> {
        let blobs = self.number_of(family, "rocksdb.live-blob-file-size")?;
        Ok(blobs + self.table_bytes(family)?)
    }

    fn file_records(&self, family: Family) -> Result<u64, BackendError> {
        let files = self.db.live_files()?;
        let files = files.iter();
        let of_family = files.filter(|f| f.column_family_name == family.name());
        Ok(of_family.map(|f| f.num_entries).sum())
    }

    fn merge(&self, family: Family, all: bool) {
        if self.is_damaged(family) {
            return;
        }
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        if all {
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        }
        if let Some(family) = self.family(family) {
            self.db
                .compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
        }
        // A compaction is done before the thread that did it has deleted the files that are left over.
        let mut deletion = WaitForCompactOptions::default();
        deletion.set_timeout(DELETION.as_micros() as u64);
        // Where more is written all the time, they are deleted some time.
        let _ = self.db.wait_for_compact(&deletion);
    }

    fn blob_files(&self) -> io::Result<Vec<BlobFile>> {
        blob_files(&self.dir)
    }
}

/// The database at one moment.
struct RocksSnapshot<'d> {
    database: &'d RocksDb,
    at: SnapshotWithThreadMode<'d, DB>,
}

impl View for RocksSnapshot<'_> {
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), BackendError> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        match self.database.family(family) {
            Some(family) => {
                let walked = walk(self.at.raw_iterator_cf_opt(&family, options), from, visit);
                walked.map_err(|e| self.database.failed(e))
            }
            None => Ok(()),
        }
    }

    fn lost(&self, family: Family) -> Vec<Lost> {
        self.database.damage.lost(family)
    }
}

fn walk(
    mut iterator: DBRawIteratorWithThreadMode<'_, DB>,
    from: &[u8],
    visit: &mut Visitor<'_>,
) -> Result<(), rocksdb::Error> {
    iterator.seek(from);
    while let Some((key, record)) = iterator.item() {
        if !visit(key, record) {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status()
}

fn options(buffers: &WriteBufferManager, open_files: i32) -> Result<Options, rocksdb::Error> {
    // Else RocksDB reserves disk for what it may write some day, first of all for its log.
    let options = Options::default().get_options_from_string("allow_fallocate=false");
    let mut options = options?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Chunks go without the log; an atomic flush keeps them and their digests together.
    options.set_atomic_flush(true);
    options.set_write_buffer_manager(buffers);
    options.set_max_open_files(open_files);
    options.set_max_total_wal_size(LOG);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(8 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    Ok(options)
}

impl From<BackendError> for OpenError {
    fn from(error: BackendError) -> Self {
        Self::Database(error)
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Directory(error)
    }
}

/// The number of the newest manifest in the directory of the database.
pub(super) fn newest_manifest(db: &Path) -> io::Result<u64> {
    let mut newest = 0;
    for entry in std::fs::read_dir(db)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("MANIFEST-"));
        newest = newest.max(number.and_then(|n| n.parse().ok()).unwrap_or(0));
    }
    Ok(newest)
}

fn family_options(family: Family, cache: &Cache, memory: usize) -> Options {
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
    options.set_compression_type(match family {
        Family::Paths | Family::Ordinals => DBCompressionType::Zstd,
        _ => DBCompressionType::None,
    });
    if family == Family::Chunks {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(BLOB);
        options.set_blob_compression_type(DBCompressionType::None);
        // Only `reclaim` moves blobs; compactions write none.
        options.set_target_file_size_base(FRAGMENT);
    }
    options
}
