//! `Dir` as a service: answers from the cache, or after a lookup.

use std::{
    borrow::Cow,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use tokio::sync::oneshot;
use tower_service::Service;

use super::{
    backend::View,
    dir::{Dir, Inner, Storage},
    entry::{Entry, FilePath, Loaded},
    lookup_config::LookupConfig,
    respond::{client_uri, respond, status_text},
};
use crate::{
    Body, BoxError, Error,
    conn::head_pool,
    error::Kind,
    net::clock,
    semantics::target::{file_path, normalize},
};

impl<B> Service<Request<B>> for Dir {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let (request, _) = request.into_parts();
        let response = match self.0.resolve(&request) {
            Resolution::Refused(status) => refuse(&request, status),
            Resolution::Entry(entry, status) => respond(&request, &entry, status),
            Resolution::OnDisk(pending) => {
                return ResponseFuture::blocking(request, self.0.lookup_blocking(pending));
            }
        };
        head_pool::release(request);
        ResponseFuture::ready(response)
    }
}

/// Cache key of the fallback page. It cannot be a request's path, which begins with a slash.
const FALLBACK_PAGE: &str = "";

/// The result of a cache lookup, or of a lookup that does not block.
pub(super) enum Resolution {
    /// The method is not GET or HEAD, or the path has no normal form.
    Refused(StatusCode),
    /// The entry, or the fallback page, with its status.
    Entry(Arc<Entry>, StatusCode),
    /// A lookup that may block is needed.
    OnDisk(OnDisk),
}

/// A path that is to be looked up on a thread that may block.
pub(super) struct OnDisk {
    normal: Box<str>,
    /// `None` if it cannot name a file.
    path: Option<FilePath>,
    now: Instant,
    /// Whether the client has requested the root of a nested service without its slash.
    lacks_slash: bool,
}

/// Entries that need no lookup.
static MISSING: LazyLock<Arc<Entry>> = LazyLock::new(|| Arc::new(Entry::Missing));
static DIRECTORY: LazyLock<Arc<Entry>> = LazyLock::new(|| Arc::new(Entry::Directory));

