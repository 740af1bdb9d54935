//! Runs one tunnel: from the server's response of 101 to its end.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::atomic::Ordering::Relaxed,
    task::Poll,
};

use bytes::BytesMut;
use tokio::time::{sleep, timeout};

use super::{CLOSE_TIMEOUT, Switch};
use crate::{
    Response,
    conn::{
        log_request,
        relay::{End, ReadBuffer, Relay},
        upgrade::{self, Upgraded},
    },
    net::Io,
    semantics::upgrade::is_websocket,
};

impl Switch {
    /// Begins the tunnel of a response of 101 that has the server's stream. Without one, the inner service runs the
    /// tunnel itself.
    pub(super) fn begin(self, response: &mut Response) {
        let Some(server) = upgrade::take_stream(response) else { return };
        self.tunnels.opened.fetch_add(1, Relaxed);
        upgrade::take_over(response, move |client| self.run(client, server));
    }

    /// Returns the successful response to a CONNECT, with the tunnel to a server's stream.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for CONNECT"))]
    pub(crate) fn connected(self, server: impl Io + 'static) -> Response {
        self.tunnels.opened.fetch_add(1, Relaxed);
        let server = Upgraded::new(server, BytesMut::new());
        upgrade::connected(move |client| self.run(client, server))
    }

    pub(super) async fn run(self, client: Upgraded, server: Upgraded) {
        let draining = (client.draining(), client.may_be_draining());
        let mut relay = Relay::<_, ReadBuffer>::new(client, server, self.tunnels.options.limits);
        if is_websocket(&self.protocol) {
            relay = relay.with_frames();
        }
        let mut tunnel = Running { relay: Some(relay), switch: self };
        tunnel.run(draining).await;
    }
}

/// An open tunnel. Its bytes are counted when it ends or is dropped.
struct Running {
    /// `None` once it has ended.
    relay: Option<Relay<Upgraded, ReadBuffer>>,
    switch: Switch,
}

impl Running {
    pub(super) async fn run(
        &mut self,
        (draining, may_be_draining): (impl Future<Output = ()>, impl Fn() -> bool),
    ) {
        let Some(relay) = &mut self.relay else { return };
        let grace = self.switch.tunnels.options.drain_timeout;
        let mut drained = pin!(async {
            draining.await;
            sleep(grace).await;
        });
        let mut is_registered = false;
        let end = poll_fn(|cx| match relay.poll(cx) {
            // Its waker is that of this task, for every byte that moves.
            Poll::Pending if is_registered && !may_be_draining() => Poll::Pending,
            Poll::Pending => {
                is_registered = true;
                drained.as_mut().poll(cx).map(|()| End::Drained)
            }
            Poll::Ready(end) => Poll::Ready(end),
        })
        .await;
        if let End::Drained = end {
            let _ = timeout(CLOSE_TIMEOUT, poll_fn(|cx| relay.poll_close(cx))).await;
        }
        self.end(&end);
    }

    fn end(&mut self, end: &End) {
        let Some(relay) = self.relay.take() else { return };
        let (sent, received) = relay.finish(end);
        let Switch { protocol, tunnels, request, .. } = &self.switch;
        tunnels.sent.fetch_add(sent, Relaxed);
        tunnels.received.fetch_add(received, Relaxed);
        log_request!(
            debug,
            "vestibule::tunnel",
            request,
            ?protocol,
            sent,
            received,
            ?end,
            "a tunnel ended"
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end(&End::Aborted);
    }
}
