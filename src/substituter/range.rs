//! Whether and how an interrupted body can be resumed.
//!
//! Pure functions of headers. Invariant: a response is accepted only if it certainly continues the
//! same bytes.

/// How to request the rest of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resumption {
    /// Value of `If-Range`: the server sends the rest only if the file is unchanged.
    pub(super) validator: Option<String>,
}

impl Resumption {
    /// From the headers of the first response; `None` without support for ranges, or if they would
    /// be ranges of an encoding that may differ the next time.
    pub(super) fn offered<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
        is_encoded: bool,
    ) -> Option<Self> {
        let units = header("accept-ranges")?;
        let bytes = |unit: &str| unit.trim().eq_ignore_ascii_case("bytes");
        if !units.split(',').any(bytes) {
            return None;
        }
        // A weak tag guarantees equal meaning, not equal bytes.
        let strong = |tag: &&str| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
        let tag = header("etag").map(str::trim).filter(strong);
        if is_encoded && tag.is_none() {
            return None;
        }
        let validator = tag.or_else(|| header("last-modified").map(str::trim));
        Some(Self {
            validator: validator.map(str::to_owned),
        })
    }
}

/// A `Content-Range: bytes FIRST-LAST/TOTAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// `None` if the server does not know it.
    pub(super) total: Option<u64>,
}

impl ContentRange {
    /// `None` if the value is malformed or inconsistent.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let (unit, range) = value.trim().split_once(' ')?;
        let (range, total) = range.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = Self {
            first: number(first)?,
            last: number(last)?,
            total: match total.trim() {
                "*" => None,
                total => Some(number(total)?),
            },
        };
        let whole = range.total.is_none_or(|total| range.last < total);
        (unit.eq_ignore_ascii_case("bytes") && range.first <= range.last && whole).then_some(range)
    }

    /// Whether it continues at `at`, in a file of `length` bytes, if that is known.
    pub(super) fn continues(&self, at: u64, length: Option<u64>) -> bool {
        let same = match (length, self.total) {
            (Some(length), Some(total)) => length == total,
            (Some(length), None) => self.last + 1 == length,
            (None, _) => true,
        };
        self.first == at && same
    }
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    // `parse` would accept a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits && text.len() < 19)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(headers: &[(&str, &'static str)]) -> Option<Resumption> {
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        Resumption::offered(header, header("content-encoding").is_some())
    }

    #[test]
    fn ranges_are_asked_for_only_where_they_are_offered() {
        assert!(offered(&[("accept-ranges", "bytes")]).is_some());
        assert!(offered(&[("accept-ranges", "pages, Bytes")]).is_some());
        assert_eq!(offered(&[]), None);
        assert_eq!(offered(&[("accept-ranges", "none")]), None);
        let encoded = [("accept-ranges", "bytes"), ("content-encoding", "gzip")];
        assert_eq!(offered(&encoded), None);
        // A strong tag is that of the encoded bytes.
        let tagged = [&encoded[..], &[("etag", "\"a\"")]].concat();
        assert!(offered(&tagged).is_some());
    }

    #[test]
    fn a_strong_tag_or_a_date_says_that_the_file_is_the_same() {
        let validator = |more: &[_]| {
            let headers = [&[("accept-ranges", "bytes")], more].concat();
            offered(&headers).unwrap().validator
        };
        let date = ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(validator(&[]), None);
        assert_eq!(validator(&[("etag", "\"a\""), date]).unwrap(), "\"a\"");
        assert_eq!(validator(&[("etag", "W/\"a\""), date]).unwrap(), date.1);
        assert_eq!(validator(&[("etag", "W/\"a\"")]), None);
        assert_eq!(validator(&[("etag", "\"")]), None);
    }

    #[test]
    fn content_ranges_are_read_and_nonsense_is_not() {
        let range = |first, last, total| Some(ContentRange { first, last, total });
        let parse = ContentRange::parse;
        assert_eq!(parse("bytes 5-9/10"), range(5, 9, Some(10)));
        assert_eq!(parse(" Bytes 0-0/* "), range(0, 0, None));
        for nonsense in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes */10",
            "bytes 5-/10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes +5-9/10",
            "bytes 5-99999999999999999999/*",
            "pages 5-9/10",
        ] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_range_continues_only_the_same_file_at_the_same_place() {
        let continues = |text, at, length| ContentRange::parse(text).unwrap().continues(at, length);
        assert!(continues("bytes 5-9/10", 5, Some(10)));
        assert!(continues("bytes 5-7/10", 5, Some(10)));
        assert!(continues("bytes 5-9/*", 5, Some(10)));
        assert!(continues("bytes 5-9/10", 5, None));
        assert!(!continues("bytes 4-9/10", 5, Some(10)));
        assert!(!continues("bytes 5-9/11", 5, Some(10)));
        assert!(!continues("bytes 5-8/*", 5, Some(10)));
    }
}
