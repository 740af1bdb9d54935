//! The format of a journal: a header, and records. A record is preceded by its length and followed by its checksum. A length of
//! 0 ends the list.

use std::time::Duration;

use super::{
    super::{
        super::{marks::Scope, store::Purge},
        codec::{Input, Output, checksum},
    },
    JOURNAL_LEN,
};

/// The first bytes of a journal: the name and the version of the format.
const MAGIC: [u8; 8] = *b"vstblm\x00\x01";

/// The length of the header: magic, session number and checksum.
pub(super) const HEADER: usize = 24;

/// The number of bits of an id within a session: 17,592,186,044,416 ids.
pub(super) const ID_BITS: u32 = 44;

/// The last session of a directory, 1,048,574. After it the directory is emptied, and sessions start again.
pub(super) const MAX_SESSION: u64 = (1 << (u64::BITS - ID_BITS)) - 2;

/// An invalidation.
#[derive(Debug, Clone, Copy)]
pub(in crate::cache) struct Record<'a> {
    pub(in crate::cache) scope: Scope<'a>,
    pub(in crate::cache) purge: Purge,
    /// It applies to objects with an earlier revision.
    pub(in crate::cache) revision: u64,
    pub(in crate::cache) at: Duration,
}

/// The content of a journal.
pub(super) struct Decoded<'a> {
    pub(super) session: u64,
    pub(super) records: Vec<Record<'a>>,
    /// The length of the header and the records.
    pub(super) len: usize,
}

/// Returns the header of a session.
pub(super) fn header(session: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&session.to_le_bytes());
    let sum = checksum(&header[..16]);
    header[16..].copy_from_slice(&sum.to_le_bytes());
    header
}

impl Record<'_> {
    pub(in crate::cache) fn encode(&self) -> Vec<u8> {
        let mut out = Output(vec![0; 4]);
        out.number(self.revision);
        out.number(u64::from(self.purge == Purge::Soft));
        out.number(u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX));
        let (kind, texts) = match self.scope {
            Scope::All => (0, ["", ""]),
            Scope::Prefix(prefix) => (1, [prefix, ""]),
            Scope::Group { group, origin } => (2, [group, origin]),
            Scope::Key(key) => (3, [key, ""]),
        };
        out.number(kind);
        texts.iter().for_each(|text| out.text(text.as_bytes()));
        let sum = checksum(&out.0[4..]);
        out.number(sum);
        let mut out = out.0;
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(&len.to_le_bytes());
        out
    }

    /// Returns the invalidation of everything, with the same revision and time.
    pub(super) fn of_everything(&self) -> Record<'static> {
        Record { scope: Scope::All, purge: Purge::Hard, revision: self.revision, at: self.at }
    }
}

/// Decodes a journal; `None` if any part of it is malformed.
pub(super) fn decode(bytes: &[u8]) -> Option<Decoded<'_>> {
    let (start, mut rest) = bytes.split_at_checked(HEADER)?;
    let session = u64::from_le_bytes(start[8..16].try_into().ok()?);
    if bytes.len() != JOURNAL_LEN || *start != header(session) {
        return None;
    }
    let mut records = Vec::new();
    loop {
        let len = u32::from_le_bytes(*rest.first_chunk()?) as usize;
        if len == 0 {
            return Some(Decoded { session, records, len: JOURNAL_LEN - rest.len() });
        }
        let (record, others) = rest.split_at_checked(len)?;
        let (record, sum) = record.get(4..)?.split_last_chunk()?;
        if checksum(record) != u64::from_le_bytes(*sum) {
            return None;
        }
        records.push(decode_record(Input(record))?);
        rest = others;
    }
}

fn decode_record(mut input: Input<'_>) -> Option<Record<'_>> {
    let revision = input.number()?;
    let purge = match input.number()? {
        0 => Purge::Hard,
        1 => Purge::Soft,
        _ => return None,
    };
    let at = Duration::from_nanos(input.number()?);
    let kind = input.number()?;
    let mut text = || std::str::from_utf8(input.text()?).ok();
    let texts = (text()?, text()?);
    let scope = match (kind, texts) {
        (0, ("", "")) => Scope::All,
        (1, (prefix, "")) => Scope::Prefix(prefix),
        (2, (group, origin)) => Scope::Group { group, origin },
        (3, (key, "")) => Scope::Key(key),
        _ => return None,
    };
    input.is_empty().then_some(Record { scope, purge, revision, at })
}
