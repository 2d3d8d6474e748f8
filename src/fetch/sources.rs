//! The sources of a command, in their order, and whom it trusts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{CopyFailure, FetchError};
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
/// Time for an optional source to say what it is: where it is out of reach, nobody waits longer.
pub(super) const OPTIONAL: Duration = Duration::from_secs(2);
/// Time without a byte after which a source has failed.
const STALL: Duration = Duration::from_secs(30);

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
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.url())
    }
}

impl Source {
    /// The source behind `substituter`, whose `nix-cache-info` is read.
    pub(super) async fn of(
        substituter: Arc<dyn Substituter>,
        store_dir: &StoreDir,
    ) -> Result<Self, FetchError> {
        let url = || substituter.url().to_owned();
        let text = substituter.cache_info().await?;
        let text = text.ok_or_else(|| FetchError::NoBinaryCache { url: url() })?;
        let info = CacheInfo::parse(&text)
            .map_err(|source| FetchError::CacheInfo { url: url(), source })?;
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
            optional: substituter::is_optional(substituter.url()),
            substituter,
        })
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
            return Ok(None);
        };
        let unusable = |error| FetchError::NarInfo {
            url: self.url().to_owned(),
            hash,
            source: error,
        };
        let info = NarInfo::parse(store_dir, &text).map_err(unusable)?;
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
            let source = Source::of(substituter.clone(), store_dir).await;
            let traffic = substituter.traffic().snapshot();
            (source.map(|source| source.priority), Some(traffic))
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
fn priority_parameter(url: &str) -> Option<u32> {
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
    pub(super) fn nowhere(&self, sources: String, unreachable: Vec<String>) -> FetchError {
        let path = self.path.as_ref();
        FetchError::Absent {
            path: path.map_or_else(|| self.hash.to_string(), ToString::to_string),
            sources,
            unreachable,
        }
    }
}

/// The sources of a command.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Best first.
    pub(super) all: Vec<Source>,
    /// Optional ones that could not be reached.
    pub(super) unreachable: Vec<String>,
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

impl Sources {
    /// Opens all of `urls`. Names and passwords are in `netrc`; `None` is the usual file. If the command
    /// names the sources itself (`named`), none is optional.
    ///
    /// # Errors
    /// The first that cannot be used: a command does not go on with fewer sources than named.
    pub async fn open(
        urls: &[String],
        netrc: Option<&Path>,
        store_dir: &StoreDir,
        named: bool,
    ) -> Result<Self, FetchError> {
        let options = Options {
            stall: STALL,
            netrc: netrc.map(Path::to_owned),
        };
        let (mut all, mut unreachable) = (Vec::new(), Vec::new());
        for url in urls {
            let open = async { Source::of(substituter::open(url, &options)?, store_dir).await };
            if named || !substituter::is_optional(url) {
                let optional = false;
                let opened = open.await?;
                all.push(Source { optional, ..opened });
                continue;
            }
            match tokio::time::timeout(OPTIONAL, open).await {
                Ok(Ok(source)) => all.push(source),
                Ok(Err(e)) if !e.is_out_of_the_way(url) => return Err(e),
                _ => unreachable.push(substituter::redacted(url)),
            }
        }
        Ok(Self::of(all, unreachable))
    }

    /// These sources, best first.
    pub(super) fn of(mut all: Vec<Source>, unreachable: Vec<String>) -> Self {
        // Stable: equal priorities keep the user's order.
        all.sort_by_key(|s| s.priority);
        Self { all, unreachable }
    }

    /// The error that none of these has what was asked for.
    pub(super) fn nowhere(&self, asked: &Asked) -> FetchError {
        let urls: Vec<_> = self.all.iter().map(Source::url).collect();
        asked.nowhere(urls.join(", "), self.unreachable.clone())
    }

    /// The first usable offer of what is `asked` for; `None` if no source has it, and if all that
    /// have it are not usable, the last error.
    pub(super) async fn offer(
        &self,
        asked: &Asked,
        store_dir: &StoreDir,
        trust: &Trust,
    ) -> Result<Option<Offer>, FetchError> {
        let mut failure = None;
        for source in &self.all {
            match source.offer(asked, store_dir, trust).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(e) if source.optional && e.is_transient() => {}
                Err(e) => failure = Some(e),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// The other sources, those after the one named first, to try when it fails.
    pub(super) fn besides(&self, source: &Source) -> Vec<Source> {
        let others = self.all.iter().filter(|s| s.url() != source.url());
        let at = self.all.iter().position(|s| s.url() == source.url());
        let mut others: Vec<_> = others.cloned().collect();
        others.rotate_left(at.unwrap_or(0));
        others
    }
}
