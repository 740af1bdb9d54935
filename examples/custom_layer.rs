//! A custom layer: it sends beta testers to the new build, and names the build in a response field.
//!
//! It implements `tower::Layer`, since it chooses between two services. For a layer that only inspects or
//! changes requests and responses, `vestibule::layer::from_fn` needs one async function.
//!
//! Run with `cargo run --release --example custom_layer`, then
//! `curl -i http://127.0.0.1:8080/` and `curl -i -H 'Cookie: beta=1' http://127.0.0.1:8080/`.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, header};
use tower::{Layer, Service, service_fn};
use vestibule::{Body, Request, Response, serve};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let build = |name: &'static str| {
        service_fn(move |_: Request| async move {
            Ok::<_, Infallible>(Response::new(Body::from(format!("the {name} build\n"))))
        })
    };
    // A layer wraps any service; here it has a second one to choose from.
    let front = CanaryLayer { beta: build("beta") }.layer(build("main"));
    serve("127.0.0.1:8080", front).shutdown(serve::shutdown_signal()).await
}

/// Wraps a service in [`Canary`].
struct CanaryLayer<B> {
    beta: B,
}

impl<S, B: Clone> Layer<S> for CanaryLayer<B> {
    type Service = Canary<S, B>;

    fn layer(&self, main: S) -> Canary<S, B> {
        Canary { main, beta: self.beta.clone() }
    }
}

/// Calls one of two services with the same type of response, depending on a cookie.
#[derive(Clone)]
struct Canary<S, B> {
    main: S,
    beta: B,
}

impl<S, B> Service<Request> for Canary<S, B>
where
    S: Service<Request, Response = Response>,
    B: Service<Request, Response = Response, Error = S::Error>,
    S::Error: 'static,
    S::Future: Send + 'static,
    B::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    /// Ready when both services are, since the request that chooses one is not known yet.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match (self.main.poll_ready(cx)?, self.beta.poll_ready(cx)?) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let cookies = request.headers().get_all(header::COOKIE).iter();
        let is_beta = cookies
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .any(|cookie| cookie.trim().starts_with("beta="));
        let build = HeaderValue::from_static(if is_beta { "beta" } else { "main" });
        // The futures have different types, so they are boxed.
        let response: Self::Future = if is_beta {
            Box::pin(self.beta.call(request))
        } else {
            Box::pin(self.main.call(request))
        };
        Box::pin(async move {
            let mut response = response.await?;
            response.headers_mut().insert("x-build", build);
            Ok(response)
        })
    }
}
