//! Networks where servers are behind a proxy, or vouched for by a private authority.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::binary_cache::{Cache, Offer, file};
use crate::program::{Ran, State};
use crate::server::{Answer, Server};
use crate::waiting::wait_until;

fn cache() -> (Cache, Offer) {
    let cache = Cache::new();
    let offer = Offer::named("hello", file(b"hello"));
    cache.put(&offer);
    (cache, offer)
}

fn copy(cache: &Cache, offer: &Offer, url: &str, environment: &[(&str, &str)]) -> Ran {
    let state = State::new();
    let mut arguments = vec!["copy".to_owned(), offer.path().base_name()];
    arguments.extend(cache.arguments_from(url));
    let mut command = state.command(&arguments);
    command.envs(environment.iter().copied());
    Ran::of(&mut command)
}

#[test]
fn a_proxy_of_the_environment_is_asked_for_what_is_not_excepted() {
    let (cache, offer) = cache();
    // It answers whoever's server it is asked for.
    let proxy = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    let elsewhere = "http://cache.invalid";
    for variable in ["http_proxy", "all_proxy"] {
        let ran = copy(&cache, &offer, elsewhere, &[(variable, &proxy.url)]);
        ran.succeeds().counts(1, 0);
    }
    let log = proxy.log();
    assert!(
        log.iter()
            .all(|a| a.header("host") == Some("cache.invalid"))
    );
    let direct = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    let excepted = [("http_proxy", &*proxy.url), ("no_proxy", "127.0.0.1")];
    let ran = copy(&cache, &offer, &direct.url, &excepted);
    ran.succeeds().counts(1, 0);
    assert_eq!(proxy.log().len(), log.len());
    assert_eq!(direct.log().len(), log.len() / 2);
}

#[test]
fn a_proxy_gets_the_password_of_its_url_and_says_where_it_is_missing() {
    let (cache, offer) = cache();
    let proxy = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    let url = proxy.url.replace("://", "://alice:secret@");
    let elsewhere = "http://cache.invalid";
    let ran = copy(&cache, &offer, elsewhere, &[("http_proxy", &url)]);
    ran.succeeds().counts(1, 0);
    let pair = data_encoding::BASE64.encode(b"alice:secret");
    for asked in proxy.log() {
        let sent = asked.header("proxy-authorization");
        assert_eq!(sent, Some(&*format!("Basic {pair}")));
    }
    let wants = Server::new(cache.dir().to_owned(), |_, _| Answer::Status(407));
    let ran = copy(&cache, &offer, elsewhere, &[("http_proxy", &wants.url)]);
    ran.fails(&[elsewhere, "407", "http_proxy"]);
    assert_eq!(wants.log().len(), 1);
}

#[test]
fn a_server_with_tls_is_reached_through_a_tunnel() {
    let (cache, offer) = cache();
    let proxy = Server::new(cache.dir().to_owned(), |_, _| Answer::Status(403));
    let elsewhere = "https://cache.invalid";
    let ran = copy(&cache, &offer, elsewhere, &[("https_proxy", &proxy.url)]);
    ran.fails(&[elsewhere, "cannot connect"]);
    let log = proxy.log();
    assert!(log.iter().all(|asked| asked.path == "cache.invalid:443"));
    assert_eq!(log.len(), 5);
}

/// Makes an authority, `ca.pem`, and a certificate by it for localhost, `leaf.pem`.
fn certify(dir: &Path) {
    let openssl = |arguments: &str| {
        let ran = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(dir)
            .output()
            .expect("openssl is installed");
        assert!(ran.status.success(), "openssl {arguments}: {ran:?}");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {key} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem"
    ));
    openssl(&format!(
        "req {key} -subj /CN=localhost -keyout leaf.key -out leaf.csr"
    ));
    fs::write(dir.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
         -extfile names -out leaf.pem",
    );
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_private_authority_is_believed_where_the_environment_names_it() {
    let (cache, offer) = cache();
    let dir = tempfile::tempdir().unwrap();
    certify(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let output = fs::File::create(dir.path().join("said")).unwrap();
    let server = Command::new("openssl")
        // With -msg it says what the client offers.
        .args(["s_server", "-WWW", "-msg", "-alpn", "http/1.1"])
        .args(["-accept", "127.0.0.1:0"])
        .args(["-cert", &file("leaf.pem"), "-key", &file("leaf.key")])
        .current_dir(cache.dir())
        .stdin(Stdio::piped())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .expect("openssl is installed");
    let _server = Ended(server);
    let said = || fs::read_to_string(dir.path().join("said")).unwrap();
    let mut port = None;
    wait_until("it listens", || {
        let said = said();
        let at = said
            .lines()
            .find_map(|l| l.strip_prefix("ACCEPT 127.0.0.1:"));
        port = at.map(str::to_owned);
        port.is_some()
    });
    let url = format!("https://localhost:{}", port.unwrap());
    let authority = file("ca.pem");
    let ran = copy(&cache, &offer, &url, &[("SSL_CERT_FILE", &authority)]);
    ran.succeeds().counts(1, 0);
    let other = file("leaf.pem");
    let ran = copy(&cache, &offer, &url, &[("SSL_CERT_FILE", &other)]);
    ran.fails(&[&url, "certificate is not trusted", "SSL_CERT_FILE"]);
    // Without any authority, the error says what is missing.
    let none = [
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", "/dev/null"),
    ];
    let ran = copy(&cache, &offer, &url, &none);
    ran.fails(&[&url, "ca-certificates"]);
    let plain = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
    copy(&cache, &offer, &plain.url, &none).succeeds();
    let offered = "ALPN protocols advertised by the client: h2, http/1.1";
    wait_until("HTTP/2 is offered", || said().contains(offered));
}
