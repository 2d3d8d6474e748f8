//! A small HTTP server with scripted faults.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::net;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(600);

/// The answer to a request.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// The file.
    File,
    /// This status, with a short page.
    Status(u16),
    /// The header and half of the file; then the connection is reset.
    Half,
    /// The connection is closed without an answer.
    Hangup,
    /// So many arbitrary bytes, as a success.
    Nonsense(usize),
    /// 429, with a `Retry-After` of one second.
    Later,
    /// 503, with a `Retry-After` date five to six seconds later.
    LaterByDate,
    /// A redirection to the same URL.
    Redirect,
    /// A redirection to another server.
    Elsewhere(&'static str),
    /// Half of the file, with a matching length.
    Truncated,
    /// The file with one byte changed.
    Flipped,
    /// The file with a Content-Encoding.
    Encoded,
    /// No answer.
    Stall,
    /// The header and half of the file; then nothing.
    HalfAndStall,
    /// The header, one byte every tenth of a second.
    SlowHead,
    /// Bytes without end.
    Endless,
    /// The file in so many pieces, one every fifth of a second.
    Slow(usize),
    /// The file if the request has this name and password (in base64); otherwise 401.
    Password(&'static str),
    /// The range of the request, with support for ranges announced.
    Ranges(Ranges),
    /// The file, with this `Date`.
    Dated(&'static str),
}

/// How ranges are sent.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// The `ETag`; if `If-Range` differs, the whole file is sent.
    pub tag: &'static str,
    /// Number of bytes sent at most, whatever the header says.
    pub send: usize,
    /// Afterwards: no more data, or the end.
    pub stall: bool,
    /// Whether `Range` is honoured.
    pub heeds: bool,
    /// The range begins so many bytes early, and says so.
    pub early: usize,
    /// Bytes added to the total in `Content-Range`.
    pub longer: usize,
    /// Bytes sent after the last one of a range.
    pub surplus: usize,
    /// The `Content-Encoding` of a part; the bytes are those of the file all the same.
    pub encoding: &'static str,
}

impl Ranges {
    /// Correct ranges.
    pub const GOOD: Self = Self {
        tag: "\"v1\"",
        send: usize::MAX,
        stall: false,
        heeds: true,
        early: 0,
        longer: 0,
        surplus: 0,
        encoding: "",
    };

    /// Correct ranges, interrupted after so many bytes.
    pub const fn end_after(send: usize) -> Self {
        Self { send, ..Self::GOOD }
    }
}

/// Chooses the answer by the path and the number of earlier requests for it.
type Script = Box<dyn Fn(&str, usize) -> Answer + Send + Sync>;

/// Where a script holds an answer until the test lets it go. That the request is there shows in the log.
#[derive(Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn wait(&self) {
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(is_open, |open| !*open).unwrap());
    }

    pub fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// A request, and how much was sent.
#[derive(Clone, Debug, Default)]
pub struct Logged {
    pub path: String,
    /// Names are in lower case.
    pub headers: HashMap<String, String>,
    /// Bytes of the body sent.
    pub sent: usize,
}

impl Logged {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

struct Inner {
    root: PathBuf,
    script: Script,
    /// Whether connections are kept alive.
    keeps: bool,
    connections: AtomicUsize,
    log: Mutex<Vec<Logged>>,
}

pub struct Server {
    pub url: String,
    inner: Arc<Inner>,
}

impl Server {
    /// Serves the files of a directory until the process ends.
    pub fn new(
        root: PathBuf,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Refusing::new().listen(), root, Box::new(script), false)
    }

