//! `--from` and related options: sources and trusted keys.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::config::{Choices, Origin, Setting, Settings};
use super::global::Global;
use crate::command::SourceRequest;
use crate::substituter::redacted;

/// Sources and trust.
#[derive(Clone, Debug, Args)]
pub(super) struct Sources {
    /// Binary cache: file:///DIR, http://… or https://…; repeatable, tried by their priority
    /// [default: those of the configuration file, else https://cache.nixos.org]
    #[arg(long, value_name = "URL")]
    pub(super) from: Vec<String>,
    /// Names and passwords for sources, in the form of netrc(5)
    #[arg(long, value_name = "FILE")]
    netrc_file: Option<PathBuf>,
    #[command(flatten)]
    trust: Trust,
}

/// Trust.
#[derive(Clone, Debug, Args)]
pub(super) struct Trust {
    /// Key whose signatures count besides that of cache.nixos.org, as NAME:BASE64; repeatable
    #[arg(long, value_name = "KEY")]
    trusted_public_key: Vec<String>,
    /// Believe the sources without signatures: whoever controls a source, or the way to it,
    /// decides what your programs are
    #[arg(long)]
    no_require_sigs: bool,
}

impl Sources {
    /// The choices made by these flags.
    pub(super) fn choices(&self) -> anyhow::Result<Choices> {
        let given = |list: &Vec<String>| (!list.is_empty()).then(|| Setting::flag(list.clone()));
        let netrc_file = self.netrc_file.as_deref().map(std::path::absolute);
        let unsigned = self.trust.no_require_sigs;
        Ok(Choices {
            from: given(&self.from),
            trusted_public_keys: given(&self.trust.trusted_public_key),
            require_sigs: unsigned.then(|| Setting::flag(false)),
            netrc_file: netrc_file.transpose()?.map(Some).map(Setting::flag),
            ..Choices::default()
        })
    }

    /// The flags that were given, without secrets.
    pub(super) fn given(&self) -> Vec<String> {
        let from = self.from.iter().map(|url| redacted(url));
        let mut given: Vec<_> = from.map(|url| format!("--from {url}")).collect();
        if let Some(file) = &self.netrc_file {
            given.push(format!("--netrc-file {}", file.display()));
        }
        let keys = self.trust.trusted_public_key.iter();
        given.extend(keys.map(|key| format!("--trusted-public-key {key}")));
        if self.trust.no_require_sigs {
            given.push("--no-require-sigs".into());
        }
        given
    }

    /// The same flags for another process, valid in any working directory.
    pub(super) fn arguments(&self) -> anyhow::Result<Vec<OsString>> {
        let mut out = Vec::new();
        for url in &self.from {
            out.extend(["--from".into(), url.into()]);
        }
        if let Some(file) = &self.netrc_file {
            let file = std::path::absolute(file)?;
            out.extend(["--netrc-file".into(), file.into_os_string()]);
        }
        for key in &self.trust.trusted_public_key {
            out.extend(["--trusted-public-key".into(), key.into()]);
        }
        if self.trust.no_require_sigs {
            out.push("--no-require-sigs".into());
        }
        Ok(out)
    }

    /// The sources and trust given by these flags. Whatever is not given is taken from the daemon
    /// that owns the state, or from the configuration. A warning is shown if signatures are not
    /// required.
    pub(super) fn request(&self, global: &Global) -> anyhow::Result<SourceRequest> {
        warn_unsigned(&global.decided.with(&self.choices()?));
        let netrc = self.netrc_file.as_deref().map(std::path::absolute);
        Ok(SourceRequest {
            from: self.from.clone(),
            trusted_public_keys: self.trust.trusted_public_key.clone(),
            no_require_signatures: self.trust.no_require_sigs,
            netrc: netrc.transpose()?,
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
        origin @ Origin::File { .. } => format!("{origin}: require-sigs = false"),
        _ => "--no-require-sigs".to_owned(),
    };
    let from: Vec<_> = settings.from.value.iter().map(|u| redacted(u)).collect();
    eprintln!(
        "narfs: warning: {said}: paths are taken without signatures; whoever controls {} decides \
         what is in them",
        from.join(", ")
    );
}
