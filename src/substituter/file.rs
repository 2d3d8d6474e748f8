//! A binary cache in a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use percent_encoding::percent_decode_str;

use super::error::SourceError;
use super::source::{Answer, Bound, CACHE_INFO, LISTING, NARINFO, Stream, Substituter};
use super::traffic::{Request, Traffic};
use crate::nix::store_path::StorePathHash;

pub(super) struct FileCache {
    url: String,
    dir: PathBuf,
    traffic: Arc<Traffic>,
}

impl FileCache {
    pub(super) fn open(url: &str) -> Result<Self, SourceError> {
        let fail = |what: String| SourceError::Url {
            url: url.to_owned(),
            what,
        };
        // Parameters such as `?priority=…` are for the client.
        let plain = url.split(['?', '#']).next().unwrap_or(url);
        let path = plain.strip_prefix("file://").unwrap_or(plain);
        let path = percent_decode_str(path).decode_utf8_lossy();
        let dir = PathBuf::from(path.into_owned());
        if !dir.is_absolute() {
            return Err(fail("the directory of a file:// source is absolute".into()));
        }
        match std::fs::metadata(&dir) {
            Ok(m) if m.is_dir() => Ok(Self {
                url: url.to_owned(),
                dir,
                traffic: Arc::default(),
            }),
            Ok(_) => Err(fail(format!("{} is not a directory", dir.display()))),
            Err(e) => Err(fail(format!("{}: {e}", dir.display()))),
        }
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

    /// Opens a file, and counts it as a request.
    fn answer(&self, relative: &str) -> Result<Option<File>, SourceError> {
        let started = Instant::now();
        let file = self.file(relative);
        if file.is_ok() {
            self.traffic.answered(started.elapsed());
        }
        file
    }

    fn text(&self, relative: &str, bound: Bound) -> Result<Option<Bytes>, SourceError> {
        let request = self.traffic.request();
        let text = self.whole(relative, bound);
        request.end_found(&text);
        text
    }

    fn whole(&self, relative: &str, bound: Bound) -> Result<Option<Bytes>, SourceError> {
        let Some(file) = self.answer(relative)? else {
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

// A local disk does not block like a network, so the futures are ready at once.
impl Substituter for FileCache {
    fn url(&self) -> &str {
        &self.url
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn cache_info(&self) -> Answer<'_, Option<Bytes>> {
        Box::pin(std::future::ready(self.text("nix-cache-info", CACHE_INFO)))
    }

    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        let name = format!("{hash}.narinfo");
        Box::pin(std::future::ready(self.text(&name, NARINFO)))
    }

    fn listing_start(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        let name = format!("{hash}.ls");
        Box::pin(std::future::ready(self.text(&name, LISTING)))
    }

    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>> {
        // A query is for servers that make the NAR on demand.
        let path = percent_decode_str(url.split('?').next().unwrap_or(url)).decode_utf8_lossy();
        let request = self.traffic.request();
        let stream = match self.answer(&path) {
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
        };
        Box::pin(std::future::ready(stream))
    }

    fn list(&self) -> Answer<'_, Vec<StorePathHash>> {
        let request = self.traffic.request();
        let hashes = self.hashes();
        request.end(&hashes);
        Box::pin(std::future::ready(hashes))
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
        assert!(FileCache::open(&url).is_ok());
    }

    #[test]
    fn files_outside_of_the_directory_and_non_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nar")).unwrap();
        let cache = FileCache::open(&format!("file://{}", dir.path().display())).unwrap();
        assert!(cache.file("../etc/passwd").is_err());
        assert!(cache.file("/etc/passwd").is_err());
        assert!(cache.file("nar").is_err());
        assert!(cache.file("nar/none").unwrap().is_none());
    }

    #[test]
    fn a_file_of_the_protocol_longer_than_its_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FileCache::open(&format!("file://{}", dir.path().display())).unwrap();
        std::fs::write(dir.path().join("x"), [b'x'; 100]).unwrap();
        let length = |bound| cache.text("x", bound).map(|text| text.unwrap().len());
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
