//! What a request to a `Dir` gets: from memory at once, or from a look at the disk.

use std::{
    borrow::Cow,
    io,
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
    choices::Choices,
    dir::{Dir, From, Inner},
    entry::{Entry, Loaded, Path},
    respond::{asked, plain, respond},
};
use crate::{
    Body, BoxError, Error,
    error::Kind,
    net::clock,
    semantics::target::{file_path, normalize},
    spare,
};

impl Service<Request<Body>> for Dir {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let (request, _) = request.into_parts();
        let response = match self.0.find(&request) {
            Found::Refused(status) => refuse(&request.method, status),
            Found::Entry(entry, status) => respond(&request, &entry, status),
            Found::OnDisk { normal, path, now } => {
                return ResponseFuture::blocking(request, self.0.look_up(&normal, path, now));
            }
        };
        spare::spend(request);
        ResponseFuture::ready(response)
    }
}

/// Where what stands for missing files is remembered: no request's path lacks a slash.
const OTHERWISE: &str = "";

/// What is known of a request without a look at the disk.
pub(super) enum Found {
    /// It is none for a file, or names one in two ways.
    Refused(StatusCode),
    /// What it asks for, or what stands for what is not there, with its status.
    Entry(Arc<Entry>, StatusCode),
    /// Where to look, if there can be anything. It was not there, or not lately, at `now`.
    OnDisk { normal: Box<str>, path: Option<Path>, now: Instant },
}

/// What needs no look.
static MISSING: LazyLock<Arc<Entry>> = LazyLock::new(|| Arc::new(Entry::Missing));
static FOLDER: LazyLock<Arc<Entry>> = LazyLock::new(|| Arc::new(Entry::Folder));

/// A short answer to what is refused.
pub(super) fn refuse(method: &Method, status: StatusCode) -> Response<Body> {
    let mut response = plain(method, status);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

impl Inner {
    pub(super) fn find(&self, request: &Parts) -> Found {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Found::Refused(StatusCode::METHOD_NOT_ALLOWED);
        }
        let normal = if let Some(name) = &self.options.choices.one {
            Cow::Borrowed(&**name)
        } else {
            let path = request.uri.path();
            if path == "/" && !asked(request).path().ends_with('/') {
                return Found::Entry(FOLDER.clone(), StatusCode::OK);
            }
            let Ok(normal) = normalize(path) else {
                return Found::Refused(StatusCode::BAD_REQUEST);
            };
            normal
        };
        let now = clock::lately();
        if let Some(entry) = self.cache.get(&normal, now) {
            if !self.is_replaced(&entry) {
                return Found::Entry(entry, StatusCode::OK);
            }
            if let Some((status, entry)) = self.cached_otherwise(now) {
                return Found::Entry(entry, status);
            }
        }
        let Ok(path) = file_path(&normal) else { return Found::Refused(StatusCode::BAD_REQUEST) };
        let path = if self.options.choices.one.is_some() {
            Some(Path::of_file(&path))
        } else {
            Path::of(&path, &self.options.choices)
        };
        if path.is_none() {
            if !self.is_replaced(&MISSING) {
                return Found::Entry(MISSING.clone(), StatusCode::OK);
            }
            if let Some((status, entry)) = self.cached_otherwise(now) {
                return Found::Entry(entry, status);
            }
        }
        if self.options.inline_lookups
            && let Ok((status, entry)) =
                self.load(View::non_blocking(self.from.backend()), &normal, path.as_ref(), now)
        {
            if self.options.choices.otherwise.is_some() {
                self.cache.forsake(OTHERWISE); // it was perhaps claimed in vain
            }
            return Found::Entry(entry, status);
        }
        Found::OnDisk { normal: normal.into(), path, now }
    }

    /// Looks at the disk where that may block. Those who ask for one path at a time have one look.
    pub(super) fn look_up(
        self: &Arc<Self>,
        normal: &str,
        path: Option<Path>,
        now: Instant,
    ) -> Looked {
        let look = || {
            let look = Look { inner: self.clone(), normal: normal.into(), path, now };
            move || look.take()
        };
        if self.cache.is_used() {
            let changes = self.cache.changes();
            // A look from before a change, or from long ago, has nothing to say to who comes now.
            let is_harmless = |(began, since): &(Instant, u64)| {
                self.cache.is_recent(*began, now) && !self.cache.may_have_changed(normal, *since)
            };
            self.looks.join(normal, (now, changes), is_harmless, look)
        } else {
            self.looks.alone(look()) // what changes must be seen at once
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
    fn load(
        &self,
        from: View<'_>,
        normal: &str,
        path: Option<&Path>,
        now: Instant,
    ) -> io::Result<Loaded> {
        let entry = match path {
            Some(path) => self.look(from, normal, &path.below_root, now, |choices| {
                Entry::load(from, path, choices)
            })?,
            None => MISSING.clone(),
        };
        let Some((page, status)) =
            self.options.choices.otherwise.as_ref().filter(|_| self.is_replaced(&entry))
        else {
            return Ok((StatusCode::OK, entry));
        };
        if let Some(cached) = self.cache.fresh(OTHERWISE, now) {
            return Ok((*status, cached));
        }
        let page = page.trim_start_matches('/');
        let otherwise =
            self.look(from, OTHERWISE, page, now, |choices| Entry::page(from, page, choices))?;
        Ok((*status, otherwise))
    }

    /// Looks at what is remembered as `name`, and at the folders on the way to `path` from then on.
    fn look(
        &self,
        from: View<'_>,
        name: &str,
        path: &str,
        now: Instant,
        load: impl FnOnce(&Choices) -> io::Result<Entry>,
    ) -> io::Result<Arc<Entry>> {
        let changes = self.cache.changes();
        if let From::Folder(root) = &self.from {
            self.follow(root, path, from.can_block())?;
        }
        let entry = Arc::new(load(&self.options.choices)?);
        self.cache.put(name, entry.clone(), now, changes);
        Ok(entry)
    }
}

pub(super) type Looked = oneshot::Receiver<io::Result<Loaded>>;

/// A look at the disk that is to be taken.
struct Look {
    inner: Arc<Inner>,
    normal: Box<str>,
    path: Option<Path>,
    now: Instant,
}

impl Look {
    fn take(self) -> io::Result<Loaded> {
        let from = View::blocking(self.inner.from.backend());
        self.inner.load(from, &self.normal, self.path.as_ref(), self.now)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        // It has failed, or the client has left before it began; or this changes nothing.
        for path in [&self.normal, OTHERWISE] {
            self.inner.cache.forsake(path);
        }
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
    load: Looked,
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

    fn blocking(request: Parts, load: Looked) -> Self {
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
        let (status, entry) = std::task::ready!(poll_looked(&mut pending.load, cx))?;
        Poll::Ready(Ok(respond(&pending.request, &entry, status)))
    }
}

/// What a look has found.
pub(super) fn poll_looked(
    looked: &mut Looked,
    cx: &mut Context<'_>,
) -> Poll<Result<Loaded, BoxError>> {
    let loaded = match std::task::ready!(Pin::new(looked).poll(cx)) {
        Ok(loaded) => loaded,
        // It panicked, or the runtime is shutting down.
        Err(_) => Err(io::Error::other("the look at the disk was cut short")),
    };
    Poll::Ready(loaded.map_err(|error| Error::new(kind(&error), Unreadable(error)).into()))
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
