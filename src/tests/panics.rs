//! Tests of panics in each part of a service: its client gets 500 or an aborted response, and no other request is
//! affected.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tower::{Layer, Service, service_fn};

use super::{
    log_lines::{assert_line, lines_of},
    support::{exchange, start, statuses},
};
use crate::{Body, Request, Response, layer::RescueLayer};

/// The part of a service that panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ready,
    LaterReady,
    Call,
    Future,
    LaterFuture,
    SizeHint,
    Frame,
    LaterFrame,
    /// The destructor of the body.
    Drop,
}

impl Place {
    fn panic_at(self, place: Self) {
        assert!(self != place, "expected at {place:?}");
    }
}

#[derive(Clone)]
struct Panicking {
    place: Place,
    asked: bool,
}

impl Panicking {
    fn new(place: Place) -> Self {
        Self { place, asked: false }
    }
}

impl Service<Request> for Panicking {
    type Response = Response<PanickingBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<PanickingBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.place.panic_at(Place::Ready);
        if std::mem::replace(&mut self.asked, true) {
            self.place.panic_at(Place::LaterReady);
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request) -> Self::Future {
        self.place.panic_at(Place::Call);
        let place = self.place;
        Box::pin(async move {
            place.panic_at(Place::Future);
            tokio::task::yield_now().await;
            place.panic_at(Place::LaterFuture);
            Ok(Response::new(PanickingBody { place, sent: false }))
        })
    }
}

struct PanickingBody {
    place: Place,
    sent: bool,
}

impl http_body::Body for PanickingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.place.panic_at(Place::Frame);
        if std::mem::replace(&mut self.sent, true) {
            self.place.panic_at(Place::LaterFrame);
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data("some".into()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.place.panic_at(Place::SizeHint);
        SizeHint::default()
    }
}

impl Drop for PanickingBody {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.place.panic_at(Place::Drop);
        }
    }
}

const POST: &str = "POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";

#[tokio::test]
async fn panic_before_the_response_is_answered_500_and_logged() {
    use Place::*;
    for place in [Ready, LaterReady, Call, Future, LaterFuture, SizeHint] {
        let (answer, lines) = lines_of(Panicking::new(place), &POST.repeat(2)).await;
        assert_eq!(statuses(&answer), [500], "{place:?}: the connection is closed: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        let text = format!("the service panicked: expected at {place:?}");
        assert_line(&lines, "vestibule::request", "ERROR", &text);
    }
}

#[tokio::test]
async fn panic_below_layers_is_answered_500() {
    for place in [Place::Ready, Place::Call, Place::LaterFuture] {
        let service = RescueLayer::new().layer(Panicking::new(place));
        let (answer, lines) = lines_of(service, POST).await;
        assert_eq!(statuses(&answer), [500], "{place:?}");
        assert_line(&lines, "vestibule::request", "ERROR", "the service panicked");
    }
}

#[tokio::test]
async fn panic_of_a_body_aborts_its_response_and_is_logged() {
    for (place, sent) in [(Place::Frame, ""), (Place::LaterFrame, "4\r\nsome\r\n")] {
        let (answer, lines) = lines_of(Panicking::new(place), &POST.repeat(2)).await;
        assert_eq!(statuses(&answer), [200], "{place:?}");
        assert!(answer.ends_with(&format!("\r\n\r\n{sent}")), "no last chunk: {answer}");
        let text = format!("the service panicked: expected at {place:?}");
        assert_line(&lines, "vestibule::request", "ERROR", &text);
    }
}

#[tokio::test]
async fn panic_of_a_destructor_closes_the_connection_after_the_answer() {
    let (answer, lines) = lines_of(Panicking::new(Place::Drop), &POST.repeat(2)).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert!(answer.ends_with("\r\n\r\n4\r\nsome\r\n0\r\n\r\n"), "complete: {answer}");
    assert_line(&lines, "vestibule::request", "ERROR", "the service panicked: expected at Drop");
}

#[tokio::test]
async fn unread_request_body_does_not_prevent_the_500() {
    let upload = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n";
    let panics = service_fn(|request: Request| async move {
        assert!(request.uri().path() != "/", "expected");
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let server = start(panics).await;
    let answer = exchange(server.addr, upload.to_owned() + &"x".repeat(300_000)).await;
    assert_eq!(statuses(&answer), [500]);
    server.stop().await;
}

#[tokio::test]
async fn panic_of_an_axum_handler_is_answered_500_and_the_next_client_is_served() {
    let panics = Arc::new(AtomicBool::new(true));
    let handler = async move || {
        assert!(!panics.swap(false, Relaxed), "expected");
        "fine"
    };
    let site = axum::Router::new().route("/", axum::routing::get(handler));
    let server = start(site).await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&exchange(server.addr, get).await), [500]);
    assert_eq!(statuses(&exchange(server.addr, get).await), [200]);
    server.stop().await;
}
