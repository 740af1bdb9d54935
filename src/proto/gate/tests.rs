//! Frames compared with the output of CPython's `marshal.dumps(frame, 2)`.

use bytes::Bytes;

use super::*;

const READY: &[u8] = b"(\x01\0\0\0i\0\0\0\0";
const COMPLETE: &[u8] = b"(\x05\0\0\0i\x01\0\0\0i\x07\0\0\0u\x06\0\0\x00200 OK[\x02\0\0\0\
    (\x02\0\0\0u\x0c\0\0\0Content-Typeu\x0a\0\0\0text/plain\
    (\x02\0\0\0u\x01\0\0\0Xu\x05\0\0\0caf\xc3\xa9s\x05\0\0\0hello";
const HEAD: &[u8] = b"(\x04\0\0\0i\x02\0\0\0i\xff\xff\xff\x7fu\x0d\0\0\x00404 Not Found[\0\0\0\0";
const CHUNK: &[u8] = b"(\x03\0\0\0i\x03\0\0\0i\0\0\0\0s\x02\0\0\0\0\xff";
const END: &[u8] = b"(\x02\0\0\0i\x04\0\0\0i\x07\0\0\0";
/// With the offset 2^40 and the length 2^31.
const FILE: &[u8] = b"(\x06\0\0\0i\x05\0\0\0i\x01\0\0\0t\x06\0\0\x00200 OK[\x01\0\0\0(\x02\0\0\0\
    t\x01\0\0\0at\x01\0\0\0bl\x03\0\0\0\0\0\0\0\0\x04l\x03\0\0\0\0\0\0\0\x02\0";
const FAILED: &[u8] =
    b"(\x04\0\0\0i\x06\0\0\0i\x01\0\0\0u\x0d\0\0\0KeyError: \xe2\x82\xacu\x09\0\0\0Traceback";
const LOG: &[u8] = b"(\x03\0\0\0i\x07\0\0\0i\x01\0\0\0u\x09\0\0\0two\nlines";

const FORKED: &[u8] = b"(\x01\0\0\0i\x08\0\0\0";
const REAPED: &[u8] = b"(\x03\0\0\0i\x09\0\0\0Ti\x0f\0\0\0";
const NOT_FORKED: &[u8] = b"(\x02\0\0\0i\x0a\0\0\0u\x01\0\0\0x";
const RAISED: &[u8] = b"(\x03\0\0\0i\x0b\0\0\0i\x01\0\0\0u\x09\0\0\0Traceback";
const PONG: &[u8] = b"(\x02\0\0\0i\x0c\0\0\0i\x07\0\0\0";

/// A frame of each kind.
const ALL: [&[u8]; 13] = [
    READY, COMPLETE, HEAD, CHUNK, END, FILE, FAILED, LOG, FORKED, REAPED, NOT_FORKED, RAISED, PONG,
];

fn decode(frame: &[u8]) -> Result<Reply, Fault> {
    Reply::decode(Bytes::copy_from_slice(frame))
}

