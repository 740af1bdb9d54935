//! `XAccelRedirect`: the application names a file in a header field, and the gateway sends it.

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

use super::{Dir, escape, multipart::WholeContentType, respond, service};
use crate::{
    Body, BoxError, HttpService, Request, Response,
    body::HttpBody,
    conn::{RequestInfo, log_request},
    semantics::{date::HttpDate, problem::Format},
};

/// nginx's field: the path of a request target, percent-encoded where needed.
const X_ACCEL_REDIRECT: HeaderName = HeaderName::from_static("x-accel-redirect");

/// The field of Apache and lighttpd: a path in the file system.
const X_SENDFILE: HeaderName = HeaderName::from_static("x-sendfile");

/// Fields of a GET or HEAD request that apply to the file, in addition to Accept-Encoding.
///
/// In requests of other methods they apply to the application, which has already acted: a 412 or a 304 would claim the
/// contrary.
const REQUEST_FIELDS: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// Fields that describe the application's own body or status. They are removed from its response.
const REPLACED_FIELDS: [HeaderName; 15] = [
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

/// Prefix of fields that control nginx, for example `x-accel-expires`.
const X_ACCEL_PREFIX: &str = "x-accel-";

/// Directives of Cache-Control that keep a response from caches.
const NO_CACHE_DIRECTIVES: [&str; 3] = ["no-store", "no-cache", "private"];

/// Wraps a service in [`XAccelRedirect`].
///
/// ```
/// use tower::{Layer, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, files::{self, XAccelRedirectLayer}};
///
/// // The application checks the user's permission; the gateway sends the file.
/// let app = service_fn(|_: Request| async {
///     let response = Response::builder().header("x-accel-redirect", "/protected/report.pdf");
///     Ok::<_, BoxError>(response.body(Body::empty()).unwrap())
/// });
/// let app = XAccelRedirectLayer::new(files::dir("/srv/reports")).prefix("/protected").layer(app);
/// # drop(app);
/// ```
#[derive(Debug, Clone)]
pub struct XAccelRedirectLayer {
    dir: Dir,
    prefix: String,
    root: Option<PathBuf>,
}

impl XAccelRedirectLayer {
    /// Sends files of `dir` for `X-Accel-Redirect`.
    pub fn new(dir: Dir) -> Self {
        Self { dir, prefix: String::new(), root: None }
    }

    /// Strips `prefix`, for example `/protected`, from the paths that the application names; a path without
    /// it is a 404. A trailing slash makes no difference.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self.prefix.truncate(self.prefix.trim_end_matches('/').len());
        self
    }

    /// Accepts `X-Sendfile` too. Its value is a path in the file system that begins with `root`, the
    /// path of the directory that is served.
    #[must_use]
    pub fn sendfile(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Returns the target that the application names; `Some(None)` if it is not below the prefix.
    fn target(&self, headers: &HeaderMap) -> Option<Option<Uri>> {
        if let Some(value) = headers.get(X_ACCEL_REDIRECT) {
            let path = as_text(value).and_then(|path| path.strip_prefix(&*self.prefix));
            let path = path.filter(|path| path.starts_with('/'));
            return Some(path.and_then(|path| escape::escape_target(path.as_bytes()).parse().ok()));
        }
        let (root, value) = (self.root.as_ref()?, headers.get(X_SENDFILE)?);
        let path = as_text(value).and_then(|path| {
            let below = std::path::Path::new(path).strip_prefix(root).ok()?.to_str()?;
            format!("/{}", escape::escape_path(below.as_bytes())).parse().ok()
        });
        Some(path)
    }
}

/// Returns a value as text. File names are often sent as plain UTF-8.
fn as_text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

impl<S> Layer<S> for XAccelRedirectLayer {
    type Service = XAccelRedirect<S>;

    fn layer(&self, inner: S) -> XAccelRedirect<S> {
        XAccelRedirect { inner, layer: self.clone() }
    }
}

/// Sends the file that the application names in `X-Accel-Redirect` (or `X-Sendfile`); made by
/// [`XAccelRedirectLayer`].
///
/// The application's own body is dropped, which frees its worker. Accept-Encoding comes from the
/// client's request, and so do conditions and ranges if it is a GET or HEAD. The application's cookies,
/// `Content-Type`, `Content-Disposition`, `Cache-Control` and `Vary` are kept; fields about its own body
/// or status and other `X-Accel-` fields are not. An empty `Content-Type` stands for the file's own. A
/// file that does not exist is a 404 and a warning in the log, and so is a directory without the trailing
/// slash.
///
/// The fields that name files never reach the client, and are ignored in requests. Put it around
/// applications that you trust: they can publish any file of the directory.
#[derive(Debug, Clone)]
pub struct XAccelRedirect<S> {
    inner: S,
    layer: XAccelRedirectLayer,
}

impl<S, B> Service<Request<B>> for XAccelRedirect<S>
where
    S: HttpService<B>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let file_request = FileRequest::of(&request);
        let layer = self.layer.clone();
        ResponseFuture { file_request, layer, state: State::Inner(self.inner.call(request)) }
    }
}

/// The parts of a request that the file's response depends on.
struct FileRequest {
    info: RequestInfo,
    is_head: bool,
    fields: HeaderMap,
}

impl FileRequest {
    fn of<B>(request: &Request<B>) -> Self {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut fields = HeaderMap::new();
        let names = if is_read { &REQUEST_FIELDS[..] } else { &[] };
        for name in names.iter().chain([&header::ACCEPT_ENCODING]) {
            for value in request.headers().get_all(name) {
                fields.append(name.clone(), value.clone());
            }
        }
        let (info, is_head) =
            (RequestInfo::from_request(request), request.method() == Method::HEAD);
        Self { info, is_head, fields }
    }
}

