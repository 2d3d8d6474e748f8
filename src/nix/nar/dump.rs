//! Serialising a local file system tree as a NAR.
//!
//! The only place of this layer that touches a file system. Invariant: the archive holds what was
//! on disk at one moment for each file; a file that shrinks or grows meanwhile is an error, not a
//! wrong archive.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{NarError, Writer};

/// Bytes read from a file at a time.
const READ_SIZE: usize = 256 * 1024;

/// The owner's execute bit, the only part of a mode that an archive keeps.
const OWNER_EXECUTE: u32 = 0o100;

/// Why a tree could not be serialised.
#[derive(Debug, Error)]
pub enum DumpError {
    /// The file system failed.
    #[error("cannot read '{}'", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the file system.
        #[source]
        source: io::Error,
    },
    /// Neither a regular file, nor a directory, nor a symlink.
    #[error("file '{}' has an unsupported type", path.display())]
    UnsupportedType { path: PathBuf },
    /// The file changed its size while it was read.
    #[error("file '{}' changed while it was read", path.display())]
    Changed { path: PathBuf },
    /// The tree does not fit the format, or the output failed.
    #[error("cannot archive '{}'", path.display())]
    Nar {
        /// The file or directory.
        path: PathBuf,
        #[source]
        source: NarError,
    },
}

/// Serialises the tree at `path` (itself not followed if it is a symlink) to `output`, and gives
/// `output` back.
///
/// # Errors
/// [`DumpError`] with the path at fault.
pub fn dump_path<W: Write>(path: &Path, output: W) -> Result<W, DumpError> {
    let mut writer = Writer::new(output);
    let mut buffer = vec![0; READ_SIZE];
    dump_node(path, &mut writer, &mut buffer)?;
    writer.finish().map_err(nar_error(path))
}

/// Recursion is bounded: the writer refuses to begin a node beyond [`super::MAX_DEPTH`].
fn dump_node<W: Write>(
    path: &Path,
    writer: &mut Writer<W>,
    buffer: &mut [u8],
) -> Result<(), DumpError> {
    let metadata = fs::symlink_metadata(path).map_err(io_error(path))?;
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(io_error(path))?;
        return writer
            .symlink(target.as_os_str().as_bytes())
            .map_err(nar_error(path));
    }
    if metadata.is_file() {
        return dump_regular(path, &metadata, writer, buffer);
    }
    if !metadata.is_dir() {
        return Err(DumpError::UnsupportedType { path: path.into() });
    }
    writer.directory().map_err(nar_error(path))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(io_error(path))? {
        names.push(entry.map_err(io_error(path))?.file_name().into_vec());
    }
    names.sort_unstable();
    for name in names {
        writer.entry(&name).map_err(nar_error(path))?;
        let child = path.join(std::ffi::OsStr::from_bytes(&name));
        dump_node(&child, writer, buffer)?;
    }
    writer.end_directory().map_err(nar_error(path))
}

fn dump_regular<W: Write>(
    path: &Path,
    seen: &Metadata,
    writer: &mut Writer<W>,
    buffer: &mut [u8],
) -> Result<(), DumpError> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let metadata = file.metadata().map_err(io_error(path))?;
    let changed = || DumpError::Changed { path: path.into() };
    if (metadata.dev(), metadata.ino()) != (seen.dev(), seen.ino()) {
        return Err(changed());
    }
    let executable = metadata.mode() & OWNER_EXECUTE != 0;
    writer
        .regular(executable, metadata.len())
        .map_err(nar_error(path))?;
    let mut remaining = metadata.len();
    loop {
        let read = match file.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error(path)(error)),
        };
        if read == 0 {
            break;
        }
        remaining = remaining.checked_sub(read as u64).ok_or_else(changed)?;
        writer.contents(&buffer[..read]).map_err(nar_error(path))?;
    }
    if remaining != 0 {
        return Err(changed());
    }
    Ok(())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DumpError {
    move |source| DumpError::Io {
        path: path.into(),
        source,
    }
}

fn nar_error(path: &Path) -> impl FnOnce(NarError) -> DumpError {
    move |source| DumpError::Nar {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_written_in_byte_order_with_the_owners_execute_bit() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("b"), b"data").unwrap();
        fs::write(at("B"), b"").unwrap();
        fs::set_permissions(at("B"), fs::Permissions::from_mode(0o744)).unwrap();
        fs::set_permissions(at("b"), fs::Permissions::from_mode(0o655)).unwrap();
        symlink("../b//", at("l")).unwrap();
        fs::create_dir(at("d")).unwrap();

        let mut expected = Writer::new(Vec::new());
        expected.directory().unwrap();
        expected.entry(b"B").unwrap();
        expected.regular(true, 0).unwrap();
        expected.entry(b"b").unwrap();
        expected.regular(false, 4).unwrap();
        expected.contents(b"data").unwrap();
        expected.entry(b"d").unwrap();
        expected.directory().unwrap();
        expected.end_directory().unwrap();
        expected.entry(b"l").unwrap();
        expected.symlink(b"../b//").unwrap();
        expected.end_directory().unwrap();
        assert_eq!(
            dump_path(dir.path(), Vec::new()).unwrap(),
            expected.finish().unwrap()
        );
    }

    #[test]
    fn sockets_are_refused_and_absent_paths_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = dump_path(dir.path(), Vec::new()).unwrap_err();
        assert!(error.to_string().contains("has an unsupported type"));
        let absent = dir.path().join("absent");
        let error = dump_path(&absent, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("absent"));
    }

    #[test]
    fn a_tree_beyond_the_depth_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_path_buf();
        for _ in 0..super::super::MAX_DEPTH {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        assert!(matches!(
            dump_path(dir.path(), io::sink()),
            Err(DumpError::Nar { .. })
        ));
        assert!(dump_path(&dir.path().join("d"), io::sink()).is_ok());
    }
}
