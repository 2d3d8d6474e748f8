//! Cut points of ELF files: the edges of their large sections.
//!
//! When a program is rebuilt from changed sources its sections move against each other; chunks
//! that end with a section are found again (16 MB less over three generations of a real store).

/// Length of the smallest section, in bytes, that gives cuts; chunks of smaller ones would be too small.
pub(super) const SECTION_CUT: u64 = 16 << 10;

/// Most section headers that are read; more than any real program has.
const MAX_SECTIONS: u64 = 4096;

/// `SHT_NOBITS`: a section without bytes in the file.
const NOBITS: u32 = 8;

/// The offsets, sorted and inside `0..size`, at which an ELF file of `size` bytes should be cut.
/// `read` fills the buffer from an offset of the file, or returns `None`. Anything that is not a
/// well-formed 64-bit little-endian ELF file has no cuts.
pub fn section_cuts(size: u64, read: impl Fn(u64, &mut [u8]) -> Option<()>) -> Vec<u64> {
    cuts(size, read).unwrap_or_default()
}

fn cuts(size: u64, read: impl Fn(u64, &mut [u8]) -> Option<()>) -> Option<Vec<u64>> {
    let mut header = [0; 64];
    read(0, &mut header)?;
    // Magic, 64-bit, little-endian: what every platform with a Nix binary cache uses.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(&header, 40)?;
    let entry = u64::from(u16_at(&header, 58)?);
    let count = u64::from(u16_at(&header, 60)?).min(MAX_SECTIONS);
    if entry < 64 || table.checked_add(entry * count)? > size {
        return None;
    }
    let mut sections = vec![0; (entry * count) as usize];
    read(table, &mut sections)?;
    let mut cuts = Vec::new();
    for s in sections.chunks_exact(entry as usize) {
        let (kind, offset, length) = (u32_at(s, 4)?, u64_at(s, 24)?, u64_at(s, 32)?);
        let end = offset.saturating_add(length);
        if kind != NOBITS && length >= SECTION_CUT && end <= size {
            cuts.extend([offset, end]);
        }
    }
    cuts.retain(|c| *c > 0 && *c < size);
    cuts.sort_unstable();
    cuts.dedup();
    Some(cuts)
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: &[u8]) -> Vec<u64> {
        section_cuts(file.len() as u64, |at, out| {
            out.copy_from_slice(file.get(at as usize..at as usize + out.len())?);
            Some(())
        })
    }

    fn elf(sections: &[(u32, u64, u64)], size: usize) -> Vec<u8> {
        let mut f = vec![0; size];
        f[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let table = size - 64 * sections.len();
        f[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        f[58..60].copy_from_slice(&64u16.to_le_bytes());
        f[60..62].copy_from_slice(&(sections.len() as u16).to_le_bytes());
        for (i, (kind, offset, length)) in sections.iter().enumerate() {
            let at = table + 64 * i;
            f[at + 4..at + 8].copy_from_slice(&kind.to_le_bytes());
            f[at + 24..at + 32].copy_from_slice(&offset.to_le_bytes());
            f[at + 32..at + 40].copy_from_slice(&length.to_le_bytes());
        }
        f
    }

    #[test]
    fn large_sections_give_cuts_and_small_or_empty_ones_do_not() {
        let f = elf(
            &[
                (1, 4096, 20_000),
                (1, 30_000, 100),
                (8, 0, 1 << 40),
                (3, 40_000, 1 << 50),
            ],
            100_000,
        );
        assert_eq!(of(&f), [4096, 24_096]);
    }

    #[test]
    fn sections_beyond_the_limit_are_not_read() {
        for (before, cuts) in [(4095, vec![4096, 24_096]), (4096, vec![])] {
            let mut sections = vec![(1, 0, 1); before];
            sections.push((1, 4096, 20_000));
            assert_eq!(
                of(&elf(&sections, 300_000)),
                cuts,
                "{before} sections before"
            );
        }
    }

    #[test]
    fn what_is_no_elf_file_has_no_cuts() {
        assert!(of(b"").is_empty());
        assert!(of(&[0x7f; 100]).is_empty());
        let mut lying = elf(&[(1, 4096, 20_000)], 100_000);
        lying[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(of(&lying).is_empty());
        lying[40..48].copy_from_slice(&99_990u64.to_le_bytes());
        assert!(of(&lying).is_empty());
    }
}
