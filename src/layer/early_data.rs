//! `EarlyData`: refuses requests of TLS early data, which may have been replayed.

use http::{Response, StatusCode, request};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{
    body::Body,
    semantics::problem::{self, Format},
};

/// Answers 425 Too Early to requests of TLS early data whose method is not safe (RFC 8470).
///
/// Early data (0-RTT) can be replayed by an attacker who has recorded it. A proxy in front that accepts early data, such as a
/// CDN, marks these requests with `Early-Data: 1`. A client that gets a 425 repeats its request after the handshake. Requests
/// with a safe method (RFC 9110 section 9.2.1) are passed on with the field, unless [`pass_safe`](Self::pass_safe) is `false`,
/// for applications whose GET requests have effects.
///
/// The servers of this crate do not accept early data. The field needs no trust, since a client that sends it only causes a
/// 425. Any value counts as 1 (section 5.1).
///
/// ```
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::EarlyDataLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let site = service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty())));
/// let site = EarlyDataLayer::new().layer(site);
/// for (method, status) in [("GET", 200), ("POST", 425)] {
///     let request = http::Request::builder().method(method).header("early-data", "1");
///     assert_eq!(site.clone().oneshot(request.body(Body::empty())?).await?.status(), status);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct EarlyDataLayer {
    passes_safe: bool,
}

/// The service of [`EarlyDataLayer`].
pub type EarlyData<S> = Filtered<S, EarlyDataLayer>;

impl EarlyDataLayer {
    /// Creates a layer that refuses early requests unless their method is safe.
    pub fn new() -> Self {
        Self { passes_safe: true }
    }

    /// Sets whether early requests with a safe method pass. Defaults to `true`.
    #[must_use]
    pub fn pass_safe(mut self, on: bool) -> Self {
        self.passes_safe = on;
        self
    }
}

impl Default for EarlyDataLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for EarlyDataLayer {
    type Service = EarlyData<S>;

    fn layer(&self, inner: S) -> EarlyData<S> {
        Filtered::new(inner, self.clone())
    }
}

impl HeadFilter for EarlyDataLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        let passes = self.passes_safe && head.method.is_safe();
        if passes || !head.headers.contains_key("early-data") {
            return Ok(());
        }
        Err(Box::new(problem::response(
            StatusCode::TOO_EARLY,
            None,
            Format::of(&head.method, &head.headers),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a request passes; `None` for one without the field.
    fn passes(layer: &EarlyDataLayer, method: &str, early: Option<&str>) -> bool {
        let mut request = http::Request::builder().method(method);
        if let Some(value) = early {
            request = request.header("early-data", value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        match layer.on_request(&mut head) {
            Ok(()) => true,
            Err(response) => {
                assert_eq!(response.status(), StatusCode::TOO_EARLY);
                false
            }
        }
    }

    #[test]
    fn early_requests_are_refused_unless_they_are_safe() {
        let (layer, strict) = (EarlyDataLayer::new(), EarlyDataLayer::new().pass_safe(false));
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "X"] {
            assert!(passes(&layer, method, None) && passes(&strict, method, None), "{method}");
            let is_safe = ["GET", "HEAD", "OPTIONS"].contains(&method);
            for value in ["1", "0", "", "1, 1"] {
                assert_eq!(passes(&layer, method, Some(value)), is_safe, "{method} {value}");
                assert!(!passes(&strict, method, Some(value)), "{method} {value}");
            }
        }
    }
}
