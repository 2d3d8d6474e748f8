//! What the reader accepts, the writer reproduces; and the cut of the input into reads does not matter.

use std::io::Read;

use crate::nix::nar::{Event, NarError, Reader, Writer};

/// Hands out one byte, then many.
struct Uneven<'a>(&'a [u8], bool);

impl Read for Uneven<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = !self.1;
        let room = if self.1 {
            buffer.len().min(1)
        } else {
            buffer.len()
        };
        self.0.read(&mut buffer[..room])
    }
}

fn copy(input: impl Read) -> Result<Vec<u8>, NarError> {
    let mut reader = Reader::new(input);
    let mut writer = Writer::new(Vec::new());
    let mut buffer = [0; 300];
    while let Some(event) = reader.next()? {
        match event {
            Event::Directory => writer.directory().unwrap(),
            Event::Entry { name } => writer.entry(&name).unwrap(),
            Event::DirectoryEnd => writer.end_directory().unwrap(),
            Event::Symlink { target } => writer.symlink(&target).unwrap(),
            Event::Regular {
                executable,
                size,
                offset,
            } => {
                assert_eq!(writer.regular(executable, size).unwrap(), offset);
                loop {
                    match reader.read_contents(&mut buffer)? {
                        0 => break,
                        read => writer.contents(&buffer[..read]).unwrap(),
                    }
                }
            }
        }
    }
    reader.expect_end()?;
    Ok(writer.finish().unwrap())
}

/// Reads without looking at contents.
fn skip(input: &[u8]) -> Result<(), NarError> {
    let mut reader = Reader::new(input);
    while reader.next()?.is_some() {}
    reader.expect_end()
}

pub fn run(data: &[u8]) {
    let whole = copy(data);
    let uneven = copy(Uneven(data, false));
    assert_eq!(whole.is_ok(), uneven.is_ok());
    assert_eq!(whole.is_ok(), skip(data).is_ok());
    if let Ok(written) = whole {
        assert_eq!(written, data);
        assert_eq!(uneven.unwrap(), data);
    }
}