/// The future of [`XAccelRedirect`].
#[pin_project]
pub struct ResponseFuture<F> {
    file_request: FileRequest,
    layer: XAccelRedirectLayer,
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
#[allow(clippy::large_enum_variant, reason = "the large variant is the common one")]
enum State<F> {
    Inner(#[pin] F),
    File {
        #[pin]
        response: service::ResponseFuture,
        /// The header fields of the application.
        app_fields: HeaderMap,
        /// The file, as the application names it.
        named_file: HeaderValue,
    },
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let mut response = match this.state.as_mut().project() {
                StateProj::Inner(f) => ready!(f.poll(cx)).map_err(Into::into)?,
                StateProj::File { response, app_fields, named_file } => {
                    let mut response = ready!(response.poll(cx))?;
                    if response.status() == StatusCode::PERMANENT_REDIRECT {
                        // A directory without the slash. The client cannot request its path.
                        let method =
                            if this.file_request.is_head { Method::HEAD } else { Method::GET };
                        let status = StatusCode::NOT_FOUND;
                        response = respond::status_body(&method, status, Format::Text);
                    }
                    if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
                    {
                        let (path, status) =
                            (named_file.as_bytes().escape_ascii(), response.status());
                        log_request!(warn, "vestibule::files", &this.file_request.info, file = %path, %status, "cannot send the file that the application names");
                    }
                    return Poll::Ready(Ok(merge_fields(response, std::mem::take(app_fields))));
                }
            };
            let target = this.layer.target(response.headers());
            let accel = response.headers_mut().remove(X_ACCEL_REDIRECT);
            let sendfile = response.headers_mut().remove(X_SENDFILE);
            let (Some(target), Some(named_file)) = (target, accel.or(sendfile)) else {
                return Poll::Ready(Ok(response.map(Body::new)));
            };
            let mut app_fields = std::mem::take(response.headers_mut());
            drop(response); // with its body, which frees the worker
            let mut request = Request::new(());
            if this.file_request.is_head {
                *request.method_mut() = Method::HEAD;
            }
            // A target that is not below the prefix becomes a path that names no file.
            *request.uri_mut() = target.unwrap_or_else(|| Uri::from_static("//"));
            *request.headers_mut() = std::mem::take(&mut this.file_request.fields);
            if app_fields.get(header::CONTENT_TYPE).is_some_and(HeaderValue::is_empty) {
                app_fields.remove(header::CONTENT_TYPE);
            }
            if let Some(kind) = app_fields.get(header::CONTENT_TYPE) {
                request.extensions_mut().insert(WholeContentType(kind.clone()));
            }
            let response = this.layer.dir.call(request);
            this.state.set(State::File { response, app_fields, named_file });
        }
    }
}

/// Merges the application's header fields into the file's response.
fn merge_fields(mut response: Response, mut app_fields: HeaderMap) -> Response {
    let status = response.status();
    for name in REPLACED_FIELDS {
        app_fields.remove(name);
    }
    let nginx_fields = app_fields.keys().filter(|name| name.as_str().starts_with(X_ACCEL_PREFIX));
    for name in nginx_fields.cloned().collect::<Vec<_>>() {
        app_fields.remove(name);
    }
    let headers = response.headers_mut();
    let is_file = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT);
    if !is_file {
        app_fields.remove(header::CONTENT_DISPOSITION);
    }
    let is_multipart = |kind: &HeaderValue| kind.as_bytes().starts_with(b"multipart/byteranges");
    if !is_file || headers.get(header::CONTENT_TYPE).is_some_and(is_multipart) {
        app_fields.remove(header::CONTENT_TYPE); // each part has it
    }
    if status.is_client_error() {
        restrict_caching(&mut app_fields);
    }
    // Both vary: the application by a cookie perhaps, the file by Accept-Encoding.
    if let Some(file_vary) = headers.remove(header::VARY) {
        app_fields.append(header::VARY, file_vary);
    }
    let mut replaced = None;
    for (name, value) in app_fields {
        // `HeaderMap` yields the name with the first value only: that one replaces the file's.
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

/// Removes the directives that permit caches to store the file, and keeps those that forbid it. Otherwise an error with the
/// application's cookies could be stored heuristically.
fn restrict_caching(app_fields: &mut HeaderMap) {
    let mut directives = Vec::new();
    for value in app_fields.get_all(header::CACHE_CONTROL) {
        for directive in value.as_bytes().split(|&b| b == b',') {
            // `private="set-cookie"` becomes `private`.
            let name = directive.split(|&b| b == b'=').next().unwrap_or_default().trim_ascii();
            let known =
                NO_CACHE_DIRECTIVES.iter().find(|f| name.eq_ignore_ascii_case(f.as_bytes()));
            directives.extend(known.filter(|f| !directives.contains(f)));
        }
    }
    app_fields.remove(header::CACHE_CONTROL);
    let now = HttpDate::from(SystemTime::now());
    let is_future = |at: &HeaderValue| HttpDate::parse(at.as_bytes()).is_some_and(|at| at > now);
    if app_fields.get_all(header::EXPIRES).iter().any(is_future) {
        app_fields.remove(header::EXPIRES);
    }
    for directive in directives {
        app_fields.append(header::CACHE_CONTROL, HeaderValue::from_static(directive));
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
