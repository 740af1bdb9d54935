//! Invariant: a request selects the same variant for any division and spacing of its field lines; another value of a
//! named field selects another one; the normal form of `Accept-Encoding` is its own normal form.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use vestibule::semantics::cache::{Vary, vary::normalize_accept_encoding};

const FIELDS: [HeaderName; 3] =
    [header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE, HeaderName::from_static("x-field")];

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|&b| b == b'\n');
    let (mut response, mut request) = (HeaderMap::new(), HeaderMap::new());
    if let Some(Ok(vary)) = lines.next().map(HeaderValue::from_bytes) {
        response.insert(header::VARY, vary);
    }
    for (name, line) in FIELDS.iter().cycle().zip(lines.take(9)) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            request.append(name, value);
        }
    }
    let vary = Vary::of(&response);
    let key = vary.key(&request);
    assert_eq!(key.is_none(), vary == Vary::Any);
    if response.get(header::VARY).is_some_and(|v| v.as_bytes().contains(&b'*')) {
        // A star may be part of a name; alone it is never one.
        let alone = |e: &[u8]| e.trim_ascii() == b"*";
        let vary_value = response[header::VARY].as_bytes();
        assert!(!vary_value.split(|&b| b == b',').any(alone) || vary == Vary::Any);
    }
    let Vary::Fields(names) = &vary else { return };
    let Some(key) = key else { return };

    // One line instead of several, with more white space. Not within quotes.
    if !data.contains(&b'"') {
        let mut joined = HeaderMap::new();
        for name in request.keys() {
            let lines: Vec<_> = request.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            let mut line = b" ".to_vec();
            line.extend(lines.join(&b" ,\t"[..]));
            joined.insert(name, HeaderValue::from_bytes(&line).expect("lines of values"));
        }
        assert_eq!(vary.key(&joined).as_ref(), Some(&key));
    }
    let field = &FIELDS[2];
    let mut other = request.clone();
    other.append(field, HeaderValue::from_static("another"));
    assert_eq!(vary.key(&other).as_ref() != Some(&key), names.contains(field));

    if let Some(normal) = normalize_accept_encoding(&request) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, normal.clone());
        assert_eq!(normalize_accept_encoding(&headers), Some(normal));
    }
});
