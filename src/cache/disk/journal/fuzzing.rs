//! For the fuzz targets.

use super::{
    super::codec::checksum,
    HEADER, JOURNAL_LEN,
    record::{self, Record},
};

/// Returns a journal with the records between the line feeds of `content`, with right lengths and checksums.
pub(in crate::cache) fn with_checksums(content: &[u8]) -> Vec<u8> {
    let mut journal = record::header(1).to_vec();
    for record in content.split(|b| *b == b'\n') {
        let len = u32::try_from(4 + record.len() + 8).expect("inputs are short");
        journal.extend([&len.to_le_bytes()[..], record, &checksum(record).to_le_bytes()].concat());
    }
    journal.resize(JOURNAL_LEN, 0);
    journal
}

/// Returns whether bytes are a journal.
///
/// # Panics
/// If its records are not read again as they were written.
pub(in crate::cache) fn is_stable(bytes: &[u8]) -> bool {
    let Some(decoded) = record::decode(bytes) else { return false };
    let written: Vec<u8> = decoded.records.iter().flat_map(Record::encode).collect();
    assert_eq!(written, bytes[HEADER..decoded.len]);
    true
}
