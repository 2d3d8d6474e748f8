//! What closure views are called.

use std::fmt;

use thiserror::Error;

/// Longest name, in bytes.
const NAME: usize = 128;

/// A text that cannot be the name of a closure view.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no name for a closure view; give up to {NAME} letters, digits and +-._=@, beginning \
     with a letter or a digit"
)]
pub struct ViewNameError(String);

/// What a closure view is called. It is the name of a directory too, and may be that of a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewName(String);

impl ViewName {
    /// Reads a name.
    ///
    /// # Errors
    /// It has other characters than letters, digits and `+-._=@`, begins with one of these, is
    /// empty or too long.
    pub fn parse(text: &str) -> Result<Self, ViewNameError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"+-._=@".contains(&b);
        let first = text.bytes().next();
        let begins_well = first.is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins_well || text.len() > NAME || !text.bytes().all(good) {
            return Err(ViewNameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ViewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
