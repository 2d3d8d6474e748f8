//! Where a request goes, and which credentials go there.
//!
//! Invariants: what netrc has for a host is sent to the source itself, or to a host to which the source
//! redirects, never to one that a narinfo names, whose `URL` nobody signed; a redirection from https to http
//! takes nothing along; `default` of netrc is for the source alone.

use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::HeaderValue;

use crate::substituter::credentials::{Credentials, Sent};
use crate::substituter::error::SourceError;
use crate::substituter::redaction::redacted;

/// See the module.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) url: Url,
    /// The URL without secrets.
    pub(super) shown: String,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) sent: Sent,
    /// Whether netrc may be asked for the host of a redirection.
    is_of_source: bool,
    /// Whether it is fetched before anybody needs it.
    pub(super) is_ahead: bool,
}

impl Target {
    /// What `reference` names, relative to the source at `base`, which is `shown` to users so.
    pub(super) fn of(
        base: &Url,
        reference: &str,
        credentials: &Credentials,
        shown: &str,
    ) -> Result<Self, SourceError> {
        let url = base.join(reference);
        let url = url.map_err(|e| refused(reference, e.to_string()))?;
        if !is_http(&url) {
            return Err(refused(
                url.as_str(),
                format!("{shown} may not refer to this address"),
            ));
        }
        let is_of_source = url.origin() == base.origin();
        let target = Self::plain(url, is_of_source);
        match is_of_source {
            true => Ok(target.authorized(credentials, true)),
            false => Ok(target),
        }
    }

    /// Where the server's `location` sends the client instead.
    pub(super) fn redirected(
        &self,
        location: &str,
        credentials: &Credentials,
    ) -> Result<Self, SourceError> {
        let url = self.url.join(location);
        let mut url =
            url.map_err(|e| refused(location, format!("{} redirects there: {e}", self.shown)))?;
        if !is_http(&url) {
            let what = format!("{} may not redirect to this address", self.shown);
            return Err(refused(url.as_str(), what));
        }
        if url.origin() == self.url.origin() {
            if url.username().is_empty() && url.password().is_none() {
                // These cannot fail for a URL with a host.
                let _ = url.set_username(self.url.username());
                let _ = url.set_password(self.url.password());
            }
            return Ok(Self {
                shown: redacted(url.as_str()),
                url,
                ..self.clone()
            });
        }
        let is_downgrade = self.url.scheme() == "https" && url.scheme() == "http";
        let is_of_source = self.is_of_source && !is_downgrade;
        let target = Self::plain(url, is_of_source).ahead(self.is_ahead);
        match is_of_source {
            true => Ok(target.authorized(credentials, false)),
            false => Ok(target),
        }
    }

    fn plain(url: Url, is_of_source: bool) -> Self {
        let is_named = !url.username().is_empty() || url.password().is_some();
        Self {
            shown: redacted(url.as_str()),
            url,
            authorization: None,
            sent: if is_named { Sent::OfUrl } else { Sent::Nothing },
            is_of_source,
            is_ahead: false,
        }
    }

    /// The same, fetched ahead or not.
    pub(super) fn ahead(self, is_ahead: bool) -> Self {
        Self { is_ahead, ..self }
    }

    /// With what netrc has for the host, unless the URL has a password.
    fn authorized(mut self, credentials: &Credentials, takes_default: bool) -> Self {
        if self.url.password().is_some() {
            return self;
        }
        let name = percent_decode_str(self.url.username()).decode_utf8_lossy();
        let name = Some(name.as_bytes()).filter(|n| !n.is_empty());
        let host = self.url.host_str().unwrap_or_default();
        let basic = credentials.basic(host, name, takes_default);
        // Base64 is always a valid header value.
        self.authorization = basic.and_then(|b| HeaderValue::from_str(&b).ok());
        if let Some(value) = &mut self.authorization {
            value.set_sensitive(true);
            // Otherwise the client sends this name as well. This cannot fail for a URL with a host.
            let _ = self.url.set_username("");
            self.sent = Sent::OfNetrc;
        }
        self
    }
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

fn refused(url: &str, what: String) -> SourceError {
    SourceError::Url {
        url: redacted(url),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETRC: &str = "machine a login alice password 1\nmachine b login bob password 2\n\
        default login eve password 3\n";

    fn credentials() -> Credentials {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netrc");
        std::fs::write(&file, NETRC).unwrap();
        Credentials::load(Some(&file)).unwrap()
    }

    fn of(base: &str, reference: &str) -> Target {
        Target::of(&Url::parse(base).unwrap(), reference, &credentials(), base).unwrap()
    }

    /// Who is named in what is sent.
    fn who(target: &Target) -> Option<String> {
        let value = target.authorization.as_ref()?.to_str().unwrap();
        let pair = data_encoding::BASE64
            .decode(value.strip_prefix("Basic ").unwrap().as_bytes())
            .unwrap();
        let pair = String::from_utf8(pair).unwrap();
        Some(pair.split(':').next().unwrap().to_owned())
    }

    #[test]
    fn what_a_narinfo_names_gets_nothing() {
        assert_eq!(who(&of("https://a/", "nar/x")).unwrap(), "alice");
        assert_eq!(who(&of("https://a/", "https://a/nar/x")).unwrap(), "alice");
        assert_eq!(who(&of("https://c/", "nar/x")).unwrap(), "eve");
        for foreign in ["https://b/x", "http://a/x", "https://a:8443/x", "//b/x"] {
            let target = of("https://a/", foreign);
            assert_eq!(who(&target), None, "{foreign}");
            let back = target.redirected("https://a/x", &credentials()).unwrap();
            assert_eq!(who(&back), None, "{foreign}");
        }
    }

    #[test]
    fn a_host_of_a_redirection_gets_its_own_entry_and_never_another_one() {
        let redirected = |base: &str, location: &str| {
            let target = of(base, "nar/x").redirected(location, &credentials());
            target.unwrap()
        };
        assert_eq!(
            who(&redirected("https://a/", "https://b/x")).unwrap(),
            "bob"
        );
        assert_eq!(who(&redirected("http://a/", "https://b/x")).unwrap(), "bob");
        assert_eq!(who(&redirected("https://a/", "/y")).unwrap(), "alice");
        assert_eq!(who(&redirected("https://a/", "https://c/x")), None);
        let down = redirected("https://a/", "http://b/x");
        assert_eq!(who(&down), None);
        let up_again = down.redirected("https://b/x", &credentials()).unwrap();
        assert_eq!(who(&up_again), None);
        assert!(
            of("https://a/", "x")
                .redirected("file:///etc/passwd", &credentials())
                .is_err()
        );
    }

    #[test]
    fn name_and_password_of_a_url_stay_with_its_origin() {
        let target = of("https://ann:secret@h/", "nar/x");
        assert_eq!(
            (who(&target), target.url.password()),
            (None, Some("secret"))
        );
        assert!(!target.shown.contains("secret"));
        let same = target.redirected("https://h/y", &credentials()).unwrap();
        assert_eq!(same.url.password(), Some("secret"));
        let other = target.redirected("https://b/y", &credentials()).unwrap();
        assert_eq!(other.url.password(), None);
        assert_eq!(who(&other).unwrap(), "bob");
    }
}
