//! A binary cache in a directory.
//!
//! Invariants: a disk that hangs blocks threads of its own only; a file is absent only in a directory that is
//! a binary cache still.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use tokio::sync::{Semaphore, oneshot};

use super::error::SourceError;
use super::source::{
    Answer, Bound, CACHE_INFO, CACHE_INFO_NAME, LISTING, NARINFO, Stream, Substituter,
};
use super::traffic::{Request, Traffic};
use crate::nix::store_path::StorePathHash;
use crate::sync;

/// Files that are looked for at once: a disk that hangs, such as one of a network, takes no more threads.
const AT_ONCE: usize = 8;

/// A binary cache in a directory.
pub(super) struct FileCache {
    directory: Arc<Directory>,
    places: Arc<Semaphore>,
}

/// A directory with the files of a binary cache. All of this blocks.
struct Directory {
    url: String,
    dir: PathBuf,
    traffic: Arc<Traffic>,
}

impl FileCache {
    /// The binary cache at a URL. Nothing is looked at yet.
    pub(super) fn open(url: &str) -> Result<Self, SourceError> {
        // Parameters such as `?priority=…` are for the client.
        let plain = url.split(['?', '#']).next().unwrap_or(url);
        let path = plain.strip_prefix("file://").unwrap_or(plain);
        let path = percent_decode_str(path).decode_utf8_lossy();
        let dir = PathBuf::from(path.into_owned());
        if !dir.is_absolute() {
            return Err(SourceError::Url {
                url: url.to_owned(),
                what: "the directory of a file:// source is absolute".into(),
            });
        }
        Ok(Self {
            directory: Arc::new(Directory {
                url: url.to_owned(),
                dir,
                traffic: Arc::default(),
            }),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    /// The file at a `file://` URL, whatever directory it is in; `None` if there is none.
    pub(super) async fn stream_of(url: &str) -> Result<Option<Stream>, SourceError> {
        let plain = url.split(['?', '#']).next().unwrap_or(url);
        let (directory, name) = plain.rsplit_once('/').unwrap_or((plain, ""));
        let (cache, name) = (Self::open(&format!("{directory}/"))?, name.to_owned());
        let open = cache.apart(move |directory| {
            directory.check()?;
            directory.stream(&name, false)
        });
        open.await
    }

    /// Does `work` on a thread that may block, and may be left behind: nobody waits for one that hangs.
    fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, SourceError> + Send + 'static,
    ) -> Answer<'static, T> {
        let (directory, places) = (self.directory.clone(), self.places.clone());
        Box::pin(async move {
            let fail = {
                let url = directory.url.clone();
                move |source| SourceError::Unreachable {
                    url,
                    what: "cannot be read",
                    source,
                }
            };
            let Ok(place) = places.acquire_owned().await else {
                return Err(fail(io::ErrorKind::Interrupted.into()));
            };
            let (done, answer) = oneshot::channel();
            let work = move || {
                let worked = work(&directory);
                drop(place);
                // Whoever asked may have given up.
                let _ = done.send(worked);
            };
            if let Err(e) = sync::spawn("narfs-file", work) {
                return Err(fail(e));
            }
            match answer.await {
                Ok(worked) => worked,
                Err(_) => Err(fail(io::Error::other("the thread that read it has failed"))),
            }
        })
    }
}

impl Directory {
    /// Whether the directory is there.
    fn check(&self) -> Result<(), SourceError> {
        let fail = |what: String| SourceError::Url {
            url: self.url.clone(),
            what,
        };
        match std::fs::metadata(&self.dir) {
            Ok(m) if m.is_dir() => Ok(()),
            Ok(_) => Err(fail(format!("{} is not a directory", self.dir.display()))),
            Err(e) => Err(fail(format!("{}: {e}", self.dir.display()))),
        }
    }

