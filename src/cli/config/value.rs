//! What values options may have; the same in a configuration file and on the command line.
//!
//! Invariant: an error says what was found, quoted by `{:?}`, and what is expected, and nothing of where.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::log::LogFormat;
use crate::cli::size::Size;
use crate::fetch::PrefetchPolicy;
use crate::http::{Address, AddressError};
use crate::nix::signature::PublicKey;
use crate::nix::store_path::StoreDir;
use crate::substituter;

/// Which `nix.conf` is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum FromNixConf {
    No,
    /// What Nix reads: the file of the system, those of the user, and `NIX_CONFIG`.
    Usual,
    /// This file alone.
    File(PathBuf),
}

/// With less than this RocksDB's own buffers would not fit.
const LEAST_MEMORY: u32 = 32;

/// What the machine has, in MiB.
fn most_memory() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram * u64::from(system.mem_unit)) >> 20
}

/// Reads a text that is UTF-8.
pub(super) fn utf8<T>(read: fn(&str) -> Result<T, String>) -> impl Fn(&OsStr) -> Result<T, String> {
    move |text| match text.to_str() {
        Some(text) => read(text),
        None => Err(format!("{text:?} is not UTF-8")),
    }
}

/// A number of MiB that the machine has, and that is enough.
pub(super) fn memory(text: &str) -> Result<u32, String> {
    let (least, most) = (LEAST_MEMORY, most_memory());
    let number = text.parse().ok();
    let number = number.filter(|n| *n >= least && u64::from(*n) <= most);
    number.ok_or_else(|| {
        format!(
            "{text:?} is no number of MiB; give {least} or more, and at most the {most} of this machine"
        )
    })
}

/// A path of the command line or the environment, which may be relative.
pub(super) fn absolute(text: &OsStr) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("it is empty; give a path".to_owned());
    }
    std::path::absolute(text).map_err(|e| e.to_string())
}

/// Such a path, or `none`.
pub(super) fn absolute_or_none(text: &OsStr) -> Result<Option<PathBuf>, String> {
    if text == "none" {
        return Ok(None);
    }
    absolute(text).map(Some)
}

/// A list of one. What is wrong with an element is said where it is used.
pub(super) fn one(text: &str) -> Result<Vec<String>, String> {
    Ok(vec![text.to_owned()])
}

pub(super) fn joined(first: Vec<String>, second: Vec<String>) -> Vec<String> {
    [first, second].concat()
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if Path::new(text).is_absolute() {
        return Ok(text.into());
    }
    Err(format!("{text:?} is no absolute path; write /DIRECTORY/…"))
}

pub(super) fn path_or_none(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "none" => Ok(None),
        _ if Path::new(text).is_absolute() => Ok(Some(text.into())),
        _ => Err(format!(
            "{text:?} is no absolute path; write /DIRECTORY/FILE or none"
        )),
    }
}

/// Whether `nix.conf` is read, or which one.
pub(super) fn nix_conf(text: &str) -> Result<FromNixConf, String> {
    match text {
        "true" => Ok(FromNixConf::Usual),
        "false" => Ok(FromNixConf::No),
        _ if Path::new(text).is_absolute() => Ok(FromNixConf::File(text.into())),
        _ => Err(format!(
            "{text:?} is neither true nor false nor an absolute path; write true or \"/DIRECTORY/nix.conf\""
        )),
    }
}

/// Likewise, as the command line or the environment says it: a path may be relative.
pub(super) fn nix_conf_anywhere(text: &str) -> Result<FromNixConf, String> {
    nix_conf(text).or_else(|_| absolute(OsStr::new(text)).map(FromNixConf::File))
}

pub(super) fn listen(text: &str) -> Result<Option<Address>, String> {
    match text {
        "none" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|e: AddressError| e.to_string()),
    }
}

pub(super) fn store_dir(text: &str) -> Result<Option<StoreDir>, String> {
    StoreDir::parse(text)
        .map(Some)
        .map_err(|e| format!("{text:?} is no store directory ({e}); write one such as /nix/store"))
}

pub(super) fn source(text: &str) -> Result<String, String> {
    // What is wrong follows the URL.
    let wrong = |e: substituter::SourceError| match e {
        substituter::SourceError::Url { what, .. } => what,
        other => other.to_string(),
    };
    match substituter::check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(e) => Err(format!("{text:?} is no source: {}", wrong(e))),
    }
}

pub(super) fn public_key(text: &str) -> Result<String, String> {
    match PublicKey::parse(text.trim()) {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(e) => Err(format!(
            "{text:?} is no public key ({e}); write NAME:BASE64"
        )),
    }
}

pub(super) fn jobs(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no number of jobs; give 1 or more, or 0 for one each core")
    })
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    let formats = [LogFormat::Text, LogFormat::Json];
    let found = formats.into_iter().find(|f| f.name() == text);
    found.ok_or_else(|| format!("{text:?} is no format of the log; write text or json"))
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(format!("{text:?} is no number of seconds; give 1 or more")),
    }
}

pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(milliseconds) => Ok(Duration::from_millis(milliseconds.into())),
        _ => Err(format!(
            "{text:?} is no number of milliseconds; give 0 or more"
        )),
    }
}

pub(super) fn prefetch(text: &str) -> Result<PrefetchPolicy, String> {
    let policies = [PrefetchPolicy::None, PrefetchPolicy::Closure];
    let found = policies.into_iter().find(|p| p.name() == text);
    found.ok_or_else(|| format!("{text:?} is no policy; write none or closure"))
}

pub(super) fn budget(text: &str) -> Result<Option<Size>, String> {
    match text.parse() {
        _ if text == "none" => Ok(None),
        // With nothing at all to keep contents in, there would be no reading them.
        Ok(size) if size > Size(0) => Ok(Some(size)),
        _ => Err(format!("{text:?} is no size; write 500M, 20G or none")),
    }
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    let read = text.parse();
    read.map_err(|_| format!("{text:?} is neither true nor false"))
}
