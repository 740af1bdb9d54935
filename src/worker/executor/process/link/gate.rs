//! `GateLink`: frames of [`crate::proto::gate`] over a socket pair.

mod body;
mod encode;
mod frames;
mod lookahead;
mod send;
mod upload;
mod websocket;

use std::{
    future::{pending, poll_fn},
    io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex},
};

use self::{
    body::{bad_gateway, respond},
    frames::{Frame, FrameSocket, State},
    lookahead::Window,
    send::{SendError, Sent},
    upload::Upload,
    websocket::Tunnel,
};
use super::{
    super::super::super::{
        process::{ApplicationError, GateError},
        queue::{
            ahead::Lookahead,
            job::{Answer, Departure, Job},
        },
    },
    ExchangeFailed, Unhealthy,
};
use crate::{
    Request,
    conn::{Delivery, log_request},
    error::{BoxError, Error, Kind},
    net::seqpacket::{self, MAX_DESCRIPTORS, SeqPacket},
    proto::gate::{Fault, Reply, cancel, ping, refork},
};

/// The connection to one worker, for one request at a time. The next request may be sent ahead to a worker that reads
/// it only after its current response.
pub(in super::super) struct GateLink(Arc<FrameSocket>);

impl GateLink {
    /// Creates the link in the current runtime. Returns the worker's end of the socket pair too. `program` is sent
    /// first, if there is one. A worker that `is_sequential` reads a request only after its last response.
    pub(in super::super) fn new(
        program: Option<&str>,
        is_sequential: bool,
    ) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = seqpacket::pair()?;
        let socket = SeqPacket::new(ours)?;
        if let Some(program) = program {
            socket.try_send(program.as_bytes(), &[])?;
        }
        let window = Window::new(is_sequential, theirs.try_clone()?);
        let (is_violated, is_disconnected) = (false, false);
        let state = State { next_id: 0, in_progress: None, window, is_violated, is_disconnected };
        Ok((Self(Arc::new(FrameSocket { socket, state: Mutex::new(state) })), theirs))
    }

    /// Sends further sockets to the worker.
    pub(in super::super) fn send_sockets(&self, sockets: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        fds.chunks(MAX_DESCRIPTORS).try_for_each(|fds| self.0.socket.try_send(&[0], fds))
    }

    /// Waits until the worker has loaded the application.
    pub(super) async fn wait_ready(&self, problem: &mut String) {
        "it has not loaded the application".clone_into(problem);
        match poll_fn(|cx| self.0.poll_frame(cx)).await {
            Ok((Reply::Ready, None)) => return,
            Ok(_) => *problem = Fault::Unsolicited.to_string(),
            Err(error) => *problem = error.to_string(),
        }
        pending().await // until the process ends or the start timeout passes
    }

    /// Sends a request, unless it was sent ahead, and waits for its response. Calls `on_begun` if the response has not
    /// arrived yet.
    pub(super) async fn exchange(
        &self,
        mut request: Request,
        job: &Arc<Job>,
        on_begun: impl Fn(),
    ) -> Result<Answer, ExchangeFailed> {
        let frames = &self.0;
        let (tunnel, socket) = match Tunnel::new(&request) {
            Ok(both) => both.unzip(),
            Err(answer) => return Ok(*answer),
        };
        let replay = request.body().replay();
        let ahead = frames.lock().window.take_begun();
        let sent = match ahead {
            Some(id) => Ok(Sent { id, is_whole: true, upload: None }),
            None => frames.send_request(&mut request, socket).await,
        };
        let Sent { id, is_whole, mut upload } = match sent {
            Ok(sent) => sent,
            Err(SendError::Refused(error)) => return Ok(Err(error)),
            Err(SendError::Unsent(error)) => {
                return Err(failure(Some(request), Delivery::NotSent, error.into()));
            }
            Err(SendError::Incomplete(error)) => {
                return Err(failure(None, Delivery::MaybeSent, error.into()));
            }
        };
        let first = self.first_reply(id, job, &mut upload, on_begun).await;
        let FirstReply { has_left, upload_error, reply } = first;
        let Some(reply) = reply else { return Err(ExchangeFailed::taken_back(request)) };
        let upload = match (&reply, upload_error) {
            // The application has failed since it could not read the body.
            (Ok((Reply::Failed { .. }, _)), Some(error)) => return Ok(Err(error)),
            (_, error) => (upload, error),
        };
        match reply {
            Ok((Reply::End { .. }, _)) if has_left => Ok(Err(bad_gateway(GateError::Closed))),
            Ok((reply, fd)) => match respond(frames, request.method(), reply, fd, upload, job) {
                Ok(answer) => Ok(answer.map(|response| match tunnel {
                    Some(tunnel) => tunnel.respond(response),
                    None => response,
                })),
                Err(fault) => Err(failure(None, Delivery::MaybeSent, frames.set_violated(fault))),
            },
            // A frame of no request may be older than this one, so another worker may answer it.
            Err(error @ GateError::Fault(fault)) if fault != Fault::Unsolicited => {
                Err(failure(None, Delivery::MaybeSent, error))
            }
            Err(error) if is_whole && frames.lock().window.is_unread(id) => {
                Err(failure(Some(request), Delivery::NotSent, error))
            }
            Err(error) => {
                let request = replay.map(|body| request.map(|_| body));
                Err(failure(request, Delivery::MaybeSent, error))
            }
        }
    }

    /// Waits for the first frame of a response, and calls `on_begun` if it is not there. If the caller leaves before, or the
    /// request takes too long, a worker that answers several requests at a time is told.
    async fn first_reply(
        &self,
        id: u32,
        job: &Job,
        upload: &mut Option<Upload>,
        on_begun: impl Fn(),
    ) -> FirstReply {
        let frames = &self.0;
        let is_concurrent = !frames.lock().window.is_sequential();
        let (mut told, mut is_begun, mut upload_error) = (None, false, None);
        let reply = poll_fn(|cx| {
            if let Some(error) = Upload::poll(upload, cx) {
                upload_error = Some(error);
            }
            // If the socket is full, `finish_request` sends the frame.
            if is_concurrent && told != Some(Departure::Aborted) {
                frames.tell_departure(id, job, &mut told, cx);
            }
            let reply = frames.poll_first_reply(cx, id, job);
            // Not if the response has arrived: the worker can be sent two requests then.
            if reply.is_pending() && !mem::replace(&mut is_begun, true) {
                on_begun();
            }
            reply
        });
        let reply = reply.await;
        FirstReply { has_left: told.is_some(), upload_error, reply }
    }

    /// Cancels the request if its response was not read to its end, and waits until the worker has ended it. `release`
    /// takes back the requests that were sent ahead, and returns `false` if the worker has begun one.
    pub(super) async fn finish_request(&self, job: &Job, release: impl Fn() -> bool) {
        let frames = &self.0;
        let Some(id) = frames.request_in_progress() else { return };
        let is_concurrent = {
            let mut state = frames.lock();
            state.window.close();
            !state.window.is_sequential()
        };
        // A worker that has begun the next request has ended this one.
        if release() {
            // Fails if the worker has exited.
            let _ = frames.socket.send(&cancel(id), &[]).await;
        }
        let mut told = Some(Departure::CallerLeft);
        while frames.request_in_progress().is_some() {
            let reply = poll_fn(|cx| {
                if is_concurrent && told != Some(Departure::Aborted) {
                    frames.tell_departure(id, job, &mut told, cx);
                }
                frames.poll_reply(cx, id, job)
            });
            match reply.await {
                Ok((Reply::Failed { traceback, .. }, _)) => log_exception(job, &traceback),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a worker process did not end its request");
                    return;
                }
            }
        }
    }

    /// Stops sending requests ahead, since the client of the current one reads its response slowly. The requests that were
    /// sent ahead are taken back by `release`. That returns `false` if the worker has begun
    /// one, and this returns `true`: the rest of the current response is in the socket, before the next response.
    pub(super) fn has_read_ahead(&self, release: impl FnOnce() -> bool) -> bool {
        let mut state = self.0.lock();
        state.window.close();
        let has_ahead = !state.window.is_empty();
        drop(state);
        has_ahead && !release()
    }

    /// Logs what the application reports after its responses. The worker must have no request. Returns why the socket
    /// cannot be used any more. A sequential worker reports everything before the end of a response, so its socket is not
    /// read.
    pub(super) async fn log_while_idle(&self) -> GateError {
        let is_sequential = self.0.lock().window.is_sequential();
        if is_sequential { pending().await } else { self.0.log_while_idle().await }
    }

    /// Checks that the worker, which has no request, reads its socket and answers.
    pub(super) async fn check(&self) -> Result<(), Unhealthy> {
        let frames = &self.0;
        let number = frames.lock().next_id();
        let answered = match frames.socket.try_send(&ping(number), &[]) {
            Ok(()) => frames.wait_pong(number).await,
            Err(error) => Err(GateError::Io(error)), // it has exited, or has read no check for long
        };
        answered.map_err(|error| Unhealthy { reason: error.to_string(), has_answered: false })
    }

    /// Returns whether the worker has no request and the socket can be used.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.0.lock();
        let is_usable = !state.is_violated && !state.is_disconnected;
        is_usable && state.in_progress.is_none() && state.window.is_empty()
    }

    /// Makes the worker, which is idle, the process that forks workers.
    ///
    /// # Errors
    /// Those of sendmsg(2).
    pub(super) fn refork(&self, control: BorrowedFd<'_>) -> io::Result<()> {
        self.0.socket.try_send(&refork(), &[])?;
        self.0.socket.try_send(&[0], &[control])
    }

    /// Moves the socket to the current runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(super) fn change_runtime(&self) -> io::Result<()> {
        self.0.socket.change_runtime()
    }

    pub(super) fn is_violated(&self) -> bool {
        self.0.lock().is_violated
    }

    pub(super) fn is_disconnected(&self) -> bool {
        self.0.lock().is_disconnected
    }

    /// Returns the interface for sending requests ahead, if the worker supports it.
    pub(super) fn lookahead(&self) -> Option<Arc<dyn Lookahead>> {
        let is_possible = self.0.lock().window.is_sequential();
        is_possible.then(|| self.0.clone() as _)
    }

    /// Records that the process has exited: the socket ends after the bytes that it has written.
    pub(super) fn on_exit(&self) {
        self.0.lock().window.end();
    }

    pub(super) fn close(&self) {
        self.0.socket.close();
    }
}

struct FirstReply {
    /// Whether the worker was told that the caller has left or that the request takes too long.
    has_left: bool,
    /// The error of the request's body.
    upload_error: Option<BoxError>,
    /// `None` if the request was taken back.
    reply: Option<Frame>,
}

/// Creates the failure of a request that the worker will not answer.
fn failure(request: Option<Request>, delivery: Delivery, error: GateError) -> ExchangeFailed {
    let error = Error::new(Kind::BadGateway, error).into();
    ExchangeFailed { request, delivery, is_fatal: true, is_worker_idle: false, error }
}

/// Logs the traceback of an exception of the application.
fn log_exception(job: &Job, traceback: &str) {
    let request = job.request();
    log_request!(
        error,
        "vestibule::worker",
        request,
        "an application raised an exception\n{traceback}"
    );
}

/// Converts an error of the application for the caller.
fn internal(error: ApplicationError) -> BoxError {
    Error::new(Kind::Internal, error).into()
}

#[cfg(test)]
mod tests;
