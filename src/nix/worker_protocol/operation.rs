//! What a client asks for.

use std::io::Read;

use super::Version;
use super::read::{ProtocolError, Reader};
use crate::nix::store_path::{StoreDir, StorePath};

/// A path, or outputs of a derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As the client wrote it.
    pub text: String,
    /// The derivation, where outputs are asked for.
    pub path: StorePath,
    pub outputs: TargetOutputs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetOutputs {
    /// The path itself.
    None,
    /// All outputs of the derivation.
    All,
    /// These.
    Named(Vec<String>),
}

impl Target {
    /// `PATH`, or `PATH!OUTPUT,…`, or `PATH!*`.
    fn parse(store_dir: &StoreDir, version: Version, text: String) -> Result<Self, ProtocolError> {
        let (path, outputs) = match text.split_once('!') {
            Some((path, "*")) => (path, TargetOutputs::All),
            Some((path, names)) => {
                let names: Vec<_> = names.split(',').map(str::to_owned).collect();
                if names.iter().any(String::is_empty) {
                    return Err(ProtocolError::Target(text));
                }
                (path, TargetOutputs::Named(names))
            }
            // Clients of these versions mean its outputs, and cannot ask for a derivation itself.
            None if version < Version::minor(30) && text.ends_with(".drv") => {
                (&*text, TargetOutputs::All)
            }
            None => (&*text, TargetOutputs::None),
        };
        let path = StorePath::parse_full(store_dir, path)?;
        if outputs != TargetOutputs::None && !path.is_derivation() {
            return Err(ProtocolError::Target(text));
        }
        Ok(Self {
            path,
            outputs,
            text,
        })
    }
}

/// What a client sends after an operation that would write, while it already gets an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    None,
    /// Pieces with their lengths.
    Frames,
    /// A NAR, of which only its own contents tell the end.
    Nar,
}

/// An operation that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub name: &'static str,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    SetOptions,
    IsValidPath(StorePath),
    QueryValidPaths(Vec<StorePath>),
    QuerySubstitutablePaths(Vec<StorePath>),
    QuerySubstitutablePathInfo(StorePath),
    QuerySubstitutablePathInfos(Vec<StorePath>),
    QueryAllValidPaths,
    QueryPathInfo(StorePath),
    QueryPathFromHashPart(String),
    QueryReferrers(StorePath),
    QueryDeriver(StorePath),
    QueryValidDerivers(StorePath),
    QueryDerivationOutputs(StorePath),
    QueryDerivationOutputNames(StorePath),
    QueryDerivationOutputMap(StorePath),
    QueryRealisation,
    QueryMissing(Vec<Target>),
    EnsurePath(StorePath),
    BuildPaths(Vec<Target>),
    BuildPathsWithResults(Vec<Target>),
    /// With the outputs of the derivation, which the client has.
    BuildDerivation(StorePath, Vec<(String, Option<StorePath>)>),
    NarFromPath(StorePath),
    AddTempRoot(StorePath),
    AddIndirectRoot(String),
    SyncWithGc,
    FindRoots,
    Refused(Refused),
}

fn refused(name: &'static str, payload: Payload) -> Operation {
    Operation::Refused(Refused { name, payload })
}

impl Operation {
    /// Reads the operation with this number.
    ///
    /// # Errors
    /// It is unknown or not well formed; then the connection is of no use any more.
    pub fn read(
        number: u64,
        version: Version,
        store_dir: &StoreDir,
        reader: &mut Reader<impl Read>,
    ) -> Result<Self, ProtocolError> {
        Ok(match number {
            1 => Self::IsValidPath(reader.path(store_dir)?),
            6 => Self::QueryReferrers(reader.path(store_dir)?),
            9 => Self::BuildPaths(targets(version, store_dir, reader)?),
            10 => Self::EnsurePath(reader.path(store_dir)?),
            11 => Self::AddTempRoot(reader.path(store_dir)?),
            12 => Self::AddIndirectRoot(reader.string()?),
            13 => Self::SyncWithGc,
            14 => Self::FindRoots,
            18 => Self::QueryDeriver(reader.path(store_dir)?),
            19 => {
                reader.skip_numbers(12)?;
                reader.skip_pairs()?;
                Self::SetOptions
            }
            21 => Self::QuerySubstitutablePathInfo(reader.path(store_dir)?),
            22 => Self::QueryDerivationOutputs(reader.path(store_dir)?),
            23 => Self::QueryAllValidPaths,
            26 => Self::QueryPathInfo(reader.path(store_dir)?),
            28 => Self::QueryDerivationOutputNames(reader.path(store_dir)?),
            29 => Self::QueryPathFromHashPart(reader.string()?),
            30 if version < Version::minor(22) => {
                Self::QuerySubstitutablePathInfos(reader.paths(store_dir)?)
            }
            30 => Self::QuerySubstitutablePathInfos(reader.list(|reader| {
                let path = reader.path(store_dir)?;
                // Its content address.
                reader.skip_string()?;
                Ok(path)
            })?),
            31 => {
                let paths = reader.paths(store_dir)?;
                if version >= Version::minor(27) {
                    // Whether to substitute them: what can be substituted is valid here.
                    reader.number()?;
                }
                Self::QueryValidPaths(paths)
            }
            32 => Self::QuerySubstitutablePaths(reader.paths(store_dir)?),
            33 => Self::QueryValidDerivers(reader.path(store_dir)?),
            36 => build_derivation(store_dir, reader)?,
            38 => Self::NarFromPath(reader.path(store_dir)?),
            40 => {
                let targets = reader.list(|reader| target(version, store_dir, reader))?;
                Self::QueryMissing(targets)
            }
            41 => Self::QueryDerivationOutputMap(reader.path(store_dir)?),
            43 => {
                reader.skip_string()?;
                Self::QueryRealisation
            }
            46 => Self::BuildPathsWithResults(targets(version, store_dir, reader)?),
            number => return read_refused(number, version, reader),
        })
    }
}

