//! `Accel`: an application names a file, and the front sends it.

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Dir, escape, multipart::KindOfWhole, respond, service};
use crate::{BoxError, Request, Response, semantics::date::HttpDate};

/// nginx's name: a path as in a request, escaped as far as it has to be.
const ACCEL: HeaderName = HeaderName::from_static("x-accel-redirect");

/// Apache's and lighttpd's: a path in the file system.
const SENDFILE: HeaderName = HeaderName::from_static("x-sendfile");

/// Fields of a GET or HEAD request that the files answer by, beside Accept-Encoding.
///
/// In any other request they are the application's affair, which has acted by now: a 412 or a 304
/// would say that it has not.
const OF_REQUEST: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// Fields of the application's response that are about its own body or status, not about the file.
const OF_ITS_OWN: [HeaderName; 15] = [
    header::ACCEPT_RANGES,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::RETRY_AFTER,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// What the names of fields begin with that are for nginx, as `x-accel-expires` is.
const OF_NGINX: &str = "x-accel-";

/// Directives of Cache-Control that keep a response from caches.
const FORBIDDING: [&str; 3] = ["no-store", "no-cache", "private"];

/// Wraps a service in [`Accel`].
///
/// ```
/// use tower::{Layer, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, files::{self, AccelLayer}};
///
/// // It looks at who asks, and leaves the sending to the front.
/// let app = service_fn(|_: Request| async {
///     let response = Response::builder().header("x-accel-redirect", "/protected/report.pdf");
///     Ok::<_, BoxError>(response.body(Body::empty()).unwrap())
/// });
/// let app = AccelLayer::new(files::dir("/srv/reports")).prefix("/protected").layer(app);
/// # drop(app);
/// ```
#[derive(Debug, Clone)]
pub struct AccelLayer {
    dir: Dir,
    prefix: String,
    root: Option<PathBuf>,
}

impl AccelLayer {
    /// Sends files of `dir` for `X-Accel-Redirect`.
    pub fn new(dir: Dir) -> Self {
        Self { dir, prefix: String::new(), root: None }
    }

    /// What the paths begin with that the application names, as in `/protected`; it is cut off. One
    /// that begins otherwise names nothing. A slash at its end makes no difference.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self.prefix.truncate(self.prefix.trim_end_matches('/').len());
        self
    }

    /// Also understands `X-Sendfile`, whose paths are those of the file system and begin with `root`,
    /// which is where the folder is.
    #[must_use]
    pub fn sendfile(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// The target that the application names, if it names one; `Some(None)` if that is nothing here.
    fn target(&self, headers: &HeaderMap) -> Option<Option<Uri>> {
        if let Some(value) = headers.get(ACCEL) {
            let path = text(value).and_then(|path| path.strip_prefix(&*self.prefix));
            let path = path.filter(|path| path.starts_with('/'));
            return Some(path.and_then(|path| escape::target(path.as_bytes()).parse().ok()));
        }
        let (root, value) = (self.root.as_ref()?, headers.get(SENDFILE)?);
        let path = text(value).and_then(|path| {
            let below = std::path::Path::new(path).strip_prefix(root).ok()?.to_str()?;
            format!("/{}", escape::names(below.as_bytes())).parse().ok()
        });
        Some(path)
    }
}

/// Names of files are in UTF-8 and often stand there as they are.
fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

impl<S> Layer<S> for AccelLayer {
    type Service = Accel<S>;

    fn layer(&self, inner: S) -> Accel<S> {
        Accel { inner, layer: self.clone() }
    }
}

/// Sends the file that the application names in `X-Accel-Redirect` (or `X-Sendfile`) instead of the
/// body that it answered with, which is dropped: whoever made it is free.
///
/// Codings are those of the client's request, and conditions and ranges if it is a GET or HEAD. What
/// the application says beside (cookies, `Content-Type`, `Content-Disposition`, `Cache-Control`,
/// `Vary`) is kept; what is about its own body or status is not, nor what else it tells nginx by
/// `X-Accel-` fields. What it names and is not there is a 404, and so is a folder without the slash.
/// The fields that name files never reach the client, and count in responses only: put it around
/// applications whose word counts.
#[derive(Debug, Clone)]
pub struct Accel<S> {
    inner: S,
    layer: AccelLayer,
}

impl<S> Service<Request> for Accel<S>
where
    S: Service<Request, Response = Response>,
    S::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let asked = Asked::of(&request);
        let layer = self.layer.clone();
        ResponseFuture { asked, layer, state: State::Inner(self.inner.call(request)) }
    }
}

