//! A slow link before a server: a proxy on the loopback interface that delays and throttles.
//!
//! Each direction is one line that all connections share: a piece of data waits until the line is
//! free, takes as long as its length needs, and arrives half a round trip later. A connection has
//! one piece at a time in the queue for the line, so that connections take turns; pieces of a
//! connection stay in their order. A new connection hears of being accepted a round trip late.
//! Nothing is lost, and no connection starts slowly, as TCP's would on a real line.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_send_buffer_size;

/// Small, so that turns are short: 3 ms at 20 Mbit/s.
const PIECE: usize = 8 << 10;

/// Pieces of a connection that are under way: twice what fits on the line in half a round trip.
const WINDOW: usize = 16;

/// What the kernel may hold of a connection beyond that and the receiver's own buffer: little, since
/// it has passed the line, and a receiver that stands still stops a real line as well. But not less
/// than a segment on loopback has, or TCP waits for its timers.
const BUFFER: usize = 64 << 10;

/// What a link does to data.
#[derive(Clone, Copy, PartialEq)]
pub struct Quality {
    pub round_trip: Duration,
    pub bits_per_second: u32,
}

/// One direction: when the line is free again.
struct Line {
    quality: Quality,
    free: Mutex<Instant>,
}

impl Line {
    fn new(quality: Quality) -> Arc<Self> {
        let free = Mutex::new(Instant::now());
        Arc::new(Self { quality, free })
    }

    /// Takes the line for a piece that is ready at a time; says when its last bit has left.
    fn take(&self, bytes: usize, ready: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let bits = u32::try_from(bytes * 8).unwrap_or(u32::MAX);
        let needed = Duration::from_secs(1) * bits / self.quality.bits_per_second;
        *free = (*free).max(ready) + needed;
        *free
    }
}

/// Opens a link to a server, until the program ends; says where to connect.
pub fn open(server: SocketAddr, quality: Quality) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot listen on the loopback interface")?;
    let address = listener.local_addr()?;
    let (up, down) = (Line::new(quality), Line::new(quality));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let stands = Instant::now() + quality.round_trip;
            let connect = || -> std::io::Result<()> {
                let server = TcpStream::connect(server)?;
                carry(&client, &server, &up, stands)?;
                carry(&server, &client, &down, stands)
            };
            // Dropping both ends is what a broken line looks like.
            if let Err(error) = connect() {
                eprintln!("the slow link lost a connection: {error}");
            }
        }
    });
    Ok(address)
}

/// Carries one direction of a connection on threads of its own; nothing arrives before it stands.
fn carry(
    from: &TcpStream,
    to: &TcpStream,
    line: &Arc<Line>,
    stands: Instant,
) -> std::io::Result<()> {
    to.set_nodelay(true)?;
    set_socket_send_buffer_size(to, BUFFER)?;
    let (from, to, line) = (from.try_clone()?, to.try_clone()?, line.clone());
    let (sender, receiver) = sync_channel(WINDOW);
    std::thread::spawn(move || send(&from, &line, stands, &sender));
    std::thread::spawn(move || deliver(&receiver, &to));
    Ok(())
}

fn send(
    mut from: &TcpStream,
    line: &Line,
    stands: Instant,
    arriving: &SyncSender<(Instant, Vec<u8>)>,
) {
    let mut piece = [0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let left = line.take(read, Instant::now().max(stands));
        sleep_until(left);
        let due = left + line.quality.round_trip / 2;
        if arriving.send((due, piece[..read].to_vec())).is_err() {
            // The receiver has gone away: so that the sender hears of it.
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn deliver(arriving: &Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) {
    for (due, piece) in arriving {
        sleep_until(due);
        if to.write_all(&piece).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUALITY: Quality = Quality {
        round_trip: Duration::from_millis(40),
        bits_per_second: 16_000_000,
    };

    /// A server that sends so many bytes after the first byte that it gets.
    fn server(bytes: usize) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    stream.read_exact(&mut [0]).unwrap();
                    let body: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
                    stream.write_all(&body).unwrap();
                });
            }
        });
        address
    }

    fn fetch(address: SocketAddr) -> (usize, Duration) {
        let start = Instant::now();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"x").unwrap();
        let mut body = Vec::new();
        stream.read_to_end(&mut body).unwrap();
        let ordered = |(i, &byte): (usize, &u8)| usize::from(byte) == i % 251;
        assert!(body.iter().enumerate().all(ordered));
        (body.len(), start.elapsed())
    }

    #[test]
    fn a_connection_takes_a_round_trip_and_its_first_answer_another() {
        let (length, time) = fetch(open(server(1), QUALITY).unwrap());
        assert_eq!(length, 1);
        assert!(time >= 2 * QUALITY.round_trip, "{time:?}");
    }

    #[test]
    fn connections_share_the_line_and_end_together() {
        // Each alone would take a fifth of a second.
        let address = open(server(400_000), QUALITY).unwrap();
        let both = [(); 2].map(|()| std::thread::spawn(move || fetch(address)));
        let times = both.map(|thread| thread.join().unwrap());
        for (length, time) in times {
            assert_eq!(length, 400_000);
            assert!(time >= Duration::from_millis(380), "{time:?}");
            // Nor does anything wait for a timer.
            assert!(time < Duration::from_secs(3), "{time:?}");
        }
    }
}
