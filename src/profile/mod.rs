//! Profiles: their names and their generations.
//!
//! All of this is pure: values in, values out.
//!
//! - [`ProfileName`]: what a profile may be called, and the links that show it
//! - [`Generations`]: numbers, switches, rollbacks, deletions

mod generations;
mod name;

pub use generations::{
    Advance, CivilTime, DeleteSpec, DeleteSpecError, Generation, GenerationError, GenerationNumber,
    Generations, Switch,
};
pub use name::{NameDefect, NameError, ProfileEntry, ProfileName};
