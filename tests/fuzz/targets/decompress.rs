//! No decoder panics, hangs, or says different things for different cuts of its input. The first
//! byte chooses the method.

use std::io::{Cursor, Read, Take};

use crate::nix::compression::Compression;

const METHODS: [Compression; 8] = [
    Compression::None,
    Compression::Xz,
    Compression::Bzip2,
    Compression::Gzip,
    Compression::Zstd,
    Compression::Br,
    Compression::Lzip,
    Compression::Lz4,
];

/// What a caller takes at most; it always bounds a decoder by the announced size.
const LIMIT: u64 = 1 << 20;

struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let room = buffer.len().min(13);
        self.0.read(&mut buffer[..room])
    }
}

fn drain(mut reader: Take<Box<dyn Read + Send>>) -> Option<Vec<u8>> {
    let mut output = Vec::new();
    reader.read_to_end(&mut output).ok().map(|_| output)
}

pub fn run(data: &[u8]) {
    let Some((choice, input)) = data.split_first() else {
        return;
    };
    let method = METHODS[usize::from(*choice) % METHODS.len()];
    let whole = drain(
        method
            .reader(Cursor::new(input.to_vec()))
            .unwrap()
            .take(LIMIT),
    );
    let pieces = drain(
        method
            .reader(Trickle(Cursor::new(input.to_vec())))
            .unwrap()
            .take(LIMIT),
    );
    assert_eq!(whole, pieces);
}