/// What must be kept of a request.
struct Asked {
    head: bool,
    fields: HeaderMap,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut fields = HeaderMap::new();
        let names = if reads { &OF_REQUEST[..] } else { &[] };
        for name in names.iter().chain([&header::ACCEPT_ENCODING]) {
            for value in request.headers().get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        Self { head: request.method() == Method::HEAD, fields }
    }
}

/// The future of [`Accel`].
#[pin_project]
pub struct ResponseFuture<F> {
    asked: Asked,
    layer: AccelLayer,
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
#[allow(clippy::large_enum_variant, reason = "the small one is the rare one")]
enum State<F> {
    Inner(#[pin] F),
    /// The file, and what the application said.
    File(#[pin] service::ResponseFuture, HeaderMap),
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let mut response = match this.state.as_mut().project() {
                StateProj::Inner(f) => ready!(f.poll(cx)).map_err(Into::into)?,
                StateProj::File(f, said) => {
                    let mut response = ready!(f.poll(cx))?;
                    if response.status() == StatusCode::PERMANENT_REDIRECT {
                        // A folder without its slash. Where that is, the client cannot ask for.
                        let method = if this.asked.head { Method::HEAD } else { Method::GET };
                        response = respond::status_text(&method, StatusCode::NOT_FOUND);
                    }
                    return Poll::Ready(Ok(merge(response, std::mem::take(said))));
                }
            };
            let target = this.layer.target(response.headers());
            response.headers_mut().remove(ACCEL);
            response.headers_mut().remove(SENDFILE);
            let Some(target) = target else { return Poll::Ready(Ok(response)) };
            let said = std::mem::take(response.headers_mut());
            drop(response); // with its body: whoever made it has nothing more to do
            let mut request = Request::default();
            if this.asked.head {
                *request.method_mut() = Method::HEAD;
            }
            // What names nothing here is asked for by a name that nothing has.
            *request.uri_mut() = target.unwrap_or_else(|| Uri::from_static("//"));
            *request.headers_mut() = std::mem::take(&mut this.asked.fields);
            if let Some(kind) = said.get(header::CONTENT_TYPE) {
                request.extensions_mut().insert(KindOfWhole(kind.clone()));
            }
            let file = this.layer.dir.call(request);
            this.state.set(State::File(file, said));
        }
    }
}

/// The file's response, with what the application said of it.
fn merge(mut response: Response, mut said: HeaderMap) -> Response {
    let status = response.status();
    for name in OF_ITS_OWN {
        said.remove(name);
    }
    let of_nginx = said.keys().filter(|name| name.as_str().starts_with(OF_NGINX));
    for name in of_nginx.cloned().collect::<Vec<_>>() {
        said.remove(name);
    }
    let headers = response.headers_mut();
    let of_file = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if !of_file {
        said.remove(header::CONTENT_DISPOSITION);
    }
    let several = |kind: &HeaderValue| kind.as_bytes().starts_with(b"multipart/byteranges");
    if !of_file || headers.get(header::CONTENT_TYPE).is_some_and(several) {
        said.remove(header::CONTENT_TYPE); // each part says it
    }
    if status.is_client_error() {
        keep_from_caches(&mut said);
    }
    // Who may have it, the application decides, by a cookie perhaps; which coding, the files.
    if let Some(of_file) = headers.remove(header::VARY) {
        said.append(header::VARY, of_file);
    }
    let mut replaced = None;
    for (name, value) in said {
        // Of several values only the first comes with its name: it replaces the file's.
        match name {
            Some(name) => {
                headers.insert(name.clone(), value);
                replaced = Some(name);
            }
            None => {
                if let Some(name) = &replaced {
                    headers.append(name.clone(), value);
                }
            }
        }
    }
    response
}

/// Of how long the file may be kept, leaves what forbids it: a refusal with the application's cookies
/// beside it would be kept by heuristics otherwise.
fn keep_from_caches(said: &mut HeaderMap) {
    let mut forbidden = Vec::new();
    for value in said.get_all(header::CACHE_CONTROL) {
        for directive in value.as_bytes().split(|&b| b == b',') {
            // Of `private="set-cookie"` it is all that is private now.
            let name = directive.split(|&b| b == b'=').next().unwrap_or_default().trim_ascii();
            let known = FORBIDDING.iter().find(|f| name.eq_ignore_ascii_case(f.as_bytes()));
            forbidden.extend(known.filter(|f| !forbidden.contains(f)));
        }
    }
    said.remove(header::CACHE_CONTROL);
    let now = HttpDate::from(SystemTime::now());
    let later = |at: &HeaderValue| HttpDate::parse(at.as_bytes()).is_some_and(|at| at > now);
    if said.get_all(header::EXPIRES).iter().any(later) {
        said.remove(header::EXPIRES);
    }
    for directive in forbidden {
        said.append(header::CACHE_CONTROL, HeaderValue::from_static(directive));
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
