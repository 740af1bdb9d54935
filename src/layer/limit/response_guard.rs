//! `attach_guard`: keeps a guard until the end of a response, including its body.

use crate::Response;

/// Keeps `guard` until the response's body has ended, has failed, or is dropped.
///
/// A complete body drops it at once and passes unchanged.
pub(super) fn attach_guard<G>(response: Response, guard: G) -> Response
where
    G: Send + 'static,
{
    response.map(|body| body.with_guard(guard))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;
    use crate::body::{Body, FileSlice, Sender};

    /// Returns a streamed body and a weak reference to its guard.
    fn held(len: Option<u64>) -> (Sender, Body, Weak<()>) {
        let (tx, body) = Body::channel(len);
        let (body, guard) = with_guard(body);
        (tx, body, guard)
    }

    fn with_guard(body: Body) -> (Body, Weak<()>) {
        let guard = Arc::new(());
        let weak = Arc::downgrade(&guard);
        (attach_guard(Response::new(body), guard).into_body(), weak)
    }

    fn is_held(guard: &Weak<()>) -> bool {
        guard.strong_count() == 1
    }

    #[test]
    fn complete_body_releases_at_once_and_keeps_its_kind() {
        let file = FileSlice::new(tempfile::tempfile().unwrap().into(), 0, 5);
        for body in [Body::empty(), Body::from("hello"), Body::file(file)] {
            let before = format!("{body:?}");
            let (body, guard) = with_guard(body);
            assert!(!is_held(&guard));
            assert_eq!(format!("{body:?}"), before);
        }
        let (tx, body) = Body::channel(Some(0));
        tx.finish(None);
        assert!(!is_held(&with_guard(body).1));
    }

    #[tokio::test]
    async fn streamed_body_holds_until_its_end_is_read() {
        let (tx, mut body, guard) = held(None);
        tx.send(Bytes::from("a")).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
        assert!(is_held(&guard) && !body.is_end_stream());
        tx.finish(None);
        assert!(is_held(&guard));
        assert!(body.frame().await.is_none());
        assert!(!is_held(&guard));
    }

    #[tokio::test]
    async fn body_with_known_end_releases_with_its_last_frame_and_keeps_length_and_trailers() {
        let (tx, mut body, guard) = held(Some(2));
        assert_eq!(body.len(), Some(2));
        tx.send(Bytes::from("ab")).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x", HeaderValue::from_static("y"));
        tx.finish(Some(trailers.clone()));
        assert!(body.frame().await.unwrap().unwrap().is_data());
        assert!(is_held(&guard), "the trailers are still to come");
        assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert!(!is_held(&guard) && body.is_end_stream());
    }

    #[tokio::test]
    async fn error_and_drop_release_the_body() {
        let (tx, mut body, guard) = held(None);
        drop(tx);
        assert!(body.frame().await.unwrap().is_err());
        assert!(!is_held(&guard));

        let (_tx, body, guard) = held(None);
        assert!(is_held(&guard));
        drop(body);
        assert!(!is_held(&guard));
    }
}
