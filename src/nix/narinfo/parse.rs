//! Parsing the text of a narinfo.
//!
//! Owns the line grammar with its traps: a value begins two bytes after the first colon, whatever the second
//! byte is, and every line ends in a newline, the last one too.

use std::collections::HashSet;
use std::str;

use super::{GuixSignature, NarFile, NarInfo, NarInfoError};
use crate::nix::compression::Compression;
use crate::nix::hash::{Hash, NarHash};
use crate::nix::signature::Signature;
use crate::nix::store_path::{ContentAddress, StoreDir, StorePath};

/// Most signatures of a narinfo: it is kept with all of them, and a path is signed by some few.
const MAX_SIGNATURES: usize = 1_000;

/// Most further files of a NAR that are kept, each of which may be asked for: Guix offers some three.
const MAX_FURTHER: usize = 8;

/// Deriver that some old tools write if it is not known.
const UNKNOWN_DERIVER: &str = "unknown-deriver";

/// One `URL` with the lines that belong to it. Guix offers several.
#[derive(Default)]
struct Offer {
    url: Option<String>,
    compression: Option<String>,
    file_hash: Option<Hash>,
    file_size: Option<u64>,
}

#[derive(Default)]
struct Fields {
    store_path: Option<StorePath>,
    /// Never empty while parsing: the last one takes the next lines.
    offers: Vec<Offer>,
    nar_hash: Option<NarHash>,
    nar_size: Option<u64>,
    references: Vec<StorePath>,
    deriver: Option<Option<StorePath>>,
    signatures: Vec<Signature>,
    /// Those in `signatures`.
    seen: HashSet<Signature>,
    ca: Option<Result<ContentAddress, String>>,
    guix_signature: Option<GuixSignature>,
}

impl NarInfo {
    /// Parses a narinfo for a store in `store_dir`.
    ///
    /// # Errors
    /// [`NarInfoError`] for whatever Nix calls corrupt; also for repeated fields that Nix lets override each
    /// other.
    pub fn parse(store_dir: &StoreDir, bytes: &[u8]) -> Result<Self, NarInfoError> {
        let mut fields = Fields::default();
        fields.offers.push(Offer::default());
        let mut offset = 0;
        while offset < bytes.len() {
            let (name, value, next) = split_line(bytes, offset)?;
            if name == b"Signature" {
                fields.guix_signature(value, &bytes[..offset])?;
            } else {
                fields.take(store_dir, name, value)?;
            }
            offset = next;
        }
        fields.finish()
    }
}

/// The name and the value of the line at `offset`, and where the next line begins.
fn split_line(bytes: &[u8], offset: usize) -> Result<(&[u8], &[u8], usize), NarInfoError> {
    let corrupt = |reason| NarInfoError::Line { offset, reason };
    let line = &bytes[offset..];
    let colon = line
        .iter()
        .position(|byte| matches!(byte, b':' | b'\n'))
        .filter(|&at| line[at] == b':')
        .ok_or_else(|| corrupt("expected 'Name: value'"))?;
    // The byte after the colon is not looked at: in a line that ends with its colon it is the newline, and
    // the value is the following line. Nix reads it so, and another reading would give one text two meanings.
    let value = line
        .get(colon + 2..)
        .ok_or_else(|| corrupt("the value is missing"))?;
    let length = value
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or_else(|| corrupt("the final newline is missing"))?;
    Ok((
        &line[..colon],
        &value[..length],
        offset + colon + 2 + length + 1,
    ))
}

