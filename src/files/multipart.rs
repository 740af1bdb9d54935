//! Several ranges of a file in one response: `multipart/byteranges` (RFC 9110 section 14.6).

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    task::{Context, Poll},
};

use http::{HeaderValue, header};
use http_body::SizeHint;

use super::entry::Page;
use crate::{
    Body,
    body::{PollSegment, Segment, Segments},
    semantics::range,
};

/// The Content-Type of each part, if it is not the file's own: an extension of the request.
#[derive(Debug, Clone)]
pub(super) struct WholeContentType(pub(super) HeaderValue);

/// Returns the Content-Type and the body of a response with these parts of `page`: the positions of the first
/// and the last byte of each.
pub(super) fn body(
    page: &Page,
    parts: &[(u64, u64)],
    content_type: Option<&WholeContentType>,
) -> (HeaderValue, Body) {
    // Random, so that no content can contain it on purpose; by chance one in 2^128 does.
    let boundary = format!("{:016x}{:016x}", random(), random());
    let part_type = content_type
        .map(|WholeContentType(content_type)| content_type)
        .or_else(|| page.headers.get(header::CONTENT_TYPE));
    let part_type = part_type.map_or(&b""[..], HeaderValue::as_bytes);
    let mut segments = VecDeque::with_capacity(2 * parts.len() + 1);
    for &(first, last) in parts {
        let range = range::content_range(first, last, page.len);
        let mut head = format!("\r\n--{boundary}\r\ncontent-type: ").into_bytes();
        head.extend_from_slice(part_type);
        head.extend_from_slice(b"\r\ncontent-range: ");
        head.extend_from_slice(range.as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        segments.push_back(Segment::Bytes(head.into()));
        segments.push_back(page.segment(first, last - first + 1));
    }
    segments.push_back(Segment::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    let content_type = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"))
        .expect("hexadecimal digits");
    (content_type, Body::segmented(Parts(segments)))
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// The segments of the body in order: heads of parts, and content, which is sent by `sendfile` if it is in a
/// file.
struct Parts(VecDeque<Segment>);

impl Segments for Parts {
    fn poll_segment(&mut self, _: &mut Context<'_>) -> PollSegment {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(Segment::len).sum())
    }
}
