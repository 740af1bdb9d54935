//! A body that was buffered, sent to one server and then to another.

use super::*;
use crate::{
    BoxError,
    net::Address,
    upstream::{Balance, Endpoint, Remote, RetryLayer},
};

const LEN: usize = 300_000;

/// Reads a complete request, and answers it or closes the connection. Returns the length of its body.
async fn serve(script: Script, answers: bool) -> usize {
    let mut server = script.accept().await;
    let mut all = Vec::new();
    let body = loop {
        within(server.read_buf(&mut all)).await.unwrap();
        let head = memchr::memmem::find(&all, b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head.filter(|head| all.len() - head >= LEN) {
            break all.len() - head;
        }
    };
    if answers {
        server.write_all(OK.as_bytes()).await.unwrap();
    }
    body
}

#[tokio::test]
async fn spilled_body_is_sent_again_to_another_server() {
    let ((broken, a), (alive, b)) = (Script::new().await, Script::new().await);
    let endpoints = [a, b].map(|addr| Endpoint::from(Remote::builder(Address::from(addr)).build()));
    let retry = RetryLayer::new().layer(Balance::round_robin(endpoints));
    let buffered = RequestBufferLayer::new().layer(retry);
    let pieces = (0..LEN / 1000).map(|_| Ok::<_, BoxError>(vec![b'x'; 1000]));
    let body = Body::from_stream(tokio_stream::iter(pieces));
    let put = http::Request::put("http://a/").body(body).unwrap();
    let (response, first, second) =
        tokio::join!(buffered.oneshot(put), serve(broken, false), serve(alive, true));
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!((first, second), (LEN, LEN));
}
