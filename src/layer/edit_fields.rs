//! `EditFields`: sets and removes fields of requests and responses.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header, request};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{
    body::Body,
    semantics::lookalike::{self, is_lookalike},
};

/// Fields of responses that reveal the software of the application.
const REVEALING: [&str; 7] = [
    "server",
    "x-powered-by",
    "x-aspnet-version",
    "x-aspnetmvc-version",
    "x-drupal-cache",
    "x-generator",
    "x-runtime",
];

/// Sets and removes fields of requests and responses. (For a single field, `tower_http`'s `SetResponseHeaderLayer` is enough.)
///
/// The edits are applied in the order of the calls.
///
/// ```
/// use http::{HeaderName, HeaderValue};
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::EditFieldsLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let fields = EditFieldsLayer::new()
///     .remove_dangerous()
///     .remove_from_request(HeaderName::from_static("x-user")) // a client must not set it
///     .add_to_response("referrer-policy".parse()?, HeaderValue::from_static("same-origin"));
/// let site = fields.layer(service_fn(async |request: Request| {
///     assert!(!request.headers().contains_key("x-user"));
///     Ok::<_, BoxError>(Response::builder().header("x-powered-by", "PHP/8").body(Body::empty())?)
/// }));
/// let request = http::Request::get("/").header("x-user", "root").body(Body::empty())?;
/// let response = site.oneshot(request).await?;
/// assert_eq!(response.headers().len(), 1);
/// assert_eq!(response.headers()["referrer-policy"], "same-origin");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default)]
pub struct EditFieldsLayer(Arc<Edits>);

/// The service of [`EditFieldsLayer`].
pub type EditFields<S> = Filtered<S, EditFieldsLayer>;

#[derive(Debug, Clone, Default)]
struct Edits {
    request: Vec<Edit>,
    response: Vec<Edit>,
    removes_lookalikes: bool,
}

#[derive(Debug, Clone)]
enum Edit {
    Set(HeaderName, HeaderValue),
    /// Adds the field if it is missing.
    Add(HeaderName, HeaderValue),
    Remove(HeaderName),
}

impl Edit {
    fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Set(name, value) => drop(headers.insert(name, value.clone())),
            Self::Add(name, value) => drop(headers.entry(name).or_insert_with(|| value.clone())),
            Self::Remove(name) => drop(headers.remove(name)),
        }
    }
}

impl EditFieldsLayer {
    /// Creates a layer without edits.
    pub fn new() -> Self {
        Self::default()
    }

    fn edits(&mut self) -> &mut Edits {
        Arc::make_mut(&mut self.0)
    }

    /// Sets a field of requests. Replaces all fields with this name, and removes those that [CGI confuses](lookalike) with it,
    /// such as `X_User` for `X-User`.
    #[must_use]
    pub fn set_in_request(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.edits().request.push(Edit::Set(name, value));
        self
    }

    /// Removes a field of requests, for example one that only inner layers may set, and fields that [CGI confuses](lookalike)
    /// with it, such as `X_User` for `X-User`.
    #[must_use]
    pub fn remove_from_request(mut self, name: HeaderName) -> Self {
        self.edits().request.push(Edit::Remove(name));
        self
    }

    /// Sets a field of responses. Replaces all fields with this name.
    #[must_use]
    pub fn set_in_response(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.edits().response.push(Edit::Set(name, value));
        self
    }

    /// Adds a field to responses that do not have it.
    #[must_use]
    pub fn add_to_response(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.edits().response.push(Edit::Add(name, value));
        self
    }

    /// Removes a field of responses.
    #[must_use]
    pub fn remove_from_response(mut self, name: HeaderName) -> Self {
        self.edits().response.push(Edit::Remove(name));
        self
    }

    /// Removes dangerous fields. From requests: `Proxy`, which CGI turns into `HTTP_PROXY` (httpoxy), and names that CGI
    /// confuses with the [fields of a proxy](is_lookalike). From responses: fields that reveal the software of the
    /// application, such as `Server` and `X-Powered-By`.
    #[must_use]
    pub fn remove_dangerous(mut self) -> Self {
        let edits = self.edits();
        edits.removes_lookalikes = true;
        edits.request.push(Edit::Remove(HeaderName::from_static("proxy")));
        edits.response.extend(REVEALING.map(|name| Edit::Remove(HeaderName::from_static(name))));
        self
    }

