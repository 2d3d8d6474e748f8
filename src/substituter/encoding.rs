//! Decoding of `Content-Encoding`.
//!
//! cache.nixos.org stores its listings in Brotli and sends them so, whatever the request accepts.

use std::io::Read;

use bytes::Bytes;

use super::error::SourceError;
use super::source::Stream;
use crate::nix::compression::Compression;

/// Encoding of a response.
#[derive(Debug)]
pub(super) struct Encoding(Compression);

impl Encoding {
    /// The encoding named in the header of a response.
    pub(super) fn of(header: Option<&str>, url: &str) -> Result<Self, SourceError> {
        let name = header.unwrap_or_default().trim().to_ascii_lowercase();
        let method = match name.as_str() {
            "" | "identity" => Some(Compression::None),
            "x-gzip" => Some(Compression::Gzip),
            name => Compression::parse(name).ok(),
        };
        method.map(Self).ok_or_else(|| SourceError::Encoding {
            url: url.to_owned(),
            encoding: name,
        })
    }

    /// Decodes a short file; fails if it is longer than `limit`.
    pub(super) fn decode(
        &self,
        text: Bytes,
        limit: usize,
        url: &str,
    ) -> Result<Bytes, SourceError> {
        if self.0 == Compression::None {
            return Ok(text);
        }
        let broken = |source| SourceError::Unreachable {
            url: url.to_owned(),
            what: "its Content-Encoding cannot be decoded",
            source,
        };
        let stream = self.stream(Box::new(std::io::Cursor::new(text)), url)?;
        let mut plain = Vec::new();
        let mut limited = stream.take(limit as u64 + 1);
        limited.read_to_end(&mut plain).map_err(broken)?;
        if plain.len() > limit {
            let url = url.to_owned();
            return Err(SourceError::TooLong { url, limit });
        }
        Ok(plain.into())
    }

    /// Decodes a stream.
    pub(super) fn stream(&self, stream: Stream, url: &str) -> Result<Stream, SourceError> {
        self.0.reader(stream).map_err(|_| SourceError::Encoding {
            url: url.to_owned(),
            encoding: self.0.name().to_owned(),
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
        let undone = of("ZSTD").decode(packed.clone(), 10_000, "u").unwrap();
        assert_eq!(undone, text);
        let bomb = of("zstd").decode(packed.clone(), 9_999, "u");
        assert!(matches!(bomb, Err(SourceError::TooLong { .. })));
        let torn = of("zstd").decode(packed.slice(..9), 10_000, "u");
        assert!(matches!(torn, Err(SourceError::Unreachable { .. })));
        assert_eq!(
            of("identity").decode(packed.clone(), 9, "u").unwrap(),
            packed
        );
        let none = Encoding::of(None, "u").unwrap();
        assert_eq!(none.decode(packed.clone(), 9, "u").unwrap(), packed);
        let odd = Encoding::of(Some("rot13"), "http://h/x").unwrap_err();
        assert!(odd.to_string().contains("rot13"), "{odd}");
    }
}
