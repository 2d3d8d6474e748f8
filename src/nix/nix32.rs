//! Nix's base-32 text encoding.
//!
//! Owns the alphabet and the digit order: little-endian bits, printed most significant digit first.
//! Invariant: every byte string has exactly one text, and only that text decodes to it.

use thiserror::Error;

/// The 32 digits in order of value: no `e`, `o`, `t`, `u`, so that no words appear.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Value of each byte as a digit, or [`NOT_A_DIGIT`].
const VALUES: [u8; 256] = {
    let mut values = [NOT_A_DIGIT; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        values[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

const NOT_A_DIGIT: u8 = 0xff;

/// Why a text is not nix32.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Nix32Error {
    /// A byte that is not in the alphabet.
    #[error("'{}' is not a nix32 digit (position {position})", byte.escape_ascii())]
    InvalidDigit {
        byte: u8,
        /// Its index in the text.
        position: usize,
    },
    /// No byte string has a text of this length.
    #[error("{length} characters are no possible length of a nix32 text")]
    InvalidLength {
        /// Length of the text in characters.
        length: usize,
    },
    /// The first digit carries bits beyond the last byte.
    #[error("the nix32 text encodes bits beyond its last byte")]
    Overflow,
}

/// The value of a digit, 0 to 31, or `None` for any other byte.
#[must_use]
pub fn digit_value(byte: u8) -> Option<u8> {
    let value = VALUES[usize::from(byte)];
    (value != NOT_A_DIGIT).then_some(value)
}

/// Whether the byte belongs to the alphabet.
#[must_use]
pub fn is_digit(byte: u8) -> bool {
    VALUES[usize::from(byte)] != NOT_A_DIGIT
}

/// Number of characters that encode `bytes` bytes.
#[must_use]
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Encodes bytes as nix32 text.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    (0..encoded_len(bytes.len()))
        .rev()
        .map(|digit| char::from(ALPHABET[usize::from(digit_at(bytes, digit))]))
        .collect()
}

/// Encodes a store path hash without allocating: this is on the way of every path comparison and lookup.
#[must_use]
pub fn encode_hash_part(bytes: &[u8; 20]) -> [u8; 32] {
    let mut text = [0; 32];
    for (index, byte) in text.iter_mut().rev().enumerate() {
        *byte = ALPHABET[usize::from(digit_at(bytes, index))];
    }
    text
}

/// The five bits that digit number `digit` (counted from the least significant) stands for.
fn digit_at(bytes: &[u8], digit: usize) -> u8 {
    let bit = digit * 5;
    let (index, shift) = (bit / 8, bit % 8);
    let low = u16::from(bytes[index]);
    let high = bytes.get(index + 1).copied().map_or(0, u16::from);
    (((low | (high << 8)) >> shift) & 0x1f) as u8
}

/// Decodes nix32 text.
///
/// # Errors
/// [`Nix32Error`] for a byte outside the alphabet, a length that no byte string has, or nonzero
/// overflow bits.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, Nix32Error> {
    let mut bytes = vec![0; text.len() * 5 / 8];
    decode_into(text, &mut bytes)?;
    Ok(bytes)
}

/// Decodes nix32 text into a buffer of exactly the decoded length.
///
/// # Errors
/// As [`decode`]; a buffer of another length is [`Nix32Error::InvalidLength`].
pub fn decode_into(text: &[u8], bytes: &mut [u8]) -> Result<(), Nix32Error> {
    if encoded_len(bytes.len()) != text.len() {
        return Err(Nix32Error::InvalidLength { length: text.len() });
    }
    bytes.fill(0);
    for (digit, (position, &byte)) in text.iter().enumerate().rev().enumerate() {
        let value = digit_value(byte).ok_or(Nix32Error::InvalidDigit { byte, position })?;
        let bit = digit * 5;
        let (index, shift) = (bit / 8, bit % 8);
        let spread = u16::from(value) << shift;
        bytes[index] |= (spread & 0xff) as u8;
        let carry = (spread >> 8) as u8;
        match bytes.get_mut(index + 1) {
            Some(next) => *next |= carry,
            None if carry != 0 => return Err(Nix32Error::Overflow),
            None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    const EMPTY: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn sha256_of_nothing_has_the_known_text() {
        assert_eq!(encode(&Sha256::digest(b"")), EMPTY);
        assert_eq!(
            decode(EMPTY.as_bytes()).unwrap(),
            Sha256::digest(b"").to_vec()
        );
    }

    #[test]
    fn lengths_are_those_of_the_hash_algorithms() {
        assert_eq!([16, 20, 32, 64].map(encoded_len), [26, 32, 52, 103]);
        assert_eq!(encode(b""), "");
        assert_eq!(decode(b"").unwrap(), b"");
    }

    #[test]
    fn overflow_bits_are_refused() {
        let text = format!("2{}", &EMPTY[1..]);
        assert_eq!(decode(text.as_bytes()), Err(Nix32Error::Overflow));
        let text = format!("1{}", &EMPTY[1..]);
        assert!(decode(text.as_bytes()).is_ok());
    }

    #[test]
    fn letters_outside_the_alphabet_are_refused() {
        for bad in ["e", "o", "t", "u", "A", "-", " "] {
            let text = format!("{bad}0");
            assert!(matches!(
                decode(text.as_bytes()),
                Err(Nix32Error::InvalidDigit { position: 0, .. })
            ));
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [1, 3, 6, 9, 51] {
            let text = vec![b'0'; length];
            assert_eq!(decode(&text), Err(Nix32Error::InvalidLength { length }));
        }
    }

    proptest! {
        #[test]
        fn bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()).unwrap(), bytes);
        }

        #[test]
        fn a_text_that_decodes_is_the_encoding(text in "[0-9a-df-np-sv-z]{0,60}") {
            if let Ok(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }

        #[test]
        fn hash_parts_encode_alike(bytes in any::<[u8; 20]>()) {
            let text = encode(&bytes);
            prop_assert_eq!(text.as_bytes(), encode_hash_part(&bytes));
        }
    }
}
