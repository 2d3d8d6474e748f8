//! What a source of paths is, whatever is behind its URL.

use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::error::SourceError;
use super::traffic::Traffic;
use crate::nix::store_path::StorePathHash;

/// Name of the file by which a binary cache says what it is.
pub(super) const CACHE_INFO_NAME: &str = "nix-cache-info";

/// Longest nix-cache-info that is read, in bytes; real ones have some hundred.
pub(super) const CACHE_INFO: Bound = Bound::Refuse(1 << 20);

/// Longest narinfo that is read, in bytes: some 200,000 references. Those of whole channels have 20,000.
pub(super) const NARINFO: Bound = Bound::Refuse(16 << 20);

/// Bytes of a `.ls` listing that are read: the kind of the root stands at the beginning, whatever its size.
pub(super) const LISTING: Bound = Bound::Cut(16 << 10);

/// How much of a short file is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// A file with more bytes is an error.
    Refuse(usize),
    /// What follows these bytes is left out.
    Cut(usize),
}

impl Bound {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Refuse(bytes) | Self::Cut(bytes) => bytes,
        }
    }
}

/// What a request becomes.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A stream of bytes that a blocking thread reads.
pub type Stream = Box<dyn Read + Send>;

/// A binary cache.
pub trait Substituter: Send + Sync {
    /// How users name it, a password hidden.
    fn url(&self) -> &str;

    /// Whether it is a server; else a directory.
    fn is_server(&self) -> bool;

    /// What went on with it so far.
    fn traffic(&self) -> &Traffic;

    /// The text of `nix-cache-info`; `None` if there is none.
    fn cache_info(&self) -> Answer<'_, Option<Bytes>>;

    /// The text of a narinfo; `None` if the source has no such path.
    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>>;

    /// The beginning of the listing of a NAR, enough for the kind of its root; `None` if there is none.
    fn listing_start(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>>;

    /// The bytes that a narinfo's `URL` names, as they are stored; `None` if they are gone. The
    /// stream must be read on a thread that may block.
    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>>;

    /// The same, as a stream that ends early once `ended` is true, if reading it may wait for a server. What
    /// is fetched `is_ahead` of its need shares no connection with what is needed: where it is not read for
    /// a while, nothing else waits for it.
    fn nar_until(
        &self,
        url: &str,
        ended: watch::Receiver<bool>,
        is_ahead: bool,
    ) -> Answer<'_, Option<Stream>> {
        drop((ended, is_ahead));
        self.nar(url)
    }

    /// The hashes of all paths.
    fn list(&self) -> Answer<'_, Vec<StorePathHash>>;
}

/// How a source is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Time without a byte after which a server is given up, or is asked for the rest. The first byte of a
    /// NAR may take longer, and so may any byte if there is no asking for the rest.
    pub stall: Duration,
    /// The netrc file. `None` is the one that `NETRC` names, else `~/.netrc`, else
    /// `/etc/nix/netrc`; that there is none is no error then.
    pub netrc: Option<PathBuf>,
}
