//! A client of Nix's worker protocol, of any version from 1.21 on. It reads strictly: whatever is not as that
//! version has it is a panic.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of a request.
#[derive(Default)]
pub struct Request(pub Vec<u8>);

impl Request {
    pub fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub fn string(self, text: &str) -> Self {
        let mut out = self.number(text.len() as u64);
        out.0.extend_from_slice(text.as_bytes());
        let padded = out.0.len().next_multiple_of(8);
        out.0.resize(padded, 0);
        out
    }

    pub fn strings<S: AsRef<str>>(self, texts: &[S]) -> Self {
        let out = self.number(texts.len() as u64);
        texts
            .iter()
            .fold(out, |out, text| out.string(text.as_ref()))
    }
}

/// What is said of a path, as the protocol has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Info {
    pub deriver: String,
    pub nar_hash: String,
    pub references: Vec<String>,
    pub registered: u64,
    pub nar_size: u64,
    pub ultimate: u64,
    pub signatures: Vec<String>,
    pub ca: String,
}

pub struct WorkerClient {
    stream: UnixStream,
    minor: u64,
    /// What the daemon says it is, from 1.33 on.
    pub program: Option<String>,
    /// Whether it trusts this client, from 1.35 on.
    pub trusted: Option<u64>,
    /// Lines for the user.
    pub messages: Vec<String>,
}

impl WorkerClient {
    /// A client of version 1.`minor` at a socket.
    pub fn connect(socket: &Path, minor: u64) -> Self {
        Self::greet(UnixStream::connect(socket).unwrap(), minor).unwrap()
    }

    /// A client at the other end of `stream`, or the error with which it was greeted.
    pub fn greet(stream: UnixStream, minor: u64) -> Result<Self, String> {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Self {
            stream,
            minor,
            program: None,
            trusted: None,
            messages: Vec::new(),
        };
        client.send(
            &Request::default()
                .number(0x6e69_7863)
                .number(1 << 8 | minor),
        );
        assert_eq!(client.number(), 0x6478_696f);
        let theirs = client.number();
        assert!(theirs >> 8 == 1 && theirs & 0xff >= minor, "{theirs:x}");
        if minor >= 38 {
            client.send(&Request::default().strings(&["a-feature"]));
            assert_eq!(client.strings(), [""; 0]);
        }
        client.send(&Request::default().number(0).number(0));
        client.program = (minor >= 33).then(|| client.string());
        client.trusted = (minor >= 35).then(|| client.number());
        client.finish().map(|()| client)
    }

    /// Sends anything.
    pub fn send(&mut self, request: &Request) {
        self.stream.write_all(&request.0).unwrap();
    }

    /// Sends an operation, and reads up to its answer, or its error.
    pub fn ask(&mut self, operation: u64, request: Request) -> Result<(), String> {
        let mut whole = Request::default().number(operation);
        whole.0.extend(request.0);
        self.send(&whole);
        self.finish()
    }

    /// An operation with one string, which succeeds.
    #[track_caller]
    pub fn of(&mut self, operation: u64, text: &str) {
        self.ask(operation, Request::default().string(text))
            .unwrap();
    }

    /// What is said of an operation with one string that fails.
    #[track_caller]
    pub fn complaint(&mut self, operation: u64, text: &str) -> String {
        let asked = self.ask(operation, Request::default().string(text));
        asked.unwrap_err()
    }

    /// Reads up to an answer, or its error.
    pub fn finish(&mut self) -> Result<(), String> {
        loop {
            match self.number() {
                0x616c_7473 => return Ok(()),
                0x6f6c_6d67 => {
                    let line = self.string();
                    self.messages.push(line);
                }
                0x6378_7470 => return Err(self.error()),
                other => panic!("what is {other:x}?"),
            }
        }
    }

    fn error(&mut self) -> String {
        if self.minor < 26 {
            let text = self.string();
            assert_eq!(self.number(), 1);
            return text;
        }
        assert_eq!(self.string(), "Error");
        assert_eq!(self.number(), 0);
        assert_eq!(self.string(), "Error");
        let text = self.string();
        assert_eq!([self.number(), self.number()], [0, 0]);
        text
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn number(&mut self) -> u64 {
        let bytes = self.bytes(8);
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    pub fn string(&mut self) -> String {
        let length = self.number() as usize;
        let padded = self.bytes(length.next_multiple_of(8));
        assert!(padded[length..].iter().all(|byte| *byte == 0));
        String::from_utf8(padded[..length].to_vec()).unwrap()
    }

    pub fn strings(&mut self) -> Vec<String> {
        let count = self.number();
        (0..count).map(|_| self.string()).collect()
    }

    /// Whether the daemon has ended the connection, once it does.
    pub fn is_ended(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// IsValidPath.
    #[track_caller]
    pub fn is_valid(&mut self, path: &str) -> bool {
        self.of(1, path);
        self.number() == 1
    }

    /// QueryPathInfo; `None` for a path that is not valid.
    #[track_caller]
    pub fn info(&mut self, path: &str) -> Option<Info> {
        self.of(26, path);
        (self.number() == 1).then(|| Info {
            deriver: self.string(),
            nar_hash: self.string(),
            references: self.strings(),
            registered: self.number(),
            nar_size: self.number(),
            ultimate: self.number(),
            signatures: self.strings(),
            ca: self.string(),
        })
    }

    /// QueryValidPaths.
    #[track_caller]
    pub fn valid<S: AsRef<str>>(&mut self, paths: &[S]) -> Vec<String> {
        let request = Request::default().strings(paths);
        let request = match self.minor >= 27 {
            true => request.number(0),
            false => request,
        };
        self.ask(31, request).unwrap();
        self.strings()
    }

    /// The results of BuildPathsWithResults, each with its outputs.
    pub fn outcome(&mut self) -> Vec<(String, String)> {
        assert_eq!((self.number(), self.string()), (2, String::new()));
        if self.minor >= 29 {
            assert!((0..4).all(|_| self.number() == 0));
        }
        if self.minor >= 37 {
            assert_eq!([self.number(), self.number()], [0, 0]);
        }
        let outputs = match self.minor >= 28 {
            true => self.number(),
            false => 0,
        };
        (0..outputs)
            .map(|_| (self.string(), self.string()))
            .collect()
    }
}
