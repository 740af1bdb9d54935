//! The loop of one worker thread: builds its application, then one request at a time.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body::Body as _;
use tokio::{
    runtime::Runtime,
    time::{Sleep, sleep_until},
};
use tower_service::Service;

use super::{
    error::{FactoryPanicked, RequestTimeout, WorkerPanicked},
    job::Job,
    queue::{Pool, Started, Work},
    state::Id,
    stream::{self, Ended},
};
use crate::{
    Body, Request, Response,
    error::{BoxError, Error, Kind},
    policy::backoff::Backoff,
};

/// Waits between attempts to build the application: from 100 ms, which a database that restarts
/// does not notice, to 10 s, after which a repaired one is noticed soon enough.
const REBUILD: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// Runs worker `id` until the pool closes or its place was taken.
pub(super) fn run<F, A, B>(pool: Arc<Pool>, id: Id, factory: &F, mut started: Option<Started>)
where
    F: Fn() -> A,
    A: Service<Request, Response = Response<B>>,
    A::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut place = Place { pool, id, live: true };
    let mut failures = 0;
    loop {
        let error = match build(factory) {
            Err(error) => error,
            Ok((runtime, mut app)) => {
                failures = 0;
                if let Some(s) = started.take() {
                    let _ = s.send(Ok(())); // a start that was given up has no ear
                }
                let end = runtime.block_on(serve(&place.pool, id, &mut app));
                discard(runtime, app);
                match end {
                    End::Closed => return,
                    End::Replaced => return place.live = false,
                    End::Panicked => continue,
                }
            }
        };
        if let Some(s) = started.take() {
            let _ = s.send(Err(error));
            return;
        }
        failures += 1;
        tracing::error!(worker = id, failures, %error, "a worker could not be rebuilt");
        if !place.pool.pause(REBUILD.delay(failures)) {
            return;
        }
    }
}

/// A thread's place in the pool; given up however the thread ends.
struct Place {
    pool: Arc<Pool>,
    id: Id,
    live: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.left(self.id, self.live);
    }
}

fn build<A>(factory: impl Fn() -> A) -> Result<(Runtime, A), FactoryPanicked> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| FactoryPanicked { message: e.to_string() })?;
    let guard = runtime.enter();
    let app = catch_unwind(AssertUnwindSafe(factory))
        .map_err(|panic| FactoryPanicked { message: message(&*panic) })?;
    drop(guard);
    Ok((runtime, app))
}

/// Drops an application, which may panic over it, and ends what it had spawned.
fn discard<A>(runtime: Runtime, app: A) {
    let guard = runtime.enter();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(app)));
    drop(guard);
    runtime.shutdown_background();
    if let Err(panic) = dropped {
        tracing::error!(message = message(&*panic), "an application panicked as it was dropped");
    }
}

/// Why a worker stops serving with this instance.
enum End {
    Closed,
    Replaced,
    Panicked,
}

/// The runtime turns between requests too, so what the application spawned goes on.
async fn serve<A, B>(pool: &Pool, id: Id, app: &mut A) -> End
where
    A: Service<Request, Response = Response<B>>,
    A::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    while let Some(Work { job, request, until, allowed }) = pool.next(id).await {
        let late = || Error::new(Kind::Timeout, RequestTimeout(allowed));
        let head = guarded(within(until, respond(app, request))).await;
        let outcome = match head {
            Err(panic) => Err(panic),
            Ok(None) => Ok(Done::Answer(Err(late().into()))),
            Ok(Some(Err(e))) => Ok(Done::Answer(Err(e))),
            Ok(Some(Ok(Settled::Whole(response)))) => Ok(Done::Answer(Ok(response))),
            Ok(Some(Ok(Settled::Streamed { head, first, rest }))) => {
                send(&job, head, first, rest, until, late).await
            }
        };
        // First the place, then the answer: who has the answer finds the place free.
        let panicked = outcome.is_err();
        let stay = pool.done(id, panicked);
        drop(job.take_permit());
        match outcome {
            Ok(done) => done.tell(&job),
            Err(panicked) => job.cut(|| Error::new(Kind::Internal, panicked.clone())),
        }
        match (stay, panicked) {
            (false, _) => return End::Replaced,
            (true, true) => return End::Panicked,
            (true, false) => {}
        }
    }
    End::Closed
}

/// What is left to tell when the work has ended.
enum Done {
    Answer(Result<Response, BoxError>),
    Body(Arc<stream::Stream>, Ended),
}

impl Done {
    fn tell(self, job: &Job) {
        match self {
            Self::Answer(answer) => job.answer(answer),
            Self::Body(stream, Ended::Whole(trailers)) => stream.finish(trailers),
            Self::Body(stream, Ended::Broken(e)) => stream.abort(e),
            Self::Body(_, Ended::Unread) => {}
        }
    }
}

/// A response as its application left it after its first frame.
enum Settled {
    Whole(Response),
    Streamed { head: Response<Option<u64>>, first: Option<Bytes>, rest: Body },
}

async fn respond<A, B>(app: &mut A, request: Request) -> Result<Settled, BoxError>
where
    A: Service<Request, Response = Response<B>>,
    A::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    poll_fn(|cx| app.poll_ready(cx)).await.map_err(Into::into)?;
    let response = app.call(request).await.map_err(Into::into)?.map(Body::new);
    if response.body().as_bytes().is_some() || response.body().as_file().is_some() {
        return Ok(Settled::Whole(response));
    }
    // A framework's body of one piece looks like any stream; one look inside spares the channel.
    let (head, mut rest) = response.into_parts();
    let len = rest.len();
    let first = poll_fn(|cx| match std::pin::Pin::new(&mut rest).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Some(frame)),
        Poll::Pending => Poll::Ready(None),
    })
    .await;
    let (first, more) = match first {
        None => (None, true),
        Some(None) => (None, false),
        Some(Some(Err(e))) => return Err(e),
        Some(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) => (Some(data), !rest.is_end_stream()),
            Err(frame) => {
                let (tx, body) = Body::channel(Some(0));
                tx.finish(frame.into_trailers().ok());
                return Ok(Settled::Whole(Response::from_parts(head, body)));
            }
        },
    };
    if more {
        let head = Response::from_parts(head, len);
        return Ok(Settled::Streamed { head, first, rest });
    }
    Ok(Settled::Whole(Response::from_parts(head, first.unwrap_or_default().into())))
}

/// Answers with the head and sends the body after it; the worker is busy until that has ended.
async fn send(
    job: &Job,
    head: Response<Option<u64>>,
    first: Option<Bytes>,
    rest: Body,
    until: Instant,
    late: impl Fn() -> Error,
) -> Result<Done, WorkerPanicked> {
    let (stream, body) = stream::new(*head.body());
    job.set_stream(stream.clone());
    job.answer(Ok(head.map(|_| body)));
    let ended = guarded(within(until, stream::pump(rest, first, &stream))).await?;
    let ended = ended.unwrap_or_else(|| Ended::Broken(late().into()));
    Ok(Done::Body(stream, ended))
}

/// Bounds `work` by time, or gives `None`. No timer is made for work that never waits.
async fn within<T>(until: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut sleep = pin!(None::<Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if sleep.is_none() {
            sleep.set(Some(sleep_until(until.into())));
        }
        sleep.as_mut().as_pin_mut().expect("made just above").poll(cx).map(|()| None)
    })
    .await
}

/// Catches a panic of `work`. Whatever state it leaves is thrown away with the instance.
async fn guarded<T>(work: impl Future<Output = T>) -> Result<T, WorkerPanicked> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(WorkerPanicked { message: message(&*panic) })),
    })
    .await
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}
