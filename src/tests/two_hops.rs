//! Checks that a proxy made of the cores forwards the messages that it has received: all vectors and thousands of
//! mutations of them, read on the other side by an independent parser.

mod down;
mod pass;
mod reference;
mod up;

use std::time::Instant;

use http::{Method, Version};

use crate::proto::h1;
use up::Answers;

/// The number of mutations of a valid vector, and of a refused one, most of whose mutations are refused too.
const MUTATIONS: (usize, usize) = (30, 2);

/// Inputs above this length are run without mutations: they test limits.
const LONG: usize = 2_000;

/// A deterministic generator, xorshift64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn one_of<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// Pieces that request smuggling uses.
const PIECES: [&[u8]; 32] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b"\x85",
    b"\xff",
    b":",
    b",",
    b";",
    b"0",
    b"5",
    b"0\r\n\r\n",
    b"1\r\na\r\n",
    b"\r\nContent-Length: 5",
    b"\r\nContent-Length: 0",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nTransfer-Encoding: identity",
    b"\r\nConnection: close",
    b"\r\nConnection: content-length, host, x-forwarded-for, transfer-encoding",
    b"\r\nExpect: 100-continue",
    b"\r\nUpgrade: h2c\r\nHTTP2-Settings: AA",
    b"\r\nHost: b",
    b"\r\nX-Forwarded-For: 6.6.6.6",
    b"HTTP/1.0",
    b"http://a/",
    b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
];

fn mutate(rng: &mut Rng, vectors: &[Vec<u8>], bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(6) {
            0 => drop(bytes.drain(at..(at + 1 + rng.below(4)).min(bytes.len()))),
            1 => drop(bytes.splice(at..at, rng.one_of(&PIECES).iter().copied())),
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.one_of(&PIECES)[0];
                }
            }
            3 => {
                // Before a line's end, where a field can begin.
                let ends: Vec<usize> =
                    (0..bytes.len()).filter(|i| bytes[*i..].starts_with(b"\r\n")).collect();
                let at = if ends.is_empty() { at } else { ends[rng.below(ends.len())] };
                bytes.splice(at..at, rng.one_of(&PIECES).iter().copied());
            }
            4 => bytes.extend_from_slice(&vectors[rng.below(vectors.len())]),
            _ => {
                let other = &vectors[rng.below(vectors.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.below(other.len() + 1)..]);
            }
        }
    }
}

/// Runs the input in both directions. Returns the numbers of messages that were forwarded completely.
fn run(now: Instant, bytes: &[u8], step: usize) -> (usize, usize) {
    let requests = up::requests(now, bytes, bytes.len(), Answers::Late);
    assert_eq!(up::requests(now, bytes, step, Answers::Late), requests);
    up::requests(now, bytes, step, Answers::Early);
    let (new, old) = (Version::HTTP_11, Version::HTTP_10);
    let responses = down::responses(now, bytes, bytes.len(), &Method::GET, new);
    assert_eq!(down::responses(now, bytes, step, &Method::GET, new), responses);
    down::responses(now, bytes, step, &Method::HEAD, new);
    down::responses(now, bytes, step, &Method::GET, old);
    (requests, responses)
}

#[test]
fn proxy_forwards_exactly_the_messages_it_was_sent() {
    #[allow(clippy::disallowed_methods, reason = "a moment must come from somewhere")]
    let now = Instant::now();
    let vectors = h1::tests::inputs();
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let (mut cases, mut requests, mut responses) = (0, 0, 0);
    for vector in &vectors {
        let (mut left, mut first, mut bytes) = (1, true, vector.clone());
        while left > 0 {
            let step = if bytes.len() > LONG { 999 } else { 1 + rng.below(9) };
            let ran = std::panic::catch_unwind(|| run(now, &bytes, step));
            let Ok((q, r)) = ran else { panic!("with step {step}: {}", bytes.escape_ascii()) };
            (cases, requests, responses) = (cases + 1, requests + q, responses + r);
            left -= 1;
            if std::mem::take(&mut first) && vector.len() <= LONG {
                left = if q + r > 0 { MUTATIONS.0 } else { MUTATIONS.1 };
            }
            bytes.clone_from(vector);
            mutate(&mut rng, &vectors, &mut bytes);
        }
    }
    println!("{cases} cases, {requests} requests and {responses} responses came out whole");
    assert!(cases >= 2_000 && requests >= 1_500 && responses >= 500, "the check sees messages");
}
