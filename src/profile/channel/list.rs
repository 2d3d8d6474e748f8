//! The list of a channel: one store path a line, as channels of NixOS have it in `store-paths`.
//!
//! Invariant: a list is read whole or not at all; a line that is not a path of the store
//! directory is an error with the number of the line. The memory is bounded by the longest path.

use std::io::{self, BufRead, Read};

use thiserror::Error;

use crate::nix::store_path::{StoreDir, StorePath, StorePathError};

/// Longest line, in bytes: a store directory (at most a path of the kernel's) and a name.
const LINE: u64 = 4096 + 256;

/// Why a list cannot be read.
#[derive(Debug, Error)]
pub enum ListError {
    #[error("line {line} of the list is not a store path")]
    Line {
        /// From 1.
        line: u64,
        #[source]
        source: StorePathError,
    },
    /// A line is not UTF-8, or too long for a store path.
    #[error("line {line} of the list is not a store path: it is {what}")]
    Malformed {
        /// From 1.
        line: u64,
        what: &'static str,
    },
    #[error("the list has no store paths")]
    Empty,
    #[error("the list cannot be read to its end")]
    Read(#[source] io::Error),
}

/// Reads a list and gives each of its paths to `take`. Blank lines are skipped.
///
/// # Errors
/// The first line that is not a path of the store directory, or the error of `take`.
pub fn read_list<E: From<ListError>>(
    mut input: impl BufRead,
    store_dir: &StoreDir,
    mut take: impl FnMut(StorePath) -> Result<(), E>,
) -> Result<(), E> {
    let mut text = Vec::new();
    let mut is_empty = true;
    for line in 1.. {
        text.clear();
        let read = (&mut input).take(LINE + 1).read_until(b'\n', &mut text);
        if read.map_err(ListError::Read)? == 0 {
            break;
        }
        if let Some(path) = parse(&text, line, store_dir)? {
            is_empty = false;
            take(path)?;
        }
    }
    if is_empty {
        return Err(ListError::Empty.into());
    }
    Ok(())
}

fn parse(text: &[u8], line: u64, store_dir: &StoreDir) -> Result<Option<StorePath>, ListError> {
    let malformed = |what| ListError::Malformed { line, what };
    if text.len() as u64 > LINE {
        return Err(malformed("longer than a path can be"));
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| malformed("not UTF-8"))?;
    let base_name = text
        .strip_prefix(store_dir.as_str())
        .and_then(|rest| rest.strip_prefix('/'));
    let path = match base_name {
        Some(base_name) => StorePath::parse_base_name(base_name.as_bytes()),
        None => Err(StorePathError::NotInStore {
            path: text.chars().take(100).collect(),
            store_dir: store_dir.clone(),
        }),
    };
    path.map(Some)
        .map_err(|source| ListError::Line { line, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "/nix/store/0c0gbalr6bb5yvmyp2ivh3hcj5p0l5z4-hello-2.12";

    fn read(text: &[u8]) -> Result<Vec<String>, ListError> {
        let store_dir = StoreDir::parse("/nix/store").unwrap();
        let mut paths = Vec::new();
        read_list(text, &store_dir, |path| {
            paths.push(path.to_full(&store_dir));
            Ok::<_, ListError>(())
        })?;
        Ok(paths)
    }

    #[test]
    fn every_line_is_a_path_and_blank_lines_are_nothing() {
        let text = format!("\n{HELLO}\n \t\r\n\n{HELLO}-dev");
        let expected = [HELLO.to_owned(), format!("{HELLO}-dev")];
        assert_eq!(read(text.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_a_path_is_named_with_its_line() {
        for (bad, why) in [
            ("<html>", "<html>"),
            ("/gnu/store/0c0gbalr6bb5yvmyp2ivh3hcj5p0l5z4-hello", "/gnu"),
            ("/nix/store/hello", "hello"),
            ("/nix/store//0c0gbalr6bb5yvmyp2ivh3hcj5p0l5z4-hello", "0c0"),
            ("0c0gbalr6bb5yvmyp2ivh3hcj5p0l5z4-hello", "store"),
            (&format!("{HELLO}/bin"), "hello"),
            (&format!("{HELLO} "), "hello"),
            (&format!("{HELLO}\r"), "hello"),
            (&format!(" {HELLO}"), "hello"),
        ] {
            let error = read(format!("{HELLO}\n\n{bad}\n{HELLO}").as_bytes()).unwrap_err();
            let ListError::Line { line: 3, source } = &error else {
                panic!("{bad}: {error}");
            };
            assert!(error.to_string().contains("line 3"), "{error}");
            assert!(source.to_string().contains(why), "{source}");
        }
    }

    #[test]
    fn lists_without_paths_or_with_endless_lines_are_refused() {
        for nothing in [&b""[..], b"\n\n  \n"] {
            assert!(matches!(read(nothing), Err(ListError::Empty)));
        }
        let endless = io::repeat(b'x').take(1 << 30);
        let store_dir = StoreDir::parse("/nix/store").unwrap();
        let error = read_list(io::BufReader::new(endless), &store_dir, |_| {
            Ok::<_, ListError>(())
        });
        assert!(matches!(error, Err(ListError::Malformed { line: 1, .. })));
        let error = read(b"\xff\xfe\n").unwrap_err();
        assert!(matches!(error, ListError::Malformed { line: 1, .. }));
    }
}
