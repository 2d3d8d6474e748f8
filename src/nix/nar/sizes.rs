//! How many bytes each part of a NAR takes, so that offsets can be computed without writing it.
//!
//! Invariant: the sums agree with [`super::Writer`]. All results saturate: a tree whose archive
//! does not fit into 64 bits cannot be written anyway.

/// Bytes of a string of the format: its length, itself, and its padding.
#[must_use]
pub const fn string(length: u64) -> u64 {
    length.saturating_add(8).saturating_add(padding(length))
}

/// Bytes of padding after so many bytes.
#[must_use]
pub const fn padding(length: u64) -> u64 {
    length.wrapping_neg() % 8
}

/// Bytes before the root node: the magic string.
pub const MAGIC: u64 = string(super::MAGIC.len() as u64);

/// Bytes before the first entry of a directory.
pub const DIRECTORY_START: u64 = string(1) + string(4) + string(9);

/// Bytes after the last entry of a directory.
pub const DIRECTORY_END: u64 = string(1);

/// Bytes after the node of an entry.
pub const ENTRY_END: u64 = string(1);

/// Bytes of an entry before its node.
#[must_use]
pub const fn entry_start(name_length: u64) -> u64 {
    (string(5) + string(1) + string(4) + string(4)).saturating_add(string(name_length))
}

/// Bytes of a regular file before its first content byte.
#[must_use]
pub const fn regular_start(executable: bool) -> u64 {
    let marker = if executable {
        string(10) + string(0)
    } else {
        0
    };
    string(1) + string(4) + string(7) + marker + string(8) + 8
}

/// Bytes of a regular file after its last content byte.
#[must_use]
const fn regular_end(size: u64) -> u64 {
    padding(size) + string(1)
}

/// Bytes of a regular file with its contents.
#[must_use]
pub const fn regular(executable: bool, size: u64) -> u64 {
    size.saturating_add(regular_start(executable) + regular_end(size))
}

/// Bytes of a symlink.
#[must_use]
pub const fn symlink(target_length: u64) -> u64 {
    (string(1) + string(4) + string(7) + string(6) + string(1))
        .saturating_add(string(target_length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_offsets() {
        assert_eq!(MAGIC + regular_start(false), 96);
        assert_eq!(MAGIC + regular_start(true), 128);
        assert_eq!(MAGIC + regular(false, 6), 120);
        let first = MAGIC + DIRECTORY_START + entry_start(8) + regular_start(false);
        assert_eq!(first, 232);
    }

    #[test]
    fn hostile_sizes_saturate() {
        assert_eq!(regular(true, u64::MAX - 1), u64::MAX);
        assert_eq!(symlink(u64::MAX), u64::MAX);
        assert_eq!(entry_start(u64::MAX), u64::MAX);
    }
}
