//! `bridge`: a tunnel between the runtime of the workers and that of the caller.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    Response,
    conn::{
        relay::{self, End, ReadBuffer, Relay},
        upgrade::{self, Upgraded},
    },
};

/// Bytes of a tunnel on their way between the runtimes, in each direction, 16 KiB.
const BRIDGE_BYTES: usize = 16 << 10;

/// How long a worker may take to end its side of a tunnel that has ended, 1 s.
const BRIDGE_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Puts a stream in memory into a response of 101, for the caller's runtime: a socket does not leave its own. A task
/// moves bytes until the tunnel has ended.
#[allow(clippy::disallowed_methods, reason = "it ends with the tunnel")]
pub(super) fn bridge(mut response: Response, worker: Upgraded) -> Response {
    let (ours, caller) = tokio::io::duplex(BRIDGE_BYTES);
    // The tunnel itself has bounds.
    let limits = relay::Limits { idle_timeout: Duration::MAX, total_timeout: None };
    let client = Upgraded::new(ours, BytesMut::new());
    let mut relay = Relay::<_, ReadBuffer>::new(client, worker, limits);
    let (is_open, mut ended) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let end = poll_fn(|cx| match relay.poll(cx) {
            Poll::Pending => Pin::new(&mut ended).poll(cx).map(|_| End::Drained),
            Poll::Ready(end) => Poll::Ready(end),
        });
        let end = end.await;
        if let End::Drained = end {
            // The tunnel has ended, and the worker's side with it.
            let _ = timeout(BRIDGE_CLOSE_TIMEOUT, poll_fn(|cx| relay.poll_close(cx))).await;
        }
        relay.finish(&end);
    });
    upgrade::put_stream(&mut response, Upgraded::new(caller, BytesMut::new()));
    response.map(|body| upgrade::open_body((body, is_open)))
}
