//! Invariant: any bytes give the same result whole, byte by byte and cut in two, as responses to GET and
//! to HEAD; nothing panics; each head is final; a response that must not have a body has none.
#![no_main]

use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use vestibule::proto::h1::Limits;
use vestibule_fuzz::{assert_plain, lenient, responses, small, ways};

fuzz_target!(|data: &[u8]| {
    for (limits, method) in [
        (Limits::default(), Method::GET),
        (Limits::default(), Method::HEAD),
        (small(), Method::GET),
        (lenient(), Method::GET),
    ] {
        let [whole, bytes, cut] = ways(data, usize::from(data.last().copied().unwrap_or(0)));
        let read = responses(&limits, &method, &whole);
        let text = read.text();
        assert_eq!(text, responses(&limits, &method, &bytes).text(), "byte by byte");
        assert_eq!(text, responses(&limits, &method, &cut).text(), "cut in two");
        for message in &read.messages {
            assert_plain(&message.head.headers);
            let status = message.head.status;
            assert!(!status.is_informational());
            if method == Method::HEAD
                || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            {
                assert!(message.body.is_empty());
            }
        }
    }
});
