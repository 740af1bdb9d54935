//! `Dir`, the service, and its future.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use tokio::{task::JoinHandle, time::Instant};
use tower_service::Service;

use super::{
    cache::{Cache, Limits, REVALIDATE},
    entry::{Entry, Path},
    respond::{plain, respond},
    root::Root,
};
use crate::{
    Body, BoxError, Error,
    error::Kind,
    semantics::target::{file_path, normalize},
};

/// The files below a folder as a service; made by [`dir`](super::dir).
///
/// Always ready, and cheap to clone: clones share the open folder. It answers for itself, down
/// to 404 and 405; an error means that the fault is here. Must be called within a Tokio runtime.
///
/// ```
/// use http::{Request, StatusCode, header};
/// use tower::ServiceExt;
/// use vestibule::{Body, files};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("hello.txt"), "hello").unwrap();
///
/// let request = Request::get("/hello.txt").body(Body::empty()).unwrap();
/// let response = files::dir(folder.path()).oneshot(request).await.unwrap();
/// assert_eq!(response.status(), StatusCode::OK);
/// assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
/// assert_eq!(response.body().as_bytes().unwrap(), "hello");
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Dir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<Root>,
    options: Options,
    cache: Cache,
}

#[derive(Debug, Clone)]
struct Options {
    index: String,
    cache_control: Option<HeaderValue>,
    revalidate: Duration,
    limits: Limits,
}

impl Dir {
    pub(super) fn new(path: PathBuf) -> Self {
        let options = Options {
            index: "index.html".to_owned(),
            cache_control: None,
            revalidate: REVALIDATE,
            limits: Limits::default(),
        };
        Self::build(Arc::new(Root::new(path)), options)
    }

    /// The name of the file that a folder is answered with, `index.html` by default.
    #[must_use]
    pub fn index(self, name: impl Into<String>) -> Self {
        self.with(|options| options.index = name.into())
    }

    /// A Cache-Control value for every file, as in `max-age=3600`. None by default.
    #[must_use]
    pub fn cache_control(self, value: HeaderValue) -> Self {
        self.with(|options| options.cache_control = Some(value))
    }

    /// For how long a file that was looked at is served without looking again, a second by
    /// default. A file that is replaced, written to or removed is seen at the latest then.
    ///
    /// Zero looks at the disk for every request, on a thread that may block: at many times the
    /// price of a request, for folders whose changes must be seen at once.
    #[must_use]
    pub fn revalidate(self, after: Duration) -> Self {
        self.with(|options| options.revalidate = after)
    }

    /// The most paths that are remembered, 1,024 by default. Zero remembers none.
    #[must_use]
    pub fn cache_entries(self, most: usize) -> Self {
        self.with(|options| options.limits.entries = most)
    }

    /// The most bytes of paths and contents held in memory, 16 MiB by default. Only files up to
    /// 32 KiB are held.
    #[must_use]
    pub fn cache_bytes(self, most: usize) -> Self {
        self.with(|options| options.limits.bytes = most)
    }

    /// The most files above 32 KiB that are held open, 256 by default. Beyond it files are opened
    /// when they are asked for.
    #[must_use]
    pub fn cache_open_files(self, most: usize) -> Self {
        self.with(|options| options.limits.open_files = most)
    }

    /// What was remembered under other options is not taken along.
    fn with(self, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.0.options.clone();
        change(&mut options);
        Self::build(self.0.root.clone(), options)
    }

    fn build(root: Arc<Root>, options: Options) -> Self {
        let cache = Cache::new(options.limits, options.revalidate);
        Self(Arc::new(Inner { root, options, cache }))
    }
}

impl Service<Request<Body>> for Dir {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (request, _) = request.into_parts();
        match self.0.find(&request) {
            Found::Response(response) => ResponseFuture::ready(response),
            Found::Entry(entry) => ResponseFuture::ready(respond(&request, &entry)),
            Found::OnDisk { normal, path, now } => {
                let inner = self.0.clone();
                ResponseFuture::blocking(request, move || inner.load(&normal, &path, now))
            }
        }
    }
}

