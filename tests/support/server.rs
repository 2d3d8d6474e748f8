//! A small HTTP server that misbehaves as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(600);

/// How a request is answered.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// With the file.
    File,
    /// With this status and a page that says so.
    Status(u16),
    /// With the head and half of the file; then the connection is reset.
    Half,
    /// The connection is closed without a word.
    Hangup,
    /// With so many bytes of nonsense as a success.
    Nonsense(usize),
    /// With 429 and the wish to be asked again after a second.
    Later,
    /// With 503 and the wish to be asked again two to three seconds later, as a date.
    LaterByDate,
    /// With the request to ask here again.
    Redirect,
    /// With the request to ask for the same at another server.
    Elsewhere(&'static str),
    /// With half of the file, as if it were all.
    Truncated,
    /// With the file, but for one byte.
    Flipped,
    /// With the file, encoded for the way.
    Encoded,
    /// Never.
    Stall,
    /// With the head and half of the file; then with nothing more.
    HalfAndStall,
    /// With bytes without end.
    Endless,
    /// With the file in so many pieces, one every fifth of a second.
    Slow(usize),
    /// With the file to whoever has this name and password (in base64); else with 401.
    Password(&'static str),
    /// With what is asked for by `Range`, offering that.
    Ranges(Ranges),
    /// With the file, by a clock that says so.
    Dated(&'static str),
}

/// How parts of a file are sent.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// The `ETag`; with another one in `If-Range` the whole file is sent.
    pub tag: &'static str,
    /// At most so many bytes, whatever the head says.
    pub send: usize,
    /// Then: nothing more, or the end.
    pub stall: bool,
    /// Whether `Range` is heeded after all.
    pub heeds: bool,
    /// The part begins so many bytes early, and says so.
    pub early: usize,
    /// The file is so much longer, by `Content-Range`.
    pub longer: usize,
    /// So many bytes come after the last one of a part.
    pub surplus: usize,
}

impl Ranges {
    /// Honest ones.
    pub const GOOD: Self = Self {
        tag: "\"v1\"",
        send: usize::MAX,
        stall: false,
        heeds: true,
        early: 0,
        longer: 0,
        surplus: 0,
    };

    /// Honest ones that end after so many bytes.
    pub const fn end_after(send: usize) -> Self {
        Self { send, ..Self::GOOD }
    }
}

/// Decides from the path and from how many requests for it came before.
type Script = Box<dyn Fn(&str, usize) -> Answer + Send + Sync>;

/// A request, and what it got.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub path: String,
    /// Names are in lower case.
    pub headers: HashMap<String, String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

struct Inner {
    root: PathBuf,
    script: Script,
    /// Whether connections are for more than one request.
    keeps: bool,
    connections: AtomicUsize,
    log: Mutex<Vec<Asked>>,
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
        Self::at(([127, 0, 0, 1], 0).into(), root, script)
    }

    /// The same, with connections that are kept for the next request.
    pub fn keeping_alive(
        root: PathBuf,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(([127, 0, 0, 1], 0).into(), root, Box::new(script), true)
    }

    /// An address that nobody listens at.
    pub fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    }

    /// The same at a given address.
    pub fn at(
        address: SocketAddr,
        root: PathBuf,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(address, root, Box::new(script), false)
    }

    fn start(address: SocketAddr, root: PathBuf, script: Script, keeps: bool) -> Self {
        let listener = TcpListener::bind(address).unwrap();
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
                // A client that goes away is no failure of the server's.
                std::thread::spawn(move || inner.serve(stream).ok());
            }
        });
        Self { url, inner }
    }

    /// Everything that was asked for, in its order.
    pub fn log(&self) -> Vec<Asked> {
        self.inner.log.lock().unwrap().clone()
    }

    /// What was asked for under a path, in its order.
    pub fn log_of(&self, path: &str) -> Vec<Asked> {
        let mut log = self.log();
        log.retain(|asked| asked.path == path);
        log
    }

    /// All requests so far.
    pub fn all_requests(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for asked in self.log() {
            *counts.entry(asked.path).or_default() += 1;
        }
        counts
    }

    /// Requests for a path, `/x`.
    pub fn requests(&self, path: &str) -> usize {
        self.log_of(path).len()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }
}

/// What is sent.
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
        // The pieces of an answer are not to wait for each other.
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(request) = lines.next().transpose()? {
            // To a proxy the whole URL is said.
            let path = request.split(' ').nth(1).unwrap_or("/");
            let path = path.split_once("://").map_or(path, |(_, rest)| {
                rest.find('/').map_or("/", |at| &rest[at..])
            });
            let mut asked = Asked {
                path: path.to_owned(),
                ..Asked::default()
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

    /// Whether the connection can go on.
    fn answer(
        &self,
        stream: &mut TcpStream,
        asked: &Asked,
        answer: Answer,
        at: usize,
    ) -> std::io::Result<bool> {
        match answer {
            Answer::Stall => sleep(FOR_EVER),
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
        stream.write_all(head.as_bytes())?;
        let half = reply.body.len() / 2;
        let send = match answer {
            Answer::Half | Answer::HalfAndStall => half,
            Answer::Ranges(ranges) => ranges.send.min(reply.body.len()),
            _ => reply.body.len(),
        };
        // Known before the client can act on it.
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
            Answer::HalfAndStall => sleep(FOR_EVER),
            Answer::Ranges(ranges) if ranges.stall => sleep(FOR_EVER),
            // Until the client has had enough.
            Answer::Endless => loop {
                stream.write_all(&[0; 4096])?;
            },
            _ => {}
        }
        Ok(send == reply.body.len())
    }
}

fn reply(asked: &Asked, answer: Answer, file: Option<Vec<u8>>) -> Reply {
    match (answer, file) {
        (Answer::Status(status), _) => Reply::new(status, "sorry\n"),
        (Answer::Later, _) => Reply::new(429, "later\n").with("Retry-After: 1\r\n".into()),
        (Answer::LaterByDate, _) => {
            // Dates have whole seconds.
            let then = SystemTime::now() + Duration::from_secs(3);
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

fn part(asked: &Asked, ranges: Ranges, body: Vec<u8>) -> Reply {
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
    Reply::new(206, [&body[first..], &surplus].concat()).with(offer + &range)
}
