use tower::ServiceExt;

use super::{super::assert_ready::AssertReady, *};
use crate::{error::Kind, semantics::problem::RateLimited};

#[test]
fn response_has_the_status_of_the_kind_and_does_not_reveal_the_cause() {
    for (kind, status) in [
        (Kind::BadRequest, 400),
        (Kind::ClientGone, 400),
        (Kind::ClientTimeout, 408),
        (Kind::TooLarge, 413),
        (Kind::TooManyRequests, 429),
        (Kind::Overloaded, 503),
        (Kind::Timeout, 504),
        (Kind::BadGateway, 502),
        (Kind::Internal, 500),
    ] {
        let r = response(&Error::new(kind, "secret").into(), Format::Text);
        assert_eq!(r.status(), status, "{kind:?}");
        let again = matches!(kind, Kind::Overloaded | Kind::TooManyRequests);
        assert_eq!(r.headers().get("retry-after").is_some_and(|v| v == "1"), again);
        assert_eq!(r.headers()["content-type"], "text/plain; charset=utf-8");
        let text = String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap();
        let phrase = r.status().canonical_reason().unwrap();
        assert_eq!(text, format!("{status} {phrase}\n"), "as in the status line");
        assert_eq!(r.headers()["vary"], "accept");
        let json = response(&Error::new(kind, "secret").into(), Format::Json);
        let want = format!(r#"{{"status":{status},"title":"{phrase}"}}"#);
        assert_eq!((json.status(), json.body().as_bytes().unwrap()), (r.status(), want.into()));
    }
    assert_eq!(response(&"a foreign error".into(), Format::Text).status(), 500);
}

#[test]
fn retry_after_of_rate_limit_is_in_whole_seconds() {
    for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_900, "60")] {
        let retry_after = std::time::Duration::from_millis(millis);
        let error = Error::new(Kind::TooManyRequests, RateLimited { retry_after });
        let r = response(&std::io::Error::other(error).into(), Format::Text);
        assert_eq!(
            (r.status().as_u16(), &r.headers()["retry-after"]),
            (429, &seconds.parse().unwrap())
        );
    }
}

#[test]
fn error_is_found_in_the_chain_of_another_error() {
    #[derive(Debug, thiserror::Error)]
    #[error("foreign")]
    struct Foreign(#[source] Error);
    let error: BoxError = Foreign(Error::new(Kind::TooLarge, "x")).into();
    assert_eq!(response(&error, Format::Text).status(), 413);
}

#[tokio::test]
async fn error_of_call_becomes_response_and_response_is_passed_on() {
    let rescue = RescueLayer::new().layer(AssertReady::new(async |r: Request| {
        if r.uri().path() == "/bad" {
            return Err(Error::new(Kind::BadGateway, "refused"));
        }
        Ok(Response::new(Body::from("fine")))
    }));
    let bad = Request::builder().uri("/bad").body(Body::empty()).unwrap();
    assert_eq!(rescue.clone().oneshot(bad).await.unwrap().status(), 502);
    let good = rescue.oneshot(Request::default()).await.unwrap();
    assert_eq!(good.body().as_bytes().unwrap(), "fine");
}

/// A service whose first `poll_ready` fails.
#[derive(Debug)]
struct Unready(bool);

impl Service<Request> for Unready {
    type Response = Response;
    type Error = Error;
    type Future = std::future::Ready<Result<Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(Error::new(Kind::Overloaded, "full")))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        std::future::ready(Ok(Response::default()))
    }
}

#[tokio::test]
async fn error_of_readiness_answers_the_next_call_and_no_other() {
    let mut rescue = Rescue::new(Unready(false));
    let first = rescue.ready().await.unwrap().call(Request::default()).await.unwrap();
    assert_eq!(first.status(), 503);
    let second = rescue.ready().await.unwrap().call(Request::default()).await.unwrap();
    assert_eq!(second.status(), 200);
}

#[tokio::test]
async fn responder_of_the_user_replaces_the_table() {
    let layer = RescueLayer::with(|_: &BoxError, _: Format| {
        Response::builder().status(418).body(Body::empty()).expect("a valid response")
    });
    let rescue = layer.layer(AssertReady::new(async |_: Request| {
        Err::<Response, _>(Error::new(Kind::Timeout, "t"))
    }));
    assert_eq!(rescue.oneshot(Request::default()).await.unwrap().status(), 418);
}

/// Returns the response to `error` for a client with this `accept`.
async fn rescued<R: Responder + Clone>(
    layer: RescueLayer<R>,
    error: fn() -> Error,
    accept: &'static str,
) -> Response {
    let failing =
        AssertReady::new(move |_: Request| std::future::ready(Err::<Response, _>(error())));
    let request = Request::builder().header("accept", accept).body(Body::empty()).unwrap();
    layer.layer(failing).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn client_that_prefers_json_is_answered_with_it() {
    let error = || Error::new(Kind::BadGateway, "refused");
    let json = rescued(RescueLayer::new(), error, "application/json").await;
    assert_eq!(json.headers()["content-type"], "application/problem+json");
    assert_eq!(json.body().as_bytes().unwrap(), r#"{"status":502,"title":"Bad Gateway"}"#);
    let text = rescued(RescueLayer::new(), error, "text/html, */*").await;
    assert_eq!(text.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(text.body().as_bytes().unwrap(), "502 Bad Gateway\n");
}

#[tokio::test]
async fn tell_limits_adds_the_limit_to_the_response() {
    let error = || Error::new(Kind::TooLarge, BodyTooLarge { limit: 9 });
    let text = |r: Response| String::from_utf8(r.body().as_bytes().unwrap().to_vec()).unwrap();
    let untold = rescued(RescueLayer::new(), error, "*/*").await;
    assert_eq!(text(untold), "413 Payload Too Large\n");
    let told = rescued(RescueLayer::new().tell_limits(), error, "*/*").await;
    assert_eq!(text(told), "413 Payload Too Large\nthe body is larger than 9 bytes\n");
    let json = rescued(RescueLayer::new().tell_limits(), error, "application/json").await;
    let want =
        r#"{"status":413,"title":"Payload Too Large","detail":"the body is larger than 9 bytes"}"#;
    assert_eq!(text(json), want);
    assert_eq!(error().to_string(), "request too large: the body is larger than 9 bytes");
}
