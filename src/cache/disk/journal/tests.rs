use std::time::Duration;

use super::{
    super::super::{marks::Scope, store::Purge},
    *,
};

const SCOPES: [Scope<'static>; 4] = [
    Scope::All,
    Scope::Prefix("http://a/b"),
    Scope::Group { group: "g", origin: "http://a" },
    Scope::Key("http://a/"),
];

fn journal() -> Vec<u8> {
    let mut bytes = record::header(7).to_vec();
    for (i, scope) in SCOPES.into_iter().enumerate() {
        let purge = if i % 2 == 0 { Purge::Hard } else { Purge::Soft };
        let record = Record { scope, purge, revision: i as u64, at: Duration::from_millis(5) };
        bytes.extend(record.encode());
    }
    bytes.resize(JOURNAL_LEN, 0);
    bytes
}

#[test]
fn records_are_read_as_they_were_written() {
    let bytes = journal();
    let decoded = record::decode(&bytes).unwrap();
    assert_eq!(decoded.session, 7);
    let again: Vec<u8> = decoded.records.iter().flat_map(Record::encode).collect();
    assert_eq!(again, bytes[HEADER..decoded.len]);
    let scopes: Vec<_> = decoded.records.iter().map(|record| record.scope).collect();
    assert_eq!(format!("{scopes:?}"), format!("{SCOPES:?}"));
}

#[test]
fn torn_or_damaged_journal_is_refused() {
    let bytes = journal();
    let len = record::decode(&bytes).unwrap().len;
    for at in 0..len {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            assert!(record::decode(&bytes).is_none(), "bit {bit} of byte {at}");
        }
    }
    for len in [0, HEADER, JOURNAL_LEN - 1] {
        assert!(record::decode(&bytes[..len]).is_none());
    }
    // A write that was torn within a record: the rest are the old bytes of the file.
    let mut start = HEADER;
    for record in record::decode(&bytes).unwrap().records {
        let end = start + record.encode().len();
        for at in start + 1..end {
            let mut torn = bytes.clone();
            torn[at..].fill(0);
            let left = record::decode(&torn).map(|decoded| decoded.len);
            assert!(left.is_none(), "torn at {at}: {left:?}");
        }
        start = end;
    }
}
