//! `narfs key`

use std::io::Read;

use clap::{Args, Subcommand};

use super::outcome::Outcome;
use super::output::println;
use crate::nix::signature::SecretKey;

/// Create and convert signing keys, in the format of Nix
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
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<Outcome> {
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
        }
        Ok(Outcome::Good)
    }
}
