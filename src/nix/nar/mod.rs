//! The Nix archive format: a byte stream that a file system tree has exactly one of.
//!
//! Owns the grammar and its limits; [`Reader`] and [`Writer`] stream in constant memory. Invariant:
//! what the reader accepts, the writer reproduces byte for byte. The reader refuses whatever the
//! newest Nix refuses, and trailing bytes too.
//!
//! A NAR is a sequence of strings, each a little-endian 64-bit length, the bytes, and zeros up to a
//! multiple of eight: `nix-archive-1` NODE, where NODE is `(` `type` KIND … `)`, and the body is
//! for
//!
//! - `regular`: optionally `executable` and an empty string, then `contents` DATA
//! - `symlink`: `target` T
//! - `directory`: any number of `entry` `(` `name` N `node` NODE `)`, names strictly ascending by bytes

mod dump;
mod error;
mod reader;
pub mod sizes;
mod writer;

pub use dump::{DumpError, dump_path};
pub use error::{NarDefect, NarError};
pub use reader::{Event, Reader};
pub use writer::Writer;

/// The string that opens every NAR.
pub const MAGIC: &[u8; 13] = b"nix-archive-1";

/// Most nodes on the way from the root to the deepest node, both included (Nix's `narMaxDepth`).
pub const MAX_DEPTH: usize = 64;

/// Longest name of an entry, in bytes: that of every Linux file system.
pub const MAX_NAME_LEN: usize = 255;

/// Longest symlink target, in bytes: `PATH_MAX` without its terminating NUL.
pub const MAX_TARGET_LEN: usize = 4095;

/// Checks the name of an entry.
///
/// # Errors
/// [`NarDefect::InvalidName`] if it is empty, too long, `.`, `..`, or contains `/` or NUL.
pub fn check_entry_name(name: &[u8]) -> Result<(), NarDefect> {
    let bad = name.is_empty()
        || name.len() > MAX_NAME_LEN
        || name == b"."
        || name == b".."
        || name.contains(&b'/')
        || name.contains(&0);
    if bad {
        return Err(NarDefect::InvalidName { name: name.into() });
    }
    Ok(())
}

/// Checks a symlink target. Any bytes but NUL are kept as they are.
///
/// # Errors
/// [`NarDefect::InvalidTarget`] if it is empty, too long or contains NUL.
pub fn check_target(target: &[u8]) -> Result<(), NarDefect> {
    if target.is_empty() || target.len() > MAX_TARGET_LEN || target.contains(&0) {
        return Err(NarDefect::InvalidTarget {
            target: target.into(),
        });
    }
    Ok(())
}

/// Checks the order of two neighbours in a directory.
fn check_order(previous: Option<&[u8]>, name: &[u8]) -> Result<(), NarDefect> {
    match previous {
        Some(previous) if name == previous => Err(NarDefect::DuplicateName { name: name.into() }),
        Some(previous) if name < previous => Err(NarDefect::NotSorted {
            name: name.into(),
            previous: previous.into(),
        }),
        _ => Ok(()),
    }
}
