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
    backend::Backend,
    cache::{Cache, Limits, REVALIDATE},
    choices::Choices,
    entry::{Entry, Path},
    respond::{plain, respond},
    root::{Root, Symlinks},
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
    from: From,
    options: Options,
    cache: Cache,
}

#[derive(Debug, Clone)]
struct Options {
    choices: Choices,
    symlinks: Symlinks,
    revalidate: Duration,
    limits: Limits,
}

/// Where the files come from.
#[derive(Debug, Clone)]
enum From {
    Folder(Arc<Root>),
    Other(Arc<dyn Backend>),
}

impl From {
    fn backend(&self) -> &dyn Backend {
        match self {
            Self::Folder(root) => &**root,
            Self::Other(backend) => &**backend,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            choices: Choices::default(),
            symlinks: Symlinks::Inside,
            revalidate: REVALIDATE,
            limits: Limits::default(),
        }
    }
}

impl Dir {
    pub(super) fn new(path: PathBuf) -> Self {
        Self::build(From::Folder(Arc::new(Root::new(path))), Options::default())
    }

    pub(super) fn from(backend: impl Backend) -> Self {
        Self::build(From::Other(Arc::new(backend)), Options::default())
    }

    /// The name of the file that a folder is answered with, `index.html` by default.
    #[must_use]
    pub fn index(self, name: impl Into<String>) -> Self {
        self.with(|options| options.choices.index = name.into())
    }

    /// A Cache-Control value for every file, as in `max-age=3600`. None by default.
    #[must_use]
    pub fn cache_control(self, value: HeaderValue) -> Self {
        self.cache_policy(move |_| Some(value.clone()))
    }

    /// A Cache-Control value by the file's path below the folder; none for `None`. It is asked when
    /// a file is looked at, not for each request.
    ///
    /// ```
    /// use http::HeaderValue;
    /// use vestibule::files;
    ///
    /// let site = files::dir("public").cache_policy(|path| {
    ///     Some(HeaderValue::from_static(if files::is_hashed(path) {
    ///         "public, max-age=31536000, immutable" // another content has another name
    ///     } else {
    ///         "no-cache" // kept, and asked for each time
    ///     }))
    /// });
    /// ```
    #[must_use]
    pub fn cache_policy(
        self,
        policy: impl Fn(&str) -> Option<HeaderValue> + Send + Sync + 'static,
    ) -> Self {
        self.with(|options| options.choices.cache_control = Some(Arc::new(policy)))
    }

    /// Serves `a.js.zst`, `a.js.br` or `a.js.gz` for `a.js` to those who accept it, unless it is
    /// older than the file itself; and 406 to those who accept nothing that is there. Off by
    /// default.
    #[must_use]
    pub fn precompressed(self) -> Self {
        self.with(|options| options.choices.precompressed = true)
    }

    /// Serves `about.html` for `/about` where there is nothing of that name. Off by default.
    #[must_use]
    pub fn html_extension(self) -> Self {
        self.with(|options| options.choices.html_extension = true)
    }

    /// Lists a folder without an index file: as HTML, or as JSON to those who accept only that. Up
    /// to 10,000 names, folders first. Off by default.
    #[must_use]
    pub fn listing(self) -> Self {
        self.with(|options| options.choices.listing = true)
    }

    /// Serves names that begin with a dot, too. Off by default, but for `/.well-known`.
    #[must_use]
    pub fn hidden(self) -> Self {
        self.with(|options| options.choices.hidden = true)
    }

    /// Serves this file, with 200, for whatever names nothing: the page of an application that finds
    /// its own way. Instead of [`not_found`](Self::not_found).
    #[must_use]
    pub fn fallback(self, path: impl Into<String>) -> Self {
        self.with(|options| options.choices.otherwise = Some((path.into(), StatusCode::OK)))
    }

