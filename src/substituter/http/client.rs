//! The HTTP client of a source: its timeouts and the authorities that it trusts.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

/// Timeout for establishing a connection, as in Nix.
const CONNECT: Duration = Duration::from_secs(15);
/// Time after which a connection has failed whose other side does not even acknowledge: a server that takes
/// its time does that, and one that has gone without a word does not. As long as a program waits.
const GONE: Duration = Duration::from_secs(30);
/// Times that the other side is asked for that while nothing is sent.
const PROBES: u32 = 4;
/// Variable that names the file of authorities, as in Nix; it goes before `SSL_CERT_FILE`.
const AUTHORITIES: &str = "NIX_SSL_CERT_FILE";
/// Error text for an untrusted certificate.
pub(super) const CERTIFICATE: &str = "its certificate is not trusted (set NIX_SSL_CERT_FILE or \
    SSL_CERT_FILE for a private authority)";

/// Makes the client for the server at `base`. It follows no redirection: that decides which credentials go
/// where. How long to wait for what is up to whoever asks. Of a file at most a `window` is sent over HTTP/2
/// that nobody has read.
pub(super) fn client(base: &Url, stall: Duration, window: Option<u32>) -> Result<Client, String> {
    // A second source finds the provider installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(concat!("narfs/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(stall))
            .tcp_user_timeout(GONE)
            .tcp_keepalive(GONE / (PROBES + 2) * 2)
            .tcp_keepalive_interval(GONE / (PROBES + 2))
            .tcp_keepalive_retries(PROBES)
            .http2_initial_stream_window_size(window)
            .redirect(Policy::none())
            .referer(false)
    };
    let trusting = match authorities(std::env::var_os(AUTHORITIES)) {
        Ok(Some(authorities)) => Ok(builder().tls_certs_only(authorities)),
        Ok(None) => Ok(builder()),
        Err(e) => Err(e),
    };
    let built = trusting.and_then(|builder| {
        builder.build().map_err(|e| {
            let cause = cause(&e);
            format!("{cause}; install ca-certificates, or set {AUTHORITIES} or SSL_CERT_FILE")
        })
    });
    match built {
        // Servers without TLS need no authorities.
        Err(_) if base.scheme() == "http" => {
            let none = builder().tls_certs_only([]).build();
            none.map_err(|e| cause(&e))
        }
        built => built,
    }
}

/// The authorities in the file that the variable names; `None` if it is not set.
fn authorities(variable: Option<OsString>) -> Result<Option<Vec<Certificate>>, String> {
    let Some(file) = variable.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let fail = |what: String| {
        let file = Path::new(&file).display();
        format!("{AUTHORITIES} names {file}: {what}")
    };
    let text = fs::read(&file).map_err(|e| fail(e.to_string()))?;
    let found = Certificate::from_pem_bundle(&text).map_err(|e| fail(cause(&e)))?;
    match found.is_empty() {
        true => Err(fail("it has no certificate".into())),
        false => Ok(Some(found)),
    }
}

/// The innermost cause, which is more specific than the client's own text.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |e| e.source()).last();
    innermost.unwrap_or(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_that_cannot_be_used_is_named() {
        assert!(authorities(None).unwrap().is_none());
        assert!(authorities(Some("".into())).unwrap().is_none());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        let error = || authorities(Some(file.clone().into())).unwrap_err();
        let name = file.display().to_string();
        assert!(error().contains(&name), "{}", error());
        fs::write(&file, "nothing\n").unwrap();
        assert!(error().contains("no certificate"), "{}", error());
    }
}
