//! `--from` and related options: sources and trusted keys.

use super::config::{FETCHING, Flags, Origin, Settings};
use super::global::Global;
use super::log;
use crate::command::SourceRequest;
use crate::substituter::redacted;

/// Where to fetch from and whom to believe.
pub(super) type Sources = Flags<FETCHING>;

impl<const TAKERS: u8> Flags<TAKERS> {
    /// What these flags say of sources. What they leave open is as the daemon has it that owns the state,
    /// or else as configured. That signatures are not asked for is said loudly.
    ///
    /// # Errors
    /// A `nix.conf` that counts is not there, or wrong.
    pub(super) fn request(&self, global: &Global) -> anyhow::Result<SourceRequest> {
        let decided = &global.decided;
        warn_unsigned(&decided.with(&self.choices)?);
        decided.warn_left_out(&self.choices)?;
        let chosen = decided.with_own_nix_conf(&self.choices)?;
        let keys = chosen.trusted_public_keys;
        Ok(SourceRequest {
            from: chosen.from.map(|from| from.value).unwrap_or_default(),
            trusted_public_keys: keys.map(|keys| keys.value).unwrap_or_default(),
            no_require_signatures: chosen.require_sigs.is_some_and(|required| !required.value),
            netrc: chosen.netrc_file.and_then(|file| file.value),
            without: None,
        })
    }
}

/// The sources of the settings.
pub(super) fn in_force(settings: &Settings) -> SourceRequest {
    SourceRequest {
        from: settings.from.value.clone(),
        trusted_public_keys: settings.trusted_public_keys.value.clone(),
        no_require_signatures: !settings.require_sigs.value,
        netrc: settings.netrc_file.value.clone(),
        without: settings
            .from
            .value
            .is_empty()
            .then(|| match &settings.from.origin {
                origin @ Origin::File { .. } => format!("{origin}: from = []"),
                origin @ Origin::NixConf(_) => format!("{origin}: no substituter there is of use"),
                _ => "the mount is --offline".to_owned(),
            }),
    }
}

/// Warns if paths are accepted without signatures.
pub(super) fn warn_unsigned(settings: &Settings) {
    if settings.require_sigs.value {
        return;
    }
    let said = match &settings.require_sigs.origin {
        origin @ (Origin::File { .. } | Origin::NixConf(_)) => {
            format!("{origin}: require-sigs = false")
        }
        _ => "--no-require-sigs".to_owned(),
    };
    let from: Vec<_> = settings.from.value.iter().map(|u| redacted(u)).collect();
    log::warn(&format!(
        "{said}: paths are taken without signatures; whoever controls {} decides \
         what is in them",
        from.join(", ")
    ));
}
