//! Random messages, limits and leniencies: events and faults do not depend on where the bytes are cut, and
//! messages that are accepted without leniencies are read in the same way with them.

use http::Method;

use super::{pair::Rng, run::run, vector::Vector};
use crate::proto::h1::{Lenient, Limits};

#[rustfmt::skip]
const ODD: [&[u8]; 24] = [
    b"\r", b"\n", b"\r\n", b"\t", b" ", b":", b"\0", b"\x7f", b"\x80", b"a", b"\r\r\n", b" :",
    b"\r\n ", b"\r\n\r\n", b",", b"0", b";", b"5", b"\n ", b"\n\n", b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"X: y\r\n", b"\r\n\t\r\n",
];

fn limits(rng: &mut Rng) -> Limits {
    let mut limits = Limits::default();
    match rng.below(3) {
        0 => {
            limits.head_bytes = rng.below(150);
            limits.start_line_bytes = rng.below(30);
            limits.method_bytes = rng.below(6);
            limits.fields = rng.below(6);
            limits.name_bytes = rng.below(20);
            limits.chunk_extension_bytes = rng.below(12);
            limits.trailer_bytes = rng.below(40);
            limits.interim_responses = rng.below(2);
        }
        1 => {
            limits.head_bytes = usize::MAX;
            limits.start_line_bytes = usize::MAX;
            limits.chunk_extension_bytes = usize::MAX;
            limits.trailer_bytes = usize::MAX;
        }
        _ => {}
    }
    limits.lenient = Lenient {
        bare_lf: rng.one_in(2),
        folded_lines: rng.one_in(2),
        space_before_colon: rng.one_in(2),
        repeated_content_length: rng.one_in(2),
    };
    limits
}

/// Returns a message, often one that needs a leniency.
fn message(rng: &mut Rng, client: bool) -> String {
    const REQUESTS: [&str; 3] = ["GET / HTTP/1.1", "POST /abc HTTP/1.1", "GET http://a/ HTTP/1.0"];
    const RESPONSES: [&str; 4] =
        ["HTTP/1.1 200 OK", "HTTP/1.1 100 ", "HTTP/1.0 204", "HTTP/1.1 304"];
    let nl = if rng.one_in(3) { "\n" } else { "\r\n" };
    let space = if rng.one_in(5) { " " } else { "" };
    let fold = if rng.one_in(5) { format!("{nl} ") } else { String::new() };
    let start = if client { RESPONSES[rng.below(4)] } else { REQUESTS[rng.below(3)] };
    let mut text = format!("{start}{nl}Host: a{nl}");
    for _ in 0..rng.below(4) {
        let (name, value) = ("y".repeat(rng.below(6)), "v".repeat(rng.below(9)));
        text += &format!("x{name}{space}: {value}{fold}{nl}");
    }
    match rng.below(4) {
        0 => text += &format!("Content-Length{space}: 5{fold}{nl}{nl}hello"),
        1 => {
            let more = [", 5", "\r\nContent-Length: 5", ",6"][rng.below(3)];
            text += &format!("Content-Length: 5{more}{nl}{nl}hello");
        }
        2 => {
            text += &format!("Transfer-Encoding{space}: chunked{fold}{nl}{nl}");
            for _ in 0..rng.below(3) {
                let extension = [String::new(), format!(";{}", "e".repeat(rng.below(8)))];
                text += &format!("3{}\r\nabc\r\n", extension[rng.below(2)]);
            }
            text += "0\r\n";
            for _ in 0..rng.below(3) {
                text += &format!("t{}: {}{nl}", "u".repeat(rng.below(6)), "v".repeat(rng.below(9)));
            }
            text += nl;
        }
        _ => text += nl,
    }
    text
}

fn vector(rng: &mut Rng) -> Vector {
    let client = rng.one_in(2);
    let mut input = (message(rng, client) + &message(rng, client)).into_bytes();
    for _ in 0..rng.below(3) {
        let (at, odd) = (rng.below(input.len()), ODD[rng.below(ODD.len())]);
        let to = input.len().min(at + [0, 1, odd.len()][rng.below(3)]);
        input.splice(at..to, odd.iter().copied());
    }
    Vector {
        name: input.escape_ascii().to_string(),
        input,
        client,
        answers: vec![Method::GET, Method::HEAD],
        limits: limits(rng),
        eof: rng.one_in(3),
        events: vec!["field shown".into()],
    }
}

#[test]
fn random_messages_give_the_same_events_and_faults_wherever_they_are_cut() {
    let mut rng = Rng(0xd1b5_4a32_d192_ed03);
    let (rounds, mut read) = (if cfg!(miri) { 10 } else { 500 }, 0);
    for _ in 0..rounds {
        let mut vector = vector(&mut rng);
        let whole = run(&vector, &[&vector.input]);
        read += usize::from(whole.iter().any(|e| e == "end"));
        let each: Vec<_> = vector.input.chunks(1).collect();
        assert_eq!(run(&vector, &each), whole, "{} {:?}", vector.name, vector.limits);
        for at in 1..vector.input.len() {
            let (a, b) = vector.input.split_at(at);
            assert_eq!(run(&vector, &[a, b]), whole, "{at} {} {:?}", vector.name, vector.limits);
        }
        vector.limits.lenient = Lenient::default();
        let strict = run(&vector, &[&vector.input]);
        if !strict.iter().any(|e| e.starts_with("fault")) {
            assert_eq!(strict, whole, "{}", vector.name);
        }
    }
    assert!(read > rounds / 10, "{read} were read");
}