/// Returns the response to a refused request.
pub(super) fn refuse(request: &Parts, status: StatusCode) -> Response<Body> {
    let mut response = status_text(request, status);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

impl Inner {
    pub(super) fn resolve(&self, request: &Parts) -> Resolution {
        let resolution = self.resolve_path(request);
        if !self.options.config.index_required || !self.lacks_slash(request) {
            return resolution;
        }
        match resolution {
            Resolution::Entry(entry, status) => {
                let (status, entry) = with_slash((status, entry));
                Resolution::Entry(entry, status)
            }
            Resolution::OnDisk(pending) => {
                Resolution::OnDisk(OnDisk { lacks_slash: true, ..pending })
            }
            refused @ Resolution::Refused(_) => refused,
        }
    }

    /// Returns whether the client has requested the root of a nested service without its slash, which has the path `/` here.
    fn lacks_slash(&self, request: &Parts) -> bool {
        let is_root = request.uri.path() == "/" && self.options.config.single_file.is_none();
        is_root && !client_uri(request).path().ends_with('/')
    }

    fn resolve_path(&self, request: &Parts) -> Resolution {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Resolution::Refused(StatusCode::METHOD_NOT_ALLOWED);
        }
        let normal = if let Some(name) = &self.options.config.single_file {
            Cow::Borrowed(&**name)
        } else {
            if !self.options.config.index_required && self.lacks_slash(request) {
                return Resolution::Entry(DIRECTORY.clone(), StatusCode::OK);
            }
            let Ok(normal) = normalize(request.uri.path()) else {
                return Resolution::Refused(StatusCode::BAD_REQUEST);
            };
            normal
        };
        let now = clock::now();
        if let Some(entry) = self.cache.get(&normal, now) {
            if !self.is_replaced(&entry) {
                return Resolution::Entry(entry, StatusCode::OK);
            }
            if let Some((status, entry)) = self.cached_fallback_page(now) {
                return Resolution::Entry(entry, status);
            }
        }
        let Ok(path) = file_path(&normal) else {
            return Resolution::Refused(StatusCode::BAD_REQUEST);
        };
        let path = if self.options.config.single_file.is_some() {
            Some(FilePath::of_file(&path))
        } else {
            FilePath::parse(&path, &self.options.config)
        };
        if path.is_none() {
            if !self.is_replaced(&MISSING) {
                return Resolution::Entry(MISSING.clone(), StatusCode::OK);
            }
            if let Some((status, entry)) = self.cached_fallback_page(now) {
                return Resolution::Entry(entry, status);
            }
        }
        if self.options.inline_lookups
            && let Ok((status, entry)) =
                self.load(View::non_blocking(self.storage.backend()), &normal, path.as_ref(), now)
        {
            if self.options.config.fallback_page.is_some() {
                self.cache.release_refresh(FALLBACK_PAGE); // `resolve` may have claimed it
            }
            return Resolution::Entry(entry, status);
        }
        Resolution::OnDisk(OnDisk { normal: normal.into(), path, now, lacks_slash: false })
    }

    /// Looks up a path on a thread that may block. Concurrent requests for one path share a lookup.
    pub(super) fn lookup_blocking(self: &Arc<Self>, pending: OnDisk) -> PendingLookup {
        let OnDisk { normal, path, now, lacks_slash } = pending;
        let normal = &*normal;
        let stale = self.stale(normal, now);
        let make_lookup = || {
            let lookup = LookupJob { inner: self.clone(), normal: normal.into(), path, now };
            move || lookup.run()
        };
        let result = if self.cache.is_enabled() {
            let change_count = self.cache.change_count();
            // A lookup from before a change, or from long ago, must not answer this request.
            let can_join = |(began, change_count): &(Instant, u64)| {
                self.cache.is_recent(*began, now)
                    && !self.cache.may_have_changed(normal, *change_count)
            };
            self.lookups.join(normal, (now, change_count), can_join, make_lookup)
        } else {
            self.lookups.run_unshared(make_lookup()) // changes must be seen at once
        };
        PendingLookup { result, stale, lacks_slash }
    }

    /// Returns the stale entry, or the stale fallback page, with its status.
    fn stale(&self, normal: &str, now: Instant) -> Option<Loaded> {
        let entry = self.cache.stale(normal, now)?;
        match &self.options.config.fallback_page {
            Some((_, status)) if self.is_replaced(&entry) => {
                Some((*status, self.cache.stale(FALLBACK_PAGE, now)?))
            }
            _ => Some((StatusCode::OK, entry)),
        }
    }

    /// Returns whether the fallback page is served instead of `entry`.
    fn is_replaced(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::Missing) && self.options.config.fallback_page.is_some()
    }

    /// Returns the fallback page if it is cached.
    fn cached_fallback_page(&self, now: Instant) -> Option<(StatusCode, Arc<Entry>)> {
        let (_, status) = self.options.config.fallback_page.as_ref()?;
        Some((*status, self.cache.get(FALLBACK_PAGE, now)?))
    }

    /// Looks up a path, or the fallback page if it is missing, and caches the entry.
    fn load(
        &self,
        view: View<'_>,
        normal: &str,
        path: Option<&FilePath>,
        now: Instant,
    ) -> io::Result<Loaded> {
        let entry = match path {
            Some(path) => self.lookup(view, normal, &path.below_root, now, |config| {
                Entry::load(view, path, config)
            })?,
            None => MISSING.clone(),
        };
        let Some((page, status)) =
            self.options.config.fallback_page.as_ref().filter(|_| self.is_replaced(&entry))
        else {
            return Ok((StatusCode::OK, entry));
        };
        if let Some(cached) = self.cache.fresh(FALLBACK_PAGE, now) {
            return Ok((*status, cached));
        }
        let page = page.trim_start_matches('/');
        let entry = self.lookup(view, FALLBACK_PAGE, page, now, |config| {
            Entry::load_file(view, page, config)
        })?;
        Ok((*status, entry))
    }

    /// Runs `load`, caches its entry as `name`, and watches the directories of `path`.
    fn lookup(
        &self,
        view: View<'_>,
        name: &str,
        path: &str,
        now: Instant,
        load: impl FnOnce(&LookupConfig) -> io::Result<Entry>,
    ) -> io::Result<Arc<Entry>> {
        if let Storage::Directory(root) = &self.storage
            && view.can_block()
            && root.reopen_if_deleted()
        {
            self.invalidate_all();
        }
        let change_count = self.cache.change_count();
        if let Storage::Directory(root) = &self.storage {
            self.watch_path(root, path, view.can_block())?;
        }
        let entry = Arc::new(load(&self.options.config)?);
        self.cache.insert(name, entry.clone(), now, change_count);
        Ok(entry)
    }
}

