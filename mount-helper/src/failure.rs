//! Why something is not mounted, with the exit status that mount(8) has for it.

use std::path::Path;

use narfs_mounting::MountError;

/// Incorrect invocation, or permissions.
const USAGE: u8 = 1;
/// System error.
const SYSTEM: u8 = 2;
/// A bug in this program.
pub const INTERNAL: u8 = 4;
/// Interrupted by the user.
pub const INTERRUPTED: u8 = 8;
/// It was not mounted.
const MOUNT: u8 = 32;

/// Why it failed. Mount tables (16) are the kernel's, and one mount cannot succeed in part (64).
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit status.
    pub status: u8,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Failure {
    /// The call makes no sense, or the caller may not.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(USAGE, text)
    }

    /// Something is missing on this machine.
    pub fn system(text: impl Into<String>) -> Self {
        Self::new(SYSTEM, text)
    }

    /// All else.
    pub fn mount(text: impl Into<String>) -> Self {
        Self::new(MOUNT, text)
    }

    /// A system call on a path failed.
    pub fn call(what: &str, at: &Path, error: impl Into<std::io::Error>) -> Self {
        Self::mount(format!("cannot {what} {}: {}", at.display(), error.into()))
    }

    fn new(status: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let text = error.to_string();
        match error {
            MountError::NoFuse(_) => Self::system(text),
            error if error.is_permission() => Self::usage(text),
            _ => Self::mount(text),
        }
    }
}
