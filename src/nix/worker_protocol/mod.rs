//! Nix's worker protocol, which nix-daemon speaks with its clients: the greeting, the operations, and how
//! answers are written.
//!
//! Numbers have eight bytes, little endian; a string is its length, its bytes, and zeros up to a multiple of
//! eight; a list is a number and its elements. Invariant: nothing is taken from a client without a bound, and
//! what is not well formed is an error.

mod operation;
mod read;
mod write;

pub use operation::{Operation, Payload, Refused, Target, TargetOutputs};
pub use read::{ProtocolError, Reader};
pub use write::{BuildOutcome, Writer};

/// First number of a client.
const CLIENT_MAGIC: u64 = 0x6e69_7863;
/// First number of a server.
const SERVER_MAGIC: u64 = 0x6478_696f;

/// A version of the protocol, `1.MINOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u8);

impl Version {
    /// The version of Nix 2.20 to 2.35, with features as an extension.
    pub const NEWEST: Self = Self(38);
    /// The version of Nix 2.3. A client that is older could not be told of an error.
    pub const OLDEST: Self = Self(21);

    const MAJOR: u64 = 1;

    pub(super) const fn minor(minor: u8) -> Self {
        Self(minor)
    }

    fn from_wire(number: u64) -> Option<Self> {
        let is_known = number >> 8 == Self::MAJOR;
        is_known.then_some(Self((number & 0xff) as u8))
    }

    fn to_wire(self) -> u64 {
        Self::MAJOR << 8 | u64::from(self.0)
    }
}

/// What the server is, and what it makes of the client.
#[derive(Clone, Copy, Debug)]
pub struct Greeting<'g> {
    /// Shown by `nix store info`.
    pub program: &'g str,
    /// Whether the client may do what only root may.
    pub is_trusted: bool,
}

/// Exchanges greetings with a client. Returns the version that both speak. What is still to be said, an error
/// or [`Writer::last`], is up to the caller.
///
/// # Errors
/// Another protocol, an older version than [`Version::OLDEST`], or a failing connection.
pub fn greet(
    reader: &mut Reader<impl std::io::Read>,
    mut send: impl FnMut(&[u8]) -> std::io::Result<()>,
    greeting: &Greeting<'_>,
) -> Result<Version, ProtocolError> {
    if reader.number()? != CLIENT_MAGIC {
        return Err(ProtocolError::Magic);
    }
    let mut hello = Writer::default();
    hello.number(SERVER_MAGIC);
    hello.number(Version::NEWEST.to_wire());
    send(hello.as_bytes())?;
    let theirs = reader.number()?;
    let theirs = Version::from_wire(theirs).filter(|version| *version >= Version::OLDEST);
    let version = theirs.ok_or(ProtocolError::Version)?.min(Version::NEWEST);
    if version >= Version::minor(38) {
        // None of the client's features is needed to read.
        reader.skip_strings()?;
        let mut features = Writer::default();
        features.number(0);
        send(features.as_bytes())?;
    }
    // Obsolete: a processor to run on, and whether to reserve space.
    if reader.number()? != 0 {
        reader.number()?;
    }
    reader.number()?;
    let mut rest = Writer::default();
    if version >= Version::minor(33) {
        rest.string(greeting.program);
    }
    if version >= Version::minor(35) {
        rest.number(if greeting.is_trusted { 1 } else { 2 });
    }
    send(rest.as_bytes())?;
    Ok(version)
}

#[cfg(test)]
mod tests;
