//! What the tests stand on: the worlds, a sandbox with a state and a mount, processes.

mod nix;
mod process;
mod sandbox;
mod seeded;
mod walk;
mod world;

pub use nix::{database_dump, load, nix_store};
pub use process::{Ran, is_alive, run, succeed};
pub use sandbox::{Sandbox, undisturbed};
pub use seeded::{Chance, PATIENCE, seeds};
pub use walk::{Seen, read_anew, read_everything, walk};
pub use world::{World, sha256};

pub use crate::waiting::wait_until;
