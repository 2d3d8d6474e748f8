//! What a copy needs of memory does not depend on what it copies.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use narfs::nix::hash::{NarHash, Sha256Hasher};
use narfs::nix::nar::sizes;

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::program::{Ran, State};

/// Runs a command, and says how many bytes it had resident at its peak.
pub fn peak_of(command: &mut Command) -> (Ran, u64) {
    // Files rather than pipes: nobody reads while it runs.
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let pid = child.id() as libc::pid_t;
    let mut status = 0;
    // SAFETY: a struct of integers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are to values that live until the call returns; the child is ours and
    // nobody else waits for it.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid);
    let whole = |file: File| {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let output = std::process::Output {
        status: std::os::unix::process::ExitStatusExt::from_raw(status),
        stdout: whole(stdout),
        stderr: whole(stderr),
    };
    // The kernel counts in KiB.
    (Ran { output }, usage.ru_maxrss as u64 * 1024)
}

/// Size of the file that is copied.
const SIZE: u64 = 4 << 30;
/// Bytes of noise in it, so that much more is written than buffers hold.
const NOISE: usize = 192 << 20;

#[test]
fn a_large_file_passes_in_bounded_memory() {
    let cache = Cache::new();
    let mut offer = Offer::named("large", file(b""));
    cache.put(&offer);
    // Sparse: noise at the start and zeros behind it.
    let start = 96;
    let header = &file(b"")[..88];
    let mut nar = File::create(cache.nar_file(&offer)).unwrap();
    nar.write_all(header).unwrap();
    nar.write_all(&SIZE.to_le_bytes()).unwrap();
    nar.write_all(&noise(3, NOISE)).unwrap();
    let end = &file(b"")[96..];
    nar.write_all_at(end, start + SIZE).unwrap();
    offer.info.nar_size = sizes::regular(false, SIZE) + sizes::string(13);
    assert_eq!(nar.metadata().unwrap().len(), offer.info.nar_size);
    let mut hasher = Sha256Hasher::new();
    let mut reader = File::open(cache.nar_file(&offer)).unwrap();
    let mut piece = vec![0; 1 << 20];
    loop {
        match reader.read(&mut piece).unwrap() {
            0 => break,
            n => hasher.update(&piece[..n]),
        }
    }
    offer.info.nar_hash = NarHash::from_bytes(hasher.finish().sha256);
    std::fs::write(cache.narinfo_file(offer.path()), cache.text(&offer)).unwrap();

    let state = State::new();
    let mut arguments = vec!["copy".to_owned(), "--all".to_owned()];
    arguments.extend(cache.arguments());
    let (ran, peak) = peak_of(&mut state.command(&arguments));
    ran.succeeds();
    assert!(peak < 300 << 20, "copy: {} MiB resident", peak >> 20);
    let (ran, peak) = peak_of(&mut state.command(&["verify"]));
    ran.succeeds();
    assert!(peak < 300 << 20, "verify: {} MiB resident", peak >> 20);
}
