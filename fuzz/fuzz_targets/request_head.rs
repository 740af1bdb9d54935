//! Invariant: any bytes give the same result whole, byte by byte and cut in two, with default and small
//! bounds and with leniencies; nothing panics; no value contains CR, LF or NUL; each head has its Host and
//! no Transfer-Encoding.
#![no_main]

use http::{Version, header};
use libfuzzer_sys::fuzz_target;
use vestibule::proto::h1::Limits;
use vestibule_fuzz::{assert_plain, lenient, requests, small, ways};

fuzz_target!(|data: &[u8]| {
    for (limits, fields) in [(Limits::new(), 100), (small(), 6), (lenient(), 100)] {
        let [whole, bytes, cut] = ways(data, usize::from(data.first().copied().unwrap_or(0)));
        let read = requests(&limits, &whole);
        let text = read.text();
        assert_eq!(text, requests(&limits, &bytes).text(), "byte by byte");
        assert_eq!(text, requests(&limits, &cut).text(), "cut in two");
        for message in &read.messages {
            let head = &message.head;
            assert_plain(&head.headers);
            assert!(!head.headers.contains_key(header::TRANSFER_ENCODING));
            assert!(head.headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1);
            let hosts = head.headers.get_all(header::HOST).iter().count();
            assert!(hosts == 1 || (hosts == 0 && head.version == Version::HTTP_10));
            assert!(head.uri.path().starts_with('/') || head.uri.path() == "*");
            // Host may be made from an absolute target.
            let made = usize::from(head.version == Version::HTTP_10);
            assert!(head.headers.len() <= fields + made);
            assert!(!head.uri.path().contains('\\'), "{}", head.uri);
        }
    }
});