    /// The same, with keep-alive connections.
    pub fn keeping_alive(
        root: PathBuf,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Refusing::new().listen(), root, Box::new(script), true)
    }

    fn start(listener: TcpListener, root: PathBuf, script: Script, keeps: bool) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            root,
            script,
            keeps,
            connections: AtomicUsize::new(0),
            log: Mutex::default(),
        });
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = shared.clone();
                inner.connections.fetch_add(1, Ordering::SeqCst);
                // A disconnecting client is no failure of the server.
                std::thread::spawn(move || inner.serve(stream).ok());
            }
        });
        Self { url, inner }
    }

    /// All requests, in order.
    pub fn log(&self) -> Vec<Logged> {
        self.inner.log.lock().unwrap().clone()
    }

    /// The requests for a path, in order.
    pub fn log_of(&self, path: &str) -> Vec<Logged> {
        let mut log = self.log();
        log.retain(|asked| asked.path == path);
        log
    }

    /// Counts of all requests.
    pub fn all_requests(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for asked in self.log() {
            *counts.entry(asked.path).or_default() += 1;
        }
        counts
    }

    /// Number of requests for a path, `/x`.
    pub fn requests(&self, path: &str) -> usize {
        self.log_of(path).len()
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }
}

/// A port that refuses connections, as long as this lives: nobody else can get it.
pub struct Refusing {
    pub url: String,
    socket: OwnedFd,
}

impl Refusing {
    pub fn new() -> Self {
        let (family, kind) = (net::AddressFamily::INET, net::SocketType::STREAM);
        let socket = net::socket_with(family, kind, net::SocketFlags::CLOEXEC, None).unwrap();
        net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address: SocketAddr = net::getsockname(&socket).unwrap().try_into().unwrap();
        let url = format!("http://{address}");
        Self { url, socket }
    }

    fn listen(self) -> TcpListener {
        net::listen(&self.socket, 128).unwrap();
        self.socket.into()
    }

    /// Has a server listen there from now on.
    pub fn serve(
        self,
        root: PathBuf,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Server {
        Server::start(self.listen(), root, Box::new(script), false)
    }
}

/// A response.
struct Reply {
    status: u16,
    more: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            more: String::new(),
            body: body.into(),
        }
    }

    fn with(mut self, more: String) -> Self {
        self.more = more;
        self
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        // Parts of a response must not wait for each other.
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(request) = lines.next().transpose()? {
            // A proxy gets the full URL.
            let path = request.split(' ').nth(1).unwrap_or("/");
            let path = path.split_once("://").map_or(path, |(_, rest)| {
                rest.find('/').map_or("/", |at| &rest[at..])
            });
            let mut asked = Logged {
                path: path.to_owned(),
                ..Logged::default()
            };
            while let Some(line) = lines.next().transpose()?.filter(|l| !l.is_empty()) {
                if let Some((name, value)) = line.split_once(':') {
                    let name = name.to_ascii_lowercase();
                    asked.headers.insert(name, value.trim().to_owned());
                }
            }
            let (at, before) = {
                let mut log = self.log.lock().unwrap();
                let before = log.iter().filter(|a| a.path == asked.path).count();
                log.push(asked.clone());
                (log.len() - 1, before)
            };
            let answer = (self.script)(&asked.path, before);
            let sent = self.answer(&mut stream, &asked, answer, at);
            if !sent? || !self.keeps {
                break;
            }
        }
        Ok(())
    }

    /// Returns whether the connection can be reused.
    fn answer(
        &self,
        stream: &mut TcpStream,
        asked: &Logged,
        answer: Answer,
        at: usize,
    ) -> std::io::Result<bool> {
        match answer {
            Answer::Stall => sleep(FOREVER),
            Answer::Hangup => return Ok(false),
            _ => {}
        }
        let file = std::fs::read(self.root.join(&asked.path[1..])).ok();
        let reply = reply(asked, answer, file);
        let length = match answer {
            Answer::Endless => String::new(),
            _ => format!("Content-Length: {}\r\n", reply.body.len()),
        };
        let connection = if self.keeps { "keep-alive" } else { "close" };
        let head = format!(
            "HTTP/1.1 {} X\r\n{length}{}Connection: {connection}\r\n\r\n",
            reply.status, reply.more
        );
        if matches!(answer, Answer::SlowHead) {
            for byte in head.as_bytes().chunks(1) {
                stream.write_all(byte)?;
                sleep(Duration::from_millis(100));
            }
        } else {
            stream.write_all(head.as_bytes())?;
        }
        let half = reply.body.len() / 2;
        let send = match answer {
            Answer::Half | Answer::HalfAndStall => half,
            Answer::Ranges(ranges) => ranges.send.min(reply.body.len()),
            _ => reply.body.len(),
        };
        // Logged before the client can act on it.
        self.log.lock().unwrap()[at].sent = send;
        let pieces = match answer {
            Answer::Slow(pieces) => pieces,
            _ => 1,
        };
        for piece in reply.body[..send].chunks(send.div_ceil(pieces).max(1)) {
            stream.write_all(piece)?;
            stream.flush()?;
            if pieces > 1 {
                sleep(Duration::from_millis(200));
            }
        }
        match answer {
            Answer::HalfAndStall => sleep(FOREVER),
            Answer::Ranges(ranges) if ranges.stall => sleep(FOREVER),
            // Until the client disconnects.
            Answer::Endless => loop {
                stream.write_all(&[0; 4096])?;
            },
            _ => {}
        }
        Ok(send == reply.body.len())
    }
}

