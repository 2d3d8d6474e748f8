//! `narfs copy`

use anyhow::bail;
use clap::Args;

use super::{Global, Outcome, bytes, print_json, println};
use crate::daemon::{Command, CopyReport, CopyRequest, Failure, Report};

/// Fetch closures into the state, verified
///
/// A path is taken if a trusted key has signed it (that of cache.nixos.org, and those given), or
/// if it is content-addressed and its contents fulfil the address; and its NAR is compared with
/// NarHash and NarSize before it can be seen. A path that fails does not stop the others.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Everything that the sources list (file:// only)
    #[arg(long, conflicts_with = "paths", required_unless_present = "paths")]
    all: bool,
    /// Only the paths that are named, without what they refer to
    #[arg(long)]
    no_recursive: bool,
    /// NARs that are unpacked at once [default: one for each core]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    jobs: usize,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

/// Where to fetch from and whom to believe.
#[derive(Debug, Args)]
pub(super) struct Sources {
    /// Binary cache: file:///DIR, http://… or https://…; repeatable, tried by their priority
    #[arg(long, value_name = "URL", default_value = "https://cache.nixos.org")]
    from: Vec<String>,
    #[command(flatten)]
    trust: Trust,
}

/// Whom to believe.
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
    /// The request for what these sources have.
    pub(super) fn request(self) -> CopyRequest {
        self.trust.request(self.from)
    }
}

impl Trust {
    /// The same as arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let keys = self.trusted_public_key.iter();
        let mut out: Vec<_> = keys
            .flat_map(|k| ["--trusted-public-key".to_owned(), k.clone()])
            .collect();
        if self.no_require_sigs {
            out.push("--no-require-sigs".to_owned());
        }
        out
    }

    /// The request for what `from` have.
    pub(super) fn request(self, from: Vec<String>) -> CopyRequest {
        if self.no_require_sigs {
            eprintln!(
                "narfs: warning: --no-require-sigs: paths are taken without signatures; whoever \
                 controls {} decides what is in them",
                from.join(", ")
            );
        }
        CopyRequest {
            from,
            trusted_public_keys: self.trusted_public_key,
            require_signatures: !self.no_require_sigs,
            ..CopyRequest::default()
        }
    }
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Command::Copy(CopyRequest {
            all: self.all,
            recursive: !self.no_recursive,
            jobs: self.jobs,
            paths: self.paths,
            ..self.sources.request()
        });
        let Report::Copy(report) = global.run(command, true)? else {
            bail!("the daemon gave another report than that of a copy");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&summary(&report))?;
        }
        Ok(show_failures(&report.failures))
    }
}

fn summary(r: &CopyReport) -> String {
    format!(
        "{} paths copied ({} of NARs, {} fetched), {} were there, {} failed",
        r.copied,
        bytes(r.nar_bytes),
        bytes(r.fetched_bytes),
        r.already,
        r.failures.len()
    )
}

/// Names each path that failed, on stderr.
pub(super) fn show_failures(failures: &[Failure]) -> Outcome {
    for f in failures {
        eprintln!("narfs: {}: {}", f.path, f.error);
    }
    if failures.is_empty() {
        Outcome::Good
    } else {
        Outcome::Failed
    }
}
