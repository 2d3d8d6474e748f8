//! Answers to clients, and their cost to the daemon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::http::{Server, serve};

/// A daemon that is healthy or not.
#[derive(Default)]
struct Daemon {
    queries: AtomicU64,
    away: bool,
    /// Locked as long as it is not to answer.
    pause: std::sync::Mutex<()>,
}

impl Daemon {
    fn answer(&self, text: &str) -> Result<String, String> {
        let queries = self.queries.fetch_add(1, Ordering::SeqCst);
        drop(self.pause.lock().unwrap());
        if self.away {
            return Err("no daemon serves the state /x".to_owned());
        }
        Ok(format!("{text} {queries}\n"))
    }
}

impl Monitored for Daemon {
    fn metrics(&self) -> Result<String, String> {
        self.answer("narfs_x")
    }

    fn status(&self) -> Result<String, String> {
        panic!("a fault of its own")
    }

    fn health(&self) -> Result<(), String> {
        self.answer("").map(drop)
    }

    fn is_here(&self) -> bool {
        true
    }
}

fn start(daemon: Daemon) -> (SocketAddr, Arc<Daemon>, Server) {
    start_with((LIFETIME, SHARE), daemon)
}

fn start_with(lifetime: (Duration, u32), daemon: Daemon) -> (SocketAddr, Arc<Daemon>, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let daemon = Arc::new(daemon);
    let server = serve(listener.into(), monitoring_with(lifetime, daemon.clone())).unwrap();
    (at, daemon, server)
}

fn ask(at: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

#[test]
fn whoever_asks_is_told_what_there_is() {
    let (at, _daemon, _server) = start(Daemon::default());
    let metrics = ask(at, "GET", "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    let kind = "\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(metrics.contains(kind), "{metrics}");
    assert!(metrics.ends_with("\r\n\r\nnarfs_x 0\n"), "{metrics}");
    assert!(ask(at, "GET", "/healthz").ends_with("\r\n\r\nok\n"));
    let list = ask(at, "GET", "/");
    for there_is in ["/metrics", "/status", "/healthz"] {
        assert!(list.contains(there_is), "{list}");
        let head = ask(at, "HEAD", there_is);
        assert!(head.ends_with("\r\n\r\n"), "{head}");
    }
    let none = ask(at, "GET", "/nothing");
    assert!(
        none.starts_with("HTTP/1.1 404") && none.contains("/metrics"),
        "{none}"
    );
    for method in ["POST", "DELETE", "PUT", "OPTIONS"] {
        let said = ask(at, method, "/metrics");
        assert!(
            said.starts_with("HTTP/1.1 405") && said.contains("GET and HEAD"),
            "{said}"
        );
    }
}

#[test]
fn a_daemon_that_is_away_is_service_unavailable_with_the_reason() {
    let away = Daemon {
        away: true,
        ..Daemon::default()
    };
    let (at, _daemon, _server) = start(away);
    for path in ["/metrics", "/healthz"] {
        let said = ask(at, "GET", path);
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        assert!(said.ends_with("no daemon serves the state /x\n"), "{said}");
    }
    // The handler panics, and the server continues.
    assert!(ask(at, "GET", "/status").starts_with("HTTP/1.1 503"));
    assert!(ask(at, "GET", "/").starts_with("HTTP/1.1 200"));
}

#[test]
fn many_who_ask_at_once_cost_one_question() {
    let (at, daemon, _server) = start_with((Duration::from_secs(600), 0), Daemon::default());
    let pause = daemon.pause.lock().unwrap();
    // A client that disconnects.
    let mut gone = TcpStream::connect(at).unwrap();
    gone.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let began = Instant::now();
    while daemon.queries.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(gone);
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| assert!(ask(at, "GET", "/metrics").ends_with("narfs_x 0\n")));
        }
        // Some of them wait, and the others come later.
        std::thread::sleep(Duration::from_millis(100));
        drop(pause);
    });
    assert_eq!(daemon.queries.load(Ordering::SeqCst), 1);
}

#[test]
fn an_answer_that_has_expired_is_not_used() {
    let (at, _daemon, _server) = start_with((Duration::ZERO, 0), Daemon::default());
    for query in 0..3 {
        assert!(ask(at, "GET", "/metrics").ends_with(&format!("narfs_x {query}\n")));
    }
}

#[test]
fn an_answer_that_took_long_is_used_for_longer() {
    let (at, daemon, _server) = start_with((Duration::ZERO, SHARE), Daemon::default());
    let pause = daemon.pause.lock().unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(at, "GET", "/metrics"));
        while daemon.queries.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It is used for ten times as long.
        std::thread::sleep(Duration::from_secs(3));
        drop(pause);
        assert!(asked.join().unwrap().ends_with("narfs_x 0\n"));
    });
    assert!(ask(at, "GET", "/metrics").ends_with("narfs_x 0\n"));
}