    /// Serves this file, with 404, for whatever names nothing. Instead of
    /// [`fallback`](Self::fallback).
    #[must_use]
    pub fn not_found(self, path: impl Into<String>) -> Self {
        let status = StatusCode::NOT_FOUND;
        self.with(|options| options.choices.otherwise = Some((path.into(), status)))
    }

    /// Which symbolic links of a folder are followed; [`Symlinks::Inside`] by default.
    #[must_use]
    pub fn symlinks(self, which: Symlinks) -> Self {
        self.with(|options| options.symlinks = which)
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
        Self::build(self.0.from.clone(), options)
    }

    fn build(mut from: From, options: Options) -> Self {
        if let From::Folder(root) = &mut from
            && root.symlinks() != options.symlinks
        {
            *root = Arc::new(root.with_symlinks(options.symlinks));
        }
        let cache = Cache::new(options.limits, options.revalidate);
        Self(Arc::new(Inner { from, options, cache }))
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
            Found::Entry(entry, status) => ResponseFuture::ready(respond(&request, &entry, status)),
            Found::OnDisk { normal, path, now } => {
                let inner = self.0.clone();
                ResponseFuture::blocking(request, move || inner.load(&normal, &path, now))
            }
        }
    }
}

/// Where what stands for missing files is remembered: no path of a request is empty.
const OTHERWISE: &str = "";

/// What was found, and the status that it is served with.
type Loaded = (StatusCode, Arc<Entry>);

/// What is known of a request without a look at the disk.
enum Found {
    /// The answer: a refusal.
    Response(Response<Body>),
    /// What it asks for, or what stands for what is not there, with its status.
    Entry(Arc<Entry>, StatusCode),
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
            if !self.is_replaced(&entry) {
                return Found::Entry(entry, StatusCode::OK);
            }
            if let Some((status, entry)) = self.cached_otherwise(now) {
                return Found::Entry(entry, status);
            }
        }
        let Ok(path) = file_path(&normal) else {
            return Found::Response(plain(method, StatusCode::BAD_REQUEST));
        };
        match Path::of(&path, &self.options.choices) {
            Some(path) => Found::OnDisk { normal: normal.into(), path, now },
            None => Found::Response(plain(method, StatusCode::NOT_FOUND)),
        }
    }

    /// Does something else stand for it?
    fn is_replaced(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::Missing) && self.options.choices.otherwise.is_some()
    }

    /// What stands for what is not there, if it was looked at lately.
    fn cached_otherwise(&self, now: Instant) -> Option<(StatusCode, Arc<Entry>)> {
        let (_, status) = self.options.choices.otherwise.as_ref()?;
        Some((*status, self.cache.get(OTHERWISE, now)?))
    }

    /// Looks at the disk, and remembers what is there.
    fn load(&self, normal: &str, path: &Path, now: Instant) -> io::Result<Loaded> {
        let choices = &self.options.choices;
        let entry = Arc::new(Entry::load(self.from.backend(), path, choices)?);
        self.cache.put(normal, entry.clone(), now);
        let Some((page, status)) = choices.otherwise.as_ref().filter(|_| self.is_replaced(&entry))
        else {
            return Ok((StatusCode::OK, entry));
        };
        if let Some(cached) = self.cached_otherwise(now) {
            return Ok(cached);
        }
        let path = Path { below_root: page.trim_start_matches('/').to_owned(), is_index: true };
        let otherwise = match Entry::load(self.from.backend(), &path, choices)? {
            file @ Entry::File(_) => Arc::new(file),
            Entry::Listing(_) | Entry::Folder | Entry::Missing => {
                return Ok((StatusCode::OK, entry)); // that is not there either
            }
        };
        self.cache.put(OTHERWISE, otherwise.clone(), now);
        Ok((*status, otherwise))
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
    load: JoinHandle<io::Result<Loaded>>,
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
        load: impl FnOnce() -> io::Result<Loaded> + Send + 'static,
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
            Ok((status, entry)) => Ok(respond(&pending.request, &entry, status)),
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
