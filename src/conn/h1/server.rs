//! The server's driver: one connection, one service, requests one after the other.

mod config;
mod exchange;
mod upload;

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use tower_service::Service;

pub use config::Config;

use crate::{
    body::{Body, Sender},
    conn::{output::Output, scratch, timer::Timer},
    error::BoxError,
    net::{Io, Watch, clock},
    peer::Peer,
    proto::h1::{Conn, Server},
};

/// Bytes of further requests that are read while one is answered. They are read at all only to
/// notice that the client has left.
const AHEAD: usize = 16 << 10;

/// Serves one HTTP/1.1 connection: a future that ends with the connection.
///
/// The service's readiness is awaited when a head is complete and before its body is read, so
/// nothing is reserved for a client that we still wait for. The service's future runs inside this
/// one: when the client leaves, it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, sync::Arc};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tower::service_fn;
/// use vestibule::{Body, Request, Response, conn::h1::server, net::Watch, peer::Peer};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let (mut client, io) = tokio::io::duplex(1 << 10);
/// let config = Arc::new(server::Config::default());
/// tokio::spawn(server::Connection::new(io, Peer::memory(), hello, config, Watch::never()));
///
/// client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await.unwrap();
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"));
/// # }
/// ```
pub struct Connection<I, S: Service<Request<Body>>> {
    io: I,
    peer: Peer,
    service: S,
    config: Arc<Config>,
    core: Conn<Server>,
    input: BytesMut,
    output: Output,
    stage: Stage<S::Future>,
    /// Feeds the body of the present request, while it is not complete.
    upload: Option<Sender>,
    /// The upload's reader was ready for more when last asked.
    upload_wanted: bool,
    /// The client has ended its sending half.
    ended: bool,
    timer: Timer,
    watch: Watch,
    /// The request broke the protocol, or was too slow, in its body.
    faulted: bool,
    /// The response ends with the connection, and is not yet sent to its end: a close now would
    /// say that it is whole.
    open_ended: bool,
    /// For the drop, which knows nothing of `I`.
    reset_on_close: fn(&mut I),
}

/// Steps that one poll may take before other tasks get their turn: some thirty requests.
const STEPS: usize = 96;

/// Where the present exchange is.
///
/// ```text
///   Head ──▶ Admit ──▶ Call ──▶ Respond ──▶ Drain ──▶ Head ...
///                                   └────────┴──▶ Close ──▶ Linger ──▶ (end)
/// ```
enum Stage<F> {
    /// A head is read.
    Head,
    /// The head is complete; the service's readiness is awaited, until this time.
    Admit(Box<Request<Body>>, Instant),
    /// The service works.
    Call(Pin<Box<F>>),
    /// A body that comes in pieces is sent.
    Respond(Body),
    /// The response is sent; the rest of the request, at most so many bytes, is dropped.
    Drain(u64),
    /// What is written is flushed, then the connection ends; `linger` if the client may still be
    /// sending.
    Close {
        linger: bool,
    },
    /// Nothing more is written. What comes is dropped, at most so many bytes, until this time.
    Linger(u64, Instant),
    End,
}

/// What a step of the driver came to.
enum Step {
    /// The stage has changed, or moved on: look again.
    Again,
    /// Nothing to do before more bytes come or go, or somebody wakes us.
    Wait,
}

