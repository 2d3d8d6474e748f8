//! A plain HTTP/1.1 server of one directory, on the loopback interface: GET and HEAD, connections
//! that stay open, a thread for each. It keeps account of everything that it sends; an entry of the account
//! is never removed, so that a place in it is a point in time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

/// A longer head of a request is refused.
const HEAD_LIMIT: u64 = 16 << 10;

pub struct Server {
    pub address: SocketAddr,
    account: Arc<Account>,
}

/// A request and what was sent in answer to it.
#[derive(Clone)]
pub struct Transfer {
    /// Without the leading slash.
    pub path: String,
    pub started: Instant,
    /// When the last byte was handed to the kernel; None if it was not yet.
    pub ended: Option<Instant>,
    pub head_bytes: u64,
    pub body_bytes: u64,
}

impl Transfer {
    /// Whether it is a NAR, compressed or not.
    pub fn is_nar(&self) -> bool {
        let other = |end| self.path.ends_with(end);
        !other(".narinfo") && !other(".ls") && self.path != "nix-cache-info"
    }
}

/// The sum of some transfers.
#[derive(Clone, Copy, Default)]
pub struct Sent {
    pub requests: usize,
    pub nars: usize,
    /// Heads and bodies.
    pub bytes: u64,
    /// Bodies of NARs.
    pub nar_bytes: u64,
}

impl Sent {
    pub fn of(transfers: &[Transfer]) -> Self {
        let mut sent = Self::default();
        for transfer in transfers {
            sent.requests += 1;
            sent.bytes += transfer.head_bytes + transfer.body_bytes;
            if transfer.is_nar() {
                sent.nars += 1;
                sent.nar_bytes += transfer.body_bytes;
            }
        }
        sent
    }
}

#[derive(Default)]
struct Account(Mutex<Vec<Transfer>>);

impl Account {
    fn entries(&self) -> MutexGuard<'_, Vec<Transfer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, path: &str) -> usize {
        let mut entries = self.entries();
        entries.push(Transfer {
            path: path.to_owned(),
            started: Instant::now(),
            ended: None,
            head_bytes: 0,
            body_bytes: 0,
        });
        entries.len() - 1
    }
}

impl Server {
    /// Serves a directory until the program ends.
    pub fn start(root: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen on the loopback interface")?;
        let address = listener.local_addr()?;
        let account = Arc::new(Account::default());
        let (root, shared) = (root.to_owned(), account.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, account) = (root.clone(), shared.clone());
                // A client that goes away ends its connection, and nothing else.
                std::thread::spawn(move || converse(&stream, &root, &account));
            }
        });
        Ok(Self { address, account })
    }

    /// How many requests there were: the place that the next one will have.
    pub fn mark(&self) -> usize {
        self.account.entries().len()
    }

    /// The requests since a place.
    pub fn since(&self, mark: usize) -> Vec<Transfer> {
        self.account
            .entries()
            .get(mark..)
            .unwrap_or_default()
            .to_vec()
    }
}

/// Answers requests until the client closes the connection.
fn converse(stream: &TcpStream, root: &Path, account: &Account) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(Request { path, body }) = request(&mut reader)? {
        let place = account.begin(&path);
        let sent = answer(stream, root, &path, body, &mut |head, body| {
            let entry = &mut account.entries()[place];
            entry.head_bytes += head;
            entry.body_bytes += body;
        });
        account.entries()[place].ended = Some(Instant::now());
        sent?;
    }
    Ok(())
}

struct Request {
    path: String,
    /// Whether more than the head is wanted.
    body: bool,
}

/// Reads the head of a request; None at the end of the connection.
fn request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = reader.take(HEAD_LIMIT);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "neither GET nor HEAD");
    let (method, rest) = line.split_once(" /").ok_or_else(bad)?;
    let body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return Err(bad()),
    };
    let path = rest.split(' ').next().unwrap_or_default().to_owned();
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(bad());
        }
        if line.trim_end().is_empty() {
            return Ok(Some(Request { path, body }));
        }
    }
}

/// Sends a file or its head, or that there is none; tells `count` the bytes of head and body as they go.
fn answer(
    mut stream: &TcpStream,
    root: &Path,
    path: &str,
    body: bool,
    count: &mut dyn FnMut(u64, u64),
) -> io::Result<()> {
    let Some((mut file, length)) = open(root, path) else {
        let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        count(head.len() as u64, 0);
        return Ok(());
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    if !body {
        stream.write_all(head.as_bytes())?;
        count(head.len() as u64, 0);
        return Ok(());
    }
    // Head and the beginning of the body in one piece, as servers do.
    let mut piece = Vec::with_capacity(64 << 10);
    piece.extend_from_slice(head.as_bytes());
    let mut head_bytes = head.len() as u64;
    loop {
        let room = (piece.capacity() - piece.len()) as u64;
        let read = Read::by_ref(&mut file).take(room).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return Ok(());
        }
        stream.write_all(&piece)?;
        count(head_bytes, read as u64);
        head_bytes = 0;
        piece.clear();
    }
}

/// A file below the root and its length.
fn open(root: &Path, path: &str) -> Option<(File, u64)> {
    let path = PathBuf::from(path);
    let plain = |c: Component| matches!(c, Component::Normal(_));
    if !path.components().all(plain) {
        return None;
    }
    let file = File::open(root.join(path)).ok()?;
    let meta = file.metadata().ok()?;
    meta.is_file().then_some((file, meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers to some requests that are sent at once on one connection.
    fn ask(server: &Server, requests: &str) -> String {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.write_all(requests.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn one_connection_serves_several_requests_and_each_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nar")).unwrap();
        std::fs::write(dir.path().join("nar/a.nar"), "x".repeat(200_000)).unwrap();
        std::fs::write(dir.path().join("a.narinfo"), "StorePath: a").unwrap();
        let server = Server::start(dir.path()).unwrap();
        let answer = ask(
            &server,
            "GET /a.narinfo HTTP/1.1\r\nHost: x\r\n\r\nGET /nar/a.nar HTTP/1.1\r\n\r\n",
        );
        assert!(answer.contains("StorePath: a"));

        let transfers = server.since(0);
        assert!(transfers.iter().all(|t| t.ended.is_some()));
        let sent = Sent::of(&transfers);
        assert_eq!((sent.requests, sent.nars, sent.nar_bytes), (2, 1, 200_000));
        assert_eq!(sent.bytes, answer.len() as u64);
    }

    #[test]
    fn the_head_of_a_file_says_its_length_and_sends_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.narinfo"), "StorePath: a").unwrap();
        let server = Server::start(dir.path()).unwrap();
        let answer = ask(&server, "HEAD /a.narinfo HTTP/1.1\r\n\r\n");
        assert!(answer.ends_with("Content-Length: 12\r\n\r\n"), "{answer}");
    }

    #[test]
    fn what_is_absent_or_outside_of_the_directory_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cache");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        let server = Server::start(&root).unwrap();
        let answer = ask(
            &server,
            "GET /../secret HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\n\r\n",
        );
        assert_eq!(answer.matches("404 Not Found").count(), 2);
        let mark = server.mark();
        assert_eq!(mark, 2);
        ask(&server, "GET /b HTTP/1.1\r\n\r\n");
        assert_eq!(server.since(mark).len(), 1);
    }
}
