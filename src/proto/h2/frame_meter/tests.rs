//! Tests of the frame meter.

#![allow(clippy::disallowed_methods, reason = "an arbitrary start")]

use super::*;

/// A frame on stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    [&[0, 0, len, kind, flags, 0, 0, 0, 1], payload].concat()
}

/// Records a frame: HEADERS of a new request, RST_STREAM of a stream that the one before was not of, others of stream 1.
fn record(
    meter: &mut FrameMeter,
    now: Instant,
    (kind, flags): (u8, u8),
    payload: &[u8],
) -> Result<(), Flood> {
    let mut frame = frame(kind, flags, payload);
    let stream = match kind {
        HEADERS => meter.last_stream + 2,
        RST_STREAM => meter.last_reset + 2,
        _ => 1,
    };
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    meter.record(now, &frame)
}

fn meter() -> FrameMeter {
    let mut meter = FrameMeter::new(FrameLimits::new());
    meter.record(Instant::now(), PREFACE).unwrap();
    meter
}

#[test]
fn h1_h7_flood_of_each_type_is_found_at_its_limit_and_not_before() {
    for (kind, flags, payload, limit) in [
        (PING, 0, &[0; 8][..], 100),
        (SETTINGS, 0, &[], 50),
        (RST_STREAM, 0, &[0; 4], 200),
        (DATA, 0, &[], 100),
        (CONTINUATION, 0, b"x", 200),
        (PRIORITY, 0, &[0; 5], 500),
        (WINDOW_UPDATE, 0, &[0; 4], 2000),
        (PUSH_PROMISE, 0, &[0; 4], 100),
        (PING, ACK, &[0; 8], 100),
        (GOAWAY, 0, &[0; 8], 100),
        (0xaa, 0, b"grease", 100),
    ] {
        let (mut meter, now) = (meter(), Instant::now());
        let mut one = || record(&mut meter, now, (kind, flags), payload);
        for n in 0..limit {
            assert_eq!(one(), Ok(()), "{kind}: {n}");
        }
        let flood = one().unwrap_err();
        assert_eq!(flood.limit, limit, "{flood}");
    }
}

#[test]
fn useful_frames_are_never_a_flood() {
    let (mut meter, now) = (meter(), Instant::now());
    for _ in 0..10_000 {
        for (kind, flags, payload) in [
            (HEADERS, END_HEADERS, &b"block"[..]),
            (DATA, 0, b"data"),
            (DATA, END_STREAM, b""),
            (PING, ACK, &[0; 8]),
            (SETTINGS, ACK, b""),
        ] {
            record(&mut meter, now, (kind, flags), payload).unwrap();
        }
    }
}

#[test]
fn request_allows_one_trailer_section_and_further_headers_are_a_flood() {
    let (mut meter, now) = (meter(), Instant::now());
    for _ in 0..1_000 {
        record(&mut meter, now, (HEADERS, END_HEADERS), b"block").unwrap();
        let stream = meter.last_stream.to_be_bytes();
        let trailers = [&[0, 0, 1, HEADERS, END_HEADERS][..], &stream, b"x"].concat();
        meter.record(now, &trailers).unwrap();
    }
    let empty = frame(HEADERS, END_HEADERS, b"");
    let priority = frame(PRIORITY, 0, &[0; 5]);
    let flood = (0..10_000).find_map(|_| {
        meter.record(now, &priority).unwrap(); // allowed by the requests
        meter.record(now, &empty).err()
    });
    assert_eq!(flood.unwrap().limit, 100);
}

#[test]
fn repeated_reset_of_a_stream_counts_as_window_update() {
    let (mut meter, now) = (meter(), Instant::now());
    for _ in 0..200 {
        record(&mut meter, now, (RST_STREAM, 0), &[0; 4]).unwrap();
        let mut repeated = frame(RST_STREAM, 0, &[0; 4]);
        repeated[5..9].copy_from_slice(&meter.last_reset.to_be_bytes());
        for _ in 0..10 {
            meter.record(now, &repeated).unwrap();
        }
    }
    let update = frame(WINDOW_UPDATE, 0, &[0; 4]);
    assert_eq!(meter.record(now, &update).unwrap_err().limit, 2000);
}