fn reply(asked: &Logged, answer: Answer, file: Option<Vec<u8>>) -> Reply {
    match (answer, file) {
        (Answer::Status(status), _) => Reply::new(status, "sorry\n"),
        (Answer::Later, _) => Reply::new(429, "later\n").with("Retry-After: 1\r\n".into()),
        (Answer::LaterByDate, _) => {
            // Dates have whole seconds.
            let then = SystemTime::now() + Duration::from_secs(6);
            let date = httpdate::fmt_http_date(then);
            Reply::new(503, "later\n").with(format!("Retry-After: {date}\r\n"))
        }
        (Answer::Redirect, _) => {
            Reply::new(302, "there\n").with(format!("Location: {}\r\n", asked.path))
        }
        (Answer::Elsewhere(url), _) => {
            Reply::new(302, "there\n").with(format!("Location: {url}{}\r\n", asked.path))
        }
        (Answer::Nonsense(n), _) => Reply::new(200, vec![b'?'; n]),
        (Answer::Password(pair), _)
            if asked.header("authorization") != Some(&format!("Basic {pair}")) =>
        {
            Reply::new(401, "who?\n").with("WWW-Authenticate: Basic realm=\"x\"\r\n".into())
        }
        (_, None) => Reply::new(404, "not found\n"),
        (Answer::Dated(date), Some(body)) => {
            Reply::new(200, body).with(format!("Date: {date}\r\n"))
        }
        (Answer::Truncated, Some(body)) => Reply::new(200, &body[..body.len() / 2]),
        (Answer::Flipped, Some(mut body)) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
            Reply::new(200, body)
        }
        (Answer::Encoded, Some(body)) => {
            let packed = zstd::bulk::compress(&body, 3).unwrap();
            Reply::new(200, packed).with("Content-Encoding: zstd\r\n".into())
        }
        (Answer::Ranges(ranges), Some(body)) => part(asked, ranges, body),
        (_, Some(body)) => Reply::new(200, body),
    }
}

fn part(asked: &Logged, ranges: Ranges, body: Vec<u8>) -> Reply {
    let offer = format!("Accept-Ranges: bytes\r\nETag: {}\r\n", ranges.tag);
    let first = asked
        .header("range")
        .filter(|_| asked.header("if-range").is_none_or(|t| t == ranges.tag))
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'))
        .filter(|_| ranges.heeds);
    let Some(first) = first else {
        return Reply::new(200, body).with(offer);
    };
    let first = first.parse::<usize>().unwrap() - ranges.early;
    let (last, total) = (body.len() - 1, body.len() + ranges.longer);
    let range = format!("Content-Range: bytes {first}-{last}/{total}\r\n");
    let surplus = vec![b'?'; ranges.surplus];
    let encoding = match ranges.encoding {
        "" => String::new(),
        name => format!("Content-Encoding: {name}\r\n"),
    };
    Reply::new(206, [&body[first..], &surplus].concat()).with(offer + &range + &encoding)
}
