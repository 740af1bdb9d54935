//! Tests of entries and their byte counts.

use std::sync::Mutex;

use super::*;
use crate::net::clock;

fn peer() -> Peer {
    Peer::tcp("192.0.2.1:5".parse().unwrap(), "192.0.2.9:80".parse().unwrap())
}

fn entry(number: u32) -> Entry {
    Entry::without_head(&peer(), RequestId::new(1, number))
}

/// Returns a log, and the entries that it has written.
fn log() -> (AccessLog, Arc<Mutex<Vec<Entry>>>) {
    let written = Arc::<Mutex<Vec<Entry>>>::default();
    let sink = written.clone();
    let write = move |entry: &Entry| sink.lock().unwrap().push(entry.clone());
    (AccessLog::Custom(Arc::new(write)), written)
}

#[test]
fn entries_count_what_is_written_of_each_body() {
    // Two pipelined responses: 10 bytes of head and 5 of body; then two chunks of 3 and 4 bytes.
    let bodies: [&[(u64, u64)]; 2] = [&[(10, 15)], &[(30, 33), (38, 42)]];
    let ends = [15, 49];
    for written in 0..=50 {
        for step in [1, 7, 50] {
            let (log, entries) = log();
            let mut transfers = Transfers::default();
            for (n, bodies) in (1..).zip(bodies) {
                transfers.begin_entry(entry(n), clock::now(), 0);
                transfers.record_head(StatusCode::OK, None);
                for (from, to) in bodies {
                    transfers.record_body(*from, to - from);
                }
                transfers.record_end(ends[n as usize - 1]);
            }
            let mut at = 0;
            while at < written {
                at = (at + step).min(written);
                transfers.advance(at, &log);
            }
            transfers.abort(&log);
            let entries = entries.lock().unwrap();
            assert_eq!(entries.len(), 2);
            for ((entry, bodies), end) in entries.iter().zip(bodies).zip(ends) {
                let sent = |(from, to): &(u64, u64)| written.clamp(*from, *to) - from;
                let bytes = bodies.iter().map(sent).sum::<u64>();
                assert_eq!((entry.bytes, entry.complete), (bytes, written >= end), "{written}");
            }
            assert!(transfers.is_empty());
        }
    }
}

#[test]
fn contiguous_pieces_of_a_body_have_one_mark() {
    let (log, entries) = log();
    let mut transfers = Transfers::default();
    transfers.begin_entry(entry(1), clock::now(), 0);
    for at in 0..1000 {
        transfers.record_body(at, 1);
    }
    assert!(
        transfers.memory_size() < 2 * (size_of::<Entry>() + 100) * 4,
        "{}",
        transfers.memory_size()
    );
    transfers.advance(999, &log);
    transfers.abort(&log);
    assert_eq!(entries.lock().unwrap()[0].bytes, 999);
}

#[test]
fn responses_without_entry_leave_no_marks() {
    let mut transfers = Transfers::default();
    transfers.record_head(StatusCode::OK, None);
    transfers.record_body(10, 5);
    transfers.record_end(15);
    assert_eq!(transfers.memory_size(), 0);
}

#[test]
fn panic_of_the_log_is_caught() {
    let log = AccessLog::Custom(Arc::new(|_| panic!("as it was told to")));
    let mut transfers = Transfers::default();
    transfers.begin_entry(entry(1), clock::now(), 0);
    transfers.abort(&log);
    assert!(transfers.is_empty());
}

#[test]
fn default_log_is_enabled_with_its_target_only() {
    let log = AccessLog::default();
    assert!(!log.is_enabled(), "there is no subscriber");
    for (level, enabled) in [(tracing::Level::INFO, true), (tracing::Level::WARN, false)] {
        let subscriber = tracing_subscriber::fmt().with_max_level(level).finish();
        let seen = tracing::subscriber::with_default(subscriber, || log.is_enabled());
        assert_eq!(seen, enabled);
    }
    assert!(!AccessLog::Off.is_enabled());
}

#[test]
fn default_line_has_every_field_and_not_the_query() {
    let lines = crate::conn::testing::Lines::default();
    let mut entry = entry(3);
    entry.method = Some(Method::POST);
    entry.uri = Some("/a?secret=1".parse().unwrap());
    entry.version = Some(Version::HTTP_11);
    entry.status = Some(StatusCode::CREATED);
    (entry.bytes, entry.complete) = (12, true);
    entry.elapsed = Duration::from_millis(3);
    tracing::subscriber::with_default(lines.subscriber(), || {
        trace(&entry);
        trace(&Entry::without_head(&Peer::unix(), RequestId::new(2, 1)));
    });
    let expected = [
        "client=192.0.2.1:5 request_id=1-3 scheme=\"http\" method=\"POST\" path=\"/a\" version=HTTP/1.1 \
         status=201 bytes=12 complete=true local_reply=false micros=3000",
        "client=unix request_id=2-1 scheme=\"http\" bytes=0 complete=false local_reply=false micros=0",
    ];
    let lines = lines.of(TARGET);
    assert_eq!(lines.len(), 2);
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.ends_with(expected), "{line}");
    }
}
