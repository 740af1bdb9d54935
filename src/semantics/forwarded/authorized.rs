//! `AuthorizedRequest`: the request that a subrequest to an authorization service is about.

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method};

pub(crate) const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
pub(crate) const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The method and the target of the request that a subrequest is about, in the extensions of the subrequest.
///
/// A gateway removes `X-Forwarded-*` that the peer is not trusted with. Those of a subrequest are not from the peer.
#[derive(Debug, Clone)]
pub(crate) struct AuthorizedRequest {
    method: Option<HeaderValue>,
    target: Option<HeaderValue>,
}

impl AuthorizedRequest {
    pub(crate) fn new(method: &Method, target: &str) -> Self {
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
        Self { method: value(method.as_str()), target: value(target) }
    }

    /// Adds the fields that name the request.
    pub(crate) fn add_fields(&self, headers: &mut HeaderMap) {
        for (name, value) in [(X_FORWARDED_METHOD, &self.method), (X_FORWARDED_URI, &self.target)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }

    /// Adds the fields again if this is a subrequest.
    pub(crate) fn restore_fields(extensions: &Extensions, headers: &mut HeaderMap) {
        if let Some(authorized) = extensions.get::<Self>() {
            authorized.add_fields(headers);
        }
    }
}
