use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tempfile::TempDir;

use super::{
    super::{
        super::{marks::Scope, store::Purge},
        files::Durability,
    },
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

/// Opens the journal of a directory. Returns it with the scopes of its records.
fn open(dir: &TempDir) -> (Journal, Vec<String>) {
    let files = Arc::new(Files::open(dir.path(), Durability::Crash).unwrap());
    let mut scopes = Vec::new();
    let restore = |record: Record<'_>| scopes.push(format!("{:?}", record.scope));
    let journal = Journal::open(&files, restore).unwrap();
    (journal, scopes)
}

fn record(scope: Scope<'_>, revision: u64) -> Record<'_> {
    Record { scope, purge: Purge::Hard, revision, at: Duration::ZERO }
}

/// Appends invalidations until they have been longer than the file.
fn overflow(journal: &Journal) {
    let prefix = "x".repeat(1000);
    for revision in 0..JOURNAL_LEN as u64 / 1000 {
        journal.append(&record(Scope::Prefix(&prefix), revision), Vec::new);
    }
}

#[test]
fn full_journal_keeps_a_key_that_is_pending_or_could_not_be_removed() {
    let key = Scope::Key("http://a/");
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&dir);
    assert!(journal.begin(&record(key, 1), Vec::new));
    overflow(&journal);
    drop(journal);
    assert!(open(&dir).1.contains(&format!("{key:?}")), "it is pending");
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&dir);
    assert!(journal.begin(&record(key, 1), Vec::new));
    journal.fail();
    journal.end(1);
    overflow(&journal);
    drop(journal);
    let scopes = open(&dir).1;
    assert!(scopes.contains(&format!("{:?}", Scope::All)), "{} records", scopes.len());
}

#[test]
fn too_many_pending_keys_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&dir);
    let key = record(Scope::Key("http://a/"), 0);
    for revision in 0..MAX_PENDING as u64 {
        assert!(journal.begin(&Record { revision, ..key }, Vec::new), "{revision}");
    }
    assert!(!journal.begin(&Record { revision: u64::MAX, ..key }, Vec::new));
    journal.end(0);
    assert!(journal.begin(&Record { revision: u64::MAX, ..key }, Vec::new));
}

#[test]
fn record_that_could_not_be_written_is_written_later() {
    let keys = [Scope::Key("http://a/"), Scope::Key("http://b/")];
    for has_failed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = open(&dir);
        let open_error = &journal.files.faults.open.errno;
        open_error.store(24, Relaxed); // EMFILE
        assert!(journal.begin(&record(keys[0], 1), Vec::new));
        open_error.store(0, Relaxed);
        if has_failed {
            journal.fail();
            journal.end(1);
            journal.clear(|| true);
        } else {
            assert!(journal.begin(&record(keys[1], 2), Vec::new));
        }
        drop(journal);
        let expected = if has_failed { vec![Scope::All] } else { keys.to_vec() };
        let expected: Vec<_> = expected.into_iter().map(|scope| format!("{scope:?}")).collect();
        let mut scopes = open(&dir).1;
        scopes.sort();
        assert_eq!(scopes, expected);
    }
}

#[test]
fn journal_is_empty_after_all_invalidations_were_applied_although_one_was_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(&dir);
    journal.files.faults.open.errno.store(24, Relaxed); // EMFILE
    assert!(journal.begin(&record(Scope::Key("http://a/"), 1), Vec::new));
    journal.files.faults.open.errno.store(0, Relaxed);
    journal.end(1);
    journal.clear(|| true);
    assert!(journal.begin(&record(Scope::Key("http://b/"), 2), Vec::new));
    drop(journal);
    assert_eq!(open(&dir).1, ["Key(\"http://b/\")"]);
}