    /// Whether it is a binary cache still: that of a disk that is not mounted is not, and lacks nothing.
    fn check_cache(&self) -> Result<(), SourceError> {
        let there = std::fs::metadata(self.dir.join(CACHE_INFO_NAME));
        there.map(drop).map_err(|source| SourceError::Unreachable {
            url: self.url.clone(),
            what: "it is no binary cache any more: its nix-cache-info is gone",
            source,
        })
    }

    /// Opens a regular file below the directory; `None` if there is none.
    fn file(&self, relative: &str) -> Result<Option<File>, SourceError> {
        let relative = Path::new(relative);
        let inside = relative
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        let path = self.dir.join(relative);
        let fail = |source| SourceError::Unreachable {
            url: path.display().to_string(),
            what: "cannot be read",
            source,
        };
        if !inside {
            return Err(SourceError::Url {
                url: relative.display().to_string(),
                what: format!("points outside of the binary cache {}", self.url),
            });
        }
        // Otherwise opening a FIFO without a writer would block.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        let file = match options.read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(fail(io::Error::other("it is not a regular file")));
        }
        Ok(Some(file))
    }

    /// Opens a file, and counts it as a request. That there is none is believed `of_cache` only while there
    /// is a binary cache.
    fn answer(&self, relative: &str, of_cache: bool) -> Result<Option<File>, SourceError> {
        let started = Instant::now();
        let file = self.file(relative)?;
        if file.is_none() && of_cache {
            self.check_cache()?;
        }
        self.traffic.answered(started.elapsed());
        Ok(file)
    }

    fn cache_info(&self) -> Result<Option<Bytes>, SourceError> {
        self.check()?;
        self.counted(|| self.whole(CACHE_INFO_NAME, CACHE_INFO, false))
    }

    fn text(&self, relative: &str, bound: Bound) -> Result<Option<Bytes>, SourceError> {
        self.counted(|| self.whole(relative, bound, true))
    }

    fn counted<T>(
        &self,
        asking: impl FnOnce() -> Result<Option<T>, SourceError>,
    ) -> Result<Option<T>, SourceError> {
        let request = self.traffic.request();
        let answer = asking();
        request.end_found(&answer);
        answer
    }

    fn whole(
        &self,
        relative: &str,
        bound: Bound,
        of_cache: bool,
    ) -> Result<Option<Bytes>, SourceError> {
        let Some(file) = self.answer(relative, of_cache)? else {
            return Ok(None);
        };
        let url = || self.dir.join(relative).display().to_string();
        let mut bytes = Vec::new();
        let limit = bound.bytes();
        let more = usize::from(matches!(bound, Bound::Refuse(_)));
        file.take((limit + more) as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| SourceError::Unreachable {
                url: url(),
                what: "cannot be read",
                source,
            })?;
        self.traffic.received(bytes.len());
        if bytes.len() > limit {
            return Err(SourceError::TooLong { url: url(), limit });
        }
        Ok(Some(bytes.into()))
    }

    fn stream(&self, relative: &str, of_cache: bool) -> Result<Option<Stream>, SourceError> {
        let request = self.traffic.request();
        match self.answer(relative, of_cache) {
            Ok(Some(file)) => Ok(Some(Box::new(Counted {
                file,
                traffic: self.traffic.clone(),
                request: Some(request),
            }) as Stream)),
            Ok(None) => {
                request.absent();
                Ok(None)
            }
            Err(e) => {
                request.failed(&e);
                Err(e)
            }
        }
    }

    fn hashes(&self) -> Result<Vec<StorePathHash>, SourceError> {
        let fail = |source| SourceError::Unreachable {
            url: self.url.clone(),
            what: "cannot be listed",
            source,
        };
        let mut hashes = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let hash = name
                .to_str()
                .and_then(|n| n.strip_suffix(".narinfo"))
                .and_then(|h| h.parse::<StorePathHash>().ok());
            hashes.extend(hash);
        }
        hashes.sort_unstable();
        Ok(hashes)
    }
}

impl Substituter for FileCache {
    fn url(&self) -> &str {
        &self.directory.url
    }

