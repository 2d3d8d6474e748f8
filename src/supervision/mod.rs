//! Who starts a daemon and looks after it, and what outlives a daemon.

mod held;
mod keeper;
mod keeper_replacement;
pub mod kept;
mod message;
mod signals;
mod supervisor;

pub use held::Held;
pub use keeper::{STARTS, command as keeper_command, in_background, keep, start as start_keeper};
pub use keeper_replacement::watch as watch_keeper;
pub use signals::EndSignals;
pub use supervisor::{Supervisor, may_take_over};
