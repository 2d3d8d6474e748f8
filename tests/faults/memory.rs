//! What a copy needs of memory does not depend on what it copies.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use narfs::nix::compression::Compression;
use narfs::nix::hash::{NarHash, Sha256Hasher};
use narfs::nix::nar::sizes;

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::program::{Ran, State};

/// Runs a command, and says how many bytes it had resident at its peak.
///
/// Asked while it runs: what wait4 says counts the memory of the parent before exec as well.
pub fn peak_of(command: &mut Command) -> (Ran, u64) {
    // Files rather than pipes: nobody reads while it runs.
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        let text = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let text = text.unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|l| l.trim().strip_suffix(" kB"));
        // The last look may find a process that has no memory any more.
        peak = kibibytes.map_or(peak, |k| k.parse::<u64>().unwrap() * 1024);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let whole = |file: File| {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let (stdout, stderr) = (whole(stdout), whole(stderr));
    let output = Output {
        status,
        stdout,
        stderr,
    };
    assert!(peak > 0);
    (Ran { output }, peak)
}

/// Bound that users are told for a file of this size.
const PROMISED: u64 = 90 << 20;
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
    println!("copy: {} MiB resident at the peak", peak >> 20);
    assert!(peak < PROMISED, "copy: {} MiB resident", peak >> 20);
    let (ran, peak) = peak_of(&mut state.command(&["verify"]));
    ran.succeeds();
    println!("verify: {} MiB resident at the peak", peak >> 20);
    assert!(peak < PROMISED, "verify: {} MiB resident", peak >> 20);
}

/// A file of zeros in a stream with a window of two to the power of `log`.
fn zeros(name: &str, size: usize, log: u32) -> Offer {
    let nar = file(&vec![0; size]);
    let mut offer = Offer::named(name, nar);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.write_all(&offer.stored).unwrap();
    offer.stored = encoder.finish().unwrap();
    offer.info.compression = Compression::Zstd;
    offer
}

#[test]
fn large_windows_are_decoded_one_after_the_other() {
    const WINDOW_LOG: u32 = 26;
    const NUMBER: usize = 6;
    let cache = Cache::new();
    for n in 0..NUMBER {
        // Each fills its window.
        let size = (1 << WINDOW_LOG) + (n << 20);
        cache.put(&zeros(&format!("zeros-{n}"), size, WINDOW_LOG));
    }
    let state = State::new();
    let mut arguments = ["--memory", "64", "copy", "--all", "--jobs", "6"]
        .map(str::to_owned)
        .to_vec();
    arguments.extend(cache.arguments());
    let (ran, peak) = peak_of(&mut state.command(&arguments));
    ran.succeeds().counts(NUMBER, 0);
    println!("copy: {} MiB resident at the peak", peak >> 20);
    let bound = PROMISED + (1 << WINDOW_LOG);
    assert!(peak < bound, "copy: {} MiB resident", peak >> 20);
}

#[test]
fn what_needs_more_memory_than_there_is_says_which_setting_gives_it() {
    let cache = Cache::new();
    let large = zeros("large", 160 << 20, 28);
    // Its window is as large, but stays empty.
    let small = zeros("small", 1 << 20, 28);
    cache.put(&large);
    cache.put(&small);
    let state = State::new();
    let copy = |memory: &str| {
        let mut arguments = ["--memory", memory, "copy", "--all"]
            .map(str::to_owned)
            .to_vec();
        arguments.extend(cache.arguments());
        state.run(&arguments)
    };
    let ran = copy("64");
    ran.copies_but(1, &[(large.path(), "--memory")]);
    assert!(
        ran.stderr().contains("needs 162 MiB of memory"),
        "{}",
        ran.stderr()
    );
    copy("324").succeeds().counts(1, 0);
}