    fn is_server(&self) -> bool {
        false
    }

    fn traffic(&self) -> &Traffic {
        &self.directory.traffic
    }

    fn cache_info(&self) -> Answer<'_, Option<Bytes>> {
        self.apart(Directory::cache_info)
    }

    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        self.apart(move |directory| directory.text(&format!("{hash}.narinfo"), NARINFO))
    }

    fn listing_start(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        self.apart(move |directory| directory.text(&format!("{hash}.ls"), LISTING))
    }

    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>> {
        // A query is for servers that make the NAR on demand.
        let path = percent_decode_str(url.split('?').next().unwrap_or(url)).decode_utf8_lossy();
        let path = path.into_owned();
        self.apart(move |directory| directory.stream(&path, true))
    }

    fn list(&self) -> Answer<'_, Vec<StorePathHash>> {
        self.apart(|directory| {
            let request = directory.traffic.request();
            let hashes = directory.hashes();
            request.end(&hashes);
            hashes
        })
    }
}

/// Reads a NAR and counts its bytes.
struct Counted {
    file: File,
    traffic: Arc<Traffic>,
    /// `None` after the first error.
    request: Option<Request>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out);
        match (&read, self.request.take()) {
            (Ok(n), request) => {
                self.traffic.received(*n);
                self.request = request;
            }
            (Err(e), Some(request)) if e.kind() != io::ErrorKind::Interrupted => request.failed(e),
            (Err(_), request) => self.request = request,
        }
        read
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // A reader may stop before the end of a file.
        if let Some(request) = self.request.take() {
            request.succeeded();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_undone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a b/c%zz%4")).unwrap();
        let url = format!("file://{}/a%20b%2Fc%zz%4", dir.path().display());
        assert!(FileCache::open(&url).unwrap().directory.check().is_ok());
    }

    #[test]
    fn files_outside_of_the_directory_and_non_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nar")).unwrap();
        let cache = FileCache::open(&format!("file://{}", dir.path().display())).unwrap();
        assert!(cache.directory.file("../etc/passwd").is_err());
        assert!(cache.directory.file("/etc/passwd").is_err());
        assert!(cache.directory.file("nar").is_err());
        assert!(cache.directory.file("nar/none").unwrap().is_none());
    }

    #[test]
    fn a_file_of_the_protocol_longer_than_its_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::open(&format!("file://{}", dir.path().display())).unwrap();
        std::fs::write(dir.path().join("x"), [b'x'; 100]).unwrap();
        let length = |bound| {
            cache
                .directory
                .text("x", bound)
                .map(|text| text.unwrap().len())
        };
        assert_eq!(length(Bound::Refuse(100)).unwrap(), 100);
        assert_eq!(length(Bound::Cut(99)).unwrap(), 99);
        let error = length(Bound::Refuse(99)).unwrap_err();
        assert!(
            matches!(error, SourceError::TooLong { limit: 99, .. }),
            "{error}"
        );
    }

    #[test]
    fn what_is_read_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        std::fs::write(dir.path().join("x.nar"), [0; 1000]).unwrap();
        let cache = FileCache::open(&format!("file://{}", dir.path().display())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        assert!(runtime.block_on(cache.cache_info()).unwrap().is_some());
        let hash = StorePathHash::from_bytes([0; 20]);
        assert!(runtime.block_on(cache.narinfo(hash)).unwrap().is_none());
        let mut nar = runtime.block_on(cache.nar("x.nar")).unwrap().unwrap();
        io::copy(&mut nar, &mut io::sink()).unwrap();
        drop(nar);
        assert!(runtime.block_on(cache.nar("../x.nar")).is_err());
        let now = cache.traffic().snapshot();
        assert_eq!((now.requests, now.failures, now.abandoned), (4, 1, 0));
        assert_eq!(now.received_bytes, 1021);
        assert!(now.latency_average_us.is_some());
        assert!(now.last_failure.unwrap().text.contains("points outside"));
    }
}
