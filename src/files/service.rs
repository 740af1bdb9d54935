//! `Dir`, the service, and its future.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use tokio::task::JoinHandle;
use tower_service::Service;

use super::{
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
}

#[derive(Debug, Clone)]
struct Options {
    index: String,
    cache_control: Option<HeaderValue>,
}

impl Dir {
    pub(super) fn new(path: PathBuf) -> Self {
        let options = Options { index: "index.html".to_owned(), cache_control: None };
        Self(Arc::new(Inner { root: Arc::new(Root::new(path)), options }))
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

    fn with(self, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = self.0.options.clone();
        change(&mut options);
        Self(Arc::new(Inner { root: self.0.root.clone(), options }))
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
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let mut response = plain(&request.method, StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return ResponseFuture::ready(response);
        }
        let Ok(normal) = normalize(request.uri.path()) else {
            return ResponseFuture::ready(plain(&request.method, StatusCode::BAD_REQUEST));
        };
        let Ok(path) = file_path(&normal) else {
            return ResponseFuture::ready(plain(&request.method, StatusCode::BAD_REQUEST));
        };
        let Some(path) = Path::of(&path, &self.0.options.index) else {
            return ResponseFuture::ready(plain(&request.method, StatusCode::NOT_FOUND));
        };
        let inner = self.0.clone();
        ResponseFuture::blocking(request, move || inner.load(&path))
    }
}

impl Inner {
    fn load(&self, path: &Path) -> io::Result<Arc<Entry>> {
        Entry::load(&self.root, path, self.options.cache_control.as_ref()).map(Arc::new)
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
