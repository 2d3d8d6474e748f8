//! Kinds of sources, by their URLs.
//!
//! Invariant: nothing is opened here. A URL accepted here may still be unreachable, or no binary
//! cache.

use super::error::SourceError;
use super::redaction::redacted;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Http,
}

impl Kind {
    /// The kind of source at `url`.
    pub(super) fn of(url: &str) -> Result<Self, SourceError> {
        if url.starts_with("file://") {
            return Ok(Self::File);
        }
        if url.starts_with("http://") || url.starts_with("https://") {
            return Ok(Self::Http);
        }
        let what = if url.starts_with('/') || url.starts_with('.') {
            "write a directory as file:///DIRECTORY"
        } else {
            "a source is file:///DIRECTORY, http://… or https://…"
        };
        Err(wrong(url, what))
    }
}

fn wrong(url: &str, what: &str) -> SourceError {
    SourceError::Url {
        url: redacted(url),
        what: what.to_owned(),
    }
}

/// Whether `url` can be that of a source; the source need not exist.
///
/// # Errors
/// The URL is of another kind, or has no directory or host.
pub fn check(url: &str) -> Result<(), SourceError> {
    let kind = Kind::of(url)?;
    let (_, place) = url.split_once("://").unwrap_or_default();
    let host = place.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some(value) = parameter(url, "optional")
        && !["1", "true", "yes", "0", "false", "no"].contains(&value)
    {
        return Err(wrong(url, "write ?optional=1, or leave it out"));
    }
    match kind {
        Kind::File if !place.starts_with('/') => Err(wrong(
            url,
            "the directory of a file:// source is absolute: file:///DIRECTORY",
        )),
        Kind::Http if host.is_empty() => Err(wrong(url, "it has no host; give https://HOST/…")),
        Kind::Http if url.contains(char::is_whitespace) => {
            Err(wrong(url, "a URL has no white space in it"))
        }
        Kind::File | Kind::Http => Ok(()),
    }
}

/// The value of a parameter of a URL, as in `?priority=10&optional=1`.
pub fn parameter<'u>(url: &'u str, name: &str) -> Option<&'u str> {
    let (_, query) = url.split('#').next()?.split_once('?')?;
    let mut parameters = query.split('&').filter_map(|p| p.split_once('='));
    parameters.find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// Whether a URL says that its source may be out of reach: it has `?optional=1`.
pub fn is_optional(url: &str) -> bool {
    matches!(parameter(url, "optional"), Some("1" | "true" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_judged_without_a_look_at_what_they_name() {
        for good in [
            "file:///no/such/directory",
            "file:///dir?priority=3",
            "http://host",
            "https://cache.nixos.org",
            "https://host:8443/a/b?priority=10",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "a source is"),
            ("ftp://host", "a source is"),
            ("cache.nixos.org", "a source is"),
            ("/dir", "file:///DIRECTORY"),
            ("file://dir", "absolute"),
            ("http://", "host"),
            ("https:///dir", "host"),
            ("https://?x", "host"),
            ("https://a b", "white space"),
            ("https://a?priority=3&optional=maybe", "?optional=1"),
        ] {
            let said = check(bad).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn parameters_say_whether_a_source_is_optional() {
        for url in ["https://a?optional=1", "file:///d?priority=3&optional=true"] {
            assert!(is_optional(url) && check(url).is_ok(), "{url}");
        }
        for url in [
            "https://a",
            "https://a/optional=1",
            "https://a?optional=0",
            "https://a#?optional=1",
        ] {
            assert!(!is_optional(url) && check(url).is_ok(), "{url}");
        }
        assert_eq!(
            parameter("https://a?x=1&priority=7#f", "priority"),
            Some("7")
        );
    }
}
