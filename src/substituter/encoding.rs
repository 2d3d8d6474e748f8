//! Decoding of `Content-Encoding`.
//!
//! cache.nixos.org stores its listings in Brotli and sends them so, whatever the request accepts.

use std::io::Read;

use bytes::Bytes;

use super::error::SourceError;
use super::source::{Bound, Stream};
use crate::nix::compression::Compression;

/// Names that servers send for no encoding at all: `aws-chunked` is how an S3 client has sent the object, and
/// engines keep it; the others are what programs for uploads have put there.
const NOT_ENCODED: &[&str] = &[
    "",
    "identity",
    "none",
    "null",
    "aws-chunked",
    "utf-8",
    "binary",
    "8bit",
    "7bit",
];

/// Memory of the decoder of an encoding: windows may have 8 MiB (RFC 9659), since the server cannot know what
/// its clients have.
const MEMORY: u64 = 16 << 20;

/// Encodings of one response that are decoded.
const MOST: usize = 2;

/// Encodings of a response, in the order in which they were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoding(Vec<Compression>);

impl Encoding {
    /// Those named in the header of a response.
    pub(super) fn of(header: Option<&str>, url: &str) -> Result<Self, SourceError> {
        let unknown = |name: &str| SourceError::Encoding {
            url: url.to_owned(),
            encoding: name.to_owned(),
        };
        let names = header.unwrap_or_default().split(',');
        let names = names.map(|name| name.trim().to_ascii_lowercase());
        let encodings = names.filter(|name| !NOT_ENCODED.contains(&name.as_str()));
        let methods = encodings.map(|name| match name.as_str() {
            "x-gzip" => Ok(Compression::Gzip),
            name => Compression::parse(name).map_err(|_| unknown(name)),
        });
        let methods = methods.collect::<Result<Vec<_>, _>>()?;
        // Each decoder costs memory; a server has no reason for more than one.
        match methods.len() {
            0..=MOST => Ok(Self(methods)),
            _ => Err(unknown(header.unwrap_or_default())),
        }
    }

    /// Whether the bytes are those of the file.
    pub(super) fn is_identity(&self) -> bool {
        self.0.is_empty()
    }

    /// Decodes a short file, or the beginning of one.
    pub(super) fn decode(
        &self,
        text: Bytes,
        bound: Bound,
        url: &str,
    ) -> Result<Bytes, SourceError> {
        let limit = bound.bytes();
        if self.is_identity() {
            // More than the bound refuses did not come.
            return Ok(match bound {
                Bound::Refuse(_) => text,
                Bound::Cut(limit) => text.slice(..text.len().min(limit)),
            });
        }
        let stream = self.stream(Box::new(std::io::Cursor::new(text)), url)?;
        let mut plain = Vec::new();
        let read = stream.take(limit as u64 + 1).read_to_end(&mut plain);
        match (bound, read) {
            // What was cut off is missing to the decoder.
            (Bound::Cut(_), _) => plain.truncate(limit),
            (Bound::Refuse(_), Err(source)) => {
                return Err(SourceError::Unreachable {
                    url: url.to_owned(),
                    what: "its Content-Encoding cannot be decoded",
                    source,
                });
            }
            (Bound::Refuse(_), Ok(_)) if plain.len() > limit => {
                let url = url.to_owned();
                return Err(SourceError::TooLong { url, limit });
            }
            (Bound::Refuse(_), Ok(_)) => {}
        }
        Ok(plain.into())
    }

    /// Decodes a stream.
    pub(super) fn stream(&self, stream: Stream, url: &str) -> Result<Stream, SourceError> {
        self.0.iter().rev().try_fold(stream, |stream, method| {
            method
                .reader_within(stream, MEMORY)
                .map_err(|_| SourceError::Encoding {
                    url: url.to_owned(),
                    encoding: method.name().to_owned(),
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_did_is_undone_within_bounds() {
        let text = vec![b'x'; 10_000];
        let packed = Bytes::from(zstd::bulk::compress(&text, 3).unwrap());
        let of = |name| Encoding::of(Some(name), "http://h/x").unwrap();
        let undone = of("ZSTD")
            .decode(packed.clone(), Bound::Refuse(10_000), "u")
            .unwrap();
        assert_eq!(undone, text);
        let bomb = of("zstd").decode(packed.clone(), Bound::Refuse(9_999), "u");
        assert!(matches!(bomb, Err(SourceError::TooLong { .. })));
        let torn = of("zstd").decode(packed.slice(..9), Bound::Refuse(10_000), "u");
        assert!(matches!(torn, Err(SourceError::Unreachable { .. })));
        assert_eq!(
            of("identity")
                .decode(packed.clone(), Bound::Refuse(9), "u")
                .unwrap(),
            packed
        );
        for plain in [
            "",
            "Identity",
            "aws-chunked",
            "identity, aws-chunked",
            "UTF-8",
            " , ",
        ] {
            assert!(of(plain).is_identity(), "{plain}");
        }
        assert_eq!(of("aws-chunked,zstd"), of("zstd"));
        let start = of("zstd").decode(packed.clone(), Bound::Cut(5_000), "u");
        assert_eq!(start.unwrap().len(), 5_000);
        let torn = of("zstd").decode(packed.slice(..9), Bound::Cut(5_000), "u");
        assert!(torn.is_ok());
        let twice = Bytes::from(zstd::bulk::compress(&packed, 3).unwrap());
        let undone = of("zstd, identity, zstd").decode(twice, Bound::Refuse(10_000), "u");
        assert_eq!(undone.unwrap(), text);
        assert!(Encoding::of(Some("zstd, zstd, zstd"), "u").is_err());
        let none = Encoding::of(None, "u").unwrap();
        assert_eq!(
            none.decode(packed.clone(), Bound::Refuse(9), "u").unwrap(),
            packed
        );
        let odd = Encoding::of(Some("rot13"), "http://h/x").unwrap_err();
        assert!(odd.to_string().contains("rot13"), "{odd}");
    }
}
