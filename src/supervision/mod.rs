//! Supervision of a daemon: its start, its restart, and what outlives it.

mod keeper;
mod keeper_replacement;
pub mod kept;
mod message;
mod restart_record;
mod signals;
mod supervisor;

pub use keeper::{
    STARTS, command as keeper_command, in_background, keep, pass_to_keepers, start as start_keeper,
};
pub use keeper_replacement::watch as watch_keeper;
pub use restart_record::RestartRecord;
pub use signals::TerminationSignals;
pub use supervisor::{Supervisor, may_take_over};
