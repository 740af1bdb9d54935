//! `FrameSocket`: the socket of a worker, and the state of its requests.

use std::{
    cell::Cell,
    future::poll_fn,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;

use super::{
    super::super::super::super::{
        process::GateError,
        queue::job::{Departure, Job},
    },
    log_exception,
    lookahead::Window,
};
use crate::{
    conn::log_request,
    net::seqpacket::SeqPacket,
    proto::gate::{Fault, MAX_FRAME, MAX_ID, Reply, abort, cancel},
};

/// A frame of the worker with its descriptor, or the reason why there is none.
pub(super) type Frame = Result<(Reply, Option<OwnedFd>), GateError>;

/// This process's end of the socket pair.
pub(super) struct FrameSocket {
    pub(super) socket: SeqPacket,
    pub(super) state: Mutex<State>,
}

thread_local! {
    /// A buffer for a frame, which is copied from it at once: one for a thread, since it has many sockets.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with a buffer that has space for a frame. Its contents are not specified.
pub(super) fn with_buffer<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFER.take();
    buffer.resize(MAX_FRAME, 0);
    let result = f(&mut buffer);
    BUFFER.set(buffer);
    result
}

pub(super) struct State {
    pub(super) next_id: u32,
    /// The id of the request that the worker has not ended.
    pub(super) in_progress: Option<u32>,
    pub(super) window: Window,
    /// Whether the worker has violated the protocol.
    pub(super) is_violated: bool,
    /// Whether the socket is closed or broken.
    pub(super) is_disconnected: bool,
}

impl State {
    pub(super) fn next_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = if id == MAX_ID { 0 } else { id + 1 };
        id
    }

    /// Records the request that the worker answers next.
    pub(super) fn begin(&mut self, id: u32, may_look_ahead: bool) {
        self.in_progress = Some(id);
        self.window.begin(Instant::now(), may_look_ahead);
    }
}

impl FrameSocket {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the request that the worker has not ended, if the worker can still end it.
    pub(super) fn request_in_progress(&self) -> Option<u32> {
        let state = self.lock();
        state.in_progress.filter(|_| !state.is_violated && !state.is_disconnected)
    }

    /// Receives the first frame of the response to request `id`; `None` if the request was taken back.
    ///
    /// One lock spans the check and the receipt. Otherwise a request that is taken back in between could receive the
    /// response to the next one, which the worker has read instead.
    pub(super) fn poll_first_reply(
        &self,
        cx: &mut Context<'_>,
        id: u32,
        job: &Job,
    ) -> Poll<Option<Frame>> {
        loop {
            let mut state = self.lock();
            if state.window.is_taken_back(id, cx.waker()) {
                return Poll::Ready(None);
            }
            let frame = ready!(self.receive(&mut state, cx));
            drop(state);
            if let Some(reply) = self.filter(frame, id, job) {
                return Poll::Ready(Some(reply));
            }
        }
    }

    /// Receives the next frame of request `id`.
    pub(super) fn poll_reply(&self, cx: &mut Context<'_>, id: u32, job: &Job) -> Poll<Frame> {
        loop {
            let frame = ready!(self.poll_frame(cx));
            if let Some(reply) = self.filter(frame, id, job) {
                return Poll::Ready(reply);
            }
        }
    }

    /// Returns a frame if it belongs to the response to request `id`. Writes the application's log messages to the log.
    fn filter(&self, frame: Frame, id: u32, job: &Job) -> Option<Frame> {
        match frame {
            Ok((Reply::Log { id: of, text }, _)) if of == id => {
                log_request!(
                    info,
                    "vestibule::worker::output",
                    job.request(),
                    stream = "errors",
                    "{text}"
                );
                None
            }
            Ok((Reply::Raised { id: of, traceback }, _)) if of == id => {
                log_exception(job, &traceback);
                None
            }
            Ok((reply, _)) if log_late(&reply) => None,
            Ok((reply, _)) if reply.id() != Some(id) => {
                Some(Err(self.set_violated(Fault::Unsolicited)))
            }
            frame => Some(frame),
        }
    }

