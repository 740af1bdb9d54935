//! Helpers that send a request to a service and read the body of its response.

use std::{future::poll_fn, pin::Pin, task::Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;

use crate::{HttpService, body::Body, error::BoxError};

/// Sends a request when the service is ready.
pub(super) async fn send<S: HttpService>(
    mut service: S,
    request: Request<Body>,
) -> Result<Response<Body>, BoxError> {
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    let response = service.call(request).await.map_err(Into::into)?;
    Ok(response.map(Body::new))
}

/// Returns the next data of a body; skips trailers.
pub(super) async fn next_frame(body: &mut Body) -> Option<Result<Bytes, BoxError>> {
    poll_fn(|cx| {
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(data))),
                    Err(_) => continue,
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
