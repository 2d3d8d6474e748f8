//! Why a client gets no answer.

use std::io;

use thiserror::Error;

use crate::engine::EngineError;
use crate::nix::derivation::DerivationError;
use crate::nix::store_path::StorePathError;
use crate::nix::worker_protocol::ProtocolError;

/// What a user can do that this store does not.
const OVERLAY: &str = "a local-overlay store of Nix with this one below builds and adds paths: see \
    docs/with-nix.md of narfs";

/// Why an operation fails; the client is told, and the connection goes on.
#[derive(Debug, Error)]
pub enum AnswerError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The first words are those of Nix, which old clients look for.
    #[error("path '{0}' is not valid: neither the state of narfs nor any of its sources has it")]
    NotValid(String),
    /// A source has it, and is not believed.
    #[error("path '{0}' is not valid: {1}")]
    Distrusted(String, String),
    #[error(
        "nothing is built here, and neither the state of narfs nor any of its sources has '{what}'; {OVERLAY}"
    )]
    NotBuilt { what: String },
    #[error("derivation '{derivation}' has no output '{output}'")]
    NoOutput { derivation: String, output: String },
    #[error("'{path}' is not a derivation that narfs can read")]
    Derivation {
        path: String,
        #[source]
        source: DerivationError,
    },
    #[error("'{0}' is not a hash part of a store path")]
    HashPart(String, #[source] StorePathError),
    #[error("this store is read-only, so {0} is refused; {OVERLAY}")]
    ReadOnly(&'static str),
    #[error("this store collects no garbage for Nix; run `narfs gc`")]
    CollectGarbage,
    #[error("this store is not verified by Nix; run `narfs verify`")]
    VerifyStore,
    #[error("there is nothing to optimise: narfs keeps every chunk of contents once")]
    OptimiseStore,
    #[error(
        "only root may add roots to narfs; do without a result link (--no-link), or let root pin the path \
         with `narfs pin`"
    )]
    NotTrusted,
    #[error("{0:?} is not an absolute path of a root")]
    RootLink(String),
    #[error(
        "a connection keeps at most {0} paths from collection; connect anew, or pin them with `narfs pin`"
    )]
    TooManyRoots(usize),
    #[error("there are too many clients of Nix at the moment; try again")]
    TooManyClients,
}

/// Why a connection ends.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client has part of the contents, so that only the end of the connection tells it.
    #[error("the contents of a path could not be sent whole")]
    Contents(#[source] EngineError),
    /// What follows cannot be told from the next operation.
    #[error("{0} was refused, and its contents have no length")]
    Unframed(&'static str),
    #[error("there was no place for it")]
    NoPlace,
}