/// What is known of a request without a look at the disk.
enum Found {
    /// The answer: a refusal.
    Response(Response<Body>),
    /// What it asks for.
    Entry(Arc<Entry>),
    /// Where to look. It was not there, or not lately, at `now`.
    OnDisk { normal: Box<str>, path: Path, now: Instant },
}

impl Inner {
    fn find(&self, request: &Parts) -> Found {
        let method = &request.method;
        if !matches!(*method, Method::GET | Method::HEAD) {
            let mut response = plain(method, StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Found::Response(response);
        }
        let Ok(normal) = normalize(request.uri.path()) else {
            return Found::Response(plain(method, StatusCode::BAD_REQUEST));
        };
        let now = Instant::now();
        if let Some(entry) = self.cache.get(&normal, now) {
            return Found::Entry(entry);
        }
        let Ok(path) = file_path(&normal) else {
            return Found::Response(plain(method, StatusCode::BAD_REQUEST));
        };
        match Path::of(&path, &self.options.index) {
            Some(path) => Found::OnDisk { normal: normal.into(), path, now },
            None => Found::Response(plain(method, StatusCode::NOT_FOUND)),
        }
    }

    /// Looks at the disk, and remembers what is there.
    fn load(&self, normal: &str, path: &Path, now: Instant) -> io::Result<Arc<Entry>> {
        let entry = Entry::load(&self.root, path, self.options.cache_control.as_ref())?;
        let entry = Arc::new(entry);
        self.cache.put(normal, entry.clone(), now);
        Ok(entry)
    }
}

/// The future of [`Dir`].
#[derive(Debug)]
pub struct ResponseFuture(State);

#[derive(Debug)]
enum State {
    Ready(Option<Response<Body>>),
    Blocking(Box<Pending>),
}

/// A look at the disk, on a thread that may block.
#[derive(Debug)]
struct Pending {
    request: Parts,
    load: JoinHandle<io::Result<Arc<Entry>>>,
}

/// The folder or a file in it cannot be read, and it is not the request's fault.
#[derive(Debug, thiserror::Error)]
#[error("cannot read below the folder")]
pub struct Unreadable(#[source] io::Error);

impl ResponseFuture {
    fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(Some(response)))
    }

    /// Was it answered without a look at the disk?
    #[cfg(test)]
    pub(super) fn is_hit(&self) -> bool {
        matches!(self.0, State::Ready(_))
    }

    fn blocking(
        request: Parts,
        load: impl FnOnce() -> io::Result<Arc<Entry>> + Send + 'static,
    ) -> Self {
        let load = tokio::task::spawn_blocking(load);
        Self(State::Blocking(Box::new(Pending { request, load })))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let pending = match &mut self.0 {
            State::Ready(response) => {
                return Poll::Ready(Ok(response.take().expect("polled after completion")));
            }
            State::Blocking(pending) => pending,
        };
        let loaded = match std::task::ready!(Pin::new(&mut pending.load).poll(cx)) {
            Ok(loaded) => loaded,
            // It panicked, or the runtime is shutting down.
            Err(error) => return Poll::Ready(Err(Error::new(Kind::Internal, error).into())),
        };
        Poll::Ready(match loaded {
            Ok(entry) => Ok(respond(&pending.request, &entry)),
            Err(error) => Err(Error::new(kind(&error), Unreadable(error)).into()),
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Nobody waits any more: if it has not begun, it need not.
        self.load.abort();
    }
}

fn kind(error: &io::Error) -> Kind {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Kind::Overloaded,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn running_out_is_told_apart_from_a_failing_disk() {
        assert_eq!(kind(&Errno::MFILE.into()), Kind::Overloaded);
        assert_eq!(kind(&Errno::IO.into()), Kind::Internal);
    }

    #[test]
    fn the_future_is_little_more_than_its_response() {
        let (future, response) = (size_of::<ResponseFuture>(), size_of::<Response<Body>>());
        assert!(future <= response + 16, "{future} {response}");
    }
}
