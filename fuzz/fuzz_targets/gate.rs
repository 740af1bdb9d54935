//! Invariant: no output of a worker process causes a panic; an accepted frame has a head that HTTP allows and a body
//! that is a part of the frame, and is refused if it is truncated or longer by a byte. The rest of a frame behind a head
//! with a value of the wrong type is not read, so there only the first invariants hold.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vestibule::proto::gate::{BadHead, Head, MAX_FIELDS, MAX_ID, Reply};
use vestibule_fuzz::assert_plain;

fuzz_target!(|data: &[u8]| {
    let Ok(reply) = Reply::decode(Bytes::copy_from_slice(data)) else { return };
    assert!(reply.id().is_none_or(|id| id <= MAX_ID));
    match &reply {
        Reply::Complete { head: Err(BadHead::Type), .. }
        | Reply::Head { head: Err(BadHead::Type), .. }
        | Reply::File { head: Err(BadHead::Type), .. } => return,
        Reply::Complete { head, body, .. } => {
            assert!(data.ends_with(body));
            head.iter().for_each(check);
        }
        Reply::Chunk { data: piece, .. } => assert!(data.ends_with(piece)),
        Reply::Head { head, .. } | Reply::File { head, .. } => head.iter().for_each(check),
        _ => {}
    }
    assert!(Reply::decode(Bytes::copy_from_slice(&data[..data.len() - 1])).is_err());
    assert!(Reply::decode(Bytes::from([data, &[0]].concat())).is_err());
});

fn check(head: &Head) {
    assert!((200..1000).contains(&head.status.as_u16()));
    assert!(head.headers.len() <= MAX_FIELDS);
    assert_plain(&head.headers);
    let length = head.headers.get("content-length");
    let length = length.map(|value| value.to_str().unwrap().parse::<u64>().unwrap());
    assert_eq!(length, head.length);
    assert!(!head.headers.contains_key("transfer-encoding"));
}
