//! A small HTTP server that misbehaves as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

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
    /// With the request to ask here again.
    Redirect,
    /// With half of the file, as if it were all.
    Truncated,
    /// With the file, but for one byte.
    Flipped,
    /// Never.
    Stall,
    /// With the head and half of the file; then with nothing more.
    HalfAndStall,
    /// With bytes without end.
    Endless,
    /// With the file in so many pieces, one every fifth of a second.
    Slow(usize),
}

/// Decides from the path and from how many requests for it came before.
type Script = Box<dyn Fn(&str, usize) -> Answer + Send + Sync>;

pub struct Server {
    pub url: String,
    seen: Arc<Mutex<HashMap<String, usize>>>,
}

impl Server {
    /// Serves the files of a directory until the process ends.
    pub fn new(
        root: PathBuf,
        script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), root, script)
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
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let (script, counts): (Arc<Script>, _) = (Arc::new(Box::new(script)), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, script, counts) = (root.clone(), script.clone(), counts.clone());
                // A client that goes away is no failure of the server's.
                std::thread::spawn(move || answer(stream, &root, &script, &counts).ok());
            }
        });
        Self { url, seen }
    }

    /// All requests so far.
    pub fn all_requests(&self) -> HashMap<String, usize> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests for a path, `/x`.
    pub fn requests(&self, path: &str) -> usize {
        self.seen.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

fn answer(
    mut stream: TcpStream,
    root: &std::path::Path,
    script: &Script,
    counts: &Mutex<HashMap<String, usize>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|l| !l.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
    let before = {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(path.clone()).or_default();
        *count += 1;
        *count - 1
    };
    let file = std::fs::read(root.join(&path[1..]));
    let answer = script(&path, before);
    if matches!(answer, Answer::Stall) {
        sleep(FOR_EVER);
    }
    let (status, body) = match (answer, file) {
        (Answer::Hangup | Answer::Stall, _) => return Ok(()),
        (Answer::Status(status), _) => (status, b"sorry\n".to_vec()),
        (Answer::Later, _) => (429, b"later\n".to_vec()),
        (Answer::Redirect, _) => (302, b"there\n".to_vec()),
        (Answer::Nonsense(n), _) => (200, vec![b'?'; n]),
        (_, Err(_)) => (404, b"not found\n".to_vec()),
        (Answer::Truncated, Ok(body)) => (200, body[..body.len() / 2].to_vec()),
        (Answer::Flipped, Ok(mut body)) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
            (200, body)
        }
        (_, Ok(body)) => (200, body),
    };
    let more = match answer {
        Answer::Later => "Retry-After: 1\r\n".to_owned(),
        Answer::Redirect => format!("Location: {path}\r\n"),
        _ => String::new(),
    };
    let length = match answer {
        Answer::Endless => String::new(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!("HTTP/1.1 {status} X\r\n{length}{more}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    send(&mut stream, &body, answer)
}

fn send(stream: &mut TcpStream, body: &[u8], answer: Answer) -> std::io::Result<()> {
    match answer {
        Answer::Half | Answer::HalfAndStall => stream.write_all(&body[..body.len() / 2])?,
        Answer::Slow(pieces) => {
            for piece in body.chunks(body.len().div_ceil(pieces)) {
                stream.write_all(piece)?;
                stream.flush()?;
                sleep(Duration::from_millis(200));
            }
        }
        _ => stream.write_all(body)?,
    }
    stream.flush()?;
    match answer {
        Answer::HalfAndStall => sleep(FOR_EVER),
        // Until the client has had enough.
        Answer::Endless => loop {
            stream.write_all(&[0; 4096])?;
        },
        _ => {}
    }
    Ok(())
}