/// What a client or the server sends once, and the frames of one type that it allows.
struct Allowance {
    what: &'static str,
    earn: fn(&mut FrameMeter, Instant),
    frame: (u8, &'static [u8]),
    n: u32,
    /// The bound beyond.
    limit: u32,
}

fn receive(meter: &mut FrameMeter, now: Instant, kind: u8, payload: &[u8]) {
    record(meter, now, (kind, END_HEADERS), payload).unwrap();
}

const HEAD: fn(&mut FrameMeter, Instant) = |m, now| receive(m, now, HEADERS, b"block");

const ALLOWANCES: &[Allowance] = &[
    Allowance { what: "a request", earn: HEAD, frame: (WINDOW_UPDATE, &[0; 4]), n: 2, limit: 2000 },
    Allowance { what: "a request", earn: HEAD, frame: (PRIORITY, &[0; 5]), n: 2, limit: 500 },
    Allowance { what: "a request", earn: HEAD, frame: (0x10, b"u=1"), n: 3, limit: 100 },
    Allowance { what: "a request", earn: HEAD, frame: (CONTINUATION, b"x"), n: 4, limit: 200 },
    Allowance { what: "a request", earn: HEAD, frame: (DATA, b""), n: 1, limit: 100 },
    Allowance {
        what: "received data",
        earn: |m, now| receive(m, now, DATA, b"x"),
        frame: (DATA, b""),
        n: 1,
        limit: 100,
    },
    Allowance {
        what: "a sent byte",
        earn: |m, _| m.record_sent_data(1),
        frame: (WINDOW_UPDATE, &[0; 4]),
        n: 2,
        limit: 2000,
    },
    Allowance {
        what: "16 KiB that were sent",
        earn: |m, _| m.record_sent_data(16 << 10),
        frame: (WINDOW_UPDATE, &[0; 4]),
        n: 34,
        limit: 2000,
    },
    Allowance {
        what: "a sent byte",
        earn: |m, _| m.record_sent_data(1),
        frame: (PING, &[0; 8]),
        n: 1,
        limit: 100,
    },
    Allowance {
        what: "a complete response",
        earn: |m, _| m.record_sent_end(),
        frame: (RST_STREAM, &[0; 4]),
        n: 1,
        limit: 200,
    },
];

#[test]
fn frames_that_requests_and_data_explain_are_allowed_and_one_more_is_a_flood() {
    for Allowance { what, earn, frame: (kind, payload), n, limit } in ALLOWANCES {
        let (mut meter, now) = (meter(), Instant::now());
        let one = |meter: &mut FrameMeter| record(meter, now, (*kind, 0), payload);
        // Also with the bound used up.
        for _ in 0..*limit {
            one(&mut meter).unwrap();
        }
        for round in 0..5_000 {
            earn(&mut meter, now);
            for i in 0..*n {
                assert_eq!(one(&mut meter), Ok(()), "{what}, {kind}: {round}, {i}");
            }
        }
        assert!(one(&mut meter).is_err(), "{what}, {kind}");
    }
}

#[test]
fn empty_data_and_settings_that_were_sent_allow_nothing() {
    let (mut meter, now) = (meter(), Instant::now());
    let update = frame(WINDOW_UPDATE, 0, &[0; 4]);
    for _ in 0..2000 {
        meter.record_sent_data(0);
        meter.record(now, &update).unwrap();
    }
    assert!(meter.record(now, &update).is_err());
}

#[test]
fn acknowledgements_of_data_may_come_in_a_later_window_but_resets_are_not_saved() {
    for (kind, bound) in
        [(WINDOW_UPDATE, 10_000 + 2_000), (PING, 5_000 + 100), (RST_STREAM, 200 + 200)]
    {
        let (mut meter, now) = (meter(), Instant::now());
        for _ in 0..5_000 {
            meter.record_sent_data(1);
            meter.record_sent_end();
        }
        let later = now + 2 * WINDOW;
        let mut one = || record(&mut meter, later, (kind, 0), &[0; 4]);
        for n in 0..bound {
            assert_eq!(one(), Ok(()), "{kind}: {n}");
        }
        assert!(one().is_err(), "{kind}");
    }
}

#[test]
fn counts_start_again_after_ten_seconds_and_cuts_do_not_matter() {
    let (mut meter, now) = (meter(), Instant::now());
    let pings = frame(PING, 0, &[0; 8]).repeat(100);
    for (seconds, is_ok) in [(0, true), (10, true), (15, false)] {
        let now = now + Duration::from_secs(seconds);
        let all = pings.iter().try_for_each(|byte| meter.record(now, &[*byte]));
        assert_eq!(all.is_ok(), is_ok, "{seconds}");
    }
}

#[test]
fn incomplete_header_block_is_reported_with_its_beginning() {
    let (mut meter, now) = (meter(), Instant::now());
    let later = now + Duration::from_secs(5);
    let block = frame(HEADERS, 0, b"block");
    meter.record(now, &block[..3]).unwrap();
    assert_eq!(meter.head_since(), None, "the type has not come yet");
    meter.record(now, &block[3..]).unwrap();
    assert_eq!(meter.head_since(), Some(now));
    let last = frame(CONTINUATION, END_HEADERS, b"rest");
    meter.record(later, &last[..last.len() - 1]).unwrap();
    assert_eq!(meter.head_since(), Some(now));
    meter.record(later, &last[last.len() - 1..]).unwrap();
    assert_eq!(meter.head_since(), None);
    meter.record(later, &frame(HEADERS, END_HEADERS, b"")).unwrap();
    assert_eq!(meter.head_since(), None);
}