    /// Adds security fields to responses that do not have them: `X-Content-Type-Options: nosniff`, `X-Frame-Options:
    /// SAMEORIGIN`, `Referrer-Policy: strict-origin-when-cross-origin` and `Cross-Origin-Opener-Policy: same-origin`. Does not
    /// add a `Content-Security-Policy`, which depends on the site, nor HSTS, which [`HttpsLayer`](super::HttpsLayer) adds.
    #[must_use]
    pub fn add_security(self) -> Self {
        let opener = HeaderName::from_static("cross-origin-opener-policy");
        [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
            (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
            (opener, "same-origin"),
        ]
        .into_iter()
        .fold(self, |layer, (name, value)| {
            layer.add_to_response(name, HeaderValue::from_static(value))
        })
    }
}

impl<S> Layer<S> for EditFieldsLayer {
    type Service = EditFields<S>;

    fn layer(&self, inner: S) -> EditFields<S> {
        Filtered::new(inner, self.clone())
    }
}

impl HeadFilter for EditFieldsLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        let Edits { request, removes_lookalikes, .. } = &*self.0;
        if *removes_lookalikes {
            let names: Vec<_> = head.headers.keys().filter(|n| is_lookalike(n)).cloned().collect();
            names.iter().for_each(|name| drop(head.headers.remove(name)));
        }
        for edit in request {
            if let Edit::Set(name, _) | Edit::Remove(name) = edit {
                lookalike::strip_of(&mut head.headers, name);
            }
            edit.apply(&mut head.headers);
        }
        Ok(())
    }

    fn on_response(&self, (): (), mut response: Response<Body>) -> Response<Body> {
        self.0.response.iter().for_each(|edit| edit.apply(response.headers_mut()));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(n, v): &(&'static str, &'static str)| (name(n), HeaderValue::from_static(v));
        fields.iter().map(field).collect()
    }

    #[test]
    fn edits_are_applied_in_order() {
        let value = HeaderValue::from_static;
        let layer = EditFieldsLayer::new()
            .set_in_request(name("a"), value("1"))
            .remove_from_request(name("b"))
            .remove_from_response(name("c"))
            .add_to_response(name("c"), value("2"))
            .add_to_response(name("d"), value("3"))
            .set_in_response(name("e"), value("4"));
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.headers = map(&[("a", "0"), ("b", "0"), ("x", "0")]);
        layer.on_request(&mut head).unwrap();
        assert_eq!(head.headers, map(&[("a", "1"), ("x", "0")]));
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = map(&[("c", "0"), ("d", "0"), ("e", "0")]);
        let response = layer.on_response((), response);
        assert_eq!(*response.headers(), map(&[("c", "2"), ("d", "0"), ("e", "4")]));
    }

    #[test]
    fn fields_that_cgi_confuses_with_an_edited_one_are_removed_from_requests() {
        let value = HeaderValue::from_static;
        let layer = EditFieldsLayer::new()
            .set_in_request(name("x-user"), value("1"))
            .remove_from_request(name("x-user_id"))
            .remove_from_request(name("x-a-b"))
            .set_in_response(name("x-user"), value("2"));
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.headers = map(&[
            ("x_user", "0"),
            ("x.user", "0"),
            ("x-users", "0"),
            ("x-user_id", "0"),
            ("x_user_id", "0"),
            ("x-user-id", "0"),
            ("x_a-b", "0"),
        ]);
        layer.on_request(&mut head).unwrap();
        let left = [("x-user", "1"), ("x-users", "0"), ("x-user-id", "0")];
        assert_eq!(head.headers, map(&left));
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = map(&[("x_user", "0")]);
        let response = layer.on_response((), response);
        assert_eq!(*response.headers(), map(&[("x_user", "0"), ("x-user", "2")]));
    }

    #[test]
    fn dangerous_fields_are_removed_and_security_fields_added() {
        let layer = EditFieldsLayer::new().remove_dangerous().add_security();
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.headers = map(&[("proxy", "a"), ("x_forwarded_for", "a"), ("x-forwarded-for", "a")]);
        layer.on_request(&mut head).unwrap();
        assert_eq!(head.headers, map(&[("x-forwarded-for", "a")]));
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = map(&[("server", "a"), ("x-frame-options", "DENY"), ("x", "1")]);
        let response = layer.on_response((), response);
        assert_eq!(response.headers().len(), 5);
        assert_eq!(response.headers()["x-frame-options"], "DENY");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }
}
