//! One source, what it says of paths, and whether that is believed.
//!
//! Invariant: a source without `nix-cache-info` is believed to lack a path only after it has had another one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::error::{CopyFailure, FetchError};
use super::health::{Health, Told};
use crate::nix::cache_info::CacheInfo;
use crate::nix::narinfo::{self, NarInfo};
use crate::nix::signature::{CACHE_NIXOS_ORG_KEY, PublicKey, TrustedKeys};
use crate::nix::store_path::{StoreDir, StorePath, StorePathHash};
use crate::store::Registration;
use crate::substituter::{self, Options, Substituter};

/// The source that is used where none is named.
pub const CACHE_NIXOS_ORG: &str = "https://cache.nixos.org";
/// Priority of a source that says nothing of it, as in Nix.
const DEFAULT_PRIORITY: u32 = 0;
/// Time without a byte after which a source has failed a command.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// Whom to believe.
#[derive(Clone, Debug)]
pub struct Trust {
    /// Keys whose signatures count.
    pub keys: TrustedKeys,
    /// Whether a path needs one (or a content address).
    pub require_signatures: bool,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            // The constant is a key; a set without it would only trust less.
            keys: PublicKey::parse(CACHE_NIXOS_ORG_KEY).into_iter().collect(),
            require_signatures: true,
        }
    }
}

/// Why a narinfo is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vouched {
    /// A trusted key has signed NarHash.
    Signed,
    /// The path follows from its content address; the contents must still fulfil it.
    ContentAddress,
    /// The source alone says so: signatures are not asked for.
    Unsigned,
}

impl Trust {
    pub(super) fn judge(
        &self,
        url: &str,
        store_dir: &StoreDir,
        info: &NarInfo,
    ) -> Result<Vouched, FetchError> {
        match info.trust(store_dir, &self.keys) {
            Ok(narinfo::Trust::Signed { .. }) => Ok(Vouched::Signed),
            _ if !self.require_signatures => Ok(Vouched::Unsigned),
            Ok(narinfo::Trust::ContentAddressed { .. }) => Ok(Vouched::ContentAddress),
            Err(distrust) => Err(FetchError::Untrusted {
                url: url.to_owned(),
                distrust,
            }),
        }
    }
}

/// A source that was found to be a binary cache for our store directory.
#[derive(Clone)]
pub struct Source {
    pub(super) substituter: Arc<dyn Substituter>,
    pub(super) priority: u32,
    /// Whether it may be out of reach.
    pub(super) optional: bool,
    /// Whether it is certainly a binary cache: by its `nix-cache-info`, or by a narinfo.
    is_proven: Arc<AtomicBool>,
    pub(super) health: Arc<Health>,
}

/// The `nix-cache-info` of a source, which a server may lack, unless it is optional.
async fn cache_info(
    substituter: &dyn Substituter,
    optional: bool,
) -> Result<Option<Bytes>, FetchError> {
    let text = substituter.cache_info().await?;
    if text.is_none() && (optional || !substituter.is_server()) {
        let url = substituter.url().to_owned();
        return Err(FetchError::NoBinaryCache { url });
    }
    Ok(text)
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.url())
    }
}

impl Source {
    /// The source behind `substituter`, whose `nix-cache-info` is read. A server may lack it, unless it is
    /// `optional`: then something else may answer in its place, such as the sign-in page of a network.
    ///
    /// # Errors
    /// It does not answer, or is no binary cache for this store directory.
    pub(super) async fn of(
        substituter: Arc<dyn Substituter>,
        store_dir: &StoreDir,
        optional: bool,
        health: &Arc<Health>,
    ) -> Result<Self, FetchError> {
        let url = || substituter.url().to_owned();
        let text = cache_info(&*substituter, optional).await?;
        let is_proven = text.is_some();
        let info = match text {
            Some(text) => CacheInfo::parse(&text)
                .map_err(|source| FetchError::CacheInfo { url: url(), source })?,
            // Nix takes it for one of its own store directory, too.
            None => CacheInfo {
                store_dir: store_dir.clone(),
                ..CacheInfo::default()
            },
        };
        if info.store_dir != *store_dir {
            return Err(FetchError::OtherStoreDir {
                url: url(),
                theirs: info.store_dir.to_string(),
                ours: store_dir.to_string(),
            });
        }
        let named = priority_parameter(substituter.url());
        Ok(Self {
            priority: named.or(info.priority).unwrap_or(DEFAULT_PRIORITY),
            optional,
            is_proven: Arc::new(is_proven.into()),
            health: health.clone(),
            substituter,
        })
    }

    /// Asks it whether it is there.
    ///
    /// # Errors
    /// It does not answer, or has become something else than a binary cache.
    pub(super) async fn probe(&self) -> Result<(), FetchError> {
        let text = cache_info(&*self.substituter, self.optional);
        text.await.map(drop)
    }

