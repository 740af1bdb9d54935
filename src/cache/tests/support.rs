//! A scripted origin, and requests to a cache in front of it.

use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::*;
use crate::body::Sender;

pub(super) type Answer = dyn Fn(&Request, usize) -> Result<Response, BoxError> + Send + Sync;

/// An origin: its responses, and the requests that it has received.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) answer: Arc<Answer>,
    pub(super) seen: Arc<Mutex<Vec<(Method, HeaderMap)>>>,
    /// The time until the head of a response.
    pub(super) delay: Duration,
}

impl Origin {
    /// Answers by the request and its number, which begins with 1.
    pub(super) fn new(
        answer: impl Fn(&Request, usize) -> Result<Response, BoxError> + Send + Sync + 'static,
    ) -> Self {
        Self { answer: Arc::new(answer), seen: Arc::default(), delay: Duration::ZERO }
    }

    /// Answers with these fields and the number of the request.
    pub(super) fn with_fields(fields: &'static [(&'static str, &'static str)]) -> Self {
        Self::new(move |_, n| Ok(response(fields, n.to_string())))
    }

    pub(super) fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The fields of the request with this number.
    pub(super) fn seen(&self, n: usize) -> HeaderMap {
        self.seen.lock().unwrap()[n - 1].1.clone()
    }
}

impl Service<Request> for Origin {
    type Response = Response;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut seen = self.seen.lock().unwrap();
        seen.push((request.method().clone(), request.headers().clone()));
        let n = seen.len();
        drop(seen);
        let this = self.clone();
        Box::pin(async move {
            if !this.delay.is_zero() {
                tokio::time::sleep(this.delay).await;
            }
            (this.answer)(&request, n)
        })
    }
}

pub(super) fn response(fields: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    for (name, value) in fields {
        if *name == "status" {
            *response.status_mut() = value.parse().unwrap();
        } else {
            let name: http::HeaderName = name.parse().unwrap();
            response.headers_mut().append(name, value.parse().unwrap());
        }
    }
    response
}

/// Returns an origin whose response bodies the test writes, and their senders.
pub(super) fn channels(
    fields: &'static [(&'static str, &'static str)],
) -> (Origin, Arc<Mutex<Vec<Sender>>>) {
    let senders: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let kept = senders.clone();
    let origin = Origin::new(move |_, _| {
        let (sender, body) = Body::channel(None);
        kept.lock().unwrap().push(sender);
        Ok(response(fields, body))
    });
    (origin, senders)
}

pub(super) fn get(path: &str, fields: &[(&str, &str)]) -> Request {
    let mut request =
        Request::get(format!("http://site.example{path}")).body(Body::empty()).unwrap();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

pub(super) type Site = BoxCloneSyncService<Request, Response, BoxError>;

pub(super) fn site(layer: &CacheLayer, origin: &Origin) -> Site {
    BoxCloneSyncService::new(layer.layer(origin.clone()))
}

pub(super) async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Sends a GET request and returns the body.
pub(super) async fn fetch(site: &Site, path: &str) -> String {
    text(site.clone().oneshot(get(path, &[])).await.unwrap()).await
}

pub(super) async fn status_of(site: &Site, request: Request) -> StatusCode {
    site.clone().oneshot(request).await.unwrap().status()
}

/// Lets background tasks run.
pub(super) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}
