//! A small HTTP server that misbehaves as it is told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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
    let (status, body, sent) = match (script(&path, before), file) {
        (Answer::Hangup, _) => return Ok(()),
        (Answer::Status(status), _) => (status, b"sorry\n".to_vec(), usize::MAX),
        (Answer::Nonsense(n), _) => (200, vec![b'?'; n], usize::MAX),
        (_, Err(_)) => (404, b"not found\n".to_vec(), usize::MAX),
        (Answer::File, Ok(body)) => (200, body, usize::MAX),
        (Answer::Half, Ok(body)) => {
            let half = body.len() / 2;
            (200, body, half)
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body[..body.len().min(sent)])?;
    stream.flush()
}
