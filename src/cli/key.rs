//! `narfs key`

use std::io::Read;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::global::Global;
use super::log;
use super::outcome::Outcome;
use super::output::{print_json, println};
use super::sources::Sources;
use crate::command::{ForgetKeyReport, ForgetKeyRequest, Report, Request};
use crate::nix::signature::SecretKey;

/// Create and convert signing keys, in the format of Nix, and forget keys that are not to be believed
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Keys,
}

#[derive(Debug, Subcommand)]
enum Keys {
    /// Print a new secret key and, on stderr, its public key
    Generate {
        /// Name of the key; by convention the host name and a number: cache.example.org-1
        name: String,
    },
    /// Print the public key of the secret key on stdin
    Public,
    Forget(Box<Forget>),
}

/// Take back what a key alone has vouched for
///
/// Removes its signatures from the state. Paths that no other trusted key, content address or addition on
/// this machine vouches for are unsigned then: the sources are asked for them at once, and where
/// signatures are required again whenever they are used. Those that no source vouches for, with the same
/// contents, are named; they stay and can be read until nothing keeps them and `narfs gc` removes them.
/// Remove the key from the configuration first, or what it signs is believed again.
#[derive(Debug, Args)]
struct Forget {
    #[command(flatten)]
    sources: Sources,
    /// Change nothing; print what would be taken back
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Name of the key, for all keys of that name, or the whole public key: NAME:BASE64
    #[arg(value_name = "KEY")]
    key: String,
}

impl Arguments {
    /// Whether the command needs the state, and its settings.
    pub(super) fn changes_a_state(&self) -> bool {
        matches!(self.command, Keys::Forget(_))
    }

    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        match self.command {
            Keys::Generate { name } => {
                let mut seed = [0; 32];
                std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
                let key = SecretKey::from_seed(&name, seed)?;
                println(&key.to_text())?;
                eprintln!("{}", key.to_public());
            }
            Keys::Public => {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text)?;
                println(&SecretKey::parse(text.trim())?.to_public().to_string())?;
            }
            Keys::Forget(forget) => forget.run(global)?,
        }
        Ok(Outcome::Good)
    }
}

impl Forget {
    fn run(self, global: &Global) -> anyhow::Result<()> {
        let request = ForgetKeyRequest {
            key: self.key.clone(),
            dry_run: self.dry_run,
            sources: self.sources.request(global)?,
        };
        let Report::ForgotKey(report) = global.run(Request::ForgetKey(request), false)? else {
            bail!("the daemon sent an unexpected report instead of one on a key");
        };
        if report.still_trusted {
            log::warn(&format!(
                "the key {} is still trusted by the daemon, the configuration or this command, or is built \
                 in: what it signs is believed again",
                self.key
            ));
        }
        match self.json {
            true => print_json(&report),
            false => show(&report),
        }
    }
}

fn show(r: &ForgetKeyReport) -> anyhow::Result<()> {
    let removed = if r.dry_run {
        "would be removed"
    } else {
        "is removed"
    };
    println(&format!(
        "{} paths have its signature, which {removed}; {} of them are vouched for by something else",
        r.signed, r.kept
    ))?;
    if r.dry_run {
        println(&format!("{} paths would be unsigned", r.lost.len()))?;
        return r.lost.iter().try_for_each(|path| println(path));
    }
    println(&format!(
        "{} paths were vouched for by it alone; for {} of them a source vouches, for {} none does",
        r.lost.len(),
        r.vouched_again.len(),
        r.unvouched.len()
    ))?;
    let mut unvouched = r.unvouched.iter();
    unvouched.try_for_each(|f| println(&format!("{}: {}", f.path, f.error)))
}
