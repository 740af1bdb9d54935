//! The remote servers of the example: small HTTP servers on loopback.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderValue, StatusCode, header};
use tower::service_fn;
use vestibule::{Body, Request, Response, serve};

/// Starts a server on a free port and returns its address.
pub async fn start(name: &'static str) -> std::io::Result<String> {
    let served = Arc::new(AtomicU64::new(0));
    let app = service_fn(move |request: Request| {
        let n = served.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok::<_, Infallible>(answer(name, n, &request)) }
    });
    // The gateway already logs each request.
    let server = serve("127.0.0.1:0", app).without_access_log().bind()?;
    let address = server.local_addr()?.to_string();
    #[allow(clippy::disallowed_methods, reason = "the task ends with the process")]
    tokio::spawn(server.into_future());
    Ok(address)
}

fn answer(name: &str, n: u64, request: &Request) -> Response {
    if request.uri().path() != "/api/hello" {
        let mut response = Response::new(Body::from("{\"error\":\"not found\"}\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    // An address contains no characters that JSON escapes.
    let client = request.headers().get("x-forwarded-for").and_then(|v| v.to_str().ok());
    let client = client.unwrap_or("unknown");
    let json = format!("{{\"server\":\"{name}\",\"served\":{n},\"client\":\"{client}\"}}\n");
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
