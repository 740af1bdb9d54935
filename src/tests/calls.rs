//! The calls that the server's driver makes on its stream, one by one.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Semaphore,
};
use tower::service_fn;

use super::support::statuses;
use crate::{
    Body, Request, Response,
    conn::{Config, Http1Config, Transport, h1::server::Connection},
    net::{DrainWatch, Io},
    peer::Peer,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A stream that returns given pieces and counts calls.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    to_read: VecDeque<Bytes>,
    written: String,
    calls: Calls,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Calls {
    /// Reads that returned bytes.
    reads: usize,
    /// Reads that were pending. On a socket they are no system call after a short read, since the runtime has
    /// cleared the readiness.
    pending: usize,
    writes: usize,
    /// The writes with the hint that more data follows.
    corked: usize,
}

impl Counted {
    fn bring(&self, piece: impl Into<Bytes>) {
        self.0.lock().unwrap().to_read.push_back(piece.into());
    }

    /// Returns the calls since the last time.
    fn calls(&self) -> Calls {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    /// Returns the statuses that were written since the last time.
    fn answers(&self) -> Vec<u16> {
        statuses(&std::mem::take(&mut self.0.lock().unwrap().written))
    }

    /// Returns the number of pieces that were not read.
    fn left(&self) -> usize {
        self.0.lock().unwrap().to_read.len()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        let Some(piece) = state.to_read.pop_front() else {
            state.calls.pending += 1;
            return Poll::Pending;
        };
        state.calls.reads += 1;
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock().unwrap();
        state.calls.writes += 1;
        state.written.push_str(std::str::from_utf8(buf).unwrap());
        Poll::Ready(Ok(buf.len()))
    }

    /// Costs nothing, as with a socket, whose flush calls nothing.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        panic!("a connection that is kept is not shut down");
    }
}

impl Io for Counted {
    fn poll_write_more(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().calls.corked += 1;
        Pin::new(self).poll_write(cx, buf)
    }
}

/// Polls the connection, which must remain pending.
fn run(connection: &mut (impl Future<Output = io::Result<()>> + Unpin)) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(connection).poll(&mut cx).is_pending());
}

async fn hello(_: Request) -> Result<Response, Infallible> {
    Ok(Response::new(Body::from("hi")))
}

#[tokio::test(start_paused = true)]
async fn request_on_idle_connection_costs_one_read_and_one_write() {
    let io = Counted::default();
    let (service, watch) = (service_fn(hello), DrainWatch::never());
    let mut connection =
        Connection::new(Transport::new(io.clone(), Peer::memory(), watch), service, Arc::default());
    run(&mut connection);
    assert_eq!(io.calls(), Calls { reads: 0, pending: 1, ..Calls::default() });
    for _ in 0..3 {
        io.bring(GET);
        run(&mut connection);
        assert_eq!(io.calls(), Calls { reads: 1, pending: 1, writes: 1, corked: 0 });
        assert_eq!(io.answers(), [200]);
    }
}

#[tokio::test(start_paused = true)]
async fn last_answer_leaves_with_the_end_of_its_connection() {
    let io = Counted::default();
    let (service, watch) = (service_fn(hello), DrainWatch::never());
    let mut connection =
        Connection::new(Transport::new(io.clone(), Peer::memory(), watch), service, Arc::default());
    io.bring("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(Pin::new(&mut connection).poll(&mut cx), Poll::Ready(Ok(()))));
    assert_eq!(io.calls(), Calls { reads: 1, pending: 1, writes: 1, corked: 1 });
    assert_eq!(io.answers(), [200]);
}

#[tokio::test(start_paused = true)]
async fn pipelined_requests_cost_one_read_and_one_write() {
    let io = Counted::default();
    let (service, watch) = (service_fn(hello), DrainWatch::never());
    let mut connection =
        Connection::new(Transport::new(io.clone(), Peer::memory(), watch), service, Arc::default());
    io.bring(GET.repeat(16));
    run(&mut connection);
    assert_eq!(io.calls(), Calls { reads: 1, pending: 1, writes: 1, corked: 0 });
    assert_eq!(io.answers(), [200; 16]);
}

#[tokio::test(start_paused = true)]
async fn read_ahead_during_a_request_has_a_bound() {
    const AHEAD: usize = 2 * GET.len();
    // The number of bytes after the request, and whether the driver then reads another one.
    for (ahead, reads_on) in [(AHEAD - 1, true), (AHEAD, false), (AHEAD + 1, false)] {
        let io = Counted::default();
        let answers = Arc::new(Semaphore::new(0));
        let a = answers.clone();
        let service = service_fn(move |request| {
            let answers = a.clone();
            async move {
                answers.acquire().await.unwrap().forget();
                hello(request).await
            }
        });
        let config = Config::new().http1(Http1Config::new().read_ahead(AHEAD));
        let (config, watch) = (Arc::new(config), DrainWatch::never());
        let mut connection =
            Connection::new(Transport::new(io.clone(), Peer::memory(), watch), service, config);
        let rest = Bytes::from(GET.repeat(4));
        io.bring(GET);
        io.bring(rest.slice(..ahead));
        run(&mut connection);
        assert_eq!(io.left(), 0, "the bound is passed by one read at most");
        io.bring(rest.slice(ahead..=ahead));
        run(&mut connection);
        assert_eq!(io.left(), usize::from(!reads_on), "{ahead} bytes ahead");
        // No byte is lost.
        io.bring(rest.slice(ahead + 1..));
        answers.add_permits(5);
        run(&mut connection);
        assert_eq!((io.answers(), io.left()), (vec![200; 5], 0));
    }
}
