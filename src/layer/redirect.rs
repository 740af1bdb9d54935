//! `Redirect` and `RewritePath`: redirects and rewrites by patterns of the path.

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, Uri, header, request, uri::PathAndQuery};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{
    body::Body,
    semantics::target::{InvalidPattern, OriginalUri, PathPattern, RewrittenPath},
};

/// Redirects requests whose path matches a pattern. The first matching pattern applies.
///
/// The query of the request is appended to the target, after the target's own query. A request whose path would turn the
/// target into a URL of another host is passed on. Inside of a nested router patterns see the path below its prefix, and targets
/// are paths of the whole site.
///
/// ```
/// use http::StatusCode;
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::RedirectLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let moved = RedirectLayer::new()
///     .redirect(StatusCode::PERMANENT_REDIRECT, "/old/{*rest}", "/new/{rest}")?
///     .redirect(StatusCode::FOUND, "/chat", "https://chat.example.com/")?;
/// let site = moved.layer(service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty()))));
/// let request = http::Request::get("/old/a?b").body(Body::empty())?;
/// let response = site.oneshot(request).await?;
/// assert_eq!((response.status().as_u16(), &response.headers()["location"]), (308, &"/new/a?b".parse()?));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct RedirectLayer(Arc<Vec<(StatusCode, PathPattern)>>);

/// The service of [`RedirectLayer`].
pub type Redirect<S> = Filtered<S, RedirectLayer>;

impl RedirectLayer {
    /// Creates a layer without patterns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Redirects paths that match the [pattern](PathPattern) `from` to `to`, with this status. 307 and 308 preserve the
    /// method; after 301 and 302 clients send GET.
    ///
    /// # Errors
    /// [`InvalidPattern`] if `from` or `to` is malformed.
    ///
    /// # Panics
    /// If the status is not one of 301, 302, 303, 307 and 308.
    pub fn redirect(
        mut self,
        status: StatusCode,
        from: &str,
        to: &str,
    ) -> Result<Self, InvalidPattern> {
        assert!(matches!(status.as_u16(), 301..=303 | 307 | 308), "{status} is not a redirect");
        Arc::make_mut(&mut self.0).push((status, PathPattern::new(from, to)?));
        Ok(self)
    }

    fn location(&self, uri: &Uri) -> Option<(StatusCode, HeaderValue)> {
        let found = |(status, pattern): &(StatusCode, PathPattern)| {
            Some((*status, pattern.apply(uri.path())?))
        };
        let (status, target) = self.0.iter().find_map(found)?;
        let location = with_query(target, uri.query());
        Some((status, HeaderValue::from_str(&location).ok()?))
    }
}

/// Rewrites the path of requests that match a pattern, for the inner services. The first matching pattern applies.
///
/// The query of the request is appended to the new target. The target that the client sent is in the extensions as
/// [`OriginalUri`]. The layer belongs inside access rules and outside the router.
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::RewritePathLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let versions = RewritePathLayer::new().rewrite("/v1/{*rest}", "/api/{rest}?version=1")?;
/// let site = versions.layer(service_fn(async |request: Request| {
///     Ok::<_, BoxError>(Response::new(Body::from(request.uri().to_string())))
/// }));
/// let request = http::Request::get("/v1/users?page=2").body(Body::empty())?;
/// let response = site.oneshot(request).await?;
/// assert_eq!(response.body().as_bytes().unwrap(), "/api/users?version=1&page=2");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct RewritePathLayer(Arc<Vec<PathPattern>>);

/// The service of [`RewritePathLayer`].
pub type RewritePath<S> = Filtered<S, RewritePathLayer>;

impl RewritePathLayer {
    /// Creates a layer without patterns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rewrites paths that match the [pattern](PathPattern) `from` to `to`, a path with an optional query.
    ///
    /// # Errors
    /// [`InvalidPattern`] if `from` or `to` is malformed, or `to` is a URL or has a fragment.
    pub fn rewrite(mut self, from: &str, to: &str) -> Result<Self, InvalidPattern> {
        Arc::make_mut(&mut self.0).push(PathPattern::new_path(from, to)?);
        Ok(self)
    }

    fn target(&self, uri: &Uri) -> Option<Uri> {
        let target = self.0.iter().find_map(|pattern| pattern.apply(uri.path()))?;
        let target: PathAndQuery = with_query(target, uri.query()).parse().ok()?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(target);
        Uri::from_parts(parts).ok()
    }
}

/// Appends a query to a target, before its fragment.
fn with_query(mut target: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        let fragment = target.split_off(target.find('#').unwrap_or(target.len()));
        target.push(if target.contains('?') { '&' } else { '?' });
        target.push_str(query);
        target.push_str(&fragment);
    }
    target
}

impl<S> Layer<S> for RedirectLayer {
    type Service = Redirect<S>;

    fn layer(&self, inner: S) -> Redirect<S> {
        Filtered::new(inner, self.clone())
    }
}

impl<S> Layer<S> for RewritePathLayer {
    type Service = RewritePath<S>;

    fn layer(&self, inner: S) -> RewritePath<S> {
        Filtered::new(inner, self.clone())
    }
}

impl HeadFilter for RedirectLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        let Some((status, location)) = self.location(&head.uri) else { return Ok(()) };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response.headers_mut().insert(header::LOCATION, location);
        Err(Box::new(response))
    }
}

impl HeadFilter for RewritePathLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        if let Some(target) = self.target(&head.uri) {
            let original = std::mem::replace(&mut head.uri, target);
            if head.extensions.get::<OriginalUri>().is_none() {
                head.extensions.insert(OriginalUri(original));
            }
            head.extensions.insert(RewrittenPath);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_pattern_applies_and_the_query_is_kept() {
        let layer = RedirectLayer::new()
            .redirect(StatusCode::FOUND, "/a/{x}", "/first/{x}?y=1")
            .unwrap()
            .redirect(StatusCode::PERMANENT_REDIRECT, "/a/{*rest}", "/second/{rest}")
            .unwrap()
            .redirect(StatusCode::FOUND, "/f", "/third#part")
            .unwrap();
        for (uri, want) in [
            ("/a/1?z=2", Some((302, "/first/1?y=1&z=2"))),
            ("/a/1/2?z", Some((308, "/second/1/2?z"))),
            ("http://evil.example/a/1", Some((302, "/first/1?y=1"))),
            ("/f?z", Some((302, "/third?z#part"))),
            ("/b", None),
            ("*", None),
        ] {
            let got = layer.location(&uri.parse().unwrap());
            let got = got.as_ref().map(|(status, to)| (status.as_u16(), to.to_str().unwrap()));
            assert_eq!(got, want, "{uri}");
        }
    }

    #[test]
    fn rewritten_request_keeps_its_authority_and_the_first_target() {
        let layer = RewritePathLayer::new().rewrite("/a/{*rest}", "/b/{rest}").unwrap();
        let request = http::Request::get("http://h.example:81/a/x?q").body(()).unwrap();
        let (mut head, ()) = request.into_parts();
        assert!(layer.on_request(&mut head).is_ok());
        assert_eq!(head.uri, "http://h.example:81/b/x?q");
        assert!(layer.on_request(&mut head).is_ok());
        assert_eq!(head.extensions.get::<OriginalUri>().unwrap().0, "http://h.example:81/a/x?q");
    }

    #[test]
    fn rewrite_to_another_host_or_a_fragment_is_refused() {
        for target in ["https://h.example/b", "/b#c"] {
            assert!(RewritePathLayer::new().rewrite("/a", target).is_err(), "{target}");
        }
    }
}