    /// Logs what the application reports after its responses, while the worker has no request. Returns why the socket
    /// cannot be used any more.
    pub(super) async fn log_while_idle(&self) -> GateError {
        loop {
            match poll_fn(|cx| self.poll_frame(cx)).await {
                Ok((reply, _)) if log_late(&reply) => {}
                Ok(_) => return self.set_violated(Fault::Unsolicited),
                Err(error) => return error,
            }
        }
    }

    /// Tells a worker that runs several requests at a time that the caller of `id` has left, or that the request takes too
    /// long, unless it was `told` so before. The caller must poll again until it was told of the latter.
    pub(super) fn tell_departure(
        &self,
        id: u32,
        job: &Job,
        told: &mut Option<Departure>,
        cx: &Context<'_>,
    ) {
        let Poll::Ready(departure) = job.poll_departure(cx) else { return };
        let frame = match departure {
            Departure::CallerLeft if told.is_some() => return,
            Departure::CallerLeft => cancel(id),
            Departure::Aborted => abort(id),
        };
        if self.socket.try_send(&frame, &[]).is_ok() {
            *told = Some(departure);
        }
    }

    /// Waits for the answer to the check `number` of a worker that has no request.
    pub(super) async fn wait_pong(&self, number: u32) -> Result<(), GateError> {
        loop {
            match poll_fn(|cx| self.poll_frame(cx)).await? {
                (Reply::Pong { number: of }, _) if of == number => return Ok(()),
                (reply, _) if log_late(&reply) => {}
                _ => return Err(self.set_violated(Fault::Unsolicited)),
            }
        }
    }

    /// Receives the next frame, of any request.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Frame> {
        self.receive(&mut self.lock(), cx)
    }

    fn receive(&self, state: &mut State, cx: &mut Context<'_>) -> Poll<Frame> {
        let received = with_buffer(|buffer| {
            let received = ready!(self.socket.poll_recv(cx, buffer))?;
            let frame = Bytes::copy_from_slice(&buffer[..received.len]);
            Poll::Ready(Ok((received, frame)))
        });
        let (received, frame) = match ready!(received) {
            Ok((received, frame)) if !frame.is_empty() => (received, frame),
            end => {
                state.is_disconnected = true;
                return Poll::Ready(Err(end.map_or_else(GateError::Io, |_| GateError::Closed)));
            }
        };
        let reply = match Reply::decode(frame) {
            _ if received.is_truncated => Err(Fault::TooLong),
            Ok(reply) if reply.has_descriptor() != received.has_descriptor() => {
                Err(Fault::Descriptor)
            }
            other => other,
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(fault) => {
                state.is_violated = true;
                return Poll::Ready(Err(fault.into()));
            }
        };
        let ends = matches!(
            &reply,
            Reply::Complete { .. } | Reply::End { .. } | Reply::File { .. } | Reply::Failed { .. }
        );
        if ends && reply.id() == state.in_progress {
            state.in_progress = None;
            state.window.complete(Instant::now());
        }
        Poll::Ready(Ok((reply, received.descriptor)))
    }

    /// Records that the worker has violated the protocol, so that it is stopped.
    pub(super) fn set_violated(&self, fault: Fault) -> GateError {
        self.lock().is_violated = true;
        fault.into()
    }
}

/// Logs what an application reports after its response, and ignores the late answer to a check. Returns `false` for other
/// frames.
fn log_late(reply: &Reply) -> bool {
    match reply {
        Reply::Log { text, .. } => {
            tracing::info!(target: "vestibule::worker::output", stream = "errors", "{text}");
        }
        Reply::Raised { traceback, .. } => {
            let message = "an application raised an exception after its response";
            tracing::error!(target: "vestibule::worker", "{message}\n{traceback}");
        }
        Reply::Pong { .. } => {}
        _ => return false,
    }
    true
}
