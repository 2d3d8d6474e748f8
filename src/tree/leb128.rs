//! LEB128 numbers, as in trees and records of the store.
//!
//! Invariant: only the canonical encoding of a number is accepted.

/// Appends `n`.
pub fn write_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Removes a number from the front of `bytes`; `None` without a canonical one.
pub fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let shortest = shift == 0 || *byte != 0;
            return (shortest && (shift < 63 || *byte == 1)).then_some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(n in any::<u64>(), bits in 0u32..64) {
            let n = n >> bits;
            let mut out = Vec::new();
            write_number(&mut out, n);
            let mut rest = out.as_slice();
            prop_assert_eq!(read_number(&mut rest), Some(n));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn numbers_have_these_bytes() {
        for (n, bytes) in [
            (0, &[0][..]),
            (1, &[1]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (300, &[0xac, 0x02]),
            (16_384, &[0x80, 0x80, 0x01]),
            (
                u64::MAX,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            ),
        ] {
            let mut out = Vec::new();
            write_number(&mut out, n);
            assert_eq!(out, bytes);
            assert_eq!(read_number(&mut &*bytes), Some(n));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for bytes in [&[0x80u8, 0][..], &[0x80], &[], &[0xff; 10]] {
            assert_eq!(read_number(&mut &*bytes), None, "{bytes:?}");
        }
    }
}
