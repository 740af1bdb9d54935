//! `H2Stream`: one stream of a connection as a byte stream, after an extended CONNECT (RFC 8441).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{inbox::Inbox, unsent::Unsent};
use crate::net::Io;

/// The data of both directions.
///
/// A flush waits until `h2` has encoded what was written. A drop without a flush or a shutdown may lose the rest, unless
/// another handle of the stream is kept until it is encoded.
pub(super) struct H2Stream {
    inbox: Inbox,
    send: SendStream<Bytes>,
    unsent: Arc<Unsent>,
    /// The rest of a piece of which a part was read.
    received: Bytes,
    /// Whether data was written since the last complete flush.
    is_unflushed: bool,
    is_shut_down: bool,
}

impl H2Stream {
    pub(super) fn new(inbox: Inbox, send: SendStream<Bytes>) -> Self {
        Self {
            inbox,
            send,
            unsent: Arc::default(),
            received: Bytes::new(),
            is_unflushed: false,
            is_shut_down: false,
        }
    }

    /// Returns the count of the written data that `h2` holds.
    pub(super) fn unsent(&self) -> Arc<Unsent> {
        self.unsent.clone()
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Io for H2Stream {
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Ready(match ready!(self.send.poll_reset(cx)) {
            // RFC 9113 section 8.1: the peer has sent all, and wants no more.
            Ok(Reason::NO_ERROR) => return Poll::Pending,
            Ok(reason) => broken(reason.into()),
            Err(error) => broken(error),
        })
    }

    /// The drop resets the stream. A server tells the client of a CONNECT why.
    fn reset_on_close(&mut self) {
        self.unsent.fail();
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        // All that has arrived, since each frame may be a message of a few bytes.
        while buf.remaining() > 0 {
            if this.received.is_empty() {
                match this.inbox.poll_data(cx) {
                    Poll::Ready(Some(Ok(data))) => this.received = data,
                    // Anything else is returned again by the next read.
                    _ if buf.filled().len() > before => break,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let n = buf.remaining().min(this.received.len());
            buf.put_slice(&this.received[..n]);
            this.received.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len());
        let mut room = self.send.capacity();
        if room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = room.min(buf.len());
        let piece = self.unsent.piece(&buf[..n]);
        self.send.send_data(piece, false).map_err(broken)?;
        self.is_unflushed = true;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            ready!(self.unsent.poll_empty(cx));
            // A reset discards the data.
            if let Poll::Ready(error) = self.poll_reset(cx) {
                return Poll::Ready(Err(error));
            }
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the sending half behind the written data. Does not wait for that data: a server's `h2` sends it although the
    /// stream is dropped. That of a client discards it, unless it was flushed before.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut_down, true) {
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        self.unsent.close();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use bytes::BytesMut;
    use http::{Request, Response};
    use tokio::{
        io::{AsyncReadExt, duplex},
        task::JoinHandle,
    };

    use super::*;
    use crate::conn::{
        h2::inbox::Inboxes,
        relay::{End, Limits, ReadBuffer, Relay},
        upgrade::Upgraded,
    };

    /// A client's half of a stream, and the server's.
    async fn streams() -> (SendStream<Bytes>, H2Stream) {
        let (near, far) = duplex(1 << 16);
        let (mut client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let (_response, stream) = client.send_request(Request::new(()), false).unwrap();
        let mut server = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let send = respond.send_response(Response::new(()), false).unwrap();
        (stream, H2Stream::new(Inboxes::default().open(request.into_body()), send))
    }

    fn relay(client: impl Io + 'static, server: impl Io + 'static) -> JoinHandle<End> {
        let [client, server] =
            [Upgraded::new(client, BytesMut::new()), Upgraded::new(server, BytesMut::new())];
        let limits = Limits { idle_timeout: Duration::from_secs(3_600), total_timeout: None };
        let mut relay = Relay::<_, ReadBuffer>::new(client, server, limits);
        tokio::spawn(async move { poll_fn(|cx| relay.poll(cx)).await })
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_stream_notices_its_reset() {
        let (mut stream, h2) = streams().await;
        let (inner, mut application) = duplex(1 << 10);
        let end = relay(h2, inner);
        stream.send_data(Bytes::new(), true).unwrap();
        let read = application.read(&mut [0; 9]).await.unwrap();
        assert_eq!(read, 0, "the client has ended its half");
        stream.send_reset(Reason::CANCEL);
        let end = tokio::time::timeout(Duration::from_secs(60), end).await;
        assert!(matches!(end.expect("it is noticed").unwrap(), End::Client(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn stream_that_is_complete_is_not_failed_by_a_reset_without_error() {
        let (mut stream, h2) = streams().await;
        let (inner, mut client) = duplex(1 << 10);
        let mut end = relay(inner, h2);
        stream.send_data(Bytes::from("bye"), true).unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "bye");
        stream.send_reset(Reason::NO_ERROR);
        let waited = tokio::time::timeout(Duration::from_secs(60), &mut end).await;
        assert!(waited.is_err(), "it waits for the client: {waited:?}");
    }
}
