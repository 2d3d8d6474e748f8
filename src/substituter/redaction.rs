//! URLs for display.
//!
//! Invariant: no password and no token of a URL appears in an error, a log or a report: of its user
//! information only a name that has a password beside it is shown, and of its query only what is known
//! to be no secret. If a text is not a URL, too much is hidden rather than too little.

/// Parameters that are shown with their values: those of narfs, and those of Nix that say where a binary
/// cache is and how it is read.
const SHOWN: [&str; 8] = [
    "priority",
    "optional",
    "trusted",
    "want-mass-query",
    "compression",
    "region",
    "endpoint",
    "scheme",
];
/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// A URL with its password, and with whatever may be a token, replaced by `***`.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let at = match rest[..end].rfind('@') {
        Some(at) => at,
        // `user:pass/word@host` is not a URL, but contains a password.
        None if !has_port(&rest[..end]) => match rest.rfind('@') {
            Some(at) => at,
            None => return format!("{scheme}://{}", without_tokens(rest)),
        },
        None => return format!("{scheme}://{}", without_tokens(rest)),
    };
    let place = without_tokens(&rest[at..]);
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:{HIDDEN}{place}"),
        // A name alone may be a token.
        None => format!("{scheme}://{HIDDEN}{place}"),
    }
}

/// The part of a URL from the host on, without values of parameters that are not known, and without what
/// no server is sent.
fn without_tokens(place: &str) -> String {
    let (place, fragment) = match place.split_once('#') {
        Some((place, _)) => (place, "#***"),
        None => (place, ""),
    };
    let Some((path, query)) = place.split_once('?') else {
        return format!("{place}{fragment}");
    };
    let shown = query
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if SHOWN.contains(&name) => parameter.to_owned(),
            Some((name, _)) => format!("{name}={HIDDEN}"),
            None if parameter.is_empty() => String::new(),
            None => HIDDEN.to_owned(),
        });
    let shown: Vec<_> = shown.collect();
    format!("{path}?{}{fragment}", shown.join("&"))
}

/// Whether the part after the first colon of a host, if any, can be a port.
fn has_port(host: &str) -> bool {
    if host.starts_with('[') {
        return true;
    }
    host.split_once(':')
        .is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        for (url, shown) in [
            ("https://u:p@host/x?a=b", "https://u:***@host/x?a=***"),
            ("http://u:@host", "http://u:***@host"),
            ("http://:token@host:80", "http://:***@host:80"),
            ("http://u:a@b:c@host/", "http://u:***@host/"),
            // Not URLs, but with passwords.
            ("http://u:pa/ss@host/", "http://u:***@host/"),
            ("http://u:pa?ss#@host/", "http://u:***@host/"),
            ("http://u:pa\\ss@host/", "http://u:***@host/"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn tokens_are_hidden_and_what_narfs_is_told_is_not() {
        for (url, shown) in [
            ("https://ghp_x@host/y", "https://***@host/y"),
            ("http://user@host/", "http://***@host/"),
            (
                "https://host/x?token=s&priority=3",
                "https://host/x?token=***&priority=3",
            ),
            ("https://host?optional=1&s", "https://host?optional=1&***"),
            (
                "https://b.s3.amazonaws.com/n.nar?X-Amz-Signature=s&X-Amz-Date=d",
                "https://b.s3.amazonaws.com/n.nar?X-Amz-Signature=***&X-Amz-Date=***",
            ),
            ("https://host/x?a=s?b=s#c=s", "https://host/x?a=***#***"),
            ("https://u:s@host/?t=s@t", "https://u:***@host/?t=***"),
            ("file:///d?sig=s&optional=1", "file:///d?sig=***&optional=1"),
        ] {
            assert_eq!(redacted(url), shown);
            // The sources of a state are known by it.
            assert_eq!(redacted(shown), shown);
        }
    }

    #[test]
    fn what_has_no_password_is_shown_as_it_is() {
        for url in [
            "https://cache.nixos.org",
            "http://***@host/",
            "https://cache.example.org?priority=10&optional=1",
            "http://host:8080/a@b",
            "http://host/a:b@c",
            "http://[::1]:8080/a@b",
            "file:///a:b@c",
            "no url: @",
            "",
        ] {
            assert_eq!(redacted(url), url);
        }
    }
}
