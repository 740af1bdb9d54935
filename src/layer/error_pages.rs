//! `ErrorPages`: custom pages for error statuses.

use std::{collections::HashMap, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, header, request};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{body::Body, semantics::negotiate::prefers};

/// Fields that describe the replaced content.
const REPLACED_FIELDS: [HeaderName; 14] = [
    header::ACCEPT_RANGES,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// Replaces the content of error responses by HTML pages, for clients that prefer HTML to JSON, such as browsers that load a
/// page. Other clients, such as curl and the scripts of a page, which accept `*/*`, get the response unchanged, unless
/// [`for_all_clients`](Self::for_all_clients) is on.
///
/// Belongs outside [`RescueLayer`](super::RescueLayer), which turns errors into responses. Keeps the status and all fields
/// except those that describe the replaced content. `Accept` is added to the `Vary` of every response with a page, unless all
/// clients get it. With [`keep_html`](Self::keep_html), error pages of the application are kept.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::ErrorPagesLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let pages = ErrorPagesLayer::new()
///     .page(404, "<h1>There is no such page</h1>")
///     .pages(500..=599, "<h1>Something went wrong on our side</h1>");
/// let site = pages.layer(service_fn(async |_: Request| {
///     Ok::<_, BoxError>(Response::builder().status(502).body(Body::from("details"))?)
/// }));
/// let get = |accept| http::Request::get("/").header("accept", accept).body(Body::empty());
/// let response = site.clone().oneshot(get("text/html, */*;q=0.1")?).await?;
/// assert!(response.body().as_bytes().unwrap().starts_with(b"<h1>Something"));
/// let response = site.oneshot(get("application/json")?).await?;
/// assert_eq!(response.body().as_bytes().unwrap(), "details");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct ErrorPagesLayer {
    pages: Arc<HashMap<u16, Bytes>>,
    keeps_html: bool,
    for_all_clients: bool,
}

/// The service of [`ErrorPagesLayer`].
pub type ErrorPages<S> = Filtered<S, ErrorPagesLayer>;

impl ErrorPagesLayer {
    /// Creates a layer without pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the page of a status: HTML in UTF-8.
    ///
    /// # Panics
    /// If the status is not in 400 to 599.
    #[must_use]
    pub fn page(self, status: u16, page: impl Into<Bytes>) -> Self {
        self.pages(status..=status, page)
    }

    /// Sets the page of several statuses. A later call replaces an earlier one.
    ///
    /// # Panics
    /// If one of them is not in 400 to 599.
    #[must_use]
    pub fn pages(mut self, statuses: RangeInclusive<u16>, page: impl Into<Bytes>) -> Self {
        let page = page.into();
        for status in statuses {
            assert!((400..=599).contains(&status), "{status} is not an error status");
            Arc::make_mut(&mut self.pages).insert(status, page.clone());
        }
        self
    }

    /// Keeps responses whose content is HTML, such as error pages of the application. Off by default.
    #[must_use]
    pub fn keep_html(mut self, on: bool) -> Self {
        self.keeps_html = on;
        self
    }

    /// Replaces the content for every client, whatever its `Accept`, so that no client sees the details in the errors of the
    /// application, as with nginx's `proxy_intercept_errors`. Off by default, since the clients of an API need its own errors.
    #[must_use]
    pub fn for_all_clients(mut self, on: bool) -> Self {
        self.for_all_clients = on;
        self
    }
}

impl<S> Layer<S> for ErrorPagesLayer {
    type Service = ErrorPages<S>;

    fn layer(&self, inner: S) -> ErrorPages<S> {
        Filtered::new(inner, self.clone())
    }
}

/// The facts about a request that its response depends on.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    prefers_html: bool,
    is_head: bool,
}

impl HeadFilter for ErrorPagesLayer {
    type Memo = Client;

    fn on_request(&self, head: &mut request::Parts) -> Result<Client, Box<Response<Body>>> {
        let prefers_html = prefers(&head.headers, "text/html", "application/json");
        Ok(Client { prefers_html, is_head: head.method == Method::HEAD })
    }

    fn on_response(&self, client: Client, response: Response<Body>) -> Response<Body> {
        let Some(page) = self.pages.get(&response.status().as_u16()) else { return response };
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let is_html = content_type.is_some_and(|t| t.as_bytes().starts_with(b"text/html"));
        if self.keeps_html && is_html {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        if !self.for_all_clients {
            // Appended, since the response may vary by other fields too. Also for the unchanged response, which a cache must
            // not send to a client that prefers the page.
            parts.headers.append(header::VARY, HeaderValue::from_static("accept"));
            if !client.prefers_html {
                return Response::from_parts(parts, body);
            }
        }
        for name in REPLACED_FIELDS {
            parts.headers.remove(name);
        }
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        parts.headers.insert(header::CONTENT_TYPE, html);
        if client.is_head {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
            return Response::from_parts(parts, Body::empty());
        }
        Response::from_parts(parts, Body::from(page.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(
        layer: &ErrorPagesLayer,
        method: &str,
        response: http::response::Builder,
    ) -> Response<Body> {
        let request = http::Request::builder().method(method).header("accept", "text/html");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let client = layer.on_request(&mut head).unwrap();
        layer.on_response(client, response.body(Body::from("own")).unwrap())
    }

    #[test]
    fn page_replaces_the_content_and_the_fields_that_describe_it() {
        let layer = ErrorPagesLayer::new().pages(500..=599, "a").page(503, "page");
        let response = Response::builder()
            .status(503)
            .header("content-length", "3")
            .header("content-encoding", "gzip")
            .header("etag", "\"e\"")
            .header("content-disposition", "attachment")
            .header("repr-digest", "sha-256=:AA==:")
            .header("retry-after", "9");
        let response = apply(&layer, "GET", response);
        let mut names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "retry-after", "vary"]);
        assert_eq!(response.body().as_bytes().unwrap(), "page");
        let head = apply(&layer, "HEAD", Response::builder().status(500));
        assert!(head.body().as_bytes().is_none_or(|body| body.is_empty()));
        assert_eq!(head.headers()["content-length"], "1");
    }

    #[test]
    fn other_statuses_and_kept_html_are_unchanged() {
        let layer = ErrorPagesLayer::new().page(404, "page");
        let own = |response| apply(&layer, "GET", response).body().as_bytes().unwrap() == "own";
        assert!(own(Response::builder().status(500)) && own(Response::builder()));
        let html = || Response::builder().status(404).header("content-type", "text/html");
        assert!(!own(html()));
        let kept = apply(&layer.clone().keep_html(true), "GET", html());
        assert_eq!(kept.body().as_bytes().unwrap(), "own");
        assert!(!kept.headers().contains_key("vary"));
    }

    #[test]
    fn response_that_another_client_gets_as_a_page_varies_by_accept() {
        let layer = ErrorPagesLayer::new().page(404, "page");
        let client = Client { prefers_html: false, is_head: false };
        let response = |status| Response::builder().status(status).body(Body::from("own")).unwrap();
        let unchanged = layer.on_response(client, response(404));
        assert_eq!(unchanged.body().as_bytes().unwrap(), "own");
        assert_eq!(unchanged.headers()["vary"], "accept");
        let replaced = layer.clone().for_all_clients(true).on_response(client, response(404));
        assert_eq!(replaced.body().as_bytes().unwrap(), "page");
        assert!(!replaced.headers().contains_key("vary"));
        assert!(!layer.on_response(client, response(410)).headers().contains_key("vary"));
    }
}
