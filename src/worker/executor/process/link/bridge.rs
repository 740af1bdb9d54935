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
    net::serving::CrossRuntimeTask,
};

/// Capacity of the pipe between the runtimes in each direction: 16 KiB.
const BRIDGE_BYTES: usize = 16 << 10;

/// Time that a worker has to close its side of a tunnel that has ended: 1 s.
const BRIDGE_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Puts a pipe in memory into a response of 101, for the caller's runtime, since a socket must not leave its runtime. A
/// task copies bytes between the pipe and the worker until the tunnel has ended.
#[allow(clippy::disallowed_methods, reason = "it ends with the tunnel")]
pub(super) fn bridge(mut response: Response, worker: Upgraded) -> Response {
    let (ours, caller) = tokio::io::duplex(BRIDGE_BYTES);
    // The caller's tunnel has timeouts.
    let limits = relay::Limits { idle_timeout: Duration::MAX, total_timeout: None };
    let client = Upgraded::new(ours, BytesMut::new());
    let mut relay = Relay::<_, ReadBuffer>::new(client, worker, limits);
    let (is_open, mut ended) = oneshot::channel::<()>();
    let task = CrossRuntimeTask::current();
    tokio::spawn(async move {
        let _task = task;
        let end = poll_fn(|cx| match relay.poll(cx) {
            Poll::Pending => Pin::new(&mut ended).poll(cx).map(|_| End::Drained),
            Poll::Ready(end) => Poll::Ready(end),
        });
        let end = end.await;
        if let End::Drained = end {
            // The caller has dropped the tunnel: close the worker's side.
            let _ = timeout(BRIDGE_CLOSE_TIMEOUT, poll_fn(|cx| relay.poll_close(cx))).await;
        }
        relay.finish(&end);
    });
    upgrade::put_stream(&mut response, Upgraded::new(caller, BytesMut::new()));
    response.map(|body| upgrade::open_body((body, is_open)))
}
