//! Entries of the second copy: writes to families that no source can bring back, each with a sum.
//!
//! Invariant: an entry is read whole, as it was written, or not at all.

use crate::store::records::backend::Write;
use crate::store::records::codec::{Reader, Writer};
use crate::store::records::family::Family;

/// First bytes of an entry, by which the next one is found behind a damaged one.
pub(super) const MAGIC: [u8; 4] = *b"ENTR";
/// Bytes before the body: the magic, the length of the body and the sum.
pub(super) const HEAD: usize = 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records that there were when the copy was made.
    There = 1,
    /// The end of those.
    Whole = 2,
    /// What was written since.
    Change = 3,
}

const PUT: u8 = 1;
const DELETE: u8 = 2;
const CLEAR: u8 = 3;

/// The sum of some bytes.
pub(super) fn sum(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut sum = [0; 8];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// An entry with these writes.
pub(super) fn encode<'w>(kind: Kind, writes: impl Iterator<Item = &'w Write>) -> Vec<u8> {
    let mut body = Writer::versioned(kind as u8);
    for write in writes {
        let (family, op, key) = match write {
            Write::Put(family, key, _) => (family, PUT, Some(key)),
            Write::Delete(family, key) => (family, DELETE, Some(key)),
            Write::Clear(family) => (family, CLEAR, None),
        };
        body.byte(op);
        body.string(family.name());
        if let Some(key) = key {
            body.string(key);
        }
        if let Write::Put(_, _, record) = write {
            body.string(record);
        }
    }
    let body = body.finish();
    let length = (body.len() as u32).to_le_bytes();
    [&MAGIC[..], &length, &sum(&[&length, &body]), &body].concat()
}

/// The length of the body of an entry that begins with these bytes, and its sum.
pub(super) fn head(bytes: &[u8; HEAD]) -> Option<(u32, [u8; 8])> {
    let mut fields = Reader::new(bytes);
    let is_entry = fields.array()? == MAGIC;
    let length = fields.u32()?;
    is_entry.then_some((length, fields.array()?))
}

/// What a body has, if it is one.
pub(super) fn decode(body: &[u8]) -> Option<(Kind, Vec<Write>)> {
    let mut fields = Reader::new(body);
    let kind = match fields.byte()? {
        1 => Kind::There,
        2 => Kind::Whole,
        3 => Kind::Change,
        _ => return None,
    };
    let mut writes = Vec::new();
    while !fields.is_at_end() {
        let op = fields.byte()?;
        let name = fields.string()?;
        let family = Family::ALL.into_iter().find(|f| f.name() == name)?;
        writes.push(match op {
            PUT => {
                let key = fields.byte_string()?.to_vec();
                Write::Put(family, key, fields.byte_string()?.to_vec())
            }
            DELETE => Write::Delete(family, fields.byte_string()?.to_vec()),
            CLEAR => Write::Clear(family),
            _ => return None,
        });
    }
    Some((kind, writes))
}