/// A lookup that runs on a thread that may block.
#[derive(Debug)]
pub(super) struct PendingLookup {
    result: oneshot::Receiver<io::Result<Loaded>>,
    /// Served instead if descriptors, memory or threads have run out.
    stale: Option<Loaded>,
    lacks_slash: bool,
}

/// A lookup that is still to be run.
struct LookupJob {
    inner: Arc<Inner>,
    normal: Box<str>,
    path: Option<FilePath>,
    now: Instant,
}

impl LookupJob {
    fn run(self) -> io::Result<Loaded> {
        let view = View::blocking(self.inner.storage.backend());
        self.inner.load(view, &self.normal, self.path.as_ref(), self.now)
    }
}

impl Drop for LookupJob {
    fn drop(&mut self) {
        // The lookup failed, or all clients left before it began. After a success this has no effect.
        for path in [&self.normal, FALLBACK_PAGE] {
            self.inner.cache.release_refresh(path);
        }
    }
}

/// The future of [`Dir`].
#[derive(Debug)]
pub struct ResponseFuture(State);

#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most responses are ready, and a box would be an allocation for each"
)]
enum State {
    Ready(Option<Response<Body>>),
    Blocking(Box<Pending>),
}

/// A lookup on a thread that may block.
#[derive(Debug)]
struct Pending {
    request: Parts,
    lookup: PendingLookup,
}

/// An error of reading the directory or a file in it, which is not the request's fault.
#[derive(Debug, thiserror::Error)]
#[error("cannot look up a file")]
pub struct LookupError(#[source] io::Error);

impl ResponseFuture {
    fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(Some(response)))
    }

    /// Returns whether it was answered without another thread.
    #[cfg(test)]
    pub(super) fn is_hit(&self) -> bool {
        matches!(self.0, State::Ready(_))
    }

    fn blocking(request: Parts, lookup: PendingLookup) -> Self {
        Self(State::Blocking(Box::new(Pending { request, lookup })))
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
        let (status, entry) = std::task::ready!(pending.lookup.poll(cx))?;
        Poll::Ready(Ok(respond(&pending.request, &entry, status)))
    }
}

impl PendingLookup {
    /// Polls the lookup that runs on another thread.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Loaded, BoxError>> {
        let loaded = std::task::ready!(self.poll_loaded(cx))?;
        Poll::Ready(Ok(if self.lacks_slash { with_slash(loaded) } else { loaded }))
    }

    fn poll_loaded(&mut self, cx: &mut Context<'_>) -> Poll<Result<Loaded, BoxError>> {
        let error = match std::task::ready!(Pin::new(&mut self.result).poll(cx)) {
            Ok(Ok(loaded)) => return Poll::Ready(Ok(loaded)),
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("the lookup panicked"),
        };
        let kind = kind(&error);
        if kind == Kind::Overloaded
            && let Some(stale) = self.stale.take()
        {
            tracing::debug!(%error, "the lookup failed; the stale entry is served");
            return Poll::Ready(Ok(stale));
        }
        Poll::Ready(Err(Error::new(kind, LookupError(error)).into()))
    }
}

/// Returns the redirect to the slash in place of the root's index, listing or fallback page: their relative links need it.
fn with_slash(loaded: Loaded) -> Loaded {
    if matches!(*loaded.1, Entry::Missing) { loaded } else { (StatusCode::OK, DIRECTORY.clone()) }
}

/// Returns `Overloaded` if descriptors, memory or threads have run out.
fn kind(error: &io::Error) -> Kind {
    use rustix::io::Errno;
    match (Errno::from_io_error(error), error.kind()) {
        (Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM), _)
        | (_, ErrorKind::WouldBlock | ErrorKind::OutOfMemory) => Kind::Overloaded,
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests;
