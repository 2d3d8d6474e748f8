//! Fetches the package list of a channel into the state.
//!
//! Invariant: the previous list stays in effect until the new one has been read completely.

use std::io::{self, BufReader, Cursor, Read};
use std::time::Duration;

use crate::engine::error::ChannelError;
use crate::nix::compression::Compression;
use crate::nix::store_path::StoreDir;
use crate::profile::channel::{ListError, read_list};
use crate::store::{ChannelName, ChannelWriter, Store};
use crate::substituter::{self, BrokenOff, Options, Retries, Stream, redacted};

/// Limit of the length of a compressed list, in bytes: ten times a large list of nixpkgs.
const PACKED: u64 = 64 << 20;
/// Limit of the length of a decompressed list, in bytes.
const PLAIN: u64 = 256 << 20;
/// Time without data after which a server counts as failed.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// A reader that fails when its input exceeds a limit.
struct Limited<R> {
    input: R,
    left: u64,
    limit: u64,
}

impl<R> Limited<R> {
    fn new(input: R, limit: u64) -> Self {
        let left = limit;
        Self { input, left, limit }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(out)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => Err(io::Error::other(format!(
                "it is longer than the limit of {} MiB",
                self.limit >> 20
            ))),
        }
    }
}

/// The compression, by the file name extension of the URL.
fn method(url: &str) -> Compression {
    let plain = url.split(['?', '#']).next().unwrap_or(url);
    Compression::of_file_name(plain.rsplit('/').next().unwrap_or(plain))
}

/// The decompressed list. Some servers decompress a file in transit, or declare its compression as
/// a Content-Encoding; data that begins like a list is therefore taken as it is.
fn plain(
    mut stream: Stream,
    url: &str,
    store_dir: &StoreDir,
) -> Result<Box<dyn Read + Send>, ChannelError> {
    let of_list = |source| ChannelError::List {
        url: redacted(url),
        source: ListError::Read(source),
    };
    let start = format!("{store_dir}/").into_bytes();
    let mut begin = Vec::new();
    let read = (&mut stream)
        .take(start.len() as u64)
        .read_to_end(&mut begin);
    read.map_err(of_list)?;
    let method = match method(url) {
        _ if begin == start => Compression::None,
        method => method,
    };
    let limit = match method {
        Compression::None => PLAIN,
        _ => PACKED,
    };
    let whole = Limited::new(Cursor::new(begin).chain(stream), limit);
    let decoded = method.reader(whole);
    let decoded = decoded.map_err(|source| ChannelError::Compression {
        url: redacted(url),
        source,
    })?;
    Ok(Box::new(Limited::new(decoded, PLAIN)))
}

/// Fetches the list at `url`; the caller commits it. Interrupted transfers are retried.
pub(super) fn download<'s>(
    store: &'s Store,
    runtime: &tokio::runtime::Runtime,
    name: &ChannelName,
    url: &str,
    options: &Options,
) -> Result<ChannelWriter<'s>, ChannelError> {
    let mut retries = Retries::default();
    loop {
        let stream = runtime.block_on(substituter::file(url, options))?;
        let stream = stream.ok_or_else(|| ChannelError::NoFile(redacted(url)))?;
        let error = match read(store, name, url, stream) {
            Ok(writer) => return Ok(writer),
            Err(error) => error,
        };
        let ChannelError::List {
            source: ListError::Read(source),
            ..
        } = &error
        else {
            return Err(error);
        };
        let again = BrokenOff::is_passing(source).then(|| retries.failed());
        let Some(wait) = again.flatten() else {
            return Err(error);
        };
        tracing::debug!(channel = %name, ?wait, "{source}; retrying");
        std::thread::sleep(wait);
    }
}

fn read<'s>(
    store: &'s Store,
    name: &ChannelName,
    url: &str,
    stream: Stream,
) -> Result<ChannelWriter<'s>, ChannelError> {
    let plain = plain(stream, url, store.store_dir())?;
    let mut writer = store.channels().write(name, url)?;
    /// An error in the list, or in the state.
    enum Wrong {
        List(ListError),
        State(ChannelError),
    }
    impl From<ListError> for Wrong {
        fn from(error: ListError) -> Self {
            Self::List(error)
        }
    }
    let read = read_list(BufReader::new(plain), store.store_dir(), |path| {
        writer.push(&path).map_err(|e| Wrong::State(e.into()))
    });
    match read {
        Ok(()) => Ok(writer),
        Err(Wrong::State(error)) => Err(error),
        Err(Wrong::List(source)) => {
            let url = redacted(url);
            Err(ChannelError::List { url, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_of_the_file_tells_how_it_is_compressed() {
        for (url, expected) in [
            ("https://h/nixos/store-paths.xz", Compression::Xz),
            ("https://h/store-paths.zst?x=/y.xz#z", Compression::Zstd),
            ("https://h.xz/store-paths", Compression::None),
            ("file:///store-paths.gz", Compression::Gzip),
        ] {
            assert_eq!(method(url), expected, "{url}");
        }
    }

    #[test]
    fn what_is_longer_than_it_may_be_fails() {
        let mut out = Vec::new();
        let mut exact = Limited::new(&b"12345"[..], 5);
        assert_eq!(exact.read_to_end(&mut out).unwrap(), 5);
        let mut long = Limited::new(&b"123456"[..], 5);
        let error = long.read_to_end(&mut out).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }

    #[test]
    fn a_list_that_was_decompressed_on_its_way_is_taken_as_it_is() {
        let store_dir = StoreDir::parse("/nix/store").unwrap();
        let text = b"/nix/store/0c0gbalr6bb5yvmyp2ivh3hcj5p0l5z4-hello\n".to_vec();
        let packed = zstd::bulk::compress(&text, 3).unwrap();
        for (bytes, url) in [
            (&text, "http://h/store-paths"),
            (&text, "http://h/store-paths.zst"),
            (&packed, "http://h/store-paths.zst"),
        ] {
            let stream = Box::new(Cursor::new(bytes.clone()));
            let mut out = Vec::new();
            let mut plain = plain(stream, url, &store_dir).unwrap();
            plain.read_to_end(&mut out).unwrap();
            assert_eq!(out, text, "{url}");
        }
    }
}
