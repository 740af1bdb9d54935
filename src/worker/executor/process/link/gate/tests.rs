//! Tests of a link, with the test as the worker.

use std::{
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::sync::Semaphore;

use super::{
    encode::{Encoded, encode},
    *,
};
use crate::{
    conn::testing::Lines,
    net::seqpacket::try_recv,
    proto::gate::{MAX_FRAME, request_id},
    worker::queue::{ahead::NotSent, job::Times},
};

/// The frame `(4, id)`, the end of a response.
fn end(id: u8) -> [u8; 15] {
    [b'(', 2, 0, 0, 0, b'i', 4, 0, 0, 0, b'i', id, 0, 0, 0]
}

fn job() -> Arc<Job> {
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (queued_at, queue_until) = (Instant::now(), Instant::now());
    Job::new(Request::default(), permit, Times { queued_at, queue_until, deadline: None })
}

/// A link, and the socket of its worker.
struct Pair {
    frames: Arc<FrameSocket>,
    worker: OwnedFd,
    job: Arc<Job>,
    created_at: Instant,
}

impl Pair {
    /// Creates a link whose worker has answered a request in no time, so that others are sent ahead.
    fn new() -> Self {
        let (link, worker) = GateLink::new(None, true).unwrap();
        let pair = Self { frames: link.0, worker, job: job(), created_at: Instant::now() };
        let mut state = pair.frames.lock();
        state.window.begin(pair.created_at, true);
        state.window.complete(pair.created_at);
        drop(state);
        pair
    }

    /// Sends a request to the worker, which is idle.
    fn begin(&self) -> u32 {
        let id = self.frames.lock().next_id();
        let Ok(Encoded { frame, .. }) = encode(id, &Request::default(), None) else {
            panic!("the request is valid");
        };
        self.frames.socket.try_send(&frame, &[]).unwrap();
        self.frames.lock().begin(id, true);
        id
    }

    fn send_ahead(&self) -> u32 {
        // At this time, no request has run for long.
        let now = self.created_at;
        self.frames.send_ahead(&Request::default(), now).expect("the window is open")
    }

    /// The id of the request that the worker reads next.
    fn read(&self) -> Option<u32> {
        let mut buffer = vec![0; MAX_FRAME];
        let message = try_recv(&self.worker, &mut buffer).ok()?;
        request_id(&buffer[..message.len])
    }

    fn answer(&self, id: u32) {
        let id = u8::try_from(id).unwrap();
        rustix::io::write(&self.worker, &end(id)).unwrap();
    }

    async fn reply(&self, id: u32) -> Option<Frame> {
        poll_fn(|cx| self.frames.poll_first_reply(cx, id, &self.job)).await
    }

    fn poll(&self, id: u32) -> Poll<Option<Frame>> {
        let cx = &mut Context::from_waker(Waker::noop());
        self.frames.poll_first_reply(cx, id, &self.job)
    }
}

#[tokio::test]
async fn request_that_is_taken_back_does_not_receive_response_to_next_request() {
    let pair = Pair::new();
    let (current, next) = (pair.begin(), pair.send_ahead());
    assert!(pair.poll(current).is_pending());
    // Between two messages that `take_back` reads, the worker reads the one after the first.
    {
        let mut buffer = vec![0; MAX_FRAME];
        let mut state = pair.frames.lock();
        let taken = try_recv(&pair.worker, &mut buffer).unwrap();
        assert_eq!(request_id(&buffer[..taken.len]), Some(current));
        (state.in_progress, state.window.taken_back) = (None, Some(current));
    }
    assert_eq!(pair.read(), Some(next));
    assert_eq!(pair.frames.take_back(next), [0; 0], "the worker has read it");
    pair.answer(next);

    assert!(matches!(pair.poll(current), Poll::Ready(None)));
    pair.frames.begin_ahead(next, Instant::now());
    let reply = pair.reply(next).await;
    assert!(matches!(reply, Some(Ok((Reply::End { id }, _))) if id == next));
    assert!(!pair.frames.lock().is_violated);
}

#[tokio::test]
async fn request_that_the_worker_has_not_read_is_taken_back_with_those_ahead() {
    let pair = Pair::new();
    let (current, next) = (pair.begin(), pair.send_ahead());
    assert_eq!(pair.frames.take_back(next), [next]);
    assert!(matches!(pair.poll(current), Poll::Ready(None)));
    assert_eq!((pair.read(), pair.frames.request_in_progress()), (None, None));
}

#[tokio::test]
async fn seventeenth_request_is_sent_ahead_only_after_the_worker_has_begun_one() {
    let pair = Pair::new();
    pair.begin();
    let ahead: Vec<u32> = (0..16).map(|_| pair.send_ahead()).collect();
    let now = pair.created_at;
    assert_eq!(pair.frames.send_ahead(&Request::default(), now), Err(NotSent::Full));
    pair.frames.begin_ahead(ahead[0], now);
    pair.send_ahead();
    assert_eq!(pair.frames.send_ahead(&Request::default(), now), Err(NotSent::Full));
}

#[tokio::test]
async fn request_that_does_not_fit_into_the_socket_is_refused_and_worker_continues() {
    let pair = Pair::new();
    pair.frames.socket.set_send_buffer(4096);
    let mut request = Request::new(vec![b'x'; 60_000].into());
    let Err(SendError::Refused(error)) = pair.frames.send_request(&mut request, None).await else {
        panic!("it must be neither sent to another worker nor fatal");
    };
    assert!(Error::find(&*error).is_some_and(|error| error.kind() == Kind::TooLarge), "{error}");
    let mut small = Request::default();
    assert!(pair.frames.send_request(&mut small, None).await.is_ok());
}

#[tokio::test]
async fn frame_that_an_idle_worker_sends_leaves_the_next_request_for_another_worker() {
    let (link, worker) = GateLink::new(None, true).unwrap();
    rustix::io::write(&worker, &end(99)).unwrap();
    let Err(failed) = link.exchange(Request::default(), &job(), || ()).await else {
        panic!("it is no response to this request");
    };
    assert!(failed.is_fatal && failed.delivery == Delivery::MaybeSent);
    assert_eq!(failed.request.map(|request| request.method().clone()), Some(http::Method::GET));
}

#[tokio::test]
async fn exception_after_a_response_is_logged_while_the_worker_is_idle() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.subscriber());
    let (link, worker) = GateLink::new(None, false).unwrap();
    let raised = b"(\x03\0\0\0i\x0b\0\0\0i\x01\0\0\0u\x0a\0\0\0GET /a\nout";
    rustix::io::write(&worker, raised).unwrap();
    rustix::io::write(&worker, &end(2)).unwrap(); // of no request
    link.0.log_while_idle().await;
    let logged = lines.of("vestibule::worker");
    assert!(logged[0].contains("ERROR") && logged[0].contains("after its response"), "{logged:?}");
    assert_eq!((logged.len(), link.is_violated()), (1, true));
}

