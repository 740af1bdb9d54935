//! The common part of both directions.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, response};

use super::reference::{Message, Stop, values};
use crate::{
    proto::h1::{Conn, Event, Server},
    semantics::gateway,
};

/// Names that a proxy must not forward. `Connection` is not among them, since it may be the proxy's own.
pub(super) const OF_A_HOP: [&str; 6] =
    ["keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];

/// Errors that this crate must report too. In other respects the reference is stricter than the RFC: it accepts no
/// HTTP/1.0, absolute-form, empty line before a request, chunk extension or missing reason.
const NEVER: [&str; 8] = [
    "CR, LF or NUL in a line",
    "no colon",
    "field",
    "host",
    "empty host",
    "framing",
    "chunk longer than its size",
    "trailer that frames or routes",
];

/// Forwards an event of the server to the client.
pub(super) fn respond(
    front: &mut Conn<Server>,
    now: Instant,
    event: Event<response::Parts>,
    length: Option<u64>,
    out: &mut BytesMut,
) {
    match event {
        Event::Head(mut head) => {
            gateway::prepare_response(&mut head.headers);
            front
                .send_head(now, head.status, &head.headers, length, b"", out)
                .expect("what was read can be written");
        }
        Event::Data(data) => {
            let tail: &[u8] = front.send_data(data.len(), out).expect("announced");
            out.extend_from_slice(&[data, Bytes::copy_from_slice(tail)].concat());
        }
        Event::End(trailers) => {
            front.send_end(now, trailers.as_ref(), out).expect("the body is complete");
        }
    }
}

/// Asserts that this crate reads the same messages from the input as the reference, or refuses them, and that it
/// refuses the errors of [`NEVER`].
pub(super) fn check_input((theirs, stop): &(Vec<Message>, Stop), ours: &[Message]) {
    if let Stop::Wrong(why) = stop
        && NEVER.contains(why)
    {
        assert!(ours.len() <= theirs.len(), "{why}, but we read {:?}", ours[theirs.len()]);
    }
    for (theirs, ours) in theirs.iter().zip(ours) {
        let same = theirs.start == ours.start && theirs.body == ours.body;
        assert!(same, "the input is read as {ours:?} and by the reference as {theirs:?}");
        assert_eq!(by_name(&theirs.trailers), by_name(&ours.trailers));
    }
}

/// Asserts that there is no field with these names.
pub(super) fn assert_none(fields: &[(String, Vec<u8>)], names: &[&str]) {
    for name in names {
        assert!(values(fields, name).is_empty(), "{name} came through: {fields:?}");
    }
}

/// Converts a map to the fields of the reference.
pub(super) fn list(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// Sorts fields by name, since a map keeps only the order of the values of each name.
fn by_name(fields: &[(String, Vec<u8>)]) -> Vec<&(String, Vec<u8>)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| name);
    fields
}
