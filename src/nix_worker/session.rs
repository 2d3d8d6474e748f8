//! One connection: the greeting, and operations one after the other.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answers::Answers;
use super::client::Client;
use super::error::{AnswerError, SessionError};
use crate::command::{Output, chain};
use crate::control::Place;
use crate::engine::Engine;
use crate::fetch::Snapshot;
use crate::nix::store_path::StorePath;
use crate::nix::worker_protocol::{
    Greeting, Operation, Payload, Reader, Refused, Version, Writer, greet,
};

/// Time for the greeting of a client.
const GREETING: Duration = Duration::from_secs(10);
/// Time for a request, from its first byte to its last; of contents that are not kept, for each piece.
const REQUEST: Duration = Duration::from_secs(30);
/// Time for a client to take a piece of an answer: it may pass contents on over a slow network.
const ANSWER: Duration = Duration::from_secs(300);
/// Bytes of contents that are sent at once.
const PIECE: usize = 256 << 10;

/// What a client sends, until a deadline if there is one.
struct Incoming<'s> {
    stream: &'s UnixStream,
    deadline: Option<Instant>,
}

impl Incoming<'_> {
    fn within(&mut self, time: Duration) {
        self.deadline = Some(Instant::now() + time);
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

/// Ends a fetch whose client has gone.
struct UntilGone<'s>(&'s UnixStream);

impl Output for UntilGone<'_> {
    fn data(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn progress(&mut self, _snapshot: &Snapshot) -> io::Result<()> {
        let mut ends = [PollFd::new(self.0, PollFlags::RDHUP)];
        poll(&mut ends, Some(&Timespec::default()))?;
        match ends[0].revents().is_empty() {
            true => Ok(()),
            false => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// See the module.
pub(super) struct Session<'s> {
    engine: &'s Engine,
    stream: &'s UnixStream,
    client: &'s Client,
    place: &'s Place,
    reader: Reader<BufReader<Incoming<'s>>>,
}

impl<'s> Session<'s> {
    pub(super) fn new(
        engine: &'s Engine,
        stream: &'s UnixStream,
        client: &'s Client,
        place: &'s Place,
    ) -> Self {
        let incoming = Incoming {
            stream,
            deadline: None,
        };
        Self {
            engine,
            stream,
            client,
            place,
            reader: Reader::new(BufReader::new(incoming)),
        }
    }

    /// Sends the beginning of an answer; from then on, the client is waited for.
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.place.waits_for(self.stream.try_clone().ok());
        let mut stream = self.stream;
        stream.write_all(bytes)
    }

    fn send_error(&self, version: Version, text: &str) -> io::Result<()> {
        let mut out = Writer::default();
        out.error(version, text);
        self.send(out.as_bytes())
    }

    /// Answers until the client ends the connection.
    pub(super) fn run(mut self) -> Result<(), SessionError> {
        self.stream.set_write_timeout(Some(ANSWER))?;
        self.reader.source().get_mut().within(GREETING);
        let greeting = Greeting {
            program: concat!("narfs ", env!("CARGO_PKG_VERSION")),
            is_trusted: self.client.is_trusted,
        };
        let stream = self.stream;
        let send = |bytes: &[u8]| {
            let mut stream = stream;
            stream.write_all(bytes)
        };
        let version = match greet(&mut self.reader, send, &greeting) {
            Ok(version) => version,
            Err(e) => {
                // Its oldest form, which a client of any version can show.
                let _ = self.send_error(Version::OLDEST, &chain(&e));
                return Err(e.into());
            }
        };
        if !self.client.is_admitted {
            self.send_error(version, &AnswerError::TooManyClients.to_string())?;
            return Err(SessionError::NoPlace);
        }
        let mut hello = Writer::default();
        hello.last();
        self.send(hello.as_bytes())?;
        let mut answers = Answers::new(self.engine, self.client, version);
        while let Some(operation) = self.next(version)? {
            self.place.waits_for(None);
            self.answer(&mut answers, version, operation)?;
        }
        Ok(())
    }

    /// The next operation; `None` at the end of the connection.
    fn next(&mut self, version: Version) -> Result<Option<Operation>, SessionError> {
        let source = self.reader.source();
        source.get_mut().deadline = None;
        if source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        source.get_mut().within(REQUEST);
        self.reader.begin();
        let store_dir = self.engine.store.store_dir();
        let number = self.reader.number()?;
        match Operation::read(number, version, store_dir, &mut self.reader) {
            Ok(operation) => Ok(Some(operation)),
            Err(e) => {
                let _ = self.send_error(version, &chain(&e));
                Err(e.into())
            }
        }
    }

    fn answer(
        &mut self,
        answers: &mut Answers<'_>,
        version: Version,
        operation: Operation,
    ) -> Result<(), SessionError> {
        match operation {
            Operation::NarFromPath(path) => self.send_nar(answers, version, &path),
            Operation::Refused(refused) => self.refuse(version, refused),
            operation => {
                let answered = answers.answer(operation, &mut UntilGone(self.stream));
                let sent = match answered {
                    Ok(answer) => self.send(answer.as_bytes()),
                    Err(e) => self.send_error(version, &chain(&e)),
                };
                Ok(sent?)
            }
        }
    }

    fn send_nar(
        &self,
        answers: &mut Answers<'_>,
        version: Version,
        path: &StorePath,
    ) -> Result<(), SessionError> {
        let begun = answers.contents(path, &mut UntilGone(self.stream));
        let (supply, hello) = match begun {
            Ok(begun) => begun,
            Err(e) => return Ok(self.send_error(version, &chain(&e))?),
        };
        self.send(hello.as_bytes())?;
        let mut out = BufWriter::with_capacity(PIECE, self.stream);
        supply
            .dump(path, &mut out)
            .map_err(SessionError::Contents)?;
        Ok(out.flush()?)
    }

    /// Says that an operation is refused, and reads what the client has begun to send.
    fn refuse(&mut self, version: Version, refused: Refused) -> Result<(), SessionError> {
        let error = match refused.name {
            "CollectGarbage" => AnswerError::CollectGarbage,
            "VerifyStore" => AnswerError::VerifyStore,
            "OptimiseStore" => AnswerError::OptimiseStore,
            name => AnswerError::ReadOnly(name),
        };
        self.send_error(version, &error.to_string())?;
        match refused.payload {
            Payload::None => Ok(()),
            Payload::Frames => {
                let in_time =
                    |source: &mut BufReader<Incoming<'_>>| source.get_mut().within(REQUEST);
                Ok(self.reader.skip_frames(in_time)?)
            }
            Payload::Nar => Err(SessionError::Unframed(refused.name)),
        }
    }
}