/// Reads an operation that writes, up to its payload.
fn read_refused(
    number: u64,
    version: Version,
    reader: &mut Reader<impl Read>,
) -> Result<Operation, ProtocolError> {
    let none = Payload::None;
    Ok(match number {
        7 if version >= Version::minor(25) => {
            // Its name, and how its content address is made.
            reader.skip_string()?;
            reader.skip_string()?;
            reader.skip_strings()?;
            reader.number()?;
            refused("AddToStore", Payload::Frames)
        }
        7 => refused("AddToStore", Payload::Nar),
        8 => {
            reader.skip_string()?;
            reader.skip_string()?;
            reader.skip_strings()?;
            refused("AddTextToStore", none)
        }
        20 => {
            reader.number()?;
            reader.skip_strings()?;
            reader.skip_numbers(5)?;
            refused("CollectGarbage", none)
        }
        34 => refused("OptimiseStore", none),
        35 => {
            reader.skip_numbers(2)?;
            refused("VerifyStore", none)
        }
        37 => {
            reader.skip_string()?;
            reader.skip_strings()?;
            refused("AddSignatures", none)
        }
        39 => {
            // The path, its deriver and its NarHash.
            (0..3).try_for_each(|_| reader.skip_string())?;
            reader.skip_strings()?;
            reader.skip_numbers(3)?;
            reader.skip_strings()?;
            reader.skip_string()?;
            reader.skip_numbers(2)?;
            match version >= Version::minor(23) {
                true => refused("AddToStoreNar", Payload::Frames),
                // The server would ask for it.
                false => refused("AddToStoreNar", none),
            }
        }
        42 => {
            reader.skip_string()?;
            if version < Version::minor(31) {
                reader.skip_string()?;
            }
            refused("RegisterDrvOutput", none)
        }
        44 => {
            reader.skip_numbers(2)?;
            refused("AddMultipleToStore", Payload::Frames)
        }
        45 => {
            reader.skip_string()?;
            refused("AddBuildLog", Payload::Frames)
        }
        47 => {
            reader.skip_string()?;
            reader.skip_string()?;
            refused("AddPermRoot", none)
        }
        number => return Err(ProtocolError::Operation(number)),
    })
}

fn target(
    version: Version,
    store_dir: &StoreDir,
    reader: &mut Reader<impl Read>,
) -> Result<Target, ProtocolError> {
    Target::parse(store_dir, version, reader.string()?)
}

/// Targets, and how they are to be built.
fn targets(
    version: Version,
    store_dir: &StoreDir,
    reader: &mut Reader<impl Read>,
) -> Result<Vec<Target>, ProtocolError> {
    let targets = reader.list(|reader| target(version, store_dir, reader))?;
    reader.number()?;
    Ok(targets)
}

fn build_derivation(
    store_dir: &StoreDir,
    reader: &mut Reader<impl Read>,
) -> Result<Operation, ProtocolError> {
    let path = reader.path(store_dir)?;
    let outputs = reader.list(|reader| {
        let name = reader.string()?;
        let path = reader.path_or_none(store_dir)?;
        // Of a fixed output: the hash algorithm, and the hash.
        reader.skip_string()?;
        reader.skip_string()?;
        Ok((name, path))
    })?;
    reader.skip_strings()?;
    // The platform, the builder, its arguments and its environment.
    reader.skip_string()?;
    reader.skip_string()?;
    reader.skip_strings()?;
    reader.skip_pairs()?;
    reader.number()?;
    Ok(Operation::BuildDerivation(path, outputs))
}