/// The frame `(12, number)`, the answer to a check.
fn pong(number: u8) -> [u8; 15] {
    [b'(', 2, 0, 0, 0, b'i', 12, 0, 0, 0, b'i', number, 0, 0, 0]
}

#[tokio::test]
async fn check_waits_for_its_own_answer_and_not_for_a_late_one() {
    for is_sequential in [true, false] {
        let (link, worker) = GateLink::new(None, is_sequential).unwrap();
        let late = link.0.lock().next_id() as u8; // of a check that was given up
        rustix::io::write(&worker, &pong(late)).unwrap();
        {
            let mut check = std::pin::pin!(link.check());
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(check.as_mut().poll(cx).is_pending());
            let mut buffer = [0; 64];
            let sent = try_recv(&worker, &mut buffer).unwrap();
            assert_eq!(buffer[..sent.len], ping(u32::from(late) + 1));
            rustix::io::write(&worker, &pong(late + 1)).unwrap();
            assert!(check.await.is_ok());
        }
        rustix::io::write(&worker, &end(99)).unwrap();
        assert!(link.check().await.is_err(), "no frame but that is expected");
        assert!(link.is_violated());
        drop(worker);
    }
}

#[tokio::test]
async fn late_answer_to_a_check_does_not_affect_the_next_request() {
    let pair = Pair::new();
    rustix::io::write(&pair.worker, &pong(1)).unwrap();
    let id = pair.begin();
    pair.answer(id);
    let reply = pair.reply(id).await;
    assert!(matches!(reply, Some(Ok((Reply::End { id: of }, _))) if of == id));
    assert!(!pair.frames.lock().is_violated);
}

#[tokio::test]
async fn worker_that_reads_no_checks_fails_them_when_its_socket_is_full() {
    let (link, _worker) = GateLink::new(None, true).unwrap();
    while link.0.socket.try_send(&ping(0), &[]).is_ok() {}
    let Err(Unhealthy { has_answered: false, .. }) = link.check().await else {
        panic!("it has not answered");
    };
}
