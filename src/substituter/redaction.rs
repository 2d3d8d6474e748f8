//! URLs for display.
//!
//! Invariant: no password of a URL appears in an error, a log or a report. If a text is not a URL,
//! too much is hidden rather than too little.

/// A URL with its password replaced by `***`.
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
            None => return url.to_owned(),
        },
        None => return url.to_owned(),
    };
    match rest[..at].split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***{}", &rest[at..]),
        None => url.to_owned(),
    }
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
            ("https://u:p@host/x?a=b", "https://u:***@host/x?a=b"),
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
    fn what_has_no_password_is_shown_as_it_is() {
        for url in [
            "https://cache.nixos.org",
            "http://user@host/",
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
