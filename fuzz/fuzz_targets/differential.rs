//! Invariant: this crate rejects all that `httparse` rejects; both read the same from input that both
//! accept; if only `httparse` accepts, a named rule of this crate is the reason.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use vestibule::proto::h1::{Fault, Limits};
use vestibule_fuzz::{requests, responses};

fuzz_target!(|data: &[u8]| {
    request(data);
    response(data);
});

fn request(data: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut theirs = httparse::Request::new(&mut fields);
    let status = theirs.parse(data);
    let ours = requests(&Limits::default(), &[data]);
    match (ours.messages.first(), status) {
        (Some(message), Ok(httparse::Status::Complete(_))) => {
            let head = &message.head;
            assert_eq!(theirs.method, Some(head.method.as_str()));
            assert_eq!(theirs.version, Some(u8::from(head.version == http::Version::HTTP_11)));
            let path = theirs.path.expect("complete");
            assert!(path == head.uri || path.starts_with("http") || path.starts_with("HTTP"));
            // Only the framing of the body is removed.
            let names =
                theirs.headers.iter().filter(|h| !h.name.eq_ignore_ascii_case("transfer-encoding"));
            assert_eq!(names.clone().count(), head.headers.len());
            // The authority of an absolute target replaces `Host`.
            let is_absolute = !path.starts_with(['/', '*']);
            for h in names.filter(|h| !(is_absolute && h.name.eq_ignore_ascii_case("host"))) {
                let values = head.headers.get_all(h.name);
                assert!(values.iter().any(|v| v.as_bytes() == h.value), "{}", h.name);
            }
        }
        (Some(_), other) => panic!("we accept what httparse does not: {other:?}"),
        (None, Ok(httparse::Status::Complete(_))) => {
            let fault = ours.fault.expect("a complete head is accepted or refused");
            assert!(is_rule(fault), "{fault:?} is no rule");
        }
        (None, _) => {}
    }
}

/// Returns whether the fault is of a rule that `httparse` does not have.
fn is_rule(fault: Fault) -> bool {
    match fault {
        // It accepts LF without CR, and skips any number of empty lines.
        Fault::LineEnd | Fault::EmptyLines => true,
        // It does not check for names that CGI maps to others.
        Fault::AmbiguousName => true,
        // It accepts any visible byte in a target, a backslash, bytes above ASCII and `#` included.
        Fault::Target | Fault::Connect => true,
        // It does not check the values of framing and routing fields.
        Fault::HostMissing
        | Fault::Host
        | Fault::Repeated
        | Fault::ContentLength
        | Fault::TransferEncoding
        | Fault::TransferCoding
        | Fault::Ambiguous
        | Fault::Expectation => true,
        // It has no limits.
        Fault::MethodTooLong | Fault::StartLineTooLong | Fault::FieldsTooLarge => true,
        _ => false,
    }
}

fn response(data: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut theirs = httparse::Response::new(&mut fields);
    let status = theirs.parse(data);
    let ours = responses(&Limits::default(), &Method::GET, &[data]);
    match (ours.messages.first(), status) {
        (Some(message), Ok(httparse::Status::Complete(_))) => {
            let code = theirs.code.expect("complete");
            if code >= 200 {
                assert_eq!(code, message.head.status.as_u16());
            }
        }
        (Some(_), other) => panic!("we accept what httparse does not: {other:?}"),
        (None, Ok(httparse::Status::Complete(_))) => {
            let interim = matches!(theirs.code, Some(100..=199));
            match ours.fault {
                None => assert!(interim, "a complete head is accepted or refused"),
                Some(_) if interim => {} // of what follows, or 101
                // It accepts codes below 100, and LF alone after the line.
                Some(Fault::StatusLine) => {}
                Some(fault) => assert!(is_rule(fault), "{fault:?} is no rule"),
            }
        }
        (None, _) => {}
    }
}