impl Fields {
    fn take(
        &mut self,
        store_dir: &StoreDir,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), NarInfoError> {
        match name {
            b"StorePath" => {
                let path = StorePath::parse_full(store_dir, text("StorePath", value)?).map_err(
                    |source| NarInfoError::StorePath {
                        field: "StorePath",
                        source,
                    },
                )?;
                set(&mut self.store_path, path, "StorePath")
            }
            b"URL" => self.take_url(value),
            b"Compression" => {
                let name = text("Compression", value)?.into();
                set(&mut self.offer().compression, name, "Compression")
            }
            b"FileHash" => {
                let hash = hash("FileHash", value)?;
                set(&mut self.offer().file_hash, hash, "FileHash")
            }
            b"FileSize" => {
                let size = number("FileSize", value)?;
                set(&mut self.offer().file_size, size, "FileSize")
            }
            b"NarHash" => {
                let hash = hash("NarHash", value)?;
                let hash = NarHash::try_from(hash).map_err(|source| NarInfoError::Hash {
                    field: "NarHash",
                    source,
                })?;
                set(&mut self.nar_hash, hash, "NarHash")
            }
            b"NarSize" => set(&mut self.nar_size, number("NarSize", value)?, "NarSize"),
            b"References" => self.take_references(value),
            b"Deriver" => {
                let deriver = match text("Deriver", value)? {
                    UNKNOWN_DERIVER | "" => None,
                    name => Some(base_name("Deriver", name.as_bytes())?),
                };
                set(&mut self.deriver, deriver, "Deriver")
            }
            b"Sig" => {
                let signature = Signature::parse(text("Sig", value)?);
                let signature =
                    signature.map_err(|_| invalid("Sig", value, "expected 'KEYNAME:BASE64'"))?;
                // The lines are a set; the order is kept for readers that look at the first only.
                if self.seen.insert(signature.clone()) {
                    self.signatures.push(signature);
                }
                match self.signatures.len() {
                    0..=MAX_SIGNATURES => Ok(()),
                    _ => Err(invalid("Sig", value, "there are too many signatures")),
                }
            }
            b"CA" if value.is_empty() => Ok(()),
            b"CA" => {
                let text = text("CA", value)?;
                let ca = match ContentAddress::parse(text) {
                    Err(error) if error.is_unknown_kind() => Err(text.to_owned()),
                    ca => Ok(ca?),
                };
                set(&mut self.ca, ca, "CA")
            }
            _ => Ok(()),
        }
    }

    /// The offer that the next lines belong to.
    fn offer(&mut self) -> &mut Offer {
        if self.offers.is_empty() {
            self.offers.push(Offer::default());
        }
        let last = self.offers.len() - 1;
        &mut self.offers[last]
    }

    fn take_url(&mut self, value: &[u8]) -> Result<(), NarInfoError> {
        let url = text("URL", value)?;
        if url.is_empty() {
            return Err(invalid("URL", value, "it is empty"));
        }
        if url.contains(|c: char| c.is_control() || c == ' ') {
            return Err(invalid(
                "URL",
                value,
                "it contains a space or a control character",
            ));
        }
        if self.offer().url.is_some() {
            self.offers.push(Offer::default());
        }
        self.offer().url = Some(url.into());
        Ok(())
    }

    fn take_references(&mut self, value: &[u8]) -> Result<(), NarInfoError> {
        if !self.references.is_empty() {
            return Err(NarInfoError::Duplicate {
                field: "References",
            });
        }
        for name in value.split(|&byte| byte == b' ') {
            if !name.is_empty() {
                self.references.push(base_name("References", name)?);
            }
        }
        self.references.sort_unstable();
        self.references.dedup();
        Ok(())
    }

    fn guix_signature(&mut self, value: &[u8], before: &[u8]) -> Result<(), NarInfoError> {
        let signature = GuixSignature {
            signed_text: before.into(),
            text: text("Signature", value)?.into(),
        };
        // Whatever follows the line is not covered by it, and must not be mistaken for signed.
        for (present, field) in [
            (self.store_path.is_some(), "StorePath"),
            (self.nar_hash.is_some(), "NarHash"),
        ] {
            if !present {
                return Err(NarInfoError::Missing { field });
            }
        }
        set(&mut self.guix_signature, signature, "Signature")
    }