    /// The hashes of all paths that it lists.
    ///
    /// # Errors
    /// It does not answer, cannot be listed, or is no binary cache.
    pub(super) async fn list(&self) -> Result<Vec<StorePathHash>, FetchError> {
        if !self.is_proven() {
            let url = self.url().to_owned();
            return Err(FetchError::NoBinaryCache { url });
        }
        Ok(self.substituter.list().await?)
    }

    /// Whether it is certainly a binary cache.
    fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    /// Notes that it has answered.
    pub(super) fn answered(&self) {
        self.health.answered();
    }

    /// How users name it.
    pub fn url(&self) -> &str {
        self.substituter.url()
    }

    /// What it says of what is `asked` for, if that is usable; `None` if it has no such path.
    pub(super) async fn offer(
        &self,
        asked: &Asked,
        store_dir: &StoreDir,
        trust: &Trust,
    ) -> Result<Option<Offer>, FetchError> {
        let hash = asked.hash;
        let Some(text) = self.substituter.narinfo(hash).await? else {
            if self.is_proven() {
                return Ok(None);
            }
            let url = self.url().to_owned();
            return Err(FetchError::NoBinaryCache { url });
        };
        let unusable = |error| FetchError::NarInfo {
            url: self.url().to_owned(),
            hash,
            source: error,
        };
        let info = NarInfo::parse(store_dir, &text).map_err(unusable)?;
        self.is_proven.store(true, Ordering::Relaxed);
        match &asked.path {
            Some(path) => info.verify_request(path),
            None => info.verify_request_hash(&hash),
        }
        .map_err(unusable)?;
        let vouched = trust.judge(self.url(), store_dir, &info)?;
        Ok(Some(Offer {
            info,
            source: self.clone(),
            vouched,
        }))
    }
}

/// What a source said when it was asked what it is.
#[derive(Debug)]
pub struct AskedSource {
    /// The lower, the earlier it is asked; or why it cannot be used.
    pub priority: Result<u32, FetchError>,
    /// From asking to the head of its answer, the last time.
    pub answered_within: Option<Duration>,
    /// How many seconds its clock is ahead of ours, if it tells the time.
    pub clock_ahead_s: Option<i64>,
}

/// Asks a source what it is, whatever is in a state.
pub async fn ask_source(url: &str, netrc: Option<&Path>, store_dir: &StoreDir) -> AskedSource {
    let options = Options {
        stall: STALL,
        netrc: netrc.map(Path::to_owned),
    };
    let (priority, traffic) = match substituter::open(url, &options) {
        Ok(substituter) => {
            let health = Arc::new(Health::new(substituter.url(), Told::Command));
            let source = Source::of(substituter.clone(), store_dir, false, &health).await;
            let traffic = substituter.traffic().snapshot();
            let priority = source.and_then(|source| match source.is_proven() {
                true => Ok(source.priority),
                false => Err(FetchError::NoBinaryCache {
                    url: source.url().to_owned(),
                }),
            });
            (priority, Some(traffic))
        }
        Err(e) => (Err(e.into()), None),
    };
    let latency = traffic.as_ref().and_then(|t| t.latency_last_us);
    AskedSource {
        priority,
        answered_within: latency.map(Duration::from_micros),
        clock_ahead_s: traffic.and_then(|t| t.clock_ahead_s),
    }
}

/// `?priority=N` of a URL, which overrides what the source says.
pub(super) fn priority_parameter(url: &str) -> Option<u32> {
    substituter::parameter(url, "priority")?.parse().ok()
}

/// A path that sources are asked for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) hash: StorePathHash,
    /// With its name, where that is known: an offer under another name is not usable.
    pub(super) path: Option<StorePath>,
}

impl From<&StorePath> for Asked {
    fn from(path: &StorePath) -> Self {
        Self {
            hash: path.hash(),
            path: Some(path.clone()),
        }
    }
}

impl Asked {
    /// The report that it could not be fetched.
    pub(super) fn failed(self, error: FetchError) -> CopyFailure {
        let Self { hash, path } = self;
        CopyFailure { hash, path, error }
    }

    /// The error that none of these `sources` has it.
    pub(super) fn nowhere<'s>(
        &self,
        sources: impl Iterator<Item = &'s str>,
        unreachable: Vec<String>,
    ) -> FetchError {
        let path = self.path.as_ref();
        FetchError::Absent {
            path: path.map_or_else(|| self.hash.to_string(), ToString::to_string),
            sources: sources.collect::<Vec<_>>().join(", "),
            unreachable,
        }
    }
}

/// A narinfo, where it came from, and how far it is believed.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) info: NarInfo,
    pub(super) source: Source,
    pub(super) vouched: Vouched,
}

impl Offer {
    /// What the narinfo says of its path; without a content address with which the contents have not been
    /// compared, unless that is what it is believed for: path and references follow from it.
    pub(super) fn registration(&self) -> Registration {
        let info = &self.info;
        Registration {
            path: info.store_path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.clone(),
            deriver: info.deriver.clone(),
            signatures: info.signatures.iter().map(ToString::to_string).collect(),
            ca: info.ca.filter(|_| self.vouched == Vouched::ContentAddress),
            vouched: self.vouched != Vouched::Unsigned,
        }
    }
}
