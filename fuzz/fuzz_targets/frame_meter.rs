//! Invariant: the result of a meter of HTTP/2 frames does not depend on cuts, and is that of a simple reference over
//! the whole bytes (RFC 9113 section 4.1).
#![no_main]

use std::{sync::LazyLock, time::Instant};

use libfuzzer_sys::fuzz_target;
use vestibule::proto::h2::{FrameLimits, FrameMeter, PREFACE};

/// The windows of the counts depend on time: here all frames have the same time.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fn limits() -> FrameLimits {
    let mut limits = FrameLimits::new();
    limits.pings = 2;
    limits.settings = 1;
    limits.resets = 3;
    limits.empty_data = 1;
    limits.continuations = 2;
    limits.priorities = 0;
    limits.window_updates = 2;
    limits.unknown = 1;
    limits
}

fuzz_target!(|data: &[u8]| {
    let bytes = [PREFACE, data].concat();
    let expected = reference(data);
    let cut = PREFACE.len() + usize::from(data.first().copied().unwrap_or(0)).min(data.len());
    let (first, second) = bytes.split_at(cut);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    for pieces in [&[&bytes[..]][..], &[first, second], &single] {
        let mut meter = FrameMeter::new(limits());
        let flood = pieces.iter().find_map(|piece| meter.record(*NOW, piece).err());
        match (flood, expected) {
            (Some(flood), Found::Flood(frames)) => assert!(flood.frames.starts_with(frames)),
            (None, Found::Head(is_open)) => assert_eq!(meter.head_since().is_some(), is_open),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }
});

/// The result: a flood of frames of this kind, or whether a head is incomplete.
#[derive(Debug, Clone, Copy)]
enum Found {
    Flood(&'static str),
    Head(bool),
}

/// Takes one of an allowance.
fn take_one(left: &mut u32) -> bool {
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}

fn reference(mut rest: &[u8]) -> Found {
    let l = limits();
    let mut counts = std::collections::BTreeMap::new();
    let mut allowed = std::collections::BTreeMap::<&str, u32>::new();
    let mut head_is_open = false;
    let (mut last_stream, mut last_reset) = (0, 0);
    while let [a, b, c, kind, flags, s0, s1, s2, s3, payload @ ..] = rest {
        let stream = u32::from_be_bytes([s0 & 0x7f, *s1, *s2, *s3]);
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let ack = flags & 1 != 0;
        let for_headers = [
            ("empty DATA", 1),
            ("CONTINUATION", 4),
            ("PRIORITY", 2),
            ("WINDOW_UPDATE", 2),
            ("frames of unknown types", 3),
        ];
        let is_request = *kind == 1 && stream > last_stream;
        if is_request {
            last_stream = stream;
        }
        let is_repeated = *kind == 3 && stream == last_reset;
        if *kind == 3 {
            last_reset = stream;
        }
        let earned = match kind {
            0 if len > 0 => &for_headers[..1],
            1 if is_request => &for_headers,
            _ => &[],
        };
        for (name, n) in earned {
            *allowed.entry(name).or_default() += n;
        }
        let counted = match kind {
            0 if len == 0 && !ack => Some(("empty DATA", l.empty_data)), // the same bit is END_STREAM
            0 => None,
            1 if is_request => None,
            1 => Some(("frames of unknown types", l.unknown)),
            3 if is_repeated => Some(("WINDOW_UPDATE", l.window_updates)),
            2 => Some(("PRIORITY", l.priorities)),
            3 => Some(("RST_STREAM", l.resets)),
            4 if !ack => Some(("SETTINGS", l.settings)),
            6 if !ack => Some(("PING", l.pings)),
            4 => None,
            8 => Some(("WINDOW_UPDATE", l.window_updates)),
            9 => Some(("CONTINUATION", l.continuations)),
            _ => Some(("frames of unknown types", l.unknown)), // also GOAWAY, and PING with ACK
        };
        if let Some((name, limit)) = counted
            && !allowed.get_mut(name).is_some_and(take_one)
        {
            let count = counts.entry(name).or_insert(0);
            *count += 1;
            if *count > limit {
                return Found::Flood(name);
            }
        }
        if matches!(kind, 1 | 9) {
            // It ends with the last byte of a payload whose frame says so.
            head_is_open = flags & 4 == 0 || payload.len() < len;
        }
        rest = payload.get(len..).unwrap_or_default();
    }
    Found::Head(head_is_open)
}
