//! What commands do to a state: in this process, or in the daemon that owns the state.
//!
//! Invariant: a command means the same wherever it runs. [`Engine::execute`] is the one place
//! that carries it out; the control socket only moves [`Command`]s, outputs and reports.

mod collect;
mod command;
mod control;
mod engine;
mod in_use;
mod keeping;
mod location;
mod profiles;
mod ready;
mod roots;
mod serve;
mod verify;

pub use collect::{GcReport, GcRequest, OldGeneration};
pub use command::{
    Command, CommandError, CopyReport, CopyRequest, EntryReport, EvictReport, Failure, KindReport,
    Output, PathReport, PinReport, PrefetchReport, PrefetchRequest, Report, ServeRequest,
    SourceRequest, StateReport, StatusReport, TraceCommand, TraceReport, VerifyReport,
};
pub use control::{run, status, wait_until_released};
pub use engine::{Engine, chain};
pub use profiles::{
    ApplyRequest, DeclaredPackage, DeclaredProfile, DeclaredTarget, ElementReport,
    GenerationReport, ProfileAction, ProfileChangeReport, ProfileDiffReport, ProfileError,
    ProfileOutcome, ProfileReport, ProfileRequest, SupplyError,
};
pub use ready::spawn_and_wait;
pub use roots::{RootKind, RootReport, RootsError};
pub use serve::{ServeError, Show, serve};
