//! etcd as a source of endpoints, with a scripted server.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures_core::Stream;
use tower::service_fn;

use crate::{
    Body, Request, Response,
    tests::support::{start, within},
    upstream::discover::{EtcdSource, Update},
};

async fn next(source: &mut EtcdSource) -> Result<Update, String> {
    let next = within(poll_fn(|cx| Pin::new(&mut *source).poll_next(cx))).await;
    next.expect("it never ends").map_err(|e| e.to_string())
}

fn set(target: &str) -> Update {
    Update::Set(vec![target.parse().unwrap()])
}

#[tokio::test]
async fn etcd_source_reads_all_keys_again_after_an_invalid_message() {
    let reads = Arc::<AtomicUsize>::default();
    let server = start(service_fn(move |request: Request| {
        let answer = match request.uri().path() {
            "/v3/watch" => "no message\n",
            _ if reads.fetch_add(1, Relaxed) == 0 => {
                r#"{"header":{"revision":"1"},"kvs":[{"key":"L2E=","value":"YTox"}]}"#
            }
            _ => r#"{"header":{"revision":"2"},"kvs":[{"key":"L2E=","value":"Yjox"}]}"#,
        };
        ready(Ok::<_, Infallible>(Response::new(Body::from(answer))))
    }))
    .await;
    let mut source = EtcdSource::new([server.addr.to_string()], "/").unwrap();
    assert_eq!(next(&mut source).await.unwrap(), set("a:1"));
    assert_eq!(next(&mut source).await.unwrap(), set("b:1"));
    drop(source);
    server.stop().await;
}
