//! What commands do to a state: in this process, or in the daemon that owns the state.
//!
//! Invariant: a command means the same wherever it runs. [`Engine::execute`] is the one place
//! that carries it out; the control socket only moves [`Command`]s, outputs and reports.

mod adopt;
mod channels;
mod chunked;
mod closures;
mod collect;
mod command;
mod control;
mod copy;
mod doctor;
mod engine;
mod figures;
mod guests;
mod in_use;
mod keeper;
mod keeping;
mod location;
mod memory;
mod message;
mod observed;
mod profiles;
mod roots;
mod serve;
mod signals;
mod source_request;
mod succession;
mod supervisor;
mod upgrade;
mod users;
mod verify;
mod volumes;

pub use adopt::{AdoptError, HandOver, HandedOver, Mounting};
pub use channels::{ChannelCommand, ChannelError, ChannelReport, ChannelUpdateReport};
pub use closures::{ClosureError, ClosureReport, ClosureRequest};
pub use collect::{GcReport, GcRequest, OldGeneration, OldGenerations};
pub use command::{
    Command, CommandError, CopyReport, CopyRequest, EntryReport, EvictReport, Failure, KindReport,
    Output, PathReport, PrefetchReport, PrefetchRequest, Report, ServeRequest, SourceRequest,
    StateReport, StatusReport, TraceCommand, TraceReport, VerifyReport,
};
pub use control::{figures, is_owned, run, status, wait_until_unmounted};
pub use doctor::{Examination, Finding, Verdict, examine};
pub use engine::{Engine, chain};
pub use figures::{FiguresReport, ProcessFigures};
pub use keeper::{keep, start as start_keeper};
pub use keeping::PinReport;
pub use observed::{HttpError, HttpService};
pub use profiles::{
    ApplyRequest, DeclaredPackage, DeclaredProfile, DeclaredTarget, ElementReport,
    GenerationReport, ProfileAction, ProfileChangeReport, ProfileDiffReport, ProfileError,
    ProfileOutcome, ProfileReport, ProfileRequest, ProfileSummary, SupplyError,
};
pub use roots::{RootKind, RootReport, RootsError};
pub use serve::{ServeError, Show, serve};
pub use supervisor::{in_background, may_take_over};
pub use upgrade::UpgradeError;
pub use volumes::SocketError;