impl<I, S, B> Connection<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// A connection at its beginning. `watch` tells it when to end; [`Watch::never`] does not.
    pub fn new(io: I, peer: Peer, service: S, config: Arc<Config>, watch: Watch) -> Self {
        let now = clock::now();
        Self {
            io,
            peer,
            service,
            core: Conn::new(config.limits.clone(), now),
            config,
            input: BytesMut::new(),
            output: Output::default(),
            stage: Stage::Head,
            upload: None,
            upload_wanted: false,
            ended: false,
            timer: Timer::default(),
            watch,
            faulted: false,
            open_ended: false,
            reset_on_close: I::reset_on_close,
        }
    }

    /// Steps, flushes and reads until nothing more can be done now.
    fn poll_loop(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = clock::now();
        let draining = self.watch.poll_draining(cx);
        let mut steps = 0;
        loop {
            if draining {
                self.core.close_after();
            }
            self.pump_upload(now, cx);
            // A step is taken only when its response has room: what is behind waits for what is
            // before it. Responses to pipelined requests gather and leave together.
            if self.output.has_room() && matches!(self.step(now, cx), Step::Again) {
                steps += 1;
                if steps < STEPS {
                    continue;
                }
            }
            let (room, something) = (self.output.has_room(), !self.output.is_empty());
            if self.poll_flush(now, cx)?.is_ready()
                && (!room || (something && matches!(self.stage, Stage::Close { .. })))
                && steps < STEPS
            {
                steps += 1;
                continue; // what waited for this flush can go on
            }
            if let Stage::End = self.stage {
                return Poll::Ready(Ok(()));
            }
            if steps >= STEPS {
                cx.waker().wake_by_ref(); // there is more to do, after the others
                return Poll::Pending;
            }
            if self.poll_input(now, cx)?.is_ready() {
                continue;
            }
            if self.timer.poll(cx, self.deadline(), now) {
                if self.expire()? {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
            return Poll::Pending;
        }
    }

    fn poll_flush(&mut self, now: Instant, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        if self.output.is_empty() {
            return Ok(Poll::Ready(()));
        }
        match self.output.poll_flush(&mut self.io, cx, now) {
            Poll::Ready(result) => {
                result?;
                if self.core.is_idle() {
                    self.core.resume(now); // the client is idle once it has been sent it all
                }
                Ok(Poll::Ready(()))
            }
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Reads if anything is to be read in this stage. Ready: something has come.
    fn poll_input(&mut self, now: Instant, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let wanted = match self.stage {
            Stage::Head => self.output.has_room(),
            Stage::Drain(_) => {
                self.output.has_room() && (self.upload.is_none() || self.upload_wanted)
            }
            Stage::Linger(..) => true,
            // Nothing further is read before the service has taken the request.
            Stage::Admit(..) | Stage::Close { .. } | Stage::End => false,
            Stage::Call(_) | Stage::Respond(_) => {
                self.upload_wanted
                    || (self.upload.is_none() && self.input.len() < AHEAD && !self.ended)
            }
        };
        if !wanted {
            return Ok(Poll::Pending);
        }
        let left = self.core.body_left().filter(|_| self.upload.is_some());
        let read = match (&self.upload, left) {
            (Some(_), left) => scratch::poll_read_body(&mut self.io, cx, &mut self.input, left),
            (None, _) => scratch::poll_read(&mut self.io, cx, &mut self.input),
        };
        match read {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(0)) => {
                self.eof(now);
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(n)) => {
                if let Stage::Linger(left, _) = &mut self.stage {
                    self.input.clear();
                    *left = left.saturating_sub(n as u64);
                    if *left == 0 {
                        self.stage = Stage::End;
                    }
                }
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(e)) => Err(e),
        }
    }

    /// The client will send nothing more.
    fn eof(&mut self, now: Instant) {
        self.ended = true;
        match self.stage {
            Stage::Call(_) | Stage::Respond(_)
                if self.config.half_close && !self.core.reads_body() =>
            {
                // Its request was whole, so this is no fault; it closes after the answer.
                self.core.close_after();
            }
            // A client that has left: its work is dropped with the stage, the connection ends.
            // One that closed only its sending half cannot be told from it.
            Stage::Call(_) | Stage::Respond(_) | Stage::Linger(..) => {
                self.upload = None;
                self.stage = Stage::End;
            }
            Stage::Head | Stage::Drain(_) => {
                if let Err(fault) = self.core.recv_eof(now) {
                    self.refuse(fault.status());
                }
                self.stage = Stage::Close { linger: false };
            }
            Stage::Admit(..) | Stage::Close { .. } | Stage::End => {}
        }
    }

    /// The earliest time at which something must have happened.
    fn deadline(&self) -> Option<Instant> {
        let read = match self.stage {
            // While it is sent something the client is not idle.
            Stage::Head | Stage::Drain(_) if !self.output.is_empty() => None,
            Stage::Drain(_) if self.upload.is_some() && !self.upload_wanted => None,
            Stage::Head | Stage::Drain(_) => self.core.deadline(),
            Stage::Admit(_, until) | Stage::Linger(_, until) => Some(until),
            Stage::Call(_) | Stage::Respond(_) if self.upload_wanted => self.core.deadline(),
            Stage::Call(_) | Stage::Respond(_) | Stage::Close { .. } | Stage::End => None,
        };
        [self.write_deadline(), read].into_iter().flatten().min()
    }

    fn write_deadline(&self) -> Option<Instant> {
        self.output.waiting_since()?.checked_add(self.config.write_timeout)
    }

    /// The deadline has passed. `false`: the connection ends now.
    fn expire(&mut self) -> io::Result<bool> {
        // This poll may have taken long itself: `now` of its beginning would not do.
        if self.write_deadline().is_some_and(|d| d <= clock::now()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"));
        }
        match self.stage {
            Stage::Admit(..) => self.refuse(http::StatusCode::SERVICE_UNAVAILABLE),
            Stage::Head | Stage::Drain(_) | Stage::Call(_) | Stage::Respond(_) => {
                match self.core.timeout() {
                    Some(fault) => self.fail(fault),
                    None => return Ok(false),
                }
            }
            Stage::Linger(..) | Stage::Close { .. } | Stage::End => return Ok(false),
        }
        Ok(true)
    }

    /// Flushed to the end: shut down, and linger if the client may still be sending.
    fn poll_close(&mut self, now: Instant, cx: &mut Context<'_>, linger: bool) -> Step {
        // All is written, and unless it was cut the response is whole.
        self.open_ended &= self.core.writes_body();
        if !linger {
            self.stage = Stage::End; // dropping the socket closes both halves
            return Step::Again;
        }
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Pending => Step::Wait,
            Poll::Ready(_) => {
                self.input = BytesMut::new();
                let until = later(now, self.config.linger);
                self.stage = Stage::Linger(self.config.linger_bytes, until);
                Step::Again
            }
        }
    }
}

/// `now` and a span, or a time that will not come.
fn later(now: Instant, span: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(span).unwrap_or(now + CENTURY)
}

/// Nothing in it is ever pinned in place: the service's future and the body have boxes.
impl<I, S: Service<Request<Body>>> Unpin for Connection<I, S> {}

impl<I, S, B> Future for Connection<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// An error is the connection's: the client reset it, or did not read. Requests that failed
    /// have been answered.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.output.borrow_buffer();
        let result = this.poll_loop(cx);
        this.output.return_buffer();
        if this.input.is_empty() && this.input.capacity() > 0 {
            this.input = BytesMut::new(); // an idle connection owns no buffer
        }
        let result = ready!(result);
        this.stage = Stage::End;
        this.upload = None;
        Poll::Ready(result)
    }
}

impl<I, S: Service<Request<Body>>> Drop for Connection<I, S> {
    fn drop(&mut self) {
        if self.open_ended {
            (self.reset_on_close)(&mut self.io);
        }
    }
}

impl<I, S: Service<Request<Body>>> fmt::Debug for Connection<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).field("core", &self.core).finish()
    }
}
