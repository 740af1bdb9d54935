//! `Maintenance`: a maintenance mode for a site.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header, request};
use tower_layer::Layer;

use super::filter::{Filtered, HeadFilter};
use crate::{
    body::Body,
    peer::{Network, Peer},
};

/// Answers 503 with a page while maintenance mode is on.
///
/// A [handle](Self::handle) switches it on and off while the server runs. Clients of [admitted](Self::admit) networks are
/// served as usual. The address is that of the request's [`Peer`]; behind a proxy, the layer belongs inside
/// [`TrustedProxyLayer`](super::TrustedProxyLayer).
///
/// ```
/// use std::time::Duration;
/// use tower::{Layer, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::MaintenanceLayer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), BoxError> {
/// let maintenance = MaintenanceLayer::new("<h1>Back soon</h1>")
///     .retry_after(Duration::from_secs(600))
///     .admit("10.0.0.0/8".parse()?);
/// let switch = maintenance.handle(); // for a signal, or an operator's page
/// let site = maintenance.layer(service_fn(async |_: Request| Ok::<_, BoxError>(Response::new(Body::empty()))));
/// switch.close();
/// assert_eq!(site.clone().oneshot(Request::new(Body::empty())).await?.status(), 503);
/// switch.open();
/// assert_eq!(site.oneshot(Request::new(Body::empty())).await?.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct MaintenanceLayer {
    switch: Switch,
    page: Bytes,
    content_type: HeaderValue,
    retry_after: Option<HeaderValue>,
    admitted: Arc<Vec<Network>>,
}

/// The service of [`MaintenanceLayer`].
pub type Maintenance<S> = Filtered<S, MaintenanceLayer>;

/// A handle that switches the maintenance mode of a [`MaintenanceLayer`] on and off. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// Switches maintenance mode on: later requests get a 503.
    pub fn close(&self) {
        self.0.store(true, Relaxed);
    }

    /// Switches maintenance mode off.
    pub fn open(&self) {
        self.0.store(false, Relaxed);
    }

    /// Returns whether maintenance mode is on.
    pub fn is_closed(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl MaintenanceLayer {
    /// Creates a layer, with maintenance mode off. `page` is the HTML page that is shown while it is on.
    pub fn new(page: impl Into<Bytes>) -> Self {
        Self {
            switch: Switch::default(),
            page: page.into(),
            content_type: HeaderValue::from_static("text/html; charset=utf-8"),
            retry_after: None,
            admitted: Arc::default(),
        }
    }

    /// Sets the media type of the page. Defaults to `text/html; charset=utf-8`.
    #[must_use]
    pub fn content_type(mut self, content_type: HeaderValue) -> Self {
        self.content_type = content_type;
        self
    }

    /// Adds `Retry-After` to the 503, in whole seconds.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(HeaderValue::from(time.as_secs()));
        self
    }

    /// Admits the clients of a network during maintenance.
    #[must_use]
    pub fn admit(mut self, network: Network) -> Self {
        Arc::make_mut(&mut self.admitted).push(network);
        self
    }

    /// Returns the handle that switches maintenance mode on and off.
    pub fn handle(&self) -> Switch {
        self.switch.clone()
    }

    fn admits(&self, peer: Option<&Peer>) -> bool {
        let ip = peer.and_then(Peer::ip);
        ip.is_some_and(|ip| self.admitted.iter().any(|network| network.contains(ip)))
    }
}

impl<S> Layer<S> for MaintenanceLayer {
    type Service = Maintenance<S>;

    fn layer(&self, inner: S) -> Maintenance<S> {
        Filtered::new(inner, self.clone())
    }
}

impl HeadFilter for MaintenanceLayer {
    type Memo = ();

    fn on_request(&self, head: &mut request::Parts) -> Result<(), Box<Response<Body>>> {
        if !self.switch.is_closed() || self.admits(head.extensions.get()) {
            return Ok(());
        }
        let mut response = Response::new(Body::from(self.page.clone()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = &self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.clone());
        }
        Err(Box::new(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_site_answers_503_to_all_but_admitted_networks() {
        let layer = MaintenanceLayer::new("page")
            .retry_after(Duration::from_secs(9))
            .admit("10.0.0.0/8".parse().unwrap());
        let head = |ip: &str| {
            let address = std::net::SocketAddr::new(ip.parse().unwrap(), 1);
            let request = http::Request::get("/").extension(Peer::tcp(address, address));
            request.body(()).unwrap().into_parts().0
        };
        assert!(layer.on_request(&mut head("192.0.2.1")).is_ok());
        layer.clone().handle().close();
        assert!(layer.on_request(&mut head("10.1.1.1")).is_ok());
        let response = layer.on_request(&mut head("192.0.2.1")).unwrap_err();
        assert_eq!(response.status(), 503);
        assert_eq!(response.body().as_bytes().unwrap(), "page");
        assert_eq!(response.headers()["retry-after"], "9");
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}
