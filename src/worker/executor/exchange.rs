//! Runs a request in an application: with a timeout, panics caught, and the body sent.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame};
use tokio::time::{Sleep, sleep_until};

use super::super::{
    error::{RequestTimeout, WorkerPanicked},
    queue::{
        job::{Answer, Job},
        streamed::{self, Ended, Streamed},
    },
};
use crate::{
    Body, HttpService, Request, Response,
    error::{BoxError, Error, Kind, panic_message},
    policy::restart::Allowance,
};

/// Runs a request until its response is complete, the body included.
///
/// # Errors
/// The application has panicked. The instance must be discarded.
pub(crate) async fn run_request<A: HttpService>(
    app: &mut A,
    request: Request,
    job: &Job,
    allowance: Allowance,
) -> Result<Done, WorkerPanicked> {
    let head = catch(within(allowance, respond(app, request))).await?;
    match head {
        None => Ok(Done::Answer(Err(timed_out(allowance).into()))),
        Some(Err(error)) => Ok(Done::Answer(Err(error))),
        Some(Ok(Output::Complete(response))) => Ok(Done::Answer(Ok(response))),
        Some(Ok(Output::Partial { head, first, rest })) => {
            let (body, receiver) = streamed::new(*head.body());
            job.set_body(body.clone());
            job.answer(Ok(head.map(|_| receiver)));
            let ended =
                catch(within(allowance, streamed::pump(rest, first, &body, || false))).await?;
            let ended = ended.unwrap_or_else(|| Ended::Failed(timed_out(allowance).into()));
            Ok(Done::Body(body, ended))
        }
    }
}

fn timed_out(allowance: Allowance) -> Error {
    Error::new(Kind::Timeout, RequestTimeout(allowance.total))
}

/// The end of a request, before it is reported to the caller.
pub(crate) enum Done {
    Answer(Answer),
    Body(Arc<Streamed>, Ended),
}

impl Done {
    /// Reports the end to the caller.
    pub(crate) fn report(self, job: &Job) {
        match self {
            Self::Answer(answer) => job.answer(answer),
            Self::Body(body, Ended::Complete(trailers)) => body.finish(trailers),
            Self::Body(body, Ended::Failed(error)) => body.abort(error),
            Self::Body(_, Ended::ReaderDropped) => {}
        }
    }
}

impl WorkerPanicked {
    /// Reports the panic to the caller.
    pub(crate) fn report(&self, job: &Job) {
        job.abort(|| Error::new(Kind::Internal, self.clone()));
    }
}

/// A response after the first frame of its body.
enum Output {
    Complete(Response),
    Partial { head: Response<Option<u64>>, first: Option<Bytes>, rest: Body },
}

async fn respond<A: HttpService>(app: &mut A, request: Request) -> Result<Output, BoxError> {
    poll_fn(|cx| app.poll_ready(cx)).await.map_err(Into::into)?;
    let response = app.call(request).await.map_err(Into::into)?.map(Body::new);
    first_frame(response).await
}

/// Sends a response to the end of its body. The caller of this function may apply a timeout. `may_exceed` is that of
/// [`pump`](streamed::pump).
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need it"))]
pub(crate) async fn deliver(response: Response, job: &Job, may_exceed: impl Fn() -> bool) -> Done {
    match first_frame(response).await {
        Err(error) => Done::Answer(Err(error)),
        Ok(Output::Complete(response)) => Done::Answer(Ok(response)),
        Ok(Output::Partial { head, first, rest }) => {
            let (body, receiver) = streamed::new(*head.body());
            job.set_body(body.clone());
            job.answer(Ok(head.map(|_| receiver)));
            let ended = streamed::pump(rest, first, &body, may_exceed).await;
            Done::Body(body, ended)
        }
    }
}

async fn first_frame(response: Response) -> Result<Output, BoxError> {
    if response.body().as_bytes().is_some() || response.body().as_file().is_some() {
        return Ok(Output::Complete(response));
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // The tunnel runs in the connection's task, and its body is open as long.
        return Ok(Output::Complete(response));
    }
    // The bodies of frameworks are streams even if they have one piece. Polling once avoids the channel for
    // these.
    let (head, mut rest) = response.into_parts();
    let len = rest.len();
    let first = match poll_once(&mut rest).await {
        None => None,
        Some(None) => return Ok(Output::Complete(Response::from_parts(head, Body::empty()))),
        Some(Some(frame)) => match frame?.into_data() {
            Ok(data) if rest.is_end_stream() => {
                return Ok(Output::Complete(Response::from_parts(head, data.into())));
            }
            Ok(data) => Some(data),
            Err(frame) => {
                let (tx, body) = Body::channel(Some(0));
                tx.finish(frame.into_trailers().ok());
                return Ok(Output::Complete(Response::from_parts(head, body)));
            }
        },
    };
    Ok(Output::Partial { head: Response::from_parts(head, len), first, rest })
}

/// Returns the next frame, or `None` if it is pending.
async fn poll_once(body: &mut Body) -> Option<Option<Result<Frame<Bytes>, BoxError>>> {
    poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Runs `work` with a timeout; returns `None` if it expires. No timer is created for work that never waits.
async fn within<T>(allowance: Allowance, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut sleep = pin!(None::<Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if sleep.is_none() {
            sleep.set(Some(sleep_until(allowance.until.into())));
        }
        sleep.as_mut().as_pin_mut().expect("set above").poll(cx).map(|()| None)
    })
    .await
}

/// Catches a panic of `work`, which may leave the application in any state.
async fn catch<T>(work: impl Future<Output = T>) -> Result<T, WorkerPanicked> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => {
            Poll::Ready(Err(WorkerPanicked { message: panic_message(&*panic).to_owned() }))
        }
    })
    .await
}
