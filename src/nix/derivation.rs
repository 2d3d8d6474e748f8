//! Derivations (`.drv` files), as far as their outputs go.

use thiserror::Error;

use super::store_path::{StoreDir, StorePath, StorePathError};

/// Outputs of a derivation at most. Real ones have a handful.
const OUTPUTS: usize = 1 << 10;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum DerivationError {
    #[error("it does not begin like a derivation, with a list of outputs")]
    Malformed,
    #[error("it has more than {OUTPUTS} outputs")]
    TooMany,
    #[error(transparent)]
    Path(#[from] StorePathError),
}

/// The outputs of the derivation with this text: their names, with their paths where these are known before
/// the build.
///
/// # Errors
/// See [`DerivationError`].
pub fn outputs(
    store_dir: &StoreDir,
    text: &[u8],
) -> Result<Vec<(String, Option<StorePath>)>, DerivationError> {
    let mut rest = Rest(text);
    if rest.take("DrvWithVersion(").is_ok() {
        rest.string()?;
        rest.take(",")?;
    } else {
        rest.take("Derive(")?;
    }
    rest.take("[")?;
    let mut outputs = Vec::new();
    while rest.take("]").is_err() {
        if outputs.len() == OUTPUTS {
            return Err(DerivationError::TooMany);
        }
        if !outputs.is_empty() {
            rest.take(",")?;
        }
        rest.take("(")?;
        let name = rest.string()?;
        rest.take(",")?;
        let path = rest.string()?;
        // The hash algorithm and the hash of a fixed output.
        for _ in 0..2 {
            rest.take(",")?;
            rest.string()?;
        }
        rest.take(")")?;
        let path = match path.is_empty() {
            true => None,
            false => Some(StorePath::parse_full(store_dir, &path)?),
        };
        outputs.push((name, path));
    }
    Ok(outputs)
}

/// What is not read yet.
struct Rest<'t>(&'t [u8]);

impl Rest<'_> {
    fn take(&mut self, expected: &str) -> Result<(), DerivationError> {
        let rest = self.0.strip_prefix(expected.as_bytes());
        self.0 = rest.ok_or(DerivationError::Malformed)?;
        Ok(())
    }

    /// A string in quotes.
    fn string(&mut self) -> Result<String, DerivationError> {
        self.take("\"")?;
        let mut bytes = Vec::new();
        loop {
            let (first, rest) = self.0.split_first().ok_or(DerivationError::Malformed)?;
            self.0 = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    let (escaped, rest) = rest.split_first().ok_or(DerivationError::Malformed)?;
                    self.0 = rest;
                    bytes.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => *other,
                    });
                }
                byte => bytes.push(*byte),
            }
        }
        String::from_utf8(bytes).map_err(|_| DerivationError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Option<StorePath>)>, DerivationError> {
        outputs(&StoreDir::default(), text.as_bytes())
    }

    #[test]
    fn outputs_are_read_with_and_without_their_paths() {
        let path = format!("/nix/store/{}-x", "1".repeat(32));
        let known = StorePath::parse_full(&StoreDir::default(), &path).unwrap();
        let rest = "[],[],\"x\",\"y\",[],[])";
        let text = format!(
            "Derive([(\"dev\",\"\",\"r:sha256\",\"\"),(\"out\",\"{path}\",\"\",\"\")],{rest}"
        );
        let expected = vec![
            ("dev".to_owned(), None),
            ("out".to_owned(), Some(known.clone())),
        ];
        assert_eq!(read(&text), Ok(expected));
        let text =
            format!("DrvWithVersion(\"xp-dyn-drv\",[(\"a\\\"\\n\",\"{path}\",\"\",\"\")],{rest}");
        assert_eq!(read(&text), Ok(vec![("a\"\n".to_owned(), Some(known))]));
    }

    #[test]
    fn what_is_no_derivation_is_refused() {
        for text in [
            "",
            "Derive",
            "Derive([",
            "Derive([(\"out",
            "#!/bin/sh",
            "Derive([(\"a\",\"\",\"\"]",
        ] {
            assert_eq!(read(text), Err(DerivationError::Malformed), "{text}");
        }
        let elsewhere = "Derive([(\"out\",\"/tmp/x\",\"\",\"\")]";
        assert!(matches!(read(elsewhere), Err(DerivationError::Path(_))));
        let many = "(\"o\",\"\",\"\",\"\"),".repeat(OUTPUTS + 1);
        let many = format!("Derive([{many}]");
        assert_eq!(read(&many), Err(DerivationError::TooMany));
    }
}
