//! Well-behaved clients, and others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::routing::{get, post};
use tokio::sync::Notify;

use super::*;
use crate::http::Address;

/// A response too large for any socket buffer.
const LARGE: usize = 64 << 20;

fn router() -> Router {
    Router::new()
        .route("/", get(|| async { "it serves" }))
        .route(
            "/length",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .route("/large", get(|| async { vec![b'x'; LARGE] }))
        .route(
            "/panic",
            get(|| async { panic!("a handler's own fault") as &str }),
        )
}

/// A handler at `/slow` that says when it has begun, and answers when it is told to.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<AtomicBool>,
    go_on: Arc<Notify>,
}

impl Slow {
    fn router(&self) -> Router {
        let slow = self.clone();
        let answer = async move || {
            slow.begun.store(true, Ordering::SeqCst);
            slow.go_on.notified().await;
            "at last"
        };
        router().route("/slow", get(answer))
    }

    fn wait_until_begun(&self) {
        wait_until(|| self.begun.load(Ordering::SeqCst));
    }
}

/// Long enough not to pass on a busy machine.
const LONG: Duration = Duration::from_secs(60);
/// A limit that is to pass.
const SHORT: Duration = Duration::from_millis(300);

/// Limits of which none passes by itself.
fn long() -> Limits {
    Limits {
        connections: 4,
        head: LONG,
        body: LONG,
        body_bytes: 1000,
        answer: LONG,
        end: LONG,
    }
}

fn start(limits: Limits) -> (SocketAddr, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (at, serve_within(limits, listener.into(), router()).unwrap())
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A connection whose reads time out.
fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    let timeout = Some(LONG);
    stream.set_read_timeout(timeout).unwrap();
    stream
}

/// Reads until the peer closes or resets the connection.
fn read_all(mut stream: impl Read) -> String {
    let (mut all, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(length) = stream.read(&mut part) {
        if length == 0 {
            break;
        }
        all.extend_from_slice(&part[..length]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

fn ask(at: SocketAddr, path: &str) -> String {
    let mut stream = connect(at);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    read_all(stream)
}

fn send(at: SocketAddr, request: &str) -> String {
    let mut stream = connect(at);
    stream.write_all(request.as_bytes()).unwrap();
    read_all(stream)
}

#[test]
fn requests_are_answered_over_tcp_and_unix_sockets_until_the_end() {
    let (at, server) = start(Limits::default());
    assert!(ask(at, "/").ends_with("it serves"));
    assert!(ask(at, "/none").starts_with("HTTP/1.1 404"));
    server.end();
    TcpStream::connect(at).unwrap_err();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    let server = serve(listener, router()).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(read_all(stream).ends_with("it serves"));
    server.end();
}

#[test]
fn a_handler_that_panics_ends_its_connection_and_nothing_else() {
    let (at, server) = start(long());
    for _ in 0..10 {
        assert_eq!(ask(at, "/panic"), "");
    }
    assert!(ask(at, "/").ends_with("it serves"));
    assert!(server.runs());
}

#[test]
fn garbage_gets_an_error_and_its_connection_is_closed() {
    let (at, _server) = start(long());
    for garbage in [
        "\x16\x03\x01\x02\0\x01\0",
        "GET\r\n\r\n",
        "\r\n\r\nx\r\n\r\n",
    ] {
        let said = send(at, garbage);
        assert!(
            said.starts_with("HTTP/1.1 400") || said.is_empty(),
            "{said}"
        );
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_BYTES * 2));
    let said = send(at, &long);
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
    assert!(ask(at, "/").ends_with("it serves"));
}

#[test]
fn a_head_that_does_not_come_in_time_ends_the_connection_however_it_trickles() {
    let limits = Limits {
        head: SHORT,
        ..long()
    };
    let (at, _server) = start(limits);
    for start in ["", "GET / HTTP/1.1\r\n"] {
        let began = Instant::now();
        let mut stream = connect(at);
        stream.write_all(start.as_bytes()).unwrap();
        wait_until(|| stream.write_all(b"a").is_err());
        assert!(began.elapsed() >= SHORT);
    }
}

#[test]
fn a_body_must_be_short_and_arrive_in_time() {
    let (at, _server) = start(long());
    let head = |length: &str| {
        format!("POST /length HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{length}\r\n\r\n")
    };
    let whole = head("Content-Length: 1000") + &"x".repeat(1000);
    assert!(send(at, &whole).ends_with("1000"));
    let longer = head("Content-Length: 1001") + &"x".repeat(1001);
    let said = send(at, &longer);
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let chunked =
        head("Transfer-Encoding: chunked") + "3e9\r\n" + &"x".repeat(1001) + "\r\n0\r\n\r\n";
    let said = send(at, &chunked);
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
    let limits = Limits {
        body: SHORT,
        ..long()
    };
    let (at, _server) = start(limits);
    let said = send(at, &head("Content-Length: 10"));
    assert!(said.starts_with("HTTP/1.1 4"), "{said}");
}

#[test]
fn who_takes_no_answer_is_let_go() {
    let limits = Limits {
        answer: SHORT,
        ..long()
    };
    let (at, server) = start(limits);
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(at);
        stream
            .write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        streams.push(stream);
    }
    // They take all places, and a new client is served nevertheless.
    assert!(ask(at, "/").ends_with("it serves"));
    wait_until(|| server.idle() > Duration::ZERO);
    for stream in streams {
        assert!(read_all(stream).len() < LARGE);
    }
}

#[test]
fn who_takes_an_answer_gets_it_whole() {
    let (at, _server) = start(long());
    assert!(ask(at, "/large").len() > LARGE);
}

#[test]
fn connections_that_wait_for_a_request_do_not_keep_out_others() {
    let limits = Limits {
        head: LONG * 10,
        ..long()
    };
    let (at, _server) = start(limits);
    let idle: Vec<_> = (0..40)
        .map(|n| {
            let mut stream = connect(at);
            if n % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            }
            stream
        })
        .collect();
    for _ in 0..5 {
        assert!(ask(at, "/").ends_with("it serves"));
    }
    drop(idle);
}

#[test]
fn what_is_being_answered_at_the_end_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let slow = Slow::default();
    let limits = Limits {
        end: LONG * 10,
        ..long()
    };
    let server = serve_within(limits, listener.into(), slow.router()).unwrap();
    let client = std::thread::spawn(move || ask(at, "/slow"));
    slow.wait_until_begun();
    // A connection that stays after its answer.
    let mut kept = connect(at);
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"it serves") {
        let mut byte = [0];
        kept.read_exact(&mut byte).unwrap();
        answer.extend(byte);
    }
    let ending = std::thread::spawn(move || server.end());
    assert_eq!(read_all(kept), "");
    assert!(!ending.is_finished());
    slow.go_on.notify_one();
    assert!(client.join().unwrap().ends_with("at last"));
    let began = Instant::now();
    ending.join().unwrap();
    assert!(began.elapsed() < LONG * 5);
}

#[test]
fn a_socket_that_is_shut_down_ends_its_server_and_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let same = listener.try_clone().unwrap();
    let slow = Slow::default();
    let server = serve_within(long(), listener.into(), slow.router()).unwrap();
    let client = std::thread::spawn(move || ask(at, "/slow"));
    slow.wait_until_begun();
    rustix::net::shutdown(&same, rustix::net::Shutdown::Both).unwrap();
    wait_until(|| TcpStream::connect(at).is_err());
    assert!(server.runs());
    slow.go_on.notify_one();
    assert!(client.join().unwrap().ends_with("at last"));
    wait_until(|| !server.runs());
}
