//! Invariant: `Cache-Status` is a list member of Structured Fields with the name of the cache, whatever that is, and the
//! values that were set; and a member that is appended leaves those before it unchanged.
#![no_main]

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use vestibule::semantics::cache::status::{CACHE_STATUS, CacheStatus, Forwarded};

#[derive(Debug, Arbitrary)]
struct Input {
    name: String,
    forwarded: Option<u8>,
    forwarded_status: Option<u16>,
    ttl: Option<i64>,
    stored: bool,
    collapsed: bool,
    before: Vec<u8>,
}

const WHY: [Forwarded; 6] = [
    Forwarded::Bypass,
    Forwarded::Method,
    Forwarded::UriMiss,
    Forwarded::VaryMiss,
    Forwarded::Request,
    Forwarded::Stale,
];

fuzz_target!(|input: Input| {
    let status = CacheStatus {
        forwarded: input.forwarded.map(|n| WHY[usize::from(n) % WHY.len()]),
        forwarded_status: input.forwarded_status,
        ttl: input.ttl,
        stored: input.stored,
        collapsed: input.collapsed,
    };
    let text = status.to_text(&input.name);
    let (name, parameters) = name_of(&text);
    let printable: String = input.name.chars().filter(|c| (' '..='~').contains(c)).collect();
    assert_eq!(name, printable, "{text}");

    let expected = [
        status.forwarded.is_none().then(|| "hit".to_owned()),
        status.forwarded.map(|_| String::new()),
        status.forwarded_status.map(|n| format!("fwd-status={n}")),
        status.ttl.map(|n| format!("ttl={n}")),
        status.stored.then(|| "stored".to_owned()),
        status.collapsed.then(|| "collapsed".to_owned()),
    ];
    let parameters: Vec<&str> = parameters.split("; ").skip(1).collect();
    let expected: Vec<String> = expected.into_iter().flatten().collect();
    assert_eq!(parameters.len(), expected.len(), "{text}");
    for (got, expected) in parameters.iter().zip(&expected) {
        assert!(got == expected || expected.is_empty() && got.starts_with("fwd="), "{text}");
    }

    let mut headers = HeaderMap::new();
    if let Ok(before) = HeaderValue::from_bytes(&input.before) {
        headers.append(CACHE_STATUS, before);
    }
    let before: Vec<HeaderValue> = headers.get_all(CACHE_STATUS).iter().cloned().collect();
    status.append(&input.name, &mut headers);
    let after: Vec<&HeaderValue> = headers.get_all(CACHE_STATUS).iter().collect();
    assert_eq!(after.len(), before.len() + 1, "the member is always a valid value");
    assert!(before.iter().zip(&after).all(|(a, b)| a == *b));
});

/// Reads a token or a string (RFC 9651 sections 4.2.5 and 4.2.6), and returns it with the rest.
fn name_of(text: &str) -> (String, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let (mut name, mut chars) = (String::new(), quoted.char_indices());
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return (name, &quoted[at + 1..]),
                '\\' => {
                    let (_, escaped) = chars.next().expect("an escape has a character");
                    assert!(matches!(escaped, '"' | '\\'));
                    name.push(escaped);
                }
                ' '..='~' => name.push(c),
                _ => panic!("not allowed in a string: {c:?}"),
            }
        }
        panic!("the string has no end");
    }
    let end = text.find(';').unwrap_or(text.len());
    let token = &text[..end];
    let is_token_char = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c);
    assert!(token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*'), "{text}");
    assert!(token.chars().all(is_token_char), "{text}");
    (token.to_owned(), &text[end..])
}
