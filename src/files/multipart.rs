//! Several parts of a file in one response: `multipart/byteranges` (RFC 9110 section 14.6).

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body::{Frame, SizeHint};

use super::entry::Page;
use crate::{Body, BoxError, semantics::range};

/// The Content-Type and the body of a response with these parts of `page`.
pub(super) fn body(page: &Page, parts: &[(u64, u64)]) -> (HeaderValue, Body) {
    // So that no content can have it in it on purpose; by chance it is one in 2^128.
    let boundary = format!("{:016x}{:016x}", random(), random());
    let own = page.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let mut pieces = VecDeque::with_capacity(2 * parts.len() + 1);
    for &(first, last) in parts {
        let range = range::content_range(first, last, page.len);
        let mut head = format!("\r\n--{boundary}\r\ncontent-type: ").into_bytes();
        head.extend_from_slice(own);
        head.extend_from_slice(b"\r\ncontent-range: ");
        head.extend_from_slice(range.as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        pieces.push_back(Body::from(head));
        pieces.push_back(page.slice(first, last - first + 1));
    }
    pieces.push_back(Body::from(format!("\r\n--{boundary}--\r\n")));
    let kind = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}"))
        .expect("hexadecimal digits");
    (kind, Body::new(Pieces(pieces)))
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// One body after the other; the length of each is known.
struct Pieces(VecDeque<Body>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while let Some(piece) = self.0.front_mut() {
            match Pin::new(piece).poll_frame(cx) {
                Poll::Ready(None) => drop(self.0.pop_front()),
                other => return other,
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.0.iter().all(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.0.iter().map(|b| b.len().expect("bytes and slices of files")).sum();
        SizeHint::with_exact(len)
    }
}