    fn finish(self) -> Result<NarInfo, NarInfoError> {
        let missing = |field| NarInfoError::Missing { field };
        let store_path = self.store_path.ok_or_else(|| missing("StorePath"))?;
        let nar_hash = self.nar_hash.ok_or_else(|| missing("NarHash"))?;
        let nar_size = self.nar_size.ok_or_else(|| missing("NarSize"))?;
        if nar_size == 0 {
            return Err(invalid("NarSize", b"0", "a NAR is never empty"));
        }
        let ((url, compression, offer), further) = choose(self.offers)?;
        let (ca, unknown_ca) = match self.ca {
            Some(Ok(known)) => (Some(known), None),
            Some(Err(unknown)) => (None, Some(unknown)),
            None => (None, None),
        };
        Ok(NarInfo {
            store_path,
            url,
            compression,
            further,
            file_hash: offer.file_hash,
            file_size: offer.file_size,
            nar_hash,
            nar_size,
            references: self.references,
            deriver: self.deriver.flatten(),
            signatures: self.signatures,
            ca,
            unknown_ca,
            guix_signature: self.guix_signature,
        })
    }
}

type Chosen = (String, Compression, Offer);

/// The first offer that can be decoded, and the others that can; without one, the first whose method is at
/// least known, so that the error comes when it is used and says which method it is.
fn choose(offers: Vec<Offer>) -> Result<(Chosen, Vec<NarFile>), NarInfoError> {
    let mut chosen = None;
    let mut further = Vec::new();
    let mut known = None;
    let mut unknown = None;
    for mut offer in offers {
        let Some(url) = offer.url.take() else {
            continue;
        };
        let name = offer.compression.take().unwrap_or_default();
        match Compression::parse(&name) {
            Ok(method) if method.is_supported() && chosen.is_none() => {
                chosen = Some((url, method, offer));
            }
            Ok(compression) if compression.is_supported() => {
                if further.len() < MAX_FURTHER {
                    further.push(NarFile { url, compression });
                }
            }
            Ok(method) => {
                known.get_or_insert((url, method, offer));
            }
            Err(_) => {
                unknown.get_or_insert(name);
            }
        }
    }
    match (chosen.or(known), unknown) {
        (Some(chosen), _) => Ok((chosen, further)),
        (None, Some(name)) => Err(NarInfoError::Compression {
            name: shown(name.as_bytes()),
        }),
        (None, None) => Err(NarInfoError::Missing { field: "URL" }),
    }
}

fn set<T>(slot: &mut Option<T>, value: T, field: &'static str) -> Result<(), NarInfoError> {
    if slot.is_some() {
        return Err(NarInfoError::Duplicate { field });
    }
    *slot = Some(value);
    Ok(())
}

fn text<'a>(field: &'static str, value: &'a [u8]) -> Result<&'a str, NarInfoError> {
    str::from_utf8(value).map_err(|_| invalid(field, value, "it is not UTF-8"))
}

fn hash(field: &'static str, value: &[u8]) -> Result<Hash, NarInfoError> {
    Hash::parse(text(field, value)?).map_err(|source| NarInfoError::Hash { field, source })
}

fn number(field: &'static str, value: &[u8]) -> Result<u64, NarInfoError> {
    let digits = text(field, value)?;
    // Rust's parser would take a plus sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid(field, value, "it is not a number"));
    }
    digits
        .parse()
        .map_err(|_| invalid(field, value, "it is not a number of 64 bits"))
}

fn base_name(field: &'static str, name: &[u8]) -> Result<StorePath, NarInfoError> {
    StorePath::parse_base_name(name).map_err(|source| NarInfoError::StorePath { field, source })
}

fn invalid(field: &'static str, value: &[u8], reason: &'static str) -> NarInfoError {
    NarInfoError::Value {
        field,
        value: shown(value),
        reason,
    }
}

/// A value for an error message.
fn shown(value: &[u8]) -> String {
    value[..value.len().min(200)].escape_ascii().to_string()
}