/// A string in version 2 of marshal.
fn string(text: &str) -> Vec<u8> {
    [b"u", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A frame of a complete response without a body.
fn complete(status: &[u8], fields: &[[&[u8]; 2]]) -> Vec<u8> {
    let mut frame = b"(\x05\0\0\0i\x01\0\0\0i\x01\0\0\0".to_vec();
    frame.extend(status);
    frame.push(b'[');
    frame.extend((fields.len() as u32).to_le_bytes());
    for field in fields {
        frame.extend(b"(\x02\0\0\0");
        frame.extend(field.concat());
    }
    frame.extend(b"s\0\0\0\0");
    frame
}

fn head(status: &str, fields: &[[&str; 2]]) -> Result<Head, BadHead> {
    let fields: Vec<_> = fields.iter().map(|pair| pair.map(string)).collect();
    let fields: Vec<_> = fields.iter().map(|[n, v]| [&n[..], &v[..]]).collect();
    match decode(&complete(&string(status), &fields)) {
        Ok(Reply::Complete { head, .. }) => head,
        other => panic!("{other:?}"),
    }
}

#[test]
fn decoder_reads_each_kind_of_frame() {
    assert!(matches!(decode(READY), Ok(Reply::Ready)));
    let Ok(Reply::Complete { id: 7, head: Ok(head), body }) = decode(COMPLETE) else { panic!() };
    assert_eq!((head.status.as_u16(), head.headers.len(), head.length), (200, 2, None));
    assert_eq!(head.headers["content-type"], "text/plain");
    assert_eq!(head.headers["x"].as_bytes(), b"caf\xe9", "a character is a byte");
    assert_eq!(body, "hello");
    let Ok(Reply::Head { id: MAX_ID, head: Ok(head) }) = decode(HEAD) else { panic!() };
    assert_eq!((head.status.as_u16(), head.headers.len()), (404, 0));
    assert!(matches!(decode(CHUNK), Ok(Reply::Chunk { id: 0, data }) if *data == *b"\0\xff"));
    assert!(matches!(decode(END), Ok(Reply::End { id: 7 })));
    let Ok(Reply::File { id: 1, head: Ok(_), offset, length }) = decode(FILE) else { panic!() };
    assert_eq!((offset, length), (1 << 40, 1 << 31));
    let Ok(Reply::Failed { id: 1, message, traceback }) = decode(FAILED) else { panic!() };
    assert_eq!((&*message, &*traceback), ("KeyError: \u{20ac}", "Traceback"));
    assert!(matches!(decode(LOG), Ok(Reply::Log { id: 1, text }) if text == "two\nlines"));
    assert!(matches!(decode(FORKED), Ok(Reply::Forked)));
    assert!(matches!(decode(REAPED), Ok(Reply::Reaped { is_signal: true, number: 15 })));
    assert!(matches!(decode(NOT_FORKED), Ok(Reply::NotForked { message }) if message == "x"));
    assert!(matches!(decode(PONG), Ok(Reply::Pong { number: 7 })));
    assert!(
        matches!(decode(RAISED), Ok(Reply::Raised { id: 1, traceback }) if traceback == "Traceback")
    );
}

#[test]
fn decoder_refuses_every_cut_and_every_longer_frame() {
    for whole in ALL {
        for len in 0..whole.len() {
            assert!(decode(&whole[..len]).is_err(), "{len} of {whole:?}");
        }
        assert_eq!(decode(&[whole, b"N"].concat()).unwrap_err(), Fault::TooLong);
    }
}

#[test]
fn decoder_refuses_invalid_frames() {
    let end = |id: &[u8]| [b"(\x02\0\0\0i\x04\0\0\0", id].concat();
    for (frame, fault) in [
        (&b"HTTP/1.1 200 OK"[..], Fault::Type(b'H')),
        (b"[\x01\0\0\0i\0\0\0\0", Fault::Type(b'[')),
        (b"(\xff\xff\xff\xffi\0\0\0\0", Fault::Number),
        (b"(\x02\0\0\0i\0\0\0\0N", Fault::Kind),
        (b"(\x01\0\0\0i\x63\0\0\0", Fault::Kind),
        (&end(b"i\xff\xff\xff\xff"), Fault::Number),
        (&end(b"l\x03\0\0\0\0\0\0\0\x02\0"), Fault::Number),
        (&end(b"l\x01\0\0\0\xff\xff"), Fault::Number),
        (&end(b"l\xff\xff\xff\xff"), Fault::Number),
        (&end(b"l\x05\0\0\0\0\0\0\0\0\0\0\0\x10\0"), Fault::Number),
        (&end(b"u\x01\0\0\0x"), Fault::Type(b'u')),
        (b"(\x03\0\0\0i\x07\0\0\0i\x01\0\0\0s\x01\0\0\0x", Fault::Type(b's')),
        (b"(\x03\0\0\0i\x07\0\0\0i\x01\0\0\0u\xff\xff\xff\x7fx", Fault::Truncated),
    ] {
        assert_eq!(decode(frame).unwrap_err(), fault, "{frame:?}");
    }
    // A list with more items than bytes.
    let mut frame = complete(&string("200 OK"), &[]);
    let at = frame.len() - 9;
    frame[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
    assert!(decode(&frame).is_err());
}

#[test]
fn decoder_reads_frames_up_to_their_bound() {
    let chunk = |len: usize| {
        let head = b"(\x03\0\0\0i\x03\0\0\0i\0\0\0\0s";
        let len = len - head.len() - 4;
        [&head[..], &(len as u32).to_le_bytes(), &vec![b'x'; len]].concat()
    };
    assert!(decode(&chunk(MAX_FRAME)).is_ok());
    assert_eq!(decode(&chunk(MAX_FRAME + 1)).unwrap_err(), Fault::TooLong);
}

#[test]
fn head_of_application_must_be_valid_in_http() {
    for status in ["", "20", "2000 OK", "abc", "200\r\nX: y", "099 x", "101 Switching Protocols"] {
        let error = head(status, &[]).unwrap_err();
        assert_eq!(error, BadHead::Status(status.to_owned()), "{status}");
    }
    assert_eq!(head("599", &[]).unwrap().status.as_u16(), 599);
    for name in ["", "a b", "a:", "a\r\nb", "\u{e9}"] {
        assert!(matches!(head("200 OK", &[[name, "x"]]), Err(BadHead::Name(_))), "{name}");
    }
    for value in ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "\u{20ac}"] {
        let error = head("200 OK", &[["x-a", value], ["b", "c"]]).unwrap_err();
        assert_eq!(error, BadHead::Value("x-a".parse().unwrap()), "{value}");
    }
    let error = head("200 OK", &[["Transfer-Encoding", "chunked"]]).unwrap_err();
    assert_eq!(error, BadHead::TransferEncoding);
}

#[test]
fn content_length_is_one_decimal_number() {
    let length = |values: &[&str]| {
        let fields: Vec<_> = values.iter().map(|value| ["Content-Length", *value]).collect();
        head("200 OK", &fields).map(|head| head.length)
    };
    assert_eq!(length(&["18446744073709551615"]), Ok(Some(u64::MAX)));
    for bad in
        [&["-1"][..], &["+1"], &[""], &["1, 1"], &["1", "1"], &["0x1"], &["18446744073709551616"]]
    {
        assert_eq!(length(bad), Err(BadHead::ContentLength), "{bad:?}");
    }
}

#[test]
fn fields_are_bounded_by_number() {
    let fields = |n| vec![["a", "b"]; n];
    assert_eq!(head("200 OK", &fields(MAX_FIELDS)).unwrap().headers.len(), MAX_FIELDS);
    let error = head("200 OK", &fields(MAX_FIELDS + 1)).unwrap_err();
    assert_eq!(error, BadHead::TooManyFields(MAX_FIELDS + 1));
}

#[test]
fn values_other_than_strings_are_faults_of_the_application() {
    let name = string("x");
    for value in [&b"N"[..], b"T", b"i\x03\0\0\0", b"g\0\0\0\0\0\0\0\0", b"u\x03\0\0\0\xed\xa0\x80"]
    {
        let frame = complete(&string("200 OK"), &[[&name, value]]);
        let Ok(Reply::Complete { head, .. }) = decode(&frame) else { panic!("{value:?}") };
        assert_eq!(head.unwrap_err(), BadHead::Value("x".parse().unwrap()));
    }
    // The rest of a frame cannot be found behind a value of another type.
    for value in [&b"[\0\0\0\0"[..], b"{0", b"l\x03\0\0\0\0\0\0\0\x02\0"] {
        let frame = complete(&string("200 OK"), &[[&name, value]]);
        let Ok(Reply::Complete { head, body, .. }) = decode(&frame) else { panic!("{value:?}") };
        assert_eq!((head.unwrap_err(), body), (BadHead::Type, Bytes::new()));
        let Ok(Reply::Complete { head, .. }) = decode(&complete(value, &[])) else { panic!() };
        assert_eq!(head.unwrap_err(), BadHead::Type);
    }
    // ASGI uses bytes for strings.
    let frame = complete(b"s\x03\0\0\x00200", &[[b"s\x01\0\0\0x", b"s\x01\0\0\0\xe9"]]);
    let Ok(Reply::Complete { head: Ok(head), .. }) = decode(&frame) else { panic!() };
    assert_eq!(head.headers["x"].as_bytes(), b"\xe9");
}

#[test]
fn encoder_writes_what_marshal_reads() {
    let mut frame = RequestEncoder::new(7);
    frame.variable("REQUEST_METHOD", b"GET");
    frame.variable("HTTP_X", b"caf\xe9");
    let frame = frame.finish(RequestBody::Inline(b"abc")).unwrap();
    let expected = b")\x03i\x07\0\0\0{Z\x0eREQUEST_METHODz\x03GET\
        Z\x06HTTP_Xu\x05\0\0\0caf\xc3\xa90s\x03\0\0\0abc";
    assert_eq!(frame, expected);
    let file = RequestBody::File { offset: 1 << 40, length: 0 };
    let frame = RequestEncoder::new(0).finish(file).unwrap();
    assert_eq!(frame, b")\x03i\0\0\0\0{0)\x03i\x01\0\0\0l\x03\0\0\0\0\0\0\0\0\x04i\0\0\0\0");
    let frame = RequestEncoder::new(0).finish(RequestBody::Stream { length: None }).unwrap();
    assert_eq!(frame, b")\x03i\0\0\0\0{0)\x02i\x02\0\0\0i\xff\xff\xff\xff");
    assert_eq!(cancel(7), b")\x01i\x07\0\0\0");
    assert_eq!(abort(7), b")\x02i\x07\0\0\0N");
    assert_eq!(fork(), b")\x01i\x01\0\0\0");
    assert_eq!(reap(9), b")\x02i\x02\0\0\0i\x09\0\0\0");
    assert_eq!(ping(7), b")\x02i\x04\0\0\0i\x07\0\0\0");
}

#[test]
fn encoder_refuses_frames_beyond_their_bounds() {
    let frame = |value: usize, body: usize| {
        let mut frame = RequestEncoder::new(0);
        frame.variable("HTTP_X", &vec![b'x'; value]);
        frame.finish(RequestBody::Inline(&vec![0; body]))
    };
    assert!(frame(0, MAX_INLINE).is_ok());
    assert_eq!(frame(0, MAX_INLINE + 1), Err(TooLarge(MAX_INLINE + 1)));
    let rest = frame(0, 0).unwrap().len() + 3; // a long string has a longer length
    assert_eq!(frame(MAX_FRAME - rest, 0).unwrap().len(), MAX_FRAME);
    assert_eq!(frame(MAX_FRAME - rest + 1, 0), Err(TooLarge(MAX_FRAME + 1)));
    // No application uses a name of this length.
    let mut frame = RequestEncoder::new(0);
    frame.variable(&"X".repeat(256), b"x");
    assert_eq!(frame.finish(RequestBody::Inline(b"")).unwrap().len(), 14);
}

#[test]
fn id_of_a_request_is_found_in_its_frame_alone() {
    let frame = RequestEncoder::new(MAX_ID).finish(RequestBody::Inline(b"")).unwrap();
    assert_eq!(request_id(&frame), Some(MAX_ID));
    assert_eq!(request_id(&frame[..6]), None);
    assert_eq!(request_id(&cancel(7)), None);
    assert_eq!(request_id(&ping(7)), None);
}
